"""The outbox as delivery sees it: claim, renew, settle, reschedule, reject, give back."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from gateway.store import outbox as queries
from gateway.store.engine import Database
from gateway.store.outbox import Claim
from gateway.timeline import SECOND, DeliveryState

LEASE_MARGIN_SECONDS = 5.0
"""How much longer a lease is than the export timeout: time to settle."""


@dataclass(frozen=True, slots=True)
class Leased:
    """Traces that are this process's to deliver, until the lease ends or one of the methods below lets go of them."""

    lease: str
    claims: Sequence[Claim]
    tries: int = 1
    """Requests that carry these traces under this lease, the next one among them."""

    @property
    def body(self) -> bytes:
        """One export request for all of them: serialised messages concatenate to their union."""
        return b"".join(claim.payload for claim in self.claims)

    @property
    def span_count(self) -> int:
        return sum(claim.span_count for claim in self.claims)

    def halves(self) -> "list[Leased]":
        middle = len(self.claims) // 2
        return [self._part(self.claims[:middle]), self._part(self.claims[middle:])]

    def each_alone(self) -> "list[Leased]":
        return [self._part([claim]) for claim in self.claims]

    def _part(self, claims: Sequence[Claim]) -> "Leased":
        return Leased(self.lease, claims, self.tries + 1)


class Outbox:
    """Spans on their way to the collector, in the database.

    Raises, from every method:
        StoreUnavailable: the database failed; leases then end by themselves.
    """

    def __init__(
        self,
        database: Database,
        *,
        export_timeout_seconds: float,
        max_traces: int,
        max_bytes: int,
        now_ns: Callable[[], int],
    ) -> None:
        self._database = database
        self._lease_ns = round((export_timeout_seconds + LEASE_MARGIN_SECONDS) * SECOND)
        self._max_traces = max_traces
        self._max_bytes = max_bytes
        self._now_ns = now_ns

    async def claim(self, *, probe: bool) -> Leased | None:
        """As many due traces as one request may carry, or None where none is due.

        A probe is one trace, the one with the fewest attempts: the least likely to be at fault itself.
        """
        lease, now_ns = secrets.token_hex(8), self._now_ns()
        claims = await self._database.write(
            queries.claim_probe if probe else queries.claim,
            queries.Lease(lease, now_ns, now_ns + self._lease_ns),
            limit=self._max_traces,
            max_bytes=self._max_bytes,
        )
        return Leased(lease, claims) if claims else None

    async def renew(self, leased: Leased) -> Leased:
        """Those of them that are still ours, for as long again as a fresh claim."""
        until_ns = self._now_ns() + self._lease_ns
        ours = await self._database.write(queries.renew, leased.claims, lease=leased.lease, until_ns=until_ns)
        return replace(leased, claims=[claim for claim in leased.claims if claim.key in ours])

    async def settle_delivered(self, leased: Leased, *, answer: str) -> None:
        """The collector has them."""
        await self._database.write(
            queries.settle_delivered,
            leased.claims,
            lease=leased.lease,
            attempts=leased.tries,
            now_ns=self._now_ns() // 1000 * 1000,
            answer=answer,
        )

    async def reschedule(
        self, leased: Leased, *, state: DeliveryState, after_seconds: float, answer: str, alone: bool = False
    ) -> None:
        """The collector does not have them; try again later, `alone` if they may spoil a request for others."""
        await self._database.write(
            queries.reschedule,
            leased.claims,
            lease=leased.lease,
            attempts=leased.tries,
            state=state,
            next_attempt_at_ns=self._now_ns() + round(after_seconds * SECOND),
            answer=answer,
            alone=alone,
        )

    async def reject(self, leased: Leased, *, answer: str) -> None:
        """The collector will never have them as they are; keep them until somebody asks for another attempt."""
        await self._database.write(
            queries.reject, leased.claims, lease=leased.lease, attempts=leased.tries, answer=answer
        )

    async def give_back(self, leased: Leased, *, sent: bool) -> None:
        """Anybody may have them at once: they were not sent after all, or nobody waited for the answer."""
        attempts = leased.tries if sent else leased.tries - 1
        await self._database.write(
            queries.give_back, leased.claims, lease=leased.lease, attempts=attempts, now_ns=self._now_ns()
        )

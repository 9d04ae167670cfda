"""The outbox as delivery sees it: claim, settle, reschedule, give back."""

import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass

from gateway.store import outbox as queries
from gateway.store.engine import Database
from gateway.store.outbox import Claim
from gateway.timeline import SECOND, DeliveryState

LEASE_MARGIN_SECONDS = 5.0
"""How much longer a lease is than the export timeout: time to settle."""


@dataclass(frozen=True, slots=True)
class Leased:
    """Traces that are this process's to deliver, until the lease ends or one of the methods below is called."""

    lease: str
    claims: Collection[Claim]

    @property
    def body(self) -> bytes:
        """One export request for all of them: serialised messages concatenate to their union."""
        return b"".join(claim.payload for claim in self.claims)


class Outbox:
    """Spans on their way to the collector, in the database.

    Raises, from every method:
        StoreUnavailable: the database failed; leases then end by themselves.
    """

    def __init__(self, database: Database, *, export_timeout_seconds: float, max_traces: int, max_bytes: int) -> None:
        self._database = database
        self._lease_ns = round((export_timeout_seconds + LEASE_MARGIN_SECONDS) * SECOND)
        self._max_traces = max_traces
        self._max_bytes = max_bytes

    async def claim(self) -> Leased | None:
        """As many due traces as one request may carry, or None where none is due."""
        lease, now_ns = secrets.token_hex(8), time.time_ns()
        claims = await self._database.write(
            queries.claim,
            lease=lease,
            now_ns=now_ns,
            lease_until_ns=now_ns + self._lease_ns,
            limit=self._max_traces,
            max_bytes=self._max_bytes,
        )
        return Leased(lease, claims) if claims else None

    async def settle_delivered(self, leased: Leased) -> None:
        """The collector has them."""
        await self._database.write(
            queries.settle_delivered, leased.claims, lease=leased.lease, now_ns=time.time_ns() // 1000 * 1000
        )

    async def reschedule(self, leased: Leased, *, state: DeliveryState, after_seconds: float, answer: str) -> None:
        """The collector does not have them; try again later."""
        await self._database.write(
            queries.reschedule,
            leased.claims,
            lease=leased.lease,
            state=state,
            next_attempt_at_ns=time.time_ns() + round(after_seconds * SECOND),
            answer=answer,
        )

    async def give_back(self, leased: Leased) -> None:
        """They were not sent, or nobody waited for the answer."""
        await self._database.write(queries.give_back, leased.claims, lease=leased.lease, now_ns=time.time_ns())

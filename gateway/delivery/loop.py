"""Delivery: claim what is due, send it, settle it by the answer; several requests in flight, one gate for all.

A trace's receipt, from sealing on:

    sealed ---> pending ------------------> delivered     its outbox row is gone
      |            |  the collector   ^
      |            v  answers, but    |
      |         retrying -------------+
      |            |  it is the trace's own fault
      |            v
      |         rejected -- somebody asks for another attempt --> pending
      |
      +-------> unsampled   its parent does not want it exported
      +-------> off         delivery is turned off

`pending`: no collector has answered for it yet. Nothing times out: the database holds what is not delivered.
"""

import asyncio
import logging
from collections.abc import Callable

from gateway.delivery.answer import Answer, Verdict
from gateway.delivery.attempt import Attempt
from gateway.delivery.gate import Gate
from gateway.delivery.outbox import Leased, Outbox
from gateway.delivery.sender import Sender
from gateway.delivery.status import Status
from gateway.errors import StoreUnavailable

POLL_SECONDS = 1.0
"""How often to look for what another process sealed, or left behind with its leases."""
FINISH_SECONDS = 3.0
"""How long a stop waits for the answers to requests in flight."""

logger = logging.getLogger(__name__)


class DeliveryLoop:
    """Delivers what is in the outbox, as long as it is open."""

    def __init__(
        self, outbox: Outbox, sender: Sender, status: Status, *, now: Callable[[], float], pace: float = 1.0
    ) -> None:
        """`now` is a monotonic clock in seconds, of which one passes in `pace` seconds of real time."""
        self._outbox = outbox
        self._sender = sender
        self._now = now
        self._pace = pace
        self._gate = Gate()
        self._attempt = Attempt(
            outbox, self._gate, status, self._send, now=now, stopping=lambda: self._closing.is_set()
        )
        self._in_flight: set[asyncio.Task[None]] = set()
        self._sealed = asyncio.Event()
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await self._sender.open()
        self._task = asyncio.create_task(self._deliver_until_closed(), name="delivery")

    async def close(self) -> None:
        """Finish or give back what is in flight, within a few seconds; the next start goes on with the rest."""
        self._closing.set()
        if self._task is not None:
            await self._task
        await self._sender.close()

    @property
    def seconds_until_open(self) -> float:
        """How long the collector is left alone for yet."""
        return self._gate.seconds_until_open(self._now())

    def wake(self) -> None:
        """Something was sealed just now."""
        self._sealed.set()

    async def _deliver_until_closed(self) -> None:
        while not self._closing.is_set():
            self._sealed.clear()
            if shut_seconds := self._gate.seconds_until_open(self._now()):
                await self._pause(shut_seconds)
            elif len(self._in_flight) >= self._gate.width:
                await self._pause(POLL_SECONDS, *self._in_flight)
            elif leased := await self._claim():
                task = asyncio.create_task(self._deliver(leased))
                self._in_flight.add(task)
                task.add_done_callback(self._in_flight.discard)
            else:
                await self._pause(POLL_SECONDS, self._sealed)
        while self._in_flight:
            await asyncio.wait(self._in_flight)

    async def _claim(self) -> Leased | None:
        try:
            return await self._outbox.claim(probe=self._gate.probing)
        except StoreUnavailable:
            return None  # The database said so in the log.
        except Exception:
            logger.exception("traces could not be claimed")
            return None

    async def _deliver(self, leased: Leased) -> None:
        try:
            await self._attempt.run(leased)
        except StoreUnavailable:
            pass  # The database said so in the log. What is not settled is free again when its lease ends.
        except Exception:
            logger.exception("delivery of %d traces failed", len(leased.claims))
            self._gate.back_off(self._now(), None)

    async def _send(self, leased: Leased) -> Answer | None:
        """The collector's answer, or None where a stop did not wait for it."""
        sending = asyncio.create_task(self._sender.send(leased.body))
        closing = asyncio.create_task(self._closing.wait())
        try:
            await asyncio.wait([sending, closing], return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                await asyncio.wait([sending], timeout=FINISH_SECONDS)
            if not sending.done():
                return None
            if error := sending.exception():
                # A defect, but not one that may hide: the receipt and the status show it like an answer.
                logger.error("a request to the collector could not be made", exc_info=error)
                return Answer(Verdict.BLOCKED, f"the request could not be made: {type(error).__name__}")
            return sending.result()
        finally:
            sending.cancel()
            closing.cancel()

    async def _pause(self, seconds: float, *until: asyncio.Event | asyncio.Task[None]) -> None:
        """Wait, but not past a stop, nor past any of `until`."""
        waits = [asyncio.create_task(self._closing.wait())]
        waits += [asyncio.create_task(event.wait()) for event in until if isinstance(event, asyncio.Event)]
        tasks = [task for task in until if isinstance(task, asyncio.Task)]
        await asyncio.wait([*waits, *tasks], timeout=seconds * self._pace, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

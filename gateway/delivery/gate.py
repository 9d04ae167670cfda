"""When the collector may be asked, and by how many requests at once.

Every request in flight goes through one gate, so that all of them back off as one:

                 delivered
        +------------------------------+
        v                              |
      wide --- RETRY, UNREACHABLE ---> backing off: shut for 1, 2, 4 … 60 s (or as the collector asks),
        |                              |             then one request at a time
        |                              |
        +--- BLOCKED, or FAULT ------> circuit open: shut for a minute, then one trace as a probe
             again and again
"""

import random
from collections.abc import Hashable

BACKOFF_FIRST_SECONDS = 1.0
BACKOFF_LONGEST_SECONDS = 60.0
PROBE_EVERY_SECONDS = 60.0
RETRY_AFTER_LONGEST_SECONDS = 3600.0
"""A collector that asks to be left alone for longer is asked again after an hour all the same."""
FAULTS_IN_A_ROW = 3
"""A collector that fails this often over single traces, one after the other, fails by itself."""
REQUESTS_IN_FLIGHT = 4


class Gate:
    """Times are seconds of a monotonic clock, given by the caller."""

    def __init__(self) -> None:
        self._shut_until = 0.0
        self._failures = 0
        self._faults: set[Hashable] = set()
        """Traces that the collector failed over, each alone, since it last took something."""
        self.probing = False
        """The circuit is open: only single traces may be sent, to see whether the endpoint works again."""

    @property
    def width(self) -> int:
        """How many requests may be in flight."""
        return 1 if self.probing or self._failures else REQUESTS_IN_FLIGHT

    def seconds_until_open(self, now: float) -> float:
        return max(0.0, self._shut_until - now)

    def delivered(self) -> None:
        """The collector took something: it works."""
        self._failures = 0
        self._faults.clear()
        self.probing = False

    def back_off(self, now: float, after_seconds: float | None) -> float:
        """The collector is away, or asked for time; for how many seconds the gate is shut now."""
        # Requests that were in flight together fail together: that is one failure.
        if now >= self._shut_until:
            self._failures += 1
        delay = _backoff_seconds(self._failures)
        if after_seconds is not None:
            delay = max(delay, min(after_seconds, RETRY_AFTER_LONGEST_SECONDS))
        self._shut_until = max(self._shut_until, now + delay)
        return self._shut_until - now

    def block(self, now: float) -> float:
        """The endpoint takes nothing from us; for how many seconds the gate is shut now."""
        self.probing = True
        self._shut_until = max(self._shut_until, now + PROBE_EVERY_SECONDS)
        return self._shut_until - now

    def fault(self, now: float, trace: Hashable) -> bool:
        """The collector failed over a single trace; whether that is put down to the collector, and the gate is shut.

        The same trace again says nothing new of the collector, unless it was chosen as a probe.
        """
        self._faults.add(trace)
        if self.probing or len(self._faults) >= FAULTS_IN_A_ROW:
            self.block(now)
            return True
        return False


def _backoff_seconds(failures: int) -> float:
    """Exponential with jitter: between half and all of 1, 2, 4 … 60 s."""
    longest = min(BACKOFF_FIRST_SECONDS * 2.0 ** min(failures - 1, 10), BACKOFF_LONGEST_SECONDS)
    return random.uniform(longest / 2, longest)

"""Keys: what they are made of, and why they grow."""

import time
from zlib import crc32


def shard_of(trace_tag: str, trace_id: str) -> int:
    """The shard that all rows of a tag and id live on: crc32 as a signed 32-bit number, which fits INTEGER.

    No name may contain NUL, so it separates the two without ambiguity.
    """
    unsigned = crc32(f"{trace_tag}\0{trace_id}".encode())
    return unsigned - (1 << 32) if unsigned >> 31 else unsigned


def shard_of_tag(trace_tag: str) -> int:
    """The shard of rows that belong to a tag as a whole."""
    unsigned = crc32(trace_tag.encode())
    return unsigned - (1 << 32) if unsigned >> 31 else unsigned


class KeyClock:
    """Keys that grow: nanoseconds since the epoch, strictly increasing within a process.

    Rows that are written together lie together, which is what an index of millions of rows needs. Two processes
    that ever make the same key on the same shard meet in the primary key; the loser decides again, with a new one.
    """

    def __init__(self, *, slot: int = 0) -> None:
        """`slot` is where this process counts, see `store.histograms`. Writers of one SQLite file take turns, so they
        can share one."""
        self.slot = slot
        self._last = 0

    def next(self, at_least: int = 0) -> int:
        """A key greater than every one before, and not less than `at_least`."""
        self._last = max(time.time_ns(), self._last + 1, at_least)
        return self._last

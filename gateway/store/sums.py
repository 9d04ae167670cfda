"""Tallies as they are stored and added up.

The buckets of a row are one long number, with 64 bits for the count of each bucket. So histograms are added up by
adding numbers, which costs next to nothing however many buckets they have. A count below zero, in a row that only takes
back, borrows from the bucket above it, and the sum with the row that it is taken from gives that back.
"""

import sys
from array import array
from dataclasses import dataclass

from gateway.summary import Tally

_BITS, _BYTES = 64, 8


@dataclass(slots=True)
class Sum:
    """A tally as rows have it."""

    failed: int = 0
    abandoned: int = 0
    superseded: int = 0
    sum_us: float = 0.0
    lowest: int = 0
    """The bucket of the last 64 bits; those below it are empty."""
    number: int = 0

    def add(self, failed: int, abandoned: int, superseded: int, sum_us: float, buckets: bytes) -> None:
        """Add a row."""
        self.failed += failed
        self.abandoned += abandoned
        self.superseded += superseded
        self.sum_us += sum_us
        lowest = int.from_bytes(buckets[:2], "little", signed=True)
        number = int.from_bytes(buckets[2:], "little", signed=True)
        if not self.number:
            self.lowest = lowest
        if lowest < self.lowest:
            self.number <<= _BITS * (self.lowest - lowest)
            self.lowest = lowest
        self.number += number << _BITS * (lowest - self.lowest)

    @property
    def counts(self) -> tuple[int, int, int, float, bytes]:
        """As a row has them. Buckets are stored as the lowest of them, in two bytes, and the number."""
        # Without the buckets that are empty by now, below the others.
        empty = max(0, (self.number & -self.number).bit_length() - 1) // _BITS
        number = self.number >> _BITS * empty
        lowest = (self.lowest + empty).to_bytes(2, "little", signed=True)
        buckets = lowest + number.to_bytes(_size(number), "little", signed=True)
        return (self.failed, self.abandoned, self.superseded, self.sum_us, buckets)

    @property
    def count(self) -> int:
        """Of all buckets together: `tally.count`, without the tally."""
        digits = array("q", self.number.to_bytes(_size(self.number), sys.byteorder, signed=True))
        # What a digit borrowed belongs to the one above it, or is the sign that is carried on for ever.
        return sum(digits) + sum(digit < 0 for digit in digits[: self.number.bit_length() // _BITS])

    @property
    def tally(self) -> Tally:
        counts = array("q", self.number.to_bytes(_size(self.number), sys.byteorder, signed=True))
        if sys.byteorder == "big":
            counts.reverse()
        tally = Tally(self.failed, self.abandoned, self.superseded, self.sum_us)
        borrowed = 0
        for bucket, count in enumerate(counts, start=self.lowest):
            if count + borrowed:
                tally.buckets[bucket] = count + borrowed
            borrowed = int(count < 0)
        return tally


def sum_of(tally: Tally) -> Sum:
    lowest = min(tally.buckets, default=0)
    number = sum(count << _BITS * (bucket - lowest) for bucket, count in tally.buckets.items())
    return Sum(tally.failed, tally.abandoned, tally.superseded, tally.sum_us, lowest, number)


def _size(number: int) -> int:
    """The bytes of the buckets of a number, and of its sign."""
    return (number.bit_length() // _BITS + 1) * _BYTES

"""The steps of a trace as a picture to scale, and as rows that somebody can read. Pure: numbers in, geometry out."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise

from gateway.timeline import SECOND, Step

ROWS_MAX = 200
"""Steps are put together into no more rows than this."""

TICKS_MAX = 4
"""So many of the longest labels stand beside each other on a phone, the first tick aside."""

_MINUTE, _HOUR, _DAY = 60 * SECOND, 3_600 * SECOND, 86_400 * SECOND
_INTERVALS = (
    *(digit * 10**power for power in range(3, 10) for digit in (1, 2, 5)),
    *(seconds * SECOND for seconds in (10, 15, 30)),
    *(minutes * _MINUTE for minutes in (1, 2, 5, 10, 15, 30)),
    *(hours * _HOUR for hours in (1, 2, 3, 6, 12)),
    *(digit * 10**power * _DAY for power in range(5) for digit in (1, 2, 5)),
)
"""What may lie between two ticks: round in the units that people read."""


@dataclass(frozen=True, slots=True)
class Tick:
    x: float
    after_ns: int
    """Since the beginning of the axis."""
    anchor: str
    """Which end of its label stands at `x`: none is cut off at either end of the axis."""


@dataclass(frozen=True, slots=True)
class Bar:
    x: float
    width: float


@dataclass(frozen=True, slots=True)
class Axis:
    """A stretch of time from left to right. Places and widths on it are in percent."""

    begins_ns: int
    ends_ns: int

    @property
    def length_ns(self) -> int:
        return self.ends_ns - self.begins_ns

    def at(self, at_ns: int) -> float:
        """Where a moment is: never outside, and at the left where the axis has no length."""
        if self.length_ns <= 0:
            return 0.0
        inside_ns = min(max(at_ns, self.begins_ns), self.ends_ns)
        return round(100 * (inside_ns - self.begins_ns) / self.length_ns, 3)

    def bar(self, begins_ns: int, ends_ns: int) -> Bar:
        """It ends exactly where the one that begins then begins."""
        x = self.at(begins_ns)
        return Bar(x, round(self.at(ends_ns) - x, 3))

    def ticks(self) -> list[Tick]:
        """At most `TICKS_MAX` after the first, at round distances."""
        if self.length_ns <= 0:
            return [Tick(0.0, 0, "start")]
        interval_ns = next(
            (one for one in _INTERVALS if self.length_ns <= one * TICKS_MAX), -(-self.length_ns // TICKS_MAX)
        )
        ticks = []
        for after_ns in range(0, self.length_ns + 1, interval_ns):
            x = self.at(self.begins_ns + after_ns)
            ticks.append(Tick(x, after_ns, "start" if x == 0 else "end" if x > 90 else "middle"))
        return ticks


@dataclass(frozen=True, slots=True)
class Group:
    """Consecutive steps in one row."""

    part: range
    first_name: str
    last_name: str
    is_of_one_name: bool
    begins_ns: int
    ends_ns: int
    slowest: int
    """The index of the step that took longest; of several, the first."""
    slowest_ns: int
    failed: int
    untracked: int
    untracked_ns: int

    @property
    def total_ns(self) -> int:
        """Of all of its steps together, untracked ones too."""
        return self.ends_ns - self.begins_ns


def group_of(steps: Sequence[Step], part: range) -> Group:
    members = steps[part.start : part.stop]
    slowest = max(part, key=lambda index: steps[index].duration_ns)
    untracked = [step.duration_ns for step in members if not step.track_duration]
    return Group(
        part=part,
        first_name=members[0].step_name,
        last_name=members[-1].step_name,
        is_of_one_name=all(step.step_name == members[0].step_name for step in members),
        begins_ns=members[0].marked_at_ns - members[0].duration_ns,
        ends_ns=members[-1].marked_at_ns,
        slowest=slowest,
        slowest_ns=steps[slowest].duration_ns,
        failed=sum(step.error is not None for step in members),
        untracked=len(untracked),
        untracked_ns=sum(untracked),
    )


def slowest_of(steps: Sequence[Step], limit: int) -> list[int]:
    """The indexes of the steps that took longest, the slowest first, earlier ones before later ones."""
    return sorted(range(len(steps)), key=lambda index: (-steps[index].duration_ns, index))[:limit]


def grouped(names: Sequence[str], rows_max: int) -> list[range]:
    """Puts steps, of which these are the names, into at most `rows_max` groups; each on its own where they are few.

    A group has steps of one name, unless the names change so often that these would be too many: then it has its share
    of all, whatever they are called. What is much longer than the others is taken apart first.
    """
    begins = [0]
    for _, equal in groupby(names):
        begins.append(begins[-1] + sum(1 for _ in equal))
    if len(begins) - 1 > rows_max:
        begins = [0, len(names)]
    runs = [range(start, stop) for start, stop in pairwise(begins)]

    def pieces(longest: int) -> int:
        return sum(-(-len(run) // longest) for run in runs)

    longest = 1 + bisect_left(range(1, len(names)), True, key=lambda longest: pieces(longest) <= rows_max)
    return [
        range(start, min(start + longest, run.stop)) for run in runs for start in range(run.start, run.stop, longest)
    ]


class Grouping:
    """The parts of a trace: all of its steps, their groups, the groups of these, down to the single steps."""

    def __init__(self, names: Sequence[str], rows_max: int = ROWS_MAX) -> None:
        self._names = names
        self._rows_max = rows_max
        self._groups: dict[range, list[range]] = {}

    @cached_property
    def whole(self) -> range:
        return range(len(self._names))

    def groups(self, part: range) -> list[range]:
        """What `part` is shown as: one row each."""
        if part not in self._groups:
            of_part = grouped(self._names[part.start : part.stop], self._rows_max)
            self._groups[part] = [range(part.start + one.start, part.start + one.stop) for one in of_part]
        return self._groups[part]

    def way_to(self, part: range) -> list[range]:
        """The parts that `part` lies in, the largest first, without itself."""
        way = []
        outer: range | None = self.whole
        while outer is not None and outer != part:
            way.append(outer)
            outer = self._around(outer, part)
        return way

    def part_with(self, index: int) -> range:
        """The part in which this step has a row of its own."""
        return self.way_to(range(index, index + 1))[-1] if len(self.whole) > 1 else self.whole

    def neighbours(self, part: range) -> tuple[range | None, range | None]:
        """The parts before and after `part` among those that it is shown with, where it is one of them."""
        way = self.way_to(part)
        beside = self.groups(way[-1]) if way else []
        if part not in beside:
            return None, None
        index = beside.index(part)
        return (beside[index - 1] if index else None), (beside[index + 1] if index + 1 < len(beside) else None)

    def _around(self, outer: range, part: range) -> range | None:
        """The group of `outer` that all of `part` lies in."""
        groups = self.groups(outer)
        index = bisect_left(groups, part.stop, key=lambda group: group.stop)
        return groups[index] if index < len(groups) and groups[index].start <= part.start else None

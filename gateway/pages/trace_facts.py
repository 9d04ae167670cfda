"""The page of one trace: what is known of it, and where its time went."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from gateway.errors import TraceNotFound
from gateway.pages.trace_query import Wanted
from gateway.pages.waterfall import ROWS_MAX, Axis, Group, Grouping, group_of, slowest_of
from gateway.store import timelines
from gateway.store.batches import load_marks
from gateway.store.timelines import Listed, Receipt, Selection
from gateway.timeline import (
    Attributes,
    EventType,
    Mark,
    Outcome,
    Step,
    Timeline,
    Trace,
    TraceError,
    lay_out,
    straighten,
)

OTHERS_SHOWN = 10
SLOWEST_SHOWN = 20
DETAILS_MAX_CHARACTERS = 500_000
"""What a page has of attributes and errors of steps, about. A step beyond that has them on a page of its own."""

_SHOWN = [outcome for outcome in Outcome if outcome is not Outcome.DELETED]


@dataclass(frozen=True, slots=True)
class StepRow:
    """A step on its own."""

    index: int
    step: Step
    is_cut: bool
    """Whether its attributes and its error were left out, because the page would be too long."""

    @property
    def begins_ns(self) -> int:
        return self.step.marked_at_ns - self.step.duration_ns

    @property
    def ends_ns(self) -> int:
        return self.step.marked_at_ns


@dataclass(frozen=True, slots=True)
class Slow:
    """One of the steps that took longest."""

    index: int
    step_name: str
    duration_ns: int
    track_duration: bool
    has_failed: bool
    part: range
    """In which it has a row of its own."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The last error of a trace, and how many marks have one."""

    error: TraceError
    marks: int
    index: int | None
    """Of the step that it came with; None where it came with the end."""
    step_name: str | None
    part: range


@dataclass(frozen=True, slots=True)
class Times:
    """What the clocks said of a mark."""

    name: str | None
    """Of a step; None for the start and the end."""
    number: int | None
    ends_trace: bool
    client_ns: int | None
    arrived_ns: int
    corrected_ns: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What the page shows."""

    trace: Trace
    receipt: Receipt | None
    started_at_ns: int
    ended_at_ns: int
    duration_ns: int
    attributes: Attributes
    failure: Failure | None
    step_count: int
    part: range
    """The steps that are shown."""
    way: list[range]
    """The parts that it lies in, the largest first."""
    before: range | None
    after: range | None
    axis: Axis
    rows: list[StepRow | Group]
    tail_ns: int
    """From the last step to the end."""
    slowest: list[Slow]
    """Of all steps, where they do not all have rows of their own."""
    times: list[Times] | None
    """None where there are too many marks."""
    others: list[Trace]
    """The newest other runs under the same id."""

    @property
    def is_open(self) -> bool:
        return self.trace.outcome is Outcome.OPEN

    @property
    def is_to_the_end(self) -> bool:
        return self.part.stop == self.step_count

    @property
    def any_untracked(self) -> bool:
        return any(row.untracked if isinstance(row, Group) else not row.step.track_duration for row in self.rows)

    @property
    def any_failed(self) -> bool:
        return any(row.failed if isinstance(row, Group) else row.step.error is not None for row in self.rows)


def read(connection: Connection, asked: Wanted) -> Facts:
    """What the page shows of the trace that was asked for.

    Raises:
        TraceNotFound: there is no such trace, it is deleted, or it has no such step.
    """
    trace, receipt = _find(connection, asked)
    others: list[Trace] = []
    if trace.trace_id:
        newest = _newest(connection, trace.trace_tag, trace.trace_id, OTHERS_SHOWN + 1)
        others = [other for other, _ in newest if other.run_key != trace.run_key][:OTHERS_SHOWN]
    marks = load_marks(connection, [trace])[trace.run_key, trace.shard]
    if trace.outcome is Outcome.OPEN:
        straighten(marks)
    marks.sort(key=lambda mark: mark.seq)
    return _page(lay_out(trace, marks), marks, receipt, others, asked)


def _find(connection: Connection, asked: Wanted) -> Listed:
    if asked.trace is not None:
        found = timelines.of_key(connection, asked.trace_tag, asked.trace)
    else:
        newest = _newest(connection, asked.trace_tag, asked.trace_name, 1)
        found = newest[0] if newest else timelines.of_run(connection, asked.trace_tag, asked.trace_name)
    if found is None:
        raise TraceNotFound("There is no such trace. It may have been deleted, or be too old to be kept.")
    return found


def _newest(connection: Connection, trace_tag: str, trace_id: str, limit: int) -> list[Listed]:
    return timelines.newest_traces(connection, Selection(trace_tag, trace_id, _SHOWN), limit=limit)


def _page(
    timeline: Timeline, marks: Sequence[Mark], receipt: Receipt | None, others: list[Trace], asked: Wanted
) -> Facts:
    steps = timeline.steps
    part = _part(len(steps), asked)
    grouping = Grouping([step.step_name for step in steps])
    rows = list(_rows(steps, grouping.groups(part)))
    is_grouped = len(grouping.groups(grouping.whole)) < len(steps)
    before, after = grouping.neighbours(part)
    last_ns = steps[-1].marked_at_ns if steps else timeline.started_at_ns
    is_to_the_end = part.stop == len(steps)
    return Facts(
        trace=timeline.trace,
        receipt=receipt,
        started_at_ns=timeline.started_at_ns,
        ended_at_ns=timeline.ended_at_ns,
        duration_ns=timeline.duration_ns,
        attributes=timeline.attributes,
        failure=_failure(timeline, grouping),
        step_count=len(steps),
        part=part,
        way=grouping.way_to(part),
        before=before,
        after=after,
        axis=Axis(
            rows[0].begins_ns if part.start else timeline.started_at_ns,
            timeline.ended_at_ns if is_to_the_end else rows[-1].ends_ns,
        ),
        rows=rows,
        tail_ns=timeline.ended_at_ns - last_ns,
        slowest=[_slow(steps, index, grouping) for index in slowest_of(steps, SLOWEST_SHOWN)] if is_grouped else [],
        times=list(_times(marks, part, is_to_the_end)) if len(part) <= ROWS_MAX else None,
        others=others,
    )


def _part(step_count: int, asked: Wanted) -> range:
    if asked.from_ == 1 and asked.to is None:
        return range(step_count)
    if asked.from_ > step_count:
        raise TraceNotFound(f"The trace has no step {asked.from_}: it has {step_count}.")
    return range(asked.from_ - 1, min(asked.to or step_count, step_count))


def _rows(steps: Sequence[Step], groups: Iterable[range]) -> Iterable[StepRow | Group]:
    left = DETAILS_MAX_CHARACTERS
    for part in groups:
        if len(part) > 1:
            yield group_of(steps, part)
            continue
        step = steps[part.start]
        size = _size(step)
        # The first always fits: on a page of its own, a step is shown whole.
        is_cut = size > left < DETAILS_MAX_CHARACTERS
        left -= 0 if is_cut else size
        yield StepRow(part.start, _without_details(step) if is_cut else step, is_cut)


def _size(step: Step) -> int:
    error = step.error or TraceError()
    texts = (error.type, error.message, error.stack)
    return sum(len(text or "") for text in texts) + (len(str(step.attributes)) if step.attributes else 0)


def _without_details(step: Step) -> Step:
    error = TraceError() if step.error else None
    return Step(step.step_name, step.marked_at_ns, step.duration_ns, step.track_duration, {}, error)


def _slow(steps: Sequence[Step], index: int, grouping: Grouping) -> Slow:
    step = steps[index]
    part = grouping.part_with(index)
    return Slow(index, step.step_name, step.duration_ns, step.track_duration, step.error is not None, part)


def _failure(timeline: Timeline, grouping: Grouping) -> Failure | None:
    if timeline.error is None:
        return None
    failed = [index for index, step in enumerate(timeline.steps) if step.error]
    if timeline.own_error:
        return Failure(timeline.error, len(failed) + 1, None, None, grouping.whole)
    last = failed[-1]
    return Failure(timeline.error, len(failed), last, timeline.steps[last].step_name, grouping.part_with(last))


def _times(marks: Sequence[Mark], part: range, is_to_the_end: bool) -> Iterable[Times]:
    number = 0
    for mark in marks:
        event = mark.event
        is_step = event.type is EventType.STEP
        number += is_step
        is_shown = (
            part.start < number <= part.stop
            if is_step
            else part.start == 0
            if event.type is EventType.START
            else is_to_the_end
        )
        if is_shown:
            yield Times(
                event.step_name,
                number if is_step else None,
                event.ends_trace,
                event.client_time_ns,
                event.arrived_at_ns,
                mark.marked_at_ns,
            )

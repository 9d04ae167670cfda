"""What summaries are made of: rows of counts, added to in the transaction that seals a trace.

A row is one period of a tag or of one of its steps. Whoever counts reads its rows, adds to them, and writes them back
if nobody else did meanwhile; processes have a `slot` of their own for that, so that somebody else seldom does.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Delete,
    Row,
    Select,
    Update,
    bindparam,
    column,
    delete,
    select,
    union_all,
    update,
    values,
)
from sqlalchemy import literal_column as literal
from sqlalchemy.dialects.postgresql import Insert

from gateway import summary
from gateway.store import tables
from gateway.store.engine import LostRace
from gateway.store.keys import shard_of_tag
from gateway.store.prepared import Prepared, PreparedInsert, chunks, padded
from gateway.store.sums import Sum, sum_of
from gateway.summary import DAY_NS, HOUR_NS, OTHER_STEPS, WHOLE_TRACE, Subject, Tally, Window
from gateway.timeline import Timeline

histograms, step_names, tags = tables.histograms, tables.step_names, tables.tags

HOUR, DAY = 1, 24
SHARED_SLOT = 0
"""The slot of days: they are written seldom, by whoever sweeps."""


def count(connection: Connection, sealed: Iterable[Timeline], *, slot: int) -> None:
    """Count traces, in the transaction that seals them.

    Their tags are held by `tag_locks`, so that nobody takes up step names of them meanwhile.

    Raises:
        LostRace: somebody counted in the same slot meanwhile.
    """
    in_order = sorted(sealed, key=lambda timeline: timeline.trace.list_key)
    names = load_step_names(connection, {timeline.trace.trace_tag for timeline in in_order})
    tallies: dict[Subject, Tally] = {}
    taken_up: list[tuple[str, str, int, int]] = []
    for timeline in in_order:
        trace_tag = timeline.trace.trace_tag
        new = summary.new_step_names(timeline, names[trace_tag])
        names[trace_tag] |= new
        taken_up += [(trace_tag, name, shard_of_tag(trace_tag), key) for name, key in new.items()]
        summary.count(tallies, timeline, names[trace_tag])
    _INSERT_STEP_NAME.execute_many(connection, sorted(taken_up))
    _add_tallies(connection, tallies, slot)


def take_back(connection: Connection, deleted: Iterable[Timeline], *, slot: int) -> None:
    """Take back what `count` counted, in the transaction that deletes these traces.

    Raises:
        LostRace: somebody counted in the same slot meanwhile.
    """
    counted = [timeline for timeline in deleted if timeline.trace.counted]
    names = load_step_names(connection, {timeline.trace.trace_tag for timeline in counted})
    tallies: dict[Subject, Tally] = {}
    for timeline in counted:
        summary.count(tallies, timeline, names[timeline.trace.trace_tag], times=-1)
    _add_tallies(connection, tallies, slot)


def forget_tag(connection: Connection, trace_tag: str) -> None:
    """Remove everything that is counted of a tag."""
    for table in (histograms, step_names):
        connection.execute(
            delete(table).where(table.c.trace_tag == trace_tag, table.c.shard == shard_of_tag(trace_tag))
        )


def load_step_names(connection: Connection, trace_tags: Collection[str]) -> dict[str, dict[str, int]]:
    """The step names of each tag that are counted for themselves, and since when."""
    found: dict[str, dict[str, int]] = {trace_tag: {} for trace_tag in trace_tags}
    for chunk in chunks(sorted(trace_tags)):
        wanted = padded(chunk)
        for row in _SELECT_STEP_NAMES.execute(connection, tuple(wanted), len(wanted)):
            found[row.trace_tag][row.step_name] = row.since_key
    return found


def of_tag(connection: Connection, trace_tag: str, window: Window) -> dict[str, Tally]:
    """What is counted of a tag in a window of whole rows: as `WHOLE_TRACE`, and by step name."""
    sums: dict[str, Sum] = defaultdict(Sum)
    parameters = {
        "tag": trace_tag,
        "on_shard": shard_of_tag(trace_tag),
        "since": window.since_ns,
        "until": window.until_ns,
    }
    for step_name, *counts in connection.execute(_OF_TAG, parameters):
        sums[step_name].add(*counts)
    return {step_name: summed.tally for step_name, summed in sums.items()}


def of_every_tag(connection: Connection, window: Window) -> dict[str, Tally]:
    """What is counted of the traces of every tag, by name; tags of which nothing was counted at all are not there."""
    sums: dict[str, Sum] = defaultdict(Sum)
    for trace_tag, *counts in connection.execute(_OF_EVERY_TAG, {"since": window.since_ns, "until": window.until_ns}):
        summed = sums[trace_tag]
        if counts[-1] is not None:
            summed.add(*counts)
    return {trace_tag: summed.tally for trace_tag, summed in sorted(sums.items(), key=itemgetter(0))}


def add_up_hours(connection: Connection, before_ns: int, *, max_rows: int) -> int:
    """Add up to `max_rows` rows of hours before the midnight `before_ns` to those of their days; how many there were.

    Raises:
        LostRace: somebody else did, or counted in one of them, meanwhile.
    """
    hours = connection.execute(
        select(histograms)
        .where(histograms.c.hours == HOUR, histograms.c.starts_at_ns < before_ns)
        .order_by(histograms.c.starts_at_ns)
        .limit(max_rows)
    ).all()
    days: dict[Subject, Sum] = defaultdict(Sum)
    for row in hours:
        day_ns = row.starts_at_ns // DAY_NS * DAY_NS
        days[row.trace_tag, row.step_name, day_ns].add(*row[-5:])
    _remove(connection, hours)
    _add(connection, days, hours=DAY, slot=SHARED_SLOT)
    return len(hours)


def expire(connection: Connection, before_ns: int, *, max_rows: int) -> int:
    """Remove up to `max_rows` rows of what ended before then, and names that nothing is left of; how many rows.

    Raises:
        LostRace: somebody counted in one of them meanwhile.
    """
    expired: list[Row[Any]] = []
    for hours in (HOUR, DAY):
        old = histograms.c.starts_at_ns <= before_ns - hours * HOUR_NS
        oldest = select(histograms).where(histograms.c.hours == hours, old).order_by(histograms.c.starts_at_ns)
        expired += connection.execute(oldest.limit(max_rows - len(expired)))
    _remove(connection, expired)
    forget_unused(connection, {(row.trace_tag, row.step_name) for row in expired})
    return len(expired)


def _add_tallies(connection: Connection, tallies: Mapping[Subject, Tally], slot: int) -> None:
    """Count in the hours of these subjects; raises LostRace where somebody was faster."""
    sums = {subject: sum_of(tally) for subject, tally in tallies.items()}
    _add(connection, sums, hours=HOUR, slot=slot)


def _add(connection: Connection, sums: Mapping[Subject, Sum], *, hours: int, slot: int) -> None:
    """Add to the rows of these subjects; raises LostRace where somebody was faster."""
    added: list[tuple[Any, ...]] = []
    changed: list[tuple[Any, ...]] = []
    for chunk in chunks(sorted(sums)):
        stored = {tuple(row[:3]): row for row in _load(connection, chunk, hours, slot)}
        for subject in chunk:
            summed = sums[subject]
            shard = shard_of_tag(subject[0])
            if (row := stored.get(subject)) is None:
                added.append((*subject, hours, slot, shard, 1, *summed.counts))
            else:
                summed.add(*row[-5:])
                version = row.version + 1
                changed.append((version, *summed.counts, *subject, hours, slot, shard, version))
    if _UPDATE_ROW.execute_many(connection, changed) != len(changed):
        raise LostRace
    _INSERT_ROW.execute_many(connection, added)


def _load(connection: Connection, subjects: Sequence[Subject], hours: int, slot: int) -> Iterable[Any]:
    wanted = padded(subjects)
    parameters = (*(part for subject in wanted for part in subject), hours, slot)
    return _SELECT_ROWS.execute(connection, parameters, len(wanted))


def _remove(connection: Connection, rows: Sequence[Row[Any]]) -> None:
    keys = sorted((*row[:6], row.version) for row in rows)
    if _DELETE_ROW.execute_many(connection, keys) != len(keys):
        raise LostRace


def forget_unused(connection: Connection, subjects: Collection[tuple[str, str]]) -> None:
    """Forget those of these tags and step names that nothing is left of."""
    names: dict[str, list[str]] = defaultdict(list)
    for trace_tag, step_name in sorted(subjects):
        names[trace_tag].append(step_name)
    for trace_tag, of_tag in names.items():
        # Whoever is counting for it is waited for: what they count is seen by the statements that follow.
        is_tag = (tags.c.trace_tag == trace_tag) & (tags.c.shard == shard_of_tag(trace_tag))
        connection.execute(select(tags.c.trace_tag).where(is_tag).with_for_update())
        counted = (histograms.c.trace_tag == trace_tag) & (histograms.c.shard == shard_of_tag(trace_tag))
        unused = [name for name in of_tag if not _is_any(connection, counted & (histograms.c.step_name == name))]
        connection.execute(
            delete(step_names).where(
                step_names.c.trace_tag == trace_tag,
                step_names.c.shard == shard_of_tag(trace_tag),
                step_names.c.step_name.in_(unused),
            )
        )
        if not _is_any(connection, counted) and not _is_any(connection, tables.traces.c.trace_tag == trace_tag):
            connection.execute(delete(tags).where(is_tag))


def _is_any(connection: Connection, rows: ColumnElement[bool]) -> bool:
    return connection.execute(select(literal("1")).where(rows).limit(1)).first() is not None


def _select_rows(size: int) -> Select[Any]:
    """The rows of `size` subjects, joined to a list of values like the addresses of traces."""
    names = ("trace_tag", "step_name", "starts_at_ns")
    types = [histograms.c[name].type for name in names]
    rows: list[Any] = [
        tuple(bindparam(f"{name}_{index}", type_=type_) for name, type_ in zip(names, types, strict=True))
        for index in range(size)
    ]
    wanted = values(*map(column, names, types), name="wanted").data(rows).cte("wanted")
    return select(*histograms.columns).select_from(
        wanted.join(
            histograms,
            (histograms.c.trace_tag == wanted.c.trace_tag)
            & (histograms.c.step_name == wanted.c.step_name)
            & (histograms.c.starts_at_ns == wanted.c.starts_at_ns)
            & (histograms.c.hours == bindparam("of_hours"))
            & (histograms.c.slot == bindparam("of_slot")),
        )
    )


def _select_step_names(size: int) -> Select[Any]:
    wanted: list[Any] = [bindparam(f"tag_{index}") for index in range(size)]
    return select(step_names.c.trace_tag, step_names.c.step_name, step_names.c.since_key).where(
        step_names.c.trace_tag.in_(wanted)
    )


_KEY = ("trace_tag", "step_name", "starts_at_ns", "hours", "slot", "shard")
_COUNTS = ("failed", "abandoned", "superseded", "sum_us", "buckets")


def _update_row(_: int) -> Update:
    before: Any = bindparam("saved_version") - literal("1")
    return (
        update(histograms)
        .ordered_values(*((histograms.c[name], bindparam(f"new_{name}")) for name in ("version", *_COUNTS)))
        .where(*(histograms.c[name] == bindparam(f"of_{name}") for name in _KEY), histograms.c.version == before)
    )


def _delete_row(_: int) -> Delete:
    return delete(histograms).where(*(histograms.c[name] == bindparam(f"of_{name}") for name in (*_KEY, "version")))


def _earliest(new: Insert) -> Insert:
    earlier = new.excluded.since_key < step_names.c.since_key
    return new.on_conflict_do_update(
        index_elements=["trace_tag", "step_name", "shard"], set_={"since_key": new.excluded.since_key}, where=earlier
    )


_SELECT_ROWS = Prepared(_select_rows)
_SELECT_STEP_NAMES = Prepared(_select_step_names)
_UPDATE_ROW = Prepared(_update_row)
_INSERT_ROW = PreparedInsert(histograms)
_DELETE_ROW = Prepared(_delete_row)
_INSERT_STEP_NAME = PreparedInsert(step_names, _earliest)

_COUNTED = [histograms.c[name] for name in _COUNTS]
_IN_WINDOW = (histograms.c.starts_at_ns >= bindparam("since")) & (histograms.c.starts_at_ns < bindparam("until"))

# Step by step, so that each is one range of the key.
_OF_TAG = select(histograms.c.step_name, *_COUNTED).where(
    histograms.c.trace_tag == bindparam("tag"),
    histograms.c.shard == bindparam("on_shard"),
    histograms.c.step_name.in_(
        union_all(
            select(step_names.c.step_name).where(
                step_names.c.trace_tag == bindparam("tag"), step_names.c.shard == bindparam("on_shard")
            ),
            select(literal(f"'{WHOLE_TRACE}'")),
            select(literal(f"'{OTHER_STEPS}'")),
        )
    ),
    _IN_WINDOW,
)

_OF_THE_SAME = (histograms.c.trace_tag == tags.c.trace_tag) & (histograms.c.shard == tags.c.shard)
_OF_EVERY_TAG = (
    select(tags.c.trace_tag, *_COUNTED)
    .select_from(
        tags.outerjoin(
            histograms,
            _OF_THE_SAME & (histograms.c.step_name == literal("''")) & _IN_WINDOW,
        )
    )
    .where(select(1).where(_OF_THE_SAME).correlate(tags).exists())
)

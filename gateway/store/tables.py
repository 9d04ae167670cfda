"""The tables. `migrations/` creates them; `tests/test_store.py` holds the two against each other."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    false,
    text,
)

metadata = MetaData()

traces = Table(
    "traces",
    metadata,
    Column("run_key", BigInteger, nullable=False),
    Column("shard", Integer, nullable=False),
    Column("trace_tag", Text, nullable=False),
    Column("trace_id", Text, nullable=False),
    Column("run", Text),
    Column("single", Boolean(create_constraint=False), nullable=False),
    Column("outcome", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("list_key", BigInteger, nullable=False),
    Column("otel_trace_id", Text, nullable=False),
    Column("otel_span_id", Text, nullable=False),
    Column("parent_span_id", Text),
    Column("trace_flags", SmallInteger, nullable=False),
    Column("tracestate", Text, nullable=False),
    Column("ignored_traceparent", Text),
    Column("service", Text),
    Column("last_arrived_at_ns", BigInteger, nullable=False),
    Column("wake_at_ns", BigInteger),
    Column("started_at_ns", BigInteger),
    Column("last_marked_at_ns", BigInteger),
    Column("mark_count", Integer, nullable=False),
    Column("highest_seq", Integer, nullable=False),
    Column("end_seq", Integer),
    Column("step_count", Integer, nullable=False),
    Column("current_step", Text),
    Column("clock_shift_ns", BigInteger),
    Column("sealed_at_ns", BigInteger),
    Column("ended_at_ns", BigInteger),
    Column("duration_ns", BigInteger),
    Column("missing_events", Integer, nullable=False),
    Column("failed", Boolean(create_constraint=False), nullable=False),
    Column("delivery_state", Text),
    Column("delivery_attempts", Integer, nullable=False),
    Column("delivery_answer", Text),
    Column("delivered_at_ns", BigInteger),
    Column("counted", Boolean(create_constraint=False), nullable=False, server_default=false()),
    PrimaryKeyConstraint("run_key", "shard"),
    # How an event finds its trace. Sealed single traces have no run any more, and NULLs never collide.
    Index("traces_address", "trace_tag", "trace_id", "run", "shard", unique=True),
    # How lists find the newest traces of a tag, and of them those that took long without looking at the others.
    Index("traces_list", "trace_tag", "outcome", "list_key", "duration_ns"),
    # How the runs of one id are found, newest first.
    Index("traces_of_id", "trace_tag", "trace_id", "outcome", "list_key"),
    # How the few that failed are found among the many that did not.
    Index(
        "traces_failed",
        "trace_tag",
        "outcome",
        "list_key",
        # As SQLAlchemy says it there: SQLite uses the index only for what it knows to be the same.
        sqlite_where=text("failed = 1"),
        postgresql_where=text("failed"),
    ),
    # How the sweeper finds what is due; sealed traces are not in it.
    Index(
        "traces_wake",
        "wake_at_ns",
        sqlite_where=Column("wake_at_ns", BigInteger).is_not(None),
        postgresql_where=Column("wake_at_ns", BigInteger).is_not(None),
    ),
    sqlite_with_rowid=False,
)
"""One row a trace, open or sealed; its columns are the fields of `timeline.Trace`."""

marks = Table(
    "marks",
    metadata,
    Column("run_key", BigInteger, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("shard", Integer, nullable=False),
    Column("marked_at_ns", BigInteger, nullable=False),
    Column("type", SmallInteger, nullable=False),
    Column("arrived_at_ns", BigInteger, nullable=False),
    Column("step_name", Text),
    Column("track_duration", Boolean(create_constraint=False), nullable=False),
    Column("ends_trace", Boolean(create_constraint=False), nullable=False),
    Column("client_time_ns", BigInteger),
    Column("sent_at_ns", BigInteger),
    Column("attributes", Text),
    Column("error", Text),
    PrimaryKeyConstraint("run_key", "seq", "shard"),
    sqlite_with_rowid=False,
)
"""One row an event that was applied, with its raw and its corrected time. The key makes it count once."""

outbox = Table(
    "outbox",
    metadata,
    Column("run_key", BigInteger, nullable=False),
    Column("shard", Integer, nullable=False),
    Column("trace_tag", Text, nullable=False),
    Column("sealed_at_ns", BigInteger, nullable=False),
    Column("span_count", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("available_at_ns", BigInteger),
    Column("lease", Text),
    Column("sent_alone", Boolean(create_constraint=False), nullable=False),
    Column("last_answer", Text),
    # Last, so that reading the others does not mean reading through it.
    Column("payload", LargeBinary, nullable=False),
    PrimaryKeyConstraint("run_key", "shard"),
    # How the backlog is counted without reading it, and how rejected traces are found.
    Index("outbox_backlog", "state", "sealed_at_ns", "span_count"),
    # How delivery finds what is due; rejected traces wait for somebody to ask and are not in it.
    Index(
        "outbox_available",
        "available_at_ns",
        sqlite_where=Column("available_at_ns", BigInteger).is_not(None),
        postgresql_where=Column("available_at_ns", BigInteger).is_not(None),
    ),
)
"""One row a sealed trace whose spans the collector does not have yet. `available_at_ns` is when it may be claimed:
its next attempt, or the end of the lease of whoever works on it. `sent_alone` says that the collector failed on it when
it was the only trace of a request, so that it must not spoil a request for others."""

tags = Table(
    "tags",
    metadata,
    Column("trace_tag", Text, nullable=False),
    Column("shard", Integer, nullable=False),
    Column("deleted_key", BigInteger, nullable=False),
    Column("emptied_key", BigInteger, nullable=False),
    PrimaryKeyConstraint("trace_tag", "shard"),
)
"""One row a tag that ever had a sealed trace. Sealed traces with a `list_key` up to `deleted_key` are deleted, from
the moment that is committed; the sweeper has removed the rows of those up to `emptied_key`."""

histograms = Table(
    "histograms",
    metadata,
    Column("trace_tag", Text, nullable=False),
    Column("step_name", Text, nullable=False),
    Column("starts_at_ns", BigInteger, nullable=False),
    Column("hours", SmallInteger, nullable=False),
    Column("slot", SmallInteger, nullable=False),
    Column("shard", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("abandoned", BigInteger, nullable=False),
    Column("superseded", BigInteger, nullable=False),
    Column("sum_us", Double, nullable=False),
    Column("buckets", LargeBinary, nullable=False),
    # By name first: each row is written over and over for its hour, and read by name.
    PrimaryKeyConstraint("trace_tag", "step_name", "starts_at_ns", "hours", "slot", "shard"),
    # How the sweeper finds hours to add up, and what is too old.
    Index("histograms_age", "hours", "starts_at_ns"),
)
"""What is counted of a tag (`step_name` is '') or of one of its steps, in one hour or in one day (`hours` is 1 or 24).

There are several rows of one period: one for each `slot`, so that processes do not wait for each other on a busy tag.
Only their sum means anything; what is taken back may be taken back in another slot, or in an hour whose day is already
added up. `buckets` is one long number, see `store.sums`."""

step_names = Table(
    "step_names",
    metadata,
    Column("trace_tag", Text, nullable=False),
    Column("step_name", Text, nullable=False),
    Column("shard", Integer, nullable=False),
    Column("since_key", BigInteger, nullable=False),
    PrimaryKeyConstraint("trace_tag", "step_name", "shard"),
    sqlite_with_rowid=False,
)
"""One row a step name that is counted for itself, from the trace with the `list_key` of `since_key` on."""

leases = Table(
    "leases",
    metadata,
    Column("name", Text, nullable=False),
    Column("shard", Integer, nullable=False),
    Column("holder", Text, nullable=False),
    Column("until_ns", BigInteger, nullable=False),
    PrimaryKeyConstraint("name", "shard"),
)
"""One row a task that one process at a time does, with who does it and until when nobody else will."""

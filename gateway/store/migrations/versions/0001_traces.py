"""Traces, their marks, the outbox, tags."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "traces",
        sa.Column("run_key", sa.BigInteger(), nullable=False),
        sa.Column("shard", sa.Integer(), nullable=False),
        sa.Column("trace_tag", sa.Text(), nullable=False),
        sa.Column("trace_id", sa.Text(), nullable=False),
        sa.Column("run", sa.Text()),
        sa.Column("single", sa.Boolean(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("list_key", sa.BigInteger(), nullable=False),
        sa.Column("otel_trace_id", sa.Text(), nullable=False),
        sa.Column("otel_span_id", sa.Text(), nullable=False),
        sa.Column("parent_span_id", sa.Text()),
        sa.Column("trace_flags", sa.SmallInteger(), nullable=False),
        sa.Column("tracestate", sa.Text(), nullable=False),
        sa.Column("ignored_traceparent", sa.Text()),
        sa.Column("service", sa.Text()),
        sa.Column("last_arrived_at_ns", sa.BigInteger(), nullable=False),
        sa.Column("wake_at_ns", sa.BigInteger()),
        sa.Column("started_at_ns", sa.BigInteger()),
        sa.Column("last_marked_at_ns", sa.BigInteger()),
        sa.Column("mark_count", sa.Integer(), nullable=False),
        sa.Column("highest_seq", sa.Integer(), nullable=False),
        sa.Column("end_seq", sa.Integer()),
        sa.Column("step_count", sa.Integer(), nullable=False),
        sa.Column("current_step", sa.Text()),
        sa.Column("clock_shift_ns", sa.BigInteger()),
        sa.Column("sealed_at_ns", sa.BigInteger()),
        sa.Column("ended_at_ns", sa.BigInteger()),
        sa.Column("duration_ns", sa.BigInteger()),
        sa.Column("missing_events", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Boolean(), nullable=False),
        sa.Column("delivery_state", sa.Text()),
        sa.Column("delivery_attempts", sa.Integer(), nullable=False),
        sa.Column("delivery_answer", sa.Text()),
        sa.Column("delivered_at_ns", sa.BigInteger()),
        sa.PrimaryKeyConstraint("run_key", "shard"),
        sqlite_with_rowid=False,
    )
    op.create_index("traces_address", "traces", ["trace_tag", "trace_id", "run", "shard"], unique=True)
    op.create_index("traces_list", "traces", ["trace_tag", "outcome", "list_key"])
    waiting = sa.text("wake_at_ns IS NOT NULL")
    op.create_index("traces_wake", "traces", ["wake_at_ns"], sqlite_where=waiting, postgresql_where=waiting)

    op.create_table(
        "marks",
        sa.Column("run_key", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("shard", sa.Integer(), nullable=False),
        sa.Column("marked_at_ns", sa.BigInteger(), nullable=False),
        sa.Column("type", sa.SmallInteger(), nullable=False),
        sa.Column("arrived_at_ns", sa.BigInteger(), nullable=False),
        sa.Column("step_name", sa.Text()),
        sa.Column("track_duration", sa.Boolean(), nullable=False),
        sa.Column("ends_trace", sa.Boolean(), nullable=False),
        sa.Column("client_time_ns", sa.BigInteger()),
        sa.Column("sent_at_ns", sa.BigInteger()),
        sa.Column("attributes", sa.Text()),
        sa.Column("error", sa.Text()),
        sa.PrimaryKeyConstraint("run_key", "seq", "shard"),
        sqlite_with_rowid=False,
    )

    op.create_table(
        "outbox",
        sa.Column("run_key", sa.BigInteger(), nullable=False),
        sa.Column("shard", sa.Integer(), nullable=False),
        sa.Column("trace_tag", sa.Text(), nullable=False),
        sa.Column("sealed_at_ns", sa.BigInteger(), nullable=False),
        sa.Column("span_count", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("available_at_ns", sa.BigInteger()),
        sa.Column("lease", sa.Text()),
        sa.Column("sent_alone", sa.Boolean(), nullable=False),
        sa.Column("last_answer", sa.Text()),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("run_key", "shard"),
    )
    op.create_index("outbox_backlog", "outbox", ["state", "sealed_at_ns", "span_count"])
    due = sa.text("available_at_ns IS NOT NULL")
    op.create_index("outbox_available", "outbox", ["available_at_ns"], sqlite_where=due, postgresql_where=due)

    op.create_table(
        "tags",
        sa.Column("trace_tag", sa.Text(), nullable=False),
        sa.Column("shard", sa.Integer(), nullable=False),
        sa.Column("deleted_key", sa.BigInteger(), nullable=False),
        sa.Column("emptied_key", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("trace_tag", "shard"),
    )

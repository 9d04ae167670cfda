"""Histograms, the step names that have one, and indexes for the filters of lists.

Traces that were sealed before, or are sealed by a version that knows no summaries, stay uncounted.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("traces", sa.Column("counted", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.drop_index("traces_list", "traces")
    op.create_index("traces_list", "traces", ["trace_tag", "outcome", "list_key", "duration_ns"])
    op.create_index("traces_of_id", "traces", ["trace_tag", "trace_id", "outcome", "list_key"])
    op.create_index(
        "traces_failed",
        "traces",
        ["trace_tag", "outcome", "list_key"],
        sqlite_where=sa.text("failed = 1"),
        postgresql_where=sa.text("failed"),
    )

    op.create_table(
        "histograms",
        sa.Column("trace_tag", sa.Text(), nullable=False),
        sa.Column("step_name", sa.Text(), nullable=False),
        sa.Column("starts_at_ns", sa.BigInteger(), nullable=False),
        sa.Column("hours", sa.SmallInteger(), nullable=False),
        sa.Column("slot", sa.SmallInteger(), nullable=False),
        sa.Column("shard", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("abandoned", sa.BigInteger(), nullable=False),
        sa.Column("superseded", sa.BigInteger(), nullable=False),
        sa.Column("sum_us", sa.Double(), nullable=False),
        sa.Column("buckets", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("trace_tag", "step_name", "starts_at_ns", "hours", "slot", "shard"),
    )
    op.create_index("histograms_age", "histograms", ["hours", "starts_at_ns"])

    op.create_table(
        "step_names",
        sa.Column("trace_tag", sa.Text(), nullable=False),
        sa.Column("step_name", sa.Text(), nullable=False),
        sa.Column("shard", sa.Integer(), nullable=False),
        sa.Column("since_key", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("trace_tag", "step_name", "shard"),
        sqlite_with_rowid=False,
    )

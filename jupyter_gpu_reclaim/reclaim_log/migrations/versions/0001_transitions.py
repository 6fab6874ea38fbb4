"""The log's first tables. A revision that was released is never edited: what changes is the next one."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

sequence = sa.BigInteger().with_variant(sa.Integer, "sqlite")
instant = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "reclaim_transitions",
        sa.Column("sequence", sequence, primary_key=True),
        sa.Column("id", sa.String, nullable=False, unique=True),
        sa.Column("at", instant, nullable=False),
        sa.Column("kernel_id", sa.Text, nullable=False),
        sa.Column("event", sa.String, nullable=False),
        sa.Column("phase", sa.String, nullable=False),
        sa.Column("episode_id", sa.String),
        sa.Column("reason", sa.String),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("mechanism", sa.String),
        sa.Column("footprint", sa.JSON, nullable=False),
        sa.Column("moved_bytes", sa.BigInteger),
        sa.Column("freed_bytes", sa.JSON, nullable=False),
        sa.Column("unmovable", sa.JSON, nullable=False),
        sa.Column("took_seconds", sa.Float),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("simulated", sa.Boolean, nullable=False),
    )
    op.create_index("reclaim_transitions_newest", "reclaim_transitions", ["at", "sequence", "event"])
    op.create_index("reclaim_transitions_kernel", "reclaim_transitions", ["kernel_id", "at", "sequence"])
    op.create_index("reclaim_transitions_reason", "reclaim_transitions", ["reason", "at", "sequence"])
    op.create_table(
        "reclaim_transition_gpus",
        sa.Column("gpu_uuid", sa.Text, primary_key=True),
        sa.Column("at", instant, primary_key=True),
        sa.Column("sequence", sequence, primary_key=True, autoincrement=False),
    )

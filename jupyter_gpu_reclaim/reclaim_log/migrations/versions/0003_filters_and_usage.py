"""Indices for more filters, and what was held over time."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

number = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    for column in ("event", "owner", "label", "mechanism"):
        op.create_index(f"reclaim_transitions_{column}", "reclaim_transitions", [column, "at", "sequence"])
    op.create_index("reclaim_transitions_episode", "reclaim_transitions", ["episode_id"])
    op.create_table(
        "reclaim_usage_sources",
        sa.Column("id", number, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
    )
    op.create_table(
        "reclaim_usage_gpus",
        sa.Column("id", number, primary_key=True),
        sa.Column("uuid", sa.Text, nullable=False, unique=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("simulated", sa.Boolean, nullable=False),
    )
    op.create_table(
        "reclaim_usage_kernels",
        sa.Column("id", number, primary_key=True),
        sa.Column("kernel_id", sa.Text, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.UniqueConstraint("kernel_id", "label", "owner", name="reclaim_usage_kernels_once"),
    )
    op.create_table(
        "reclaim_gpu_usage",
        sa.Column("step", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("source", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("gpu", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("at", sa.BigInteger, primary_key=True, autoincrement=False),
        *(
            sa.Column(name, sa.BigInteger, nullable=False)
            for name in (
                "ms", "total", "resident", "reclaimed", "others", "held_ms", "idle_ms", "bare_ms", "busy", "busy_ms",
                "millijoules", "power_ms",
            )
        ),
        sqlite_with_rowid=False,
    )  # fmt: skip
    op.create_table(
        "reclaim_kernel_usage",
        sa.Column("step", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("source", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("at", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("kernel", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("gpu", sa.Integer, primary_key=True, autoincrement=False),
        *(
            sa.Column(name, sa.BigInteger, nullable=False)
            for name in ("ms", "resident", "idle", "reclaimed", "waited_ms")
        ),
        sqlite_with_rowid=False,
    )

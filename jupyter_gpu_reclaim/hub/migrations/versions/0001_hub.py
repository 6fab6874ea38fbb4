"""The hub's first tables. A revision that was released is never edited: what changes is the next one."""

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
        "reclaim_hub_servers",
        sa.Column("user", sa.Text, primary_key=True),
        sa.Column("server", sa.Text, primary_key=True),
        sa.Column("node", sa.Text, nullable=False),
        sa.Column("seen_at", instant, nullable=False),
        sa.Column("status", sa.JSON, nullable=False),
    )
    op.create_index("reclaim_hub_servers_seen", "reclaim_hub_servers", ["seen_at"])
    op.create_table(
        "reclaim_hub_orders",
        sa.Column("sequence", sequence, primary_key=True),
        sa.Column("id", sa.String, nullable=False, unique=True),
        sa.Column("user", sa.Text, nullable=False),
        sa.Column("server", sa.Text, nullable=False),
        sa.Column("kernel_id", sa.Text, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("act", sa.String, nullable=False),
        sa.Column("until", instant),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("made_at", instant, nullable=False),
        sa.Column("answered_at", instant),
        sa.Column("answer", sa.Text),
    )
    op.create_index("reclaim_hub_orders_whose", "reclaim_hub_orders", ["user", "server", "answered_at"])
    op.create_table(
        "reclaim_hub_overrides",
        sa.Column("sequence", sequence, primary_key=True),
        sa.Column("rule", sa.JSON, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("made_at", instant, nullable=False),
        sa.Column("until", instant),
        sa.Column("ended_at", instant),
        sa.Column("ended_by", sa.Text),
    )
    op.create_index("reclaim_hub_overrides_standing", "reclaim_hub_overrides", ["ended_at", "until"])

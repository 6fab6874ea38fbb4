"""What one user's rows are filtered by rides along in the index that finds them."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column, along in (("owner", ["event", "reason", "mechanism"]), ("label", ["owner"])):
        name = f"reclaim_transitions_{column}"
        op.drop_index(name, "reclaim_transitions")
        op.create_index(name, "reclaim_transitions", [column, "at", "sequence", *along])

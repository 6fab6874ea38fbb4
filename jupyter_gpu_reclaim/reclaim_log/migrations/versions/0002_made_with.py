"""What a move was made with: the framework whose memory it was, and the driver, each with its version."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("reclaim_transitions", sa.Column("framework", sa.String))
    op.add_column("reclaim_transitions", sa.Column("driver", sa.String))

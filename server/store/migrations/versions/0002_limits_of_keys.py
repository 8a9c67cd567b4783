"""limits of keys

Revision: 0002, after 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("max_priority", "max_queued_jobs", "max_streams"):
        op.add_column("api_keys", sa.Column(name, sa.Integer(), nullable=True))

"""indexes of many jobs

Revision: 0003, after 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("ix_jobs_project_kind_seq", "ix_jobs_state_kind_rank_seq", "ix_jobs_experiment_id_seq"):
        op.drop_index(name, "jobs")
    listed = ["project", "kind", "seq", "state", "variant", "created_at", "name"]
    op.create_index("ix_jobs_listed", "jobs", listed)
    op.create_index("ix_jobs_claimed", "jobs", ["state", "kind", "device", "rank", "seq", "not_before"])
    late = sa.text("start_deadline IS NOT NULL")
    op.create_index("ix_jobs_deadline", "jobs", ["state", "start_deadline"], sqlite_where=late)
    op.create_index("ix_jobs_counted", "jobs", ["project", "state"])
    op.create_index("ix_jobs_experiment", "jobs", ["experiment_id", "seq", "state"])
    op.create_index("ix_journal_job_id_seq", "journal", ["job_id", "seq"])

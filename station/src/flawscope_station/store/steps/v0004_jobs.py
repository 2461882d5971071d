"""Step 4: jobs make models, those of new products among them; the hashes of challenges are reset."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
COMMON_COLUMNS = "id, product_id, start_version_id, version_id, status, who, created_at, changed_at, facts"


def upgrade() -> None:
    """Replace the table `candidates` by `jobs`, and reset the challenges' hashes."""
    op.create_table(
        "jobs",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(12), nullable=False),
        sa.Column("product_id", KEY),
        sa.Column("draft", sa.String(64)),
        sa.Column("start_version_id", KEY),
        sa.Column("version_id", KEY),
        sa.Column("status", sa.String(12), nullable=False),
        sa.Column("who", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("changed_at", sa.BigInteger, nullable=False),
        sa.Column("facts", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="jobs_key"),
        sa.ForeignKeyConstraint(["product_id"], ["products.id"], name="jobs_product_id_of"),
        sa.ForeignKeyConstraint(["start_version_id"], ["versions.id"], name="jobs_start_version_id_of"),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name="jobs_version_id_of"),
    )
    op.execute("CREATE INDEX jobs_product ON jobs (product_id, id)")
    op.execute("CREATE INDEX jobs_unfinished ON jobs (id) WHERE status = 'queued' OR status = 'running'")
    op.execute("CREATE INDEX jobs_draft ON jobs (draft) WHERE draft IS NOT NULL")
    op.execute(
        f"INSERT INTO jobs (kind, {COMMON_COLUMNS}) SELECT 'corrections', {COMMON_COLUMNS} FROM candidates"
    )
    op.drop_table("candidates")
    # "" replaces the hash of an earlier release, which was made from all settings
    op.execute("UPDATE challenges SET state_hash = ''")
    if op.get_bind().dialect.name == "postgresql":
        next_id = "(SELECT COALESCE(MAX(id), 0) + 1 FROM jobs)"
        op.execute(f"SELECT setval(pg_get_serial_sequence('jobs', 'id'), {next_id}, false)")

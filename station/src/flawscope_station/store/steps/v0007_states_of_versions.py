"""Step 7: a version has a state, and a product at most one active version; jobs no longer have that state."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

REPORT_VIEW = "SELECT sql FROM sqlite_master WHERE name = 'inspection_report'"
# condition of versions that have judged, by the records that name them
WAS_USED = """
    EXISTS (SELECT 1 FROM hours WHERE hours.version_id = versions.id)
    OR EXISTS (SELECT 1 FROM challenges WHERE challenges.version_id = versions.id)
    OR EXISTS (SELECT 1 FROM events WHERE events.product_id = versions.product_id
        AND events.kind = 'version activated' AND events.text = CAST(versions.id AS VARCHAR(20)))
    OR EXISTS (SELECT 1 FROM jobs WHERE jobs.version_id = versions.id AND jobs.status = 'live')
"""
INDEXES = (
    "INDEX versions_product ON versions (product_id, id)",
    "UNIQUE INDEX versions_active ON versions (product_id) WHERE state = 'active'",
    "UNIQUE INDEX versions_once ON versions (product_id, hash) WHERE state != 'removed'",
    "INDEX versions_hash ON versions (hash)",
    "INDEX inspections_trial_version ON inspections (version_id) WHERE purpose = 'trial'",
)


def upgrade() -> None:
    """Add the column `state` to `versions`, fill it, and drop the products' column `active_version_id`."""
    op.add_column("versions", sa.Column("state", sa.String(8)))
    op.execute("UPDATE versions SET state = 'ready'")
    op.execute(f"UPDATE versions SET state = 'retired' WHERE {WAS_USED}")
    active_ids = "SELECT active_version_id FROM products WHERE active_version_id IS NOT NULL"
    op.execute(f"UPDATE versions SET state = 'active' WHERE id IN ({active_ids})")
    # a job's status no longer says what became of its model: the state of the version does
    op.execute("UPDATE jobs SET status = 'done' WHERE status IN ('ready', 'live', 'removed')")
    report_view = ""  # statement that makes the view again; "": it was not removed
    # SQLite replaces tables by copies, which it refuses while a view names a table
    if op.get_bind().dialect.name == "sqlite":
        report_view = op.get_bind().exec_driver_sql(REPORT_VIEW).scalar_one()
        op.execute("DROP VIEW inspection_report")
    with op.batch_alter_table("versions") as versions:
        versions.alter_column("state", existing_type=sa.String(8), nullable=False)
        versions.drop_constraint("versions_product_id_once", type_="unique")
    with op.batch_alter_table("products") as products:
        products.drop_constraint("products_active_version_id_of", type_="foreignkey")
        products.drop_column("active_version_id")
    if report_view:
        op.get_bind().exec_driver_sql(report_view)
    for index in INDEXES:
        op.execute(f"CREATE {index}")

"""Step 6: the version that judges is there; pictures, masks and trials are found by an index."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"

REPORT_VIEW = "SELECT sql FROM sqlite_master WHERE name = 'inspection_report'"


def upgrade() -> None:
    """Clear active versions that are gone, forbid them, and add the indexes."""
    gone = "active_version_id NOT IN (SELECT id FROM versions)"
    op.execute(f"UPDATE products SET active_version_id = NULL WHERE {gone}")
    report_view = ""
    if op.get_bind().dialect.name == "sqlite":  # it copies the table, which the view names
        report_view = op.get_bind().exec_driver_sql(REPORT_VIEW).scalar_one()
        op.execute("DROP VIEW inspection_report")
    with op.batch_alter_table("products") as products:
        products.create_foreign_key(
            "products_active_version_id_of", "versions", ["active_version_id"], ["id"], ondelete="RESTRICT"
        )
    if report_view:
        op.get_bind().exec_driver_sql(report_view)
    op.execute("CREATE INDEX pictures_hash ON pictures (hash)")
    # a few stores of version 0005 were made with these
    op.execute("CREATE INDEX IF NOT EXISTS verdicts_mask ON verdicts (mask) WHERE mask IS NOT NULL")
    trials = "ON inspections (product_id, id) WHERE purpose = 'trial'"
    op.execute(f"CREATE INDEX IF NOT EXISTS inspections_trial {trials}")

"""Step 6: a product's active version must exist; pictures, masks and trials are found by an index."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"

REPORT_VIEW = "SELECT sql FROM sqlite_master WHERE name = 'inspection_report'"


def upgrade() -> None:
    """Clear active versions that do not exist, add the foreign key that forbids them, and the indexes."""
    is_missing = "active_version_id NOT IN (SELECT id FROM versions)"
    op.execute(f"UPDATE products SET active_version_id = NULL WHERE {is_missing}")
    report_view = ""  # statement that makes the view again; "": it was not removed
    # SQLite replaces the table by a copy, which it refuses while a view names the table
    if op.get_bind().dialect.name == "sqlite":
        report_view = op.get_bind().exec_driver_sql(REPORT_VIEW).scalar_one()
        op.execute("DROP VIEW inspection_report")
    with op.batch_alter_table("products") as products:
        products.create_foreign_key(
            "products_active_version_id_of", "versions", ["active_version_id"], ["id"], ondelete="RESTRICT"
        )
    if report_view:
        op.get_bind().exec_driver_sql(report_view)
    op.execute("CREATE INDEX pictures_hash ON pictures (hash)")
    # IF NOT EXISTS, because a few stores of version 0005 were made with these indexes
    op.execute("CREATE INDEX IF NOT EXISTS verdicts_mask ON verdicts (mask) WHERE mask IS NOT NULL")
    trial_rows = "ON inspections (product_id, id) WHERE purpose = 'trial'"
    op.execute(f"CREATE INDEX IF NOT EXISTS inspections_trial {trial_rows}")

"""Step 5: a verdict has the number of its inspection's product."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Add the column `product_id` to `verdicts`, and fill it."""
    op.add_column("verdicts", sa.Column("product_id", KEY))
    product_id = "SELECT product_id FROM inspections WHERE inspections.id = verdicts.inspection_id"
    op.execute(f"UPDATE verdicts SET product_id = ({product_id})")
    with op.batch_alter_table("verdicts") as verdicts:
        verdicts.alter_column("product_id", existing_type=KEY, nullable=False)
        verdicts.create_foreign_key("verdicts_product_id_of", "products", ["product_id"], ["id"])
    op.execute("CREATE INDEX verdicts_product ON verdicts (product_id, id)")

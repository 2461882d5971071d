"""Step 8: messages that a receiver refused for good are recorded, so that a person can send them again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Add the table `undelivered`."""
    op.create_table(
        "undelivered",
        sa.Column("product_id", KEY, autoincrement=False, nullable=False),
        sa.Column("sink", sa.String(80), nullable=False),
        sa.Column("inspection_id", sa.BigInteger, nullable=False),
        sa.Column("verdict_id", sa.BigInteger, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("again", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("product_id", "sink", "inspection_id", "verdict_id", name="undelivered_key"),
        sa.ForeignKeyConstraint(["product_id"], ["products.id"], name="undelivered_product_id_of"),
    )

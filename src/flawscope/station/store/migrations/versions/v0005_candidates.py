"""Versions that are made from what people said."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "candidates",
        sa.Column("id", key, autoincrement=True, nullable=False),
        sa.Column("product_id", key, autoincrement=False, nullable=False),
        sa.Column("start_version_id", key, nullable=False),
        sa.Column("version_id", key, nullable=True),
        sa.Column("status", sa.String(length=12), nullable=False),
        sa.Column("who", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.Column("facts", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["product_id"], ["products.id"], name="candidates_product_id_of"),
        sa.ForeignKeyConstraint(["start_version_id"], ["versions.id"], name="candidates_start_version_id_of"),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name="candidates_version_id_of"),
        sa.PrimaryKeyConstraint("id", name="candidates_key"),
    )
    op.create_index("candidates_product", "candidates", ["product_id", "id"])

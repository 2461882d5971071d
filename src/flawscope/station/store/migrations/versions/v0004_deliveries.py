"""How far each sink is."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "deliveries",
        sa.Column("product_id", key, autoincrement=False, nullable=False),
        sa.Column("sink", sa.String(length=80), nullable=False),
        sa.Column("inspection_id", sa.BigInteger(), nullable=False),
        sa.Column("verdict_id", sa.BigInteger(), nullable=False),
        sa.Column("delivered", sa.BigInteger(), nullable=False),
        sa.Column("refused", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["product_id"], ["products.id"], name=op.f("deliveries_product_id_of")),
        sa.PrimaryKeyConstraint("product_id", "sink", name=op.f("deliveries_key")),
    )
    op.create_index("inspections_product", "inspections", ["product_id", "id"])

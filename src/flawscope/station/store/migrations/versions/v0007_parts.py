"""Parts have a number and a batch, a key names one request, and a frame says how many triggers it answers."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0008"

name = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    for column in ("part", "batch"):
        op.add_column("inspections", sa.Column(column, name, nullable=True))
        given = sa.text(f"{column} IS NOT NULL")
        op.create_index(
            f"inspections_{column}",
            "inspections",
            ["product_id", column, "id"],
            sqlite_where=given,
            postgresql_where=given,
        )
    op.add_column("inspections", sa.Column("request_hash", sa.String(length=64), nullable=True))
    op.add_column("inspections", sa.Column("triggers", sa.Integer(), nullable=True))

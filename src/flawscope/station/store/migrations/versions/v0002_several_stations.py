"""Several stations in one data base: products belong to a station, pictures to a product."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
picture_of = ["product_id", "picture"], ["product_id", "hash"]

# a picture of several products becomes one of each; one that nobody names goes, and a sweep finds its file
FIRST = """
UPDATE pictures SET product_id = (SELECT min(i.product_id) FROM inspections i WHERE i.picture = pictures.hash)
"""
OTHERS = """
INSERT INTO pictures (product_id, hash, suffix, bytes, width, height, created_at, removed_at)
SELECT DISTINCT i.product_id, p.hash, p.suffix, p.bytes, p.width, p.height, p.created_at, p.removed_at
FROM inspections i JOIN pictures p ON p.hash = i.picture AND p.product_id < i.product_id
"""
LEARNT_ALONE = """
UPDATE pictures SET product_id = (
    SELECT min(v.product_id) FROM learnt l JOIN versions v ON v.id = l.version_id
    WHERE l.picture = pictures.hash
) WHERE product_id IS NULL
"""
LEARNT = """
INSERT INTO learnt (version_id, product_id, picture)
SELECT l.version_id, p.product_id, l.picture FROM learnt_before l JOIN pictures p ON p.hash = l.picture
"""


def upgrade() -> None:
    op.create_table(
        "stations",
        sa.Column("id", key, autoincrement=True, nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("folder", sa.String(length=32), nullable=True),
        sa.Column("address", sa.Text(), nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("stations_key")),
        sa.UniqueConstraint("name", name=op.f("stations_name_once")),
        sa.UniqueConstraint("folder", name=op.f("stations_folder_once")),
    )
    op.create_table(
        "learnt_pixels",
        sa.Column("version_id", key, nullable=False),
        sa.Column("pixels", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name=op.f("learnt_pixels_version_id_of")),
        sa.PrimaryKeyConstraint("version_id", "pixels", name=op.f("learnt_pixels_key")),
    )
    _products()
    _pictures()


def _products() -> None:
    """All that are there are those of one station, which takes them over when it starts."""
    op.execute("INSERT INTO stations (name) SELECT 'station' WHERE EXISTS (SELECT 1 FROM products)")
    op.add_column("products", sa.Column("station_id", key, nullable=True))
    op.execute("UPDATE products SET station_id = (SELECT id FROM stations)")
    with op.batch_alter_table("products") as batch:
        batch.alter_column("station_id", existing_type=key, nullable=False)
        batch.drop_constraint(batch.f("products_name_once"), type_="unique")
        batch.create_unique_constraint(batch.f("products_station_id_once"), ["station_id", "name"])
        batch.create_foreign_key(batch.f("products_station_id_of"), "stations", ["station_id"], ["id"])


def _pictures() -> None:
    copies = op.get_bind().dialect.name == "sqlite"  # a changed table is copied: the large one only once
    op.execute("CREATE TABLE learnt_before AS SELECT version_id, picture FROM learnt")
    if not copies:
        op.drop_constraint(op.f("inspections_picture_of"), "inspections", type_="foreignkey")
    with op.batch_alter_table("pictures") as batch:
        batch.add_column(sa.Column("product_id", key, nullable=True))
    op.execute(FIRST)
    op.execute(LEARNT_ALONE)
    op.drop_table("learnt")
    op.execute("DELETE FROM pictures WHERE product_id IS NULL")
    with op.batch_alter_table("pictures") as batch:
        batch.alter_column("product_id", existing_type=key, nullable=False)
        batch.drop_constraint(batch.f("pictures_key"), type_="primary")
        batch.create_primary_key(batch.f("pictures_key"), ["product_id", "hash"])
        batch.create_foreign_key(batch.f("pictures_product_id_of"), "products", ["product_id"], ["id"])
    op.execute(OTHERS)
    with op.batch_alter_table("inspections") as batch:
        if copies:
            batch.drop_constraint(batch.f("inspections_picture_of"), type_="foreignkey")
        batch.create_foreign_key(batch.f("inspections_picture_of"), "pictures", *picture_of)
        batch.drop_index("inspections_picture")
        batch.create_index("inspections_picture", ["product_id", "picture"], unique=False)
    op.create_table(
        "learnt",
        sa.Column("version_id", key, nullable=False),
        sa.Column("product_id", key, nullable=False),
        sa.Column("picture", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            picture_of[0], [f"pictures.{name}" for name in picture_of[1]], name=op.f("learnt_picture_of")
        ),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name=op.f("learnt_version_id_of")),
        sa.PrimaryKeyConstraint("version_id", "product_id", "picture", name=op.f("learnt_key")),
    )
    op.execute(LEARNT)
    op.drop_table("learnt_before")

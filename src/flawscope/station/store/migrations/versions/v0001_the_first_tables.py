"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

text_by_code = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "pictures",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("suffix", sa.String(length=8), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("removed_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("hash", name=op.f("pictures_key")),
    )
    op.create_table(
        "products",
        sa.Column("id", key, autoincrement=True, nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("active_version_id", key, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("products_key")),
        sa.UniqueConstraint("name", name=op.f("products_name_once")),
    )
    op.create_table(
        "tokens",
        sa.Column("id", key, autoincrement=True, nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("used_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("tokens_key")),
        sa.UniqueConstraint("hash", name=op.f("tokens_hash_once")),
        sa.UniqueConstraint("name", name=op.f("tokens_name_once")),
    )
    op.create_table(
        "users",
        sa.Column("id", key, autoincrement=True, nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("password", sa.Text(), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("users_key")),
        sa.UniqueConstraint("name", name=op.f("users_name_once")),
    )
    op.create_table(
        "events",
        sa.Column("id", key, autoincrement=True, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("who", sa.String(length=64), nullable=False),
        sa.Column("product_id", key, nullable=True),
        sa.Column("text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["product_id"], ["products.id"], name=op.f("events_product_id_of")),
        sa.PrimaryKeyConstraint("id", name=op.f("events_key")),
    )
    with op.batch_alter_table("events") as batch:
        batch.create_index(batch.f("events_at"), ["at"], unique=False)

    op.create_table(
        "sessions",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("user_id", key, nullable=False),
        sa.Column("csrf", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("sessions_user_id_of"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("hash", name=op.f("sessions_key")),
    )
    op.create_table(
        "versions",
        sa.Column("id", key, autoincrement=True, nullable=False),
        sa.Column("product_id", key, nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("file", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("facts", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["product_id"], ["products.id"], name=op.f("versions_product_id_of")),
        sa.PrimaryKeyConstraint("id", name=op.f("versions_key")),
        sa.UniqueConstraint("product_id", "hash", name=op.f("versions_product_id_once")),
    )
    op.create_table(
        "hours",
        sa.Column("product_id", key, nullable=False),
        sa.Column("version_id", key, nullable=False),
        sa.Column("hour", sa.BigInteger(), nullable=False),
        sa.Column("inspected", sa.Integer(), nullable=False),
        sa.Column("anomalous", sa.Integer(), nullable=False),
        sa.Column("score_sum", sa.Double(), nullable=False),
        sa.Column("score_min", sa.Double(), nullable=False),
        sa.Column("score_max", sa.Double(), nullable=False),
        sa.Column("reviewed", sa.Integer(), nullable=False),
        sa.Column("defects", sa.Integer(), nullable=False),
        sa.Column("false_alarms", sa.Integer(), nullable=False),
        sa.Column("misses", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["product_id"], ["products.id"], name=op.f("hours_product_id_of")),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name=op.f("hours_version_id_of")),
        sa.PrimaryKeyConstraint("product_id", "version_id", "hour", name=op.f("hours_key")),
    )
    op.create_table(
        "inspections",
        sa.Column("id", key, autoincrement=True, nullable=False),
        sa.Column("product_id", key, nullable=False),
        sa.Column("version_id", key, nullable=False),
        sa.Column("picture", sa.String(length=64), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("name", text_by_code, nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=True),
        sa.Column("score", sa.Double(), nullable=False),
        sa.Column("p_value", sa.Double(), nullable=False),
        sa.Column("severity", sa.Double(), nullable=False),
        sa.Column("score_threshold", sa.Double(), nullable=False),
        sa.Column("anomalous", sa.Boolean(), nullable=False),
        sa.Column("near", sa.Boolean(), nullable=False),
        sa.Column("regions", sa.Text(), nullable=False),
        sa.Column("verdict", sa.String(length=8), nullable=True),
        sa.Column("review", sa.String(length=8), nullable=False),
        sa.ForeignKeyConstraint(["picture"], ["pictures.hash"], name=op.f("inspections_picture_of")),
        sa.ForeignKeyConstraint(["product_id"], ["products.id"], name=op.f("inspections_product_id_of")),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name=op.f("inspections_version_id_of")),
        sa.PrimaryKeyConstraint("id", name=op.f("inspections_key")),
        sa.UniqueConstraint("product_id", "key", name=op.f("inspections_product_id_once")),
    )
    with op.batch_alter_table("inspections") as batch:
        batch.create_index("inspections_picture", ["picture"], unique=False)
        batch.create_index("inspections_name", ["product_id", "name"], unique=False)
        batch.create_index(
            "inspections_search",
            ["product_id", "at", "id", "anomalous", "verdict", "review", "score", "version_id"],
            unique=False,
        )
        batch.create_index(
            "inspections_waiting",
            ["product_id", "id"],
            unique=False,
            sqlite_where=sa.text("review = 'waiting'"),
            postgresql_where=sa.text("review = 'waiting'"),
        )

    op.create_table(
        "learnt",
        sa.Column("version_id", key, nullable=False),
        sa.Column("picture", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["picture"], ["pictures.hash"], name=op.f("learnt_picture_of")),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name=op.f("learnt_version_id_of")),
        sa.PrimaryKeyConstraint("version_id", "picture", name=op.f("learnt_key")),
    )
    op.create_table(
        "verdicts",
        sa.Column("id", key, autoincrement=True, nullable=False),
        sa.Column("inspection_id", key, nullable=False),
        sa.Column("verdict", sa.String(length=8), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("who", sa.String(length=64), nullable=False),
        sa.Column("mask", sa.String(length=64), nullable=True),
        sa.Column("note", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["inspection_id"], ["inspections.id"], name=op.f("verdicts_inspection_id_of")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("verdicts_key")),
    )
    with op.batch_alter_table("verdicts") as batch:
        batch.create_index(batch.f("verdicts_inspection_id"), ["inspection_id"], unique=False)

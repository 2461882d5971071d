"""A verdict that is sent again, for its answer was lost, is taken once."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("verdicts", sa.Column("key", sa.String(length=200), nullable=True))
    op.create_index("verdicts_once", "verdicts", ["inspection_id", "key"], unique=True)

"""Tokens that expire; from which address something was done; which settings were in use."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("tokens", sa.Column("expires_at", sa.BigInteger(), nullable=True))
    op.add_column("events", sa.Column("address", sa.String(64), nullable=True))
    op.add_column("stations", sa.Column("settings", sa.Text(), nullable=True))

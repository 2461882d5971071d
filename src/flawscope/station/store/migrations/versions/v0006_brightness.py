"""How bright pictures are, so that darker light is seen where scores do not move."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("inspections", sa.Column("brightness", sa.Double(), nullable=True))

"""Step 2, the first: stores with older tables were never published."""

from __future__ import annotations

revision = "0002"
down_revision = None


def upgrade() -> None:
    """Change nothing: tables of this version are the earliest that are migrated."""

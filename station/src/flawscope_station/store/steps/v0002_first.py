"""The first tables that are migrated: a store with older ones was never published."""

from __future__ import annotations

revision = "0002"
down_revision = None


def upgrade() -> None:
    """Change nothing: this is where migration begins."""

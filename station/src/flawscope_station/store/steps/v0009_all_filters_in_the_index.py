"""Step 9: the index of searches covers the filter whether a sender got its answer, too."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Make the index `inspections_search` anew, with the column `unanswered`."""
    op.drop_index("inspections_search", "inspections")
    op.create_index(
        "inspections_search",
        "inspections",
        [
            "product_id",
            "id",
            "at",
            "anomalous",
            "tolerated",
            "verdict",
            "review",
            "purpose",
            "unanswered",
            "score",
            "version_id",
        ],
    )

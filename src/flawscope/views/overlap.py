"""Overlap of neighbouring tiles. It imports no numpy: a wrong setting is reported at once."""

from __future__ import annotations

from collections.abc import Sequence

DEFAULT_OVERLAP = 0.25  # share of a tile
MAX_OVERLAP = 0.75


def parse_overlap(text: str, tile: Sequence[int]) -> float | None:
    """Read "0.25", "25%" or "128px" as a share of a tile; None: any other text, or too large a share."""
    cleaned = text.strip().lower()
    try:
        if cleaned.endswith("px"):
            share = float(cleaned.removesuffix("px")) / min(tile)
        elif cleaned.endswith("%"):
            share = float(cleaned.removesuffix("%")) / 100
        else:
            share = float(cleaned)
    except ValueError:
        return None
    return share if 0 <= share <= MAX_OVERLAP else None

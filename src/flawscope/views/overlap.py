"""Overlap of neighbouring tiles. It imports no numpy: a wrong setting is reported at once."""

from __future__ import annotations

from collections.abc import Sequence

DEFAULT_OVERLAP = 0.25  # of a tile
MAX_OVERLAP = 0.75


def parse_overlap(text: str, tile: Sequence[int]) -> float | None:
    """Read "0.25", "25%" or "128px" as a share of a tile; None for any other text, or too large a share."""
    text = text.strip().lower()
    try:
        if text.endswith("px"):
            share = float(text[:-2]) / min(tile)
        else:
            share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
    return share if 0 <= share <= MAX_OVERLAP else None

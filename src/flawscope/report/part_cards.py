"""Lists the parts of a page, each with the pictures of its views side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flawscope.pictures.listing import printable
from flawscope.results.part import PartPrediction
from flawscope.results.prediction import FALSE_ALARM, MISSED

MOST_PARTS = 60  # that a page shows; the table has all


def part_cards(
    parts: Iterable[tuple[PartPrediction, str]], places: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Makes the cards of parts: mistakes first, then the most unusual ones.

    Args:
        parts: each with the word on its badge: the decision, or its outcome where the truth is known.
        places: index among the page's pictures by path.
    """
    ordered = sorted(
        parts, key=lambda one: (one[1] not in (MISSED, FALSE_ALARM), one[0].p_value, -one[0].score)
    )
    return [
        {
            "name": printable(found.part),
            "badge": word,
            "p_value": found.p_value,
            "worst": printable(found.worst),
            "score": found.score,
            "views": [
                (printable(view), places.get(str(found.views[view].path)) if view in found.views else None)
                for view in sorted([*found.views, *found.missing])
            ],
            "missing": [printable(view) for view in found.missing],
        }
        for found, word in ordered
    ]

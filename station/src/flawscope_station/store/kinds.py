"""Counts of defects by kind, for a Pareto: of each inspection the kind of its strongest region."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple


class KindCounts(NamedTuple):
    """Counts of inspections by kind of defect; those of which no kind is known are in none.

    named: by the one kind that fits, the most frequent first. several: several kinds fit. new: none does.
    """

    named: dict[str, int]
    several: int
    new: int

    @property
    def most(self) -> int:
        """The largest count."""
        return max(self.several, self.new, *self.named.values(), 0)


def count_kinds(all_regions: Iterable[list[dict[str, Any]]]) -> KindCounts:
    """Count inspections by the kinds of their regions, as they are recorded, the strongest first."""
    sets = [tuple(regions[0]["kinds"]) for regions in all_regions if regions and "kinds" in regions[0]]
    single = Counter(kinds[0] for kinds in sets if len(kinds) == 1)
    several = sum(len(kinds) > 1 for kinds in sets)
    named = dict(sorted(single.items(), key=lambda pair: (-pair[1], pair[0])))
    return KindCounts(named, several, len(sets) - several - single.total())

"""Counts of defects by kind, for a Pareto: of each inspection the kind that a person named, else those of its
strongest region."""

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


def count_kinds(rows: Iterable[tuple[str | None, list[dict[str, Any]]]]) -> KindCounts:
    """Count inspections by kind. rows: what a person named, and the regions, the strongest first."""
    each = [[named] if named else regions[0].get("kinds") for named, regions in rows if named or regions]
    sets = [kinds for kinds in each if kinds is not None]
    single = Counter(kinds[0] for kinds in sets if len(kinds) == 1)
    several = sum(len(kinds) > 1 for kinds in sets)
    named = dict(sorted(single.items(), key=lambda pair: (-pair[1], pair[0])))
    return KindCounts(named, several, len(sets) - several - single.total())

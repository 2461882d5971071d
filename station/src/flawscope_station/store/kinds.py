"""Counts of defects by kind, for a Pareto chart.

An inspection counts by the kind that a person named, else by the kinds of its strongest region.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from flawscope_station.store.inspection import RegionFacts


class KindCounts(NamedTuple):
    """Counts of inspections by kind of defect; an inspection without a known kind is not counted.

    Attributes:
        named: Counts where one kind fits, by kind, the most frequent first.
        several: Count where several kinds fit.
        new: Count where no kind fits.
    """

    named: dict[str, int]
    several: int
    new: int

    @property
    def most(self) -> int:
        """The largest count."""
        return max(self.several, self.new, *self.named.values(), 0)


def count_kinds(rows: Iterable[tuple[str | None, Sequence[RegionFacts]]]) -> KindCounts:
    """Count inspections by kind.

    Args:
        rows: Kind that a person named, and the regions, the strongest first, of each inspection.
    """
    sets: list[Sequence[str]] = []
    for named_kind, regions in rows:
        if named_kind:
            sets.append([named_kind])
        elif regions and (kinds := regions[0].get("kinds")) is not None:
            sets.append(kinds)
    single = Counter(kinds[0] for kinds in sets if len(kinds) == 1)
    several = sum(len(kinds) > 1 for kinds in sets)
    named = dict(sorted(single.items(), key=lambda pair: (-pair[1], pair[0])))
    return KindCounts(named, several, len(sets) - several - single.total())

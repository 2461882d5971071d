"""Counts of defects by kind, for a Pareto chart.

An inspection counts by the kind that a person named, else by the kinds of its strongest region.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from flawscope_station.store.inspection import RegionFacts


class KindCounts(NamedTuple):
    """Counts of inspections by kind of defect; an inspection of which no kind is recorded is not counted.

    Attributes:
        named: Counts of inspections that a single kind fits, by kind, the most frequent first.
        several: Number of inspections that several kinds fit.
        new: Number of inspections that no kind fits.
    """

    named: dict[str, int]
    several: int
    new: int

    @property
    def most(self) -> int:
        """The largest count."""
        return max(self.several, self.new, *self.named.values(), 0)


def count_kinds(rows: Iterable[tuple[str | None, Sequence[RegionFacts]]]) -> KindCounts:
    """Count inspections by kind of defect.

    Args:
        rows: For each inspection, the kind that a person named (None or "": none) and the regions, the
            strongest first.
    """
    kinds_of_inspections: list[Sequence[str]] = []
    for named_kind, regions in rows:
        if named_kind:
            kinds_of_inspections.append([named_kind])
            continue
        region_kinds = regions[0].get("kinds") if regions else None
        if region_kinds is not None:
            kinds_of_inspections.append(region_kinds)
    single_kinds = sorted(kinds[0] for kinds in kinds_of_inspections if len(kinds) == 1)
    named = dict(Counter(single_kinds).most_common())  # kinds with the same count stay in alphabetical order
    several_count = sum(len(kinds) > 1 for kinds in kinds_of_inspections)
    new_count = sum(len(kinds) == 0 for kinds in kinds_of_inspections)  # no kind fits these
    return KindCounts(named, several_count, new_count)

"""Record of the pictures that a model expects.

It holds their appearance, their sizes, the looks of a part's views, and the length of a pixel. A fit learns
it, updates and new calibrations widen it, and predictions report pictures that lie outside.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawscope.errors import InputError, data_checks
from flawscope.pictures.appearance import APPEARANCE_KEY, AppearanceRange
from flawscope.pictures.form import (
    SIZES_KEY,
    Size,
    extreme_sizes,
    known_sizes,
    positive_length,
)
from flawscope.pictures.table import Picture
from flawscope.views.view_looks import VIEW_LOOKS_KEY, ViewLooks

SCALE = "mm_per_pixel"  # among a model's facts: how long a pixel of its pictures is
KEYS = (APPEARANCE_KEY, SIZES_KEY, VIEW_LOOKS_KEY, SCALE)  # all of this record
Looks = Mapping[str, Sequence[NDArray[np.float32]]]  # thumbnails (`view_looks`) of the pictures of each view


@dataclass(frozen=True)
class ExpectedPictures:
    """Pictures that a model expects.

    Attributes:
        appearance: Range of the good pictures' appearance as a whole; None: not known.
        sizes: Extreme sizes (height, width) of the good pictures; empty: not known.
        view_looks: Looks of each view of a part; None: not known.
        mm_per_pixel: Length of a picture's pixel in millimetres; None: not known.
    """

    appearance: AppearanceRange | None = None
    sizes: Sequence[Size] = ()
    view_looks: ViewLooks | None = None
    mm_per_pixel: float | None = None

    @classmethod
    def learn(cls, rows: Iterable[Picture], looks: Looks, mm_per_pixel: float | None) -> ExpectedPictures:
        """Learn from the good pictures of a fit.

        Args:
            rows: Rows of the good pictures.
            looks: Thumbnails of the pictures of each view, where a part has several views; else empty.
            mm_per_pixel: Length of a picture's pixel in millimetres; None: not known.
        """
        all_rows = [*rows]
        return cls(
            appearance=AppearanceRange.from_measures(row.measured for row in all_rows),
            sizes=extreme_sizes(_sizes(all_rows)),
            view_looks=ViewLooks.learn(looks),
            mm_per_pixel=mm_per_pixel,
        )

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> ExpectedPictures:
        """Read the record from a model's facts.

        Raises:
            InputError: The length of a pixel is damaged.
        """
        return cls(
            appearance=AppearanceRange.from_facts(facts),
            sizes=known_sizes(facts),
            view_looks=ViewLooks.from_facts(facts),
            mm_per_pixel=_read_scale(facts),
        )

    def to_facts(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Return a model's facts with this record; an earlier record in the facts is replaced."""
        new_facts = {key: value for key, value in facts.items() if key not in KEYS}
        if self.appearance is not None:
            new_facts[APPEARANCE_KEY] = self.appearance.to_dict()
        if self.sizes:
            new_facts[SIZES_KEY] = [list(size) for size in self.sizes]
        if self.view_looks is not None:
            new_facts[VIEW_LOOKS_KEY] = self.view_looks.to_dict()
        if self.mm_per_pixel is not None:
            new_facts[SCALE] = self.mm_per_pixel
        return new_facts

    def widened(self, rows: Iterable[Picture]) -> ExpectedPictures:
        """Return the record widened by further good pictures.

        A property that was unknown stays unknown. The length of a pixel becomes unknown if the further
        pictures have other sizes.

        Args:
            rows: Rows of the further pictures.
        """
        further_rows = [*rows]
        appearance = self.appearance
        sizes = self.sizes
        if appearance is not None:
            appearance = appearance.widen([appearance.shifts(row.measured) for row in further_rows])
        if sizes:
            sizes = extreme_sizes([*sizes, *_sizes(further_rows)])
        mm_per_pixel = None if self.other_sizes(further_rows) else self.mm_per_pixel
        return replace(self, appearance=appearance, sizes=sizes, mm_per_pixel=mm_per_pixel)

    def with_views(self, looks: Looks) -> ExpectedPictures:
        """Return the record with new looks of views; unchanged where the pictures are too few."""
        view_looks = ViewLooks.learn(looks)
        return self if view_looks is None else replace(self, view_looks=view_looks)

    def other_sizes(self, rows: Iterable[Picture]) -> list[Size]:
        """Return those sizes of pictures that are more extreme than the expected sizes.

        Empty if the expected sizes are not known.
        """
        if not self.sizes:
            return []
        joint_extremes = extreme_sizes([*self.sizes, *_sizes(rows)])
        return [size for size in joint_extremes if size not in self.sizes]

    def scale_notes(self, rows: Iterable[Picture]) -> list[str]:
        """Return a note if adding these pictures to the record makes the length of a pixel unknown."""
        other_sizes = self.other_sizes(rows)
        if self.mm_per_pixel is None or not other_sizes:
            return []
        height, width = other_sizes[0]
        known_height, known_width = self.sizes[0]
        line = (
            f"pictures of {width} x {height} pixels instead of {known_width} x {known_height}: the length of "
            f"a pixel, {self.mm_per_pixel:g} mm, is not known any more; give it with --scale-mm"
        )
        return [data_checks.SCALE_LOST.coded(line)]


def _sizes(rows: Iterable[Picture]) -> list[Size]:
    return [row.size for row in rows if row.size is not None]


def _read_scale(facts: Mapping[str, Any]) -> float | None:
    """Read the length of a pixel in millimetres; None: not known. InputError where it is damaged."""
    length = facts.get(SCALE)
    try:
        return None if length is None else positive_length(length)
    except ValueError:
        raise InputError(f"the model's {SCALE} is {length!r:.30}, no length: fit anew") from None

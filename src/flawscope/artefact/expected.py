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
        """Learn from the good pictures of a fit; `looks` are those of a part's views, if it has several."""
        every = [*rows]
        return cls(
            AppearanceRange.from_measures(row.measured for row in every),
            extreme_sizes(_sizes(every)),
            ViewLooks.learn(looks),
            mm_per_pixel,
        )

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> ExpectedPictures:
        """Read the record from a model's facts. InputError where the length of a pixel is damaged."""
        return cls(
            AppearanceRange.from_facts(facts),
            known_sizes(facts),
            ViewLooks.from_facts(facts),
            _read_scale(facts),
        )

    def to_facts(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Return a model's facts with this record in place of the one that they hold."""
        found = {key: value for key, value in facts.items() if key not in KEYS}
        if self.appearance is not None:
            found[APPEARANCE_KEY] = self.appearance.to_dict()
        if self.sizes:
            found[SIZES_KEY] = [list(size) for size in self.sizes]
        if self.view_looks is not None:
            found[VIEW_LOOKS_KEY] = self.view_looks.to_dict()
        if self.mm_per_pixel is not None:
            found[SCALE] = self.mm_per_pixel
        return found

    def widened(self, rows: Iterable[Picture]) -> ExpectedPictures:
        """Return the record with further good pictures.

        A property that is unknown for the earlier pictures stays unknown. The length of a pixel becomes
        unknown where the further pictures have another size.
        """
        every = [*rows]
        appearance = self.appearance
        sizes = self.sizes
        if appearance is not None:
            appearance = appearance.widen([appearance.shifts(row.measured) for row in every])
        if sizes:
            sizes = extreme_sizes([*sizes, *_sizes(every)])
        scale = None if self.other_sizes(every) else self.mm_per_pixel
        return replace(self, appearance=appearance, sizes=sizes, mm_per_pixel=scale)

    def with_views(self, looks: Looks) -> ExpectedPictures:
        """Return the record with new looks of views; unchanged where the pictures are too few."""
        found = ViewLooks.learn(looks)
        return self if found is None else replace(self, view_looks=found)

    def other_sizes(self, rows: Iterable[Picture]) -> list[Size]:
        """Return sizes of pictures outside of the expected sizes; empty where these are not known."""
        known = {*self.sizes}
        return [size for size in extreme_sizes([*self.sizes, *_sizes(rows)]) if known and size not in known]

    def scale_notes(self, rows: Iterable[Picture]) -> list[str]:
        """Return a note where these pictures, added to the record, make the length of a pixel unknown."""
        others = self.other_sizes(rows)
        if self.mm_per_pixel is None or not others:
            return []
        (height, width), (known_height, known_width) = others[0], self.sizes[0]
        line = (
            f"pictures of {width} x {height} pixels instead of {known_width} x {known_height}: the length of "
            f"a pixel, {self.mm_per_pixel:g} mm, is not known any more; give it with --scale-mm"
        )
        return [data_checks.SCALE_LOST.coded(line)]


def _sizes(rows: Iterable[Picture]) -> list[Size]:
    return [row.size for row in rows if row.size is not None]


def _read_scale(facts: Mapping[str, Any]) -> float | None:
    length = facts.get(SCALE)
    try:
        return None if length is None else positive_length(length)
    except ValueError:
        raise InputError(f"the model's {SCALE} is {length!r:.30}, no length: fit anew") from None

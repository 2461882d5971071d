"""Finds out which view of a part, or which light, a picture shows. Torch-free.

A model of all views finds nothing in pictures that were exchanged, and a model of one view cannot say why
they are anomalous. A picture is compared by a thumbnail with the mean of each view's good pictures, in the
spread of these. Views that good pictures do not distinguish clearly are never called exchanged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flawscope.types import Facts, Json

Floats = NDArray[np.float32]

SIDE = 8  # of a thumbnail
MIN_PICTURES = 6  # good pictures of each view
MIN_SPREAD = 0.004  # of good pictures: a grey level
MIN_GAP = 1.0  # between two views' good pictures, times the range of either
MAX_DISTANCE = 1.5  # of a picture from the view that it resembles, times that of the farthest good one
VIEW_LOOKS_KEY = "view_looks"  # among a model's facts


def thumbnail(image: Floats) -> Floats:
    """Mean colours [3 * SIDE * SIDE] of a network's input [3, H, W], 0..1, padding marked or not."""
    values = np.where(image < 0, -1 - image, image)
    for axis in (1, 2):
        edges = np.linspace(0, values.shape[axis], SIDE, endpoint=False).astype(np.intp)
        counts = np.diff([*edges, values.shape[axis]]).reshape(-1, *[1] * (2 - axis))
        values = np.add.reduceat(values, edges, axis, dtype=np.float32) / np.maximum(counts, 1)
    return np.asarray(values, np.float32).ravel()


def find_identical(looks: Mapping[str, Floats]) -> tuple[str, str] | None:
    """The first two views whose pictures have the same pixels: no camera gives these twice."""
    known: dict[bytes, str] = {}
    for view, look in looks.items():
        if (other := known.setdefault(look.tobytes(), view)) != view:
            return other, view
    return None


def look_different(looks: Mapping[str, Sequence[Floats]]) -> bool:
    """Whether good pictures of all views look so different that each view needs a model of its own.

    Every two views have to be distinct by their pictures (`ViewLooks.are_distinct`) in the same light: each
    colour of a thumbnail is divided by its mean. Pictures of one surface by a darker camera, or one with
    another white balance, look alike.

    Args:
        looks: Thumbnails of good pictures by view; where they are too few, the answer is False.
    """
    levelled = {view: [_without_light(look) for look in several] for view, several in looks.items()}
    learnt = ViewLooks.learn(levelled)
    return learnt is not None and learnt.are_distinct


def _without_light(look: Floats) -> Floats:
    """A thumbnail whose colours have a mean of 1 each."""
    colours = look.reshape(3, -1)
    means = np.maximum(colours.mean(axis=1, keepdims=True), MIN_SPREAD)
    return np.asarray(colours / means, np.float32).ravel()


@dataclass(frozen=True)
class ViewLooks:
    """Looks of the good pictures of each view.

    Attributes:
        views: Names of the views.
        means: [V, D], mean thumbnail of each view.
        spread: [D], deviations within a view.
        limits: [V, V]: a picture that is by more farther from the row's view than from the column's shows the
            latter; infinite for views that are not distinguished.
        reach: [V], largest distance of a picture that shows the view.
    """

    views: tuple[str, ...]
    means: NDArray[np.float64]
    spread: NDArray[np.float64]
    limits: NDArray[np.float64]
    reach: NDArray[np.float64]

    @classmethod
    def learn(cls, looks: Mapping[str, Sequence[Floats]]) -> ViewLooks | None:
        """Learn from thumbnails of good pictures by view; None where these are too few.

        Each is compared with the mean of the others of its view.
        """
        if len(looks) < 2 or min(map(len, looks.values())) < MIN_PICTURES:
            return None
        every = [np.asarray(several, np.float64) for several in looks.values()]
        means = np.array([several.mean(axis=0) for several in every])
        within = np.concatenate([several - mean for several, mean in zip(every, means, strict=True)])
        spread = np.maximum(within.std(axis=0), MIN_SPREAD)
        plain = cls((*looks,), means, spread, np.full((len(every),) * 2, np.inf), np.full(len(every), np.inf))
        plain._set_limits(every)
        return plain

    def _set_limits(self, every: Sequence[NDArray[np.float64]]) -> None:
        """Set reach and limits by the thumbnails of each view that its mean was learnt from."""
        distances = [np.array([self.distances(look) for look in several]) for several in every]
        for v, several in enumerate(every):
            distances[v][:, v] *= len(several) / (len(several) - 1)
        for v, distances_of_view in enumerate(distances):
            self.reach[v] = MAX_DISTANCE * distances_of_view[:, v].max()
            for w, others in enumerate(distances):
                if v != w:
                    self.limits[v, w] = _limit_between(
                        distances_of_view[:, v] - distances_of_view[:, w], others[:, v] - others[:, w]
                    )

    def distances(self, look: Floats) -> NDArray[np.float64]:
        """Distances [V] of a thumbnail from the views' means, in spreads."""
        return np.asarray(np.sqrt((((look - self.means) / self.spread) ** 2).mean(axis=1)))

    @property
    def are_distinct(self) -> bool:
        """Whether good pictures distinguish every two views clearly."""
        others = ~np.eye(len(self.views), dtype=bool)
        return bool(np.isfinite(self.limits[others]).all())

    def shown_instead(self, view: str, look: Floats) -> str | None:
        """Return the other view that a picture named as `view` shows.

        None means that it shows its own view, or that the view is not known.
        """
        if view not in self.views:
            return None
        place = self.views.index(view)
        distances = self.distances(look)
        clear = (distances[place] - distances > self.limits[place]) & (distances <= self.reach)
        return self.views[int(np.where(clear, distances, np.inf).argmin())] if clear.any() else None

    def to_dict(self) -> Json:
        """Return values that JSON knows, for `from_facts`."""
        limits: list[list[float | None]] = []
        for row in self.limits.tolist():
            limits.append([round(limit, 4) if np.isfinite(limit) else None for limit in row])
        numbers = {name: getattr(self, name).round(4).tolist() for name in ("means", "spread", "reach")}
        return {"views": [*self.views], **numbers, "limits": limits}

    @classmethod
    def from_facts(cls, facts: Facts) -> ViewLooks | None:
        """Read the looks from a model's facts; None where there are none, or others than these."""
        try:
            kept = facts[VIEW_LOOKS_KEY]
            views = tuple(map(str, kept["views"]))
            means, spread, reach = (np.array(kept[name], np.float64) for name in ("means", "spread", "reach"))
            rows = []
            for row in kept["limits"]:
                rows.append([np.inf if limit is None else limit for limit in row])
            limits = np.array(rows, float)
            count = len(views)
            width = 3 * SIDE * SIDE
            shapes = [array.shape for array in (means, spread, reach, limits)]
            if shapes != [(count, width), (width,), (count,), (count, count)] or not (spread > 0).all():
                return None
            return cls(views, means, spread, limits, reach)
        except (KeyError, TypeError, ValueError):
            return None


def _limit_between(mine: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    """Return the middle of the gap between the pictures of a view and those of another.

    Args:
        mine: How much farther each picture of the view lies from its own mean than from the other's.
        theirs: The same difference of the other view's pictures.

    Returns:
        The limit; inf: the gap is too narrow, or there is none.
    """
    is_wide = theirs.min() - mine.max() >= MIN_GAP * max(np.ptp(mine), np.ptp(theirs))
    return float((theirs.min() + mine.max()) / 2) if is_wide else math.inf

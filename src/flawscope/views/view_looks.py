"""Finds out which view of a part, or which light, a picture shows. Torch-free.

A model of all views finds nothing in pictures that were exchanged, and a model of one view cannot say why
they are anomalous. So a picture's thumbnail is compared with the mean thumbnail of each view's good pictures,
in units of their spread. Views that good pictures do not distinguish clearly are never called exchanged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flawscope.types import Facts, Json

Floats = NDArray[np.float32]

SIDE = 8  # pixels of a thumbnail's side
MIN_PICTURES = 6  # good pictures that each view needs
MIN_SPREAD = 0.004  # least spread of good pictures: a grey level
MIN_GAP = 1.0  # least gap between two views' good pictures, as a factor of the larger range of the two
# Largest distance of a picture from the view that it resembles, as a factor of the farthest good picture's
MAX_DISTANCE = 1.5
VIEW_LOOKS_KEY = "view_looks"  # key among a model's facts


def thumbnail(image: Floats) -> Floats:
    """Return the mean colours [3 * SIDE * SIDE] of an image [3, H, W] in 0..1.

    Marks of padding are removed first.
    """
    values = np.where(image < 0, -1 - image, image)
    for axis in (1, 2):
        edges = np.linspace(0, values.shape[axis], SIDE, endpoint=False).astype(np.intp)
        block_sizes = np.diff([*edges, values.shape[axis]])
        counts = block_sizes[:, None] if axis == 1 else block_sizes
        # means of blocks; an empty block gets a single value from `reduceat`
        values = np.add.reduceat(values, edges, axis, dtype=np.float32) / np.maximum(counts, 1)
    return np.asarray(values, np.float32).ravel()


def find_identical(looks: Mapping[str, Floats]) -> tuple[str, str] | None:
    """Return the first two views whose pictures have the same thumbnail; None: all thumbnails differ.

    No camera takes the same pixels twice, so one picture was given for both views.

    Args:
        looks: Thumbnail of the picture of each view.
    """
    first_views: dict[bytes, str] = {}  # first view with each thumbnail
    for view, look in looks.items():
        first_view = first_views.setdefault(look.tobytes(), view)
        if first_view != view:
            return first_view, view
    return None


def look_different(looks: Mapping[str, Sequence[Floats]]) -> bool:
    """Whether good pictures of all views look so different that each view needs a model of its own.

    Every two views must be distinct (`ViewLooks.are_distinct`) after each colour of a thumbnail is
    divided by its mean. So a camera that is darker, or has another white balance, makes no difference.

    Args:
        looks: Thumbnails of good pictures by view. If there are too few, the result is False.
    """
    levelled = {view: [_without_light(look) for look in view_looks] for view, view_looks in looks.items()}
    learnt = ViewLooks.learn(levelled)
    return learnt is not None and learnt.are_distinct


def _without_light(look: Floats) -> Floats:
    """Return a thumbnail in which each colour is divided by its mean."""
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
        limits: [V, V]. A picture shows the column's view, not the row's, if its distance from the row's view
            exceeds that from the column's by more than this; infinite for views that are not distinguished.
        reach: [V], largest distance from a view's mean at which a picture still shows the view.
    """

    views: tuple[str, ...]
    means: NDArray[np.float64]
    spread: NDArray[np.float64]
    limits: NDArray[np.float64]
    reach: NDArray[np.float64]

    @classmethod
    def learn(cls, looks: Mapping[str, Sequence[Floats]]) -> ViewLooks | None:
        """Learn from thumbnails of good pictures by view; None: there are too few.

        `limits` and `reach` come from the distances of each thumbnail from the mean of its view's others.
        """
        if len(looks) < 2 or min(map(len, looks.values())) < MIN_PICTURES:
            return None
        view_looks = [np.asarray(thumbnails, np.float64) for thumbnails in looks.values()]  # [n, D] each
        means = np.array([thumbnails.mean(axis=0) for thumbnails in view_looks])
        deviations = [thumbnails - mean for thumbnails, mean in zip(view_looks, means, strict=True)]
        spread = np.maximum(np.concatenate(deviations).std(axis=0), MIN_SPREAD)
        count = len(view_looks)
        learnt = cls(
            tuple(looks),
            means,
            spread,
            limits=np.full((count, count), np.inf),
            reach=np.full(count, np.inf),
        )
        learnt._set_limits(view_looks)
        return learnt

    def _set_limits(self, view_looks: Sequence[NDArray[np.float64]]) -> None:
        """Set the values of `reach` and `limits`, in place.

        Args:
            view_looks: [n, D] of each view, the thumbnails that its mean was learnt from.
        """
        # [n, V] of each view: distances of its n pictures from the means of all views
        distances = [np.array([self.distances(look) for look in thumbnails]) for thumbnails in view_looks]
        for view, thumbnails in enumerate(view_looks):
            # distance of a picture from the mean of the other n - 1 pictures: n / (n - 1) times that from the
            # mean of all n
            distances[view][:, view] *= len(thumbnails) / (len(thumbnails) - 1)
        for view, view_distances in enumerate(distances):
            self.reach[view] = MAX_DISTANCE * view_distances[:, view].max()
            for other_view, other_distances in enumerate(distances):
                if view == other_view:
                    continue
                # differences of distances: below 0 for a picture nearer to `view` than to `other_view`
                own_differences = view_distances[:, view] - view_distances[:, other_view]
                other_differences = other_distances[:, view] - other_distances[:, other_view]
                self.limits[view, other_view] = _limit_between(own_differences, other_differences)

    def distances(self, look: Floats) -> NDArray[np.float64]:
        """Return the distances [V] of a thumbnail from the views' means, in spreads."""
        return np.asarray(np.sqrt((((look - self.means) / self.spread) ** 2).mean(axis=1)))

    @property
    def are_distinct(self) -> bool:
        """Whether good pictures distinguish every two views clearly."""
        is_pair = ~np.eye(len(self.views), dtype=bool)
        return bool(np.isfinite(self.limits[is_pair]).all())

    def shown_instead(self, view: str, look: Floats) -> str | None:
        """Return the other view that a picture clearly shows; None: no other view.

        Args:
            view: Name of the view that the picture should show. If it is not known, the result is None.
            look: Thumbnail of the picture.
        """
        if view not in self.views:
            return None
        index = self.views.index(view)
        distances = self.distances(look)
        is_nearer = distances[index] - distances > self.limits[index]
        is_clear = is_nearer & (distances <= self.reach)
        if not is_clear.any():
            return None
        nearest = int(np.where(is_clear, distances, np.inf).argmin())
        return self.views[nearest]

    def to_dict(self) -> Json:
        """Convert to values for JSON, which `from_facts` reads."""
        limits: list[list[float | None]] = []
        for row in self.limits.tolist():
            limits.append([round(limit, 4) if np.isfinite(limit) else None for limit in row])
        arrays = {name: getattr(self, name).round(4).tolist() for name in ("means", "spread", "reach")}
        return {"views": [*self.views], **arrays, "limits": limits}

    @classmethod
    def from_facts(cls, facts: Facts) -> ViewLooks | None:
        """Read the looks from a model's facts; None: they are missing or damaged."""
        try:
            stored = facts[VIEW_LOOKS_KEY]
            views = tuple(map(str, stored["views"]))
            means = np.array(stored["means"], np.float64)
            spread = np.array(stored["spread"], np.float64)
            reach = np.array(stored["reach"], np.float64)
            rows = []
            for row in stored["limits"]:
                rows.append([np.inf if limit is None else limit for limit in row])  # JSON has no infinity
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
        mine: For each picture of the view: its distance from the view's mean, minus its distance from the
            other view's mean.
        theirs: The same difference for each picture of the other view.

    Returns:
        The limit; inf: the gap is too narrow, or there is none.
    """
    gap = theirs.min() - mine.max()
    is_wide = gap >= MIN_GAP * max(np.ptp(mine), np.ptp(theirs))
    return float((theirs.min() + mine.max()) / 2) if is_wide else math.inf

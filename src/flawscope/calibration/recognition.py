"""Recognises which of several products a picture shows, by descriptors of their good pictures."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope.errors import InputError

MIN_GROUPS = 4  # groups of good pictures that a product needs to be recognised
MAX_GOOD = 300  # good pictures whose descriptors a model keeps
MAX_PER_LIGHT = 50  # of them in each other light of the range in which it keeps its rate
DEFECT_COUNT = 36  # simulated ones among them, of all sizes
# How these were chosen: docs/decisions/0027-joint.md
GOOD_DISTANCE_FACTOR = 3.0  # times the largest distance of a good picture
MAX_GOOD_LIMIT = 0.4  # of limits by good pictures alone: those of parts at any angle lie far apart
DEFECT_DISTANCE_FACTOR = 1.25  # times the largest distance of a picture with a simulated defect
MIN_LIMIT = 1e-4  # least limit: copies of one picture have no distance


class Recognition(NamedTuple):
    """Answer about a picture.

    product: its name; None: the picture shows none of the products.
    nearest: the product with the nearest good picture, also where the picture shows none.
    p_value: conformal, of the distance to it: rank among the nearest product's leave-one-out distances.
    distances: to each product, in the products' order.
    """

    product: str | None
    nearest: str
    p_value: float
    distances: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class ProductDescriptors:
    """Descriptors of one product's pictures: vectors of length 1.

    good: [N, D] float32, of good pictures. groups: [N] int32, their units in the product's model: those of a
        group show one part.
    lights: [N] int32, number of the light that they were changed to (`views.light.lights_within`); empty
        where all are as they came.
    defective: [M, D] float32, of good pictures with a simulated defect. carriers: [M] int32, their groups.
    """

    good: NDArray[np.float32]
    groups: NDArray[np.int32]
    defective: NDArray[np.float32]
    carriers: NDArray[np.int32]
    lights: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))

    def __post_init__(self) -> None:
        """InputError where the descriptors do not fit each other."""
        for vectors, numbers in ((self.good, self.groups), (self.defective, self.carriers)):
            fits = vectors.dtype == np.float32 and vectors.ndim == 2 and numbers.dtype == np.int32
            fits = fits and numbers.shape == vectors.shape[:1] and vectors.shape[1] == self.good.shape[1]
            if not fits or not np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3):  # NaN too
                raise InputError("the descriptors of its good pictures are damaged")
        if self.lights.dtype != np.int32 or self.lights.shape not in ((0,), self.groups.shape):
            raise InputError("the lights of its good pictures are damaged")

    def merged(self, others: ProductDescriptors) -> ProductDescriptors:
        """Returns these pictures and others of the same product."""
        if not len(others.good):
            return self
        return ProductDescriptors(
            np.concatenate([self.good, others.good]),
            np.concatenate([self.groups, others.groups]),
            np.concatenate([self.defective, others.defective]),
            np.concatenate([self.carriers, others.carriers]),
            np.concatenate([self.lights, others.lights]),
        )

    def distances(
        self, descriptors: NDArray[np.float32], left_out: NDArray[np.int32] | None = None
    ) -> NDArray[np.float64]:
        """Distance [B] of each descriptor [B, D] to the nearest good picture, for each without those of the
        group in `left_out` [B]."""
        products = descriptors.astype(np.float64) @ self._good_float64.T
        if left_out is not None:
            products[left_out[:, None] == self.groups] = -np.inf
        found: NDArray[np.float64] = np.sqrt(np.clip(2 - 2 * products.max(1), 0, None))
        return found

    @cached_property
    def _good_float64(self) -> NDArray[np.float64]:
        return self.good.astype(np.float64)

    @cached_property
    def leave_one_out(self) -> list[NDArray[np.float64]]:
        """Distances of good pictures to the nearest one of another part, ascending, for each light."""
        found = self.distances(self.good, self.groups)
        lights = self.lights if len(self.lights) else np.zeros(len(found))
        return [np.sort(found[lights == light]) for light in np.unique(lights)]

    @cached_property
    def limit(self) -> float:
        """Distance beyond which a picture shows another product: three times the largest of a good picture to
        another part, 0.4 at most, and more where simulated defects need it: they must be recognised too."""
        farthest = max(one[-1] for one in self.leave_one_out)
        found = [min(GOOD_DISTANCE_FACTOR * farthest, MAX_GOOD_LIMIT), MIN_LIMIT]
        if len(self.defective):
            found.append(DEFECT_DISTANCE_FACTOR * self.distances(self.defective, self.carriers).max())
        return float(max(found))

    def p_values(self, distances: NDArray[np.float64]) -> NDArray[np.float64]:
        """Conformal p-values, (1 + #{good distances >= distance}) / (n + 1): the largest over the lights."""
        found = [
            (1 + len(one) - np.searchsorted(one, distances, side="left")) / (len(one) + 1)
            for one in self.leave_one_out
        ]
        largest: NDArray[np.float64] = np.max(found, axis=0)
        return largest


class Recogniser:
    """Says which of several products a picture shows.

    A picture's descriptor, the mean of its patches' features brought to length 1, is compared with those of
    every product's good pictures, and shows the product of the nearest one, or none where that lies farther
    than the product's limit (`ProductDescriptors.limit`). Nothing about a product depends on the others.
    Pictures of one part are recognised together, by the sums of their distances.

    known: empty for a model that need not recognise anything.
    """

    def __init__(self, known: Mapping[str, ProductDescriptors]):
        self.known = dict(known)
        for name, one in self.known.items():
            if len(np.unique(one.groups)) < MIN_GROUPS:
                raise InputError(
                    f"{name} can be recognised only by {MIN_GROUPS} good pictures or more, "
                    "of different parts: give more"
                )
        if len({one.good.shape[1] for one in self.known.values()}) > 1:
            raise InputError("the descriptors of its products have different lengths")

    def recognise(self, descriptors: NDArray[np.float32]) -> list[Recognition]:
        """Recognises each of the pictures with these descriptors [B, D]."""
        if descriptors.shape[1] != next(iter(self.known.values())).good.shape[1]:
            raise InputError("the descriptors of the model's products do not fit its network: fit anew")
        distances = np.stack([row.distances(descriptors) for row in self.known.values()], axis=1)
        return [self.recognise_group(row[None])._replace(distances=tuple(row.tolist())) for row in distances]

    def recognise_group(
        self, distances: NDArray[np.float64], among: Collection[str] | None = None
    ) -> Recognition:
        """Recognises pictures of one part together by their distances [pictures, products]: the product with
        the least sum, or none where a picture lies beyond its limit. The p-value is the smallest.

        Args:
            among: products that it may be; None: all.
        """
        names = [*self.known]
        allowed = [k for k, name in enumerate(names) if among is None or name in among]
        nearest = allowed[int(distances[:, allowed].sum(0).argmin())]
        own, known = distances[:, nearest], self.known[names[nearest]]
        is_within = bool((own <= known.limit).all())  # not where it is NaN
        name, p_value = names[nearest], float(known.p_values(own).min())
        return Recognition(name if is_within else None, name, p_value)

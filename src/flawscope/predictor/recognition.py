"""Recognises which of several products a picture shows, by descriptors of their good pictures."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact.descriptors import ProductDescriptors
from flawscope.errors import InputError
from flawscope.results.prediction import Recognition

# How these were chosen: docs/decisions/0027-joint.md
GOOD_DISTANCE_FACTOR = 3.0  # times the largest distance of a good picture
MAX_GOOD_LIMIT = 0.4  # of limits by good pictures alone: those of parts at any angle lie far apart
DEFECT_DISTANCE_FACTOR = 1.25  # times the largest distance of a picture with a simulated defect
MIN_LIMIT = 1e-4  # least limit: copies of one picture have no distance


class KnownProduct:
    """Distances of pictures to a product's good pictures, and of the good pictures to each other."""

    def __init__(self, pictures: ProductDescriptors):
        self._pictures, self._good = pictures, pictures.good.astype(np.float64)

    def distances(
        self, descriptors: NDArray[np.float32], left_out: NDArray[np.int32] | None = None
    ) -> NDArray[np.float64]:
        """Return the distance [B] of each descriptor [B, D] to the nearest good picture.

        Args:
            descriptors: [B, D] of pictures.
            left_out: [B], for each picture the group whose good pictures are not compared; None: all are.

        Raises:
            InputError: The good pictures' descriptors have another D.
        """
        if descriptors.shape[1] != self._good.shape[1]:
            raise InputError("the descriptors of the model's products do not fit its network: fit anew")
        products = descriptors.astype(np.float64) @ self._good.T
        if left_out is not None:
            products[left_out[:, None] == self._pictures.groups] = -np.inf
        found: NDArray[np.float64] = np.sqrt(np.clip(2 - 2 * products.max(1), 0, None))
        return found

    @cached_property
    def leave_one_out(self) -> list[NDArray[np.float64]]:
        """Distances of good pictures to the nearest one of another part, ascending, for each light."""
        known = self._pictures
        found = self.distances(known.good, known.groups)
        lights = known.lights if len(known.lights) else np.zeros(len(found))
        return [np.sort(found[lights == light]) for light in np.unique(lights)]

    @cached_property
    def limit(self) -> float:
        """Distance beyond which a picture shows another product.

        Three times the largest distance of a good picture to another part, and 0.4 at most. Pictures with
        simulated defects must be recognised too: the limit is 1.25 times their largest distance where that
        is more. It is 0.0001 at least.
        """
        farthest = max(distances[-1] for distances in self.leave_one_out)
        found = [min(GOOD_DISTANCE_FACTOR * farthest, MAX_GOOD_LIMIT), MIN_LIMIT]
        if len((known := self._pictures).defective):
            found.append(DEFECT_DISTANCE_FACTOR * self.distances(known.defective, known.carriers).max())
        return float(max(found))

    def p_values(self, distances: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return conformal p-values, (1 + #{good distances >= distance}) / (n + 1), largest over lights."""
        found = [
            (1 + len(left_out) - np.searchsorted(left_out, distances, side="left")) / (len(left_out) + 1)
            for left_out in self.leave_one_out
        ]
        largest: NDArray[np.float64] = np.max(found, axis=0)
        return largest


class Recogniser:
    """Says which of several products a picture shows.

    A picture's descriptor, the mean of its patches' features brought to length 1, is compared with those of
    every product's good pictures, and shows the product of the nearest one, or none where that lies farther
    than the product's limit (`KnownProduct.limit`). Nothing about a product depends on the others.
    Pictures of one part are recognised together, by the sums of their distances.
    """

    def __init__(self, known: Mapping[str, ProductDescriptors]):
        self._known = {name: KnownProduct(descriptors) for name, descriptors in known.items()}

    def recognise(self, descriptors: NDArray[np.float32]) -> list[Recognition]:
        """Recognise each of the pictures with these descriptors [B, D]."""
        distances = np.stack([product.distances(descriptors) for product in self._known.values()], axis=1)
        return [self.recognise_group(row[None])._replace(distances=tuple(row.tolist())) for row in distances]

    def recognise_group(
        self, distances: NDArray[np.float64], among: Collection[str] | None = None
    ) -> Recognition:
        """Recognise the product of several pictures of one part together.

        It is the product with the least sum of distances, or none where a picture lies beyond that product's
        limit. The p-value is the smallest of the pictures'.

        Args:
            distances: [pictures, products], of each picture to each product.
            among: Names of the products that it may be; None: all.
        """
        names = [*self._known]
        allowed = [k for k, name in enumerate(names) if among is None or name in among]
        nearest = allowed[int(distances[:, allowed].sum(0).argmin())]
        product_distances = distances[:, nearest]
        known = self._known[names[nearest]]
        is_within = bool((product_distances <= known.limit).all())  # not where it is NaN
        name = names[nearest]
        p_value = float(known.p_values(product_distances).min())
        return Recognition(name if is_within else None, name, p_value)

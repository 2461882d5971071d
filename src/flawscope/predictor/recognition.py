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
GOOD_DISTANCE_FACTOR = 3.0  # factor of the largest distance of a good picture
MAX_GOOD_LIMIT = 0.4  # largest limit by good pictures alone: pictures of parts at any angle lie far apart
DEFECT_DISTANCE_FACTOR = 1.25  # factor of the largest distance of a picture with a simulated defect
MIN_LIMIT = 1e-4  # least limit: copies of one picture have no distance


class KnownProduct:
    """Distances of pictures to a product's good pictures, and of the good pictures to each other."""

    def __init__(self, pictures: ProductDescriptors):
        self._pictures = pictures
        self._good = pictures.good.astype(np.float64)

    def distances(
        self, descriptors: NDArray[np.float32], left_out: NDArray[np.int32] | None = None
    ) -> NDArray[np.float64]:
        """Return the distance [B] of each descriptor [B, D] to the nearest good picture.

        Args:
            descriptors: [B, D] of pictures.
            left_out: [B], for each picture the group whose good pictures are not compared; None: all are
                compared.

        Raises:
            InputError: The good pictures' descriptors have another number D of values.
        """
        if descriptors.shape[1] != self._good.shape[1]:
            raise InputError("the descriptors of the model's products do not fit its network: fit anew")
        cosines = descriptors.astype(np.float64) @ self._good.T  # descriptors have length 1
        if left_out is not None:
            cosines[left_out[:, None] == self._pictures.groups] = -np.inf
        distances: NDArray[np.float64] = np.sqrt(np.clip(2 - 2 * cosines.max(1), 0, None))
        return distances

    @cached_property
    def leave_one_out(self) -> list[NDArray[np.float64]]:
        """Distance of each good picture to the nearest one of another part: an ascending array per light."""
        pictures = self._pictures
        distances = self.distances(pictures.good, pictures.groups)
        lights = pictures.lights if len(pictures.lights) else np.zeros(len(distances))
        return [np.sort(distances[lights == light]) for light in np.unique(lights)]

    @cached_property
    def limit(self) -> float:
        """Distance beyond which a picture shows another product.

        The limit is the largest of three values: min(3 a, 0.4), 1.25 b and 0.0001. a is the largest distance
        of a good picture to the nearest one of another part. b is the largest distance of a picture with a
        simulated defect.
        """
        pictures = self._pictures
        farthest = max(distances[-1] for distances in self.leave_one_out)  # the last is the largest
        limits = [min(GOOD_DISTANCE_FACTOR * farthest, MAX_GOOD_LIMIT), MIN_LIMIT]
        if len(pictures.defective):
            defect_distances = self.distances(pictures.defective, pictures.carriers)
            limits.append(DEFECT_DISTANCE_FACTOR * defect_distances.max())
        return float(max(limits))

    def p_values(self, distances: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the conformal p-value of each distance: the largest of its p-values in the single lights.

        In a light with n good pictures, the p-value is (1 + #{good distances >= distance}) / (n + 1).
        """
        p_values_by_light = []
        for good_distances in self.leave_one_out:
            n = len(good_distances)
            as_far_count = n - np.searchsorted(good_distances, distances, side="left")
            p_values_by_light.append((1 + as_far_count) / (n + 1))
        largest: NDArray[np.float64] = np.max(p_values_by_light, axis=0)
        return largest


class Recogniser:
    """Says which of several products a picture shows.

    A picture's descriptor is the mean of its patches' features, brought to length 1. It is compared with the
    descriptors of every product's good pictures. The picture shows the product of the nearest good picture,
    or none of the products if that picture lies beyond the product's limit (`KnownProduct.limit`). Nothing
    about a product depends on the others. Pictures of one part are recognised together, by the sums of their
    distances.
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

        The nearest product has the smallest sum of distances. If any picture lies beyond that product's
        limit, the part shows none of the products. The p-value is the smallest of the pictures' p-values.

        Args:
            distances: [pictures, products], of each picture to each product.
            among: Names of the products that the part may be; None: all.
        """
        names = [*self._known]
        allowed = [number for number, name in enumerate(names) if among is None or name in among]
        nearest = allowed[int(distances[:, allowed].sum(0).argmin())]
        name = names[nearest]
        product = self._known[name]
        product_distances = distances[:, nearest]
        is_within = bool((product_distances <= product.limit).all())  # false if a distance is NaN
        p_value = float(product.p_values(product_distances).min())
        return Recognition(product=name if is_within else None, nearest=name, p_value=p_value)

"""Descriptors of whole good pictures of several products, and the network that makes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from flawscope.errors import InputError
from flawscope.types import Array, Facts, Json
from flawscope.views.preprocess import Preprocess

MIN_GROUPS = 4  # groups of good pictures that a product needs to be recognised
GRAPH = "graph"
Tensors = dict[str, Array]


@dataclass(frozen=True, eq=False)
class ProductDescriptors:
    """Descriptors of one product's pictures: vectors of length 1.

    Attributes:
        good: [N, D] float32, descriptors of good pictures.
        groups: [N] int32, group of each good picture; pictures of a group show the same part. Groups are the
            units of the product's model.
        defective: [M, D] float32, descriptors of good pictures with a simulated defect.
        carriers: [M] int32, group of each picture with a defect.
        lights: [N] int32, number of the light that each good picture was changed to
            (`views.light.lights_within`); empty: all are in their own light.
    """

    good: NDArray[np.float32]
    groups: NDArray[np.int32]
    defective: NDArray[np.float32]
    carriers: NDArray[np.int32]
    lights: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))

    def __post_init__(self) -> None:
        """Raise an InputError where the descriptors do not fit each other."""
        for vectors, numbers in ((self.good, self.groups), (self.defective, self.carriers)):
            has_types = vectors.dtype == np.float32 and vectors.ndim == 2 and numbers.dtype == np.int32
            is_valid = (
                has_types
                and numbers.shape == vectors.shape[:1]
                and vectors.shape[1] == self.good.shape[1]
                and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)  # False for NaN, too
            )
            if not is_valid:
                raise InputError("the descriptors of its good pictures are damaged")
        if self.lights.dtype != np.int32 or self.lights.shape not in ((0,), self.groups.shape):
            raise InputError("the lights of its good pictures are damaged")

    def arrays(self) -> Tensors:
        """Return the arrays for a file, by the names of the fields."""
        return {key: getattr(self, key) for key in DESCRIPTOR_KEYS}

    def merged(self, others: ProductDescriptors) -> ProductDescriptors:
        """Return the descriptors of these pictures and of other pictures of the same product."""
        if not len(others.good):
            return self
        return ProductDescriptors(
            good=np.concatenate([self.good, others.good]),
            groups=np.concatenate([self.groups, others.groups]),
            defective=np.concatenate([self.defective, others.defective]),
            carriers=np.concatenate([self.carriers, others.carriers]),
            lights=np.concatenate([self.lights, others.lights]),
        )


DESCRIPTOR_KEYS = tuple(field.name for field in fields(ProductDescriptors))


@dataclass(frozen=True, eq=False)
class DescriptorModel:
    """Network that describes whole pictures, and its descriptors of each product's good pictures.

    Attributes:
        config: Settings of the network (`methods.descriptors.DescriptorNetwork`).
        preprocess: Preprocessing of the pictures: whole, in their own light.
        tensors: Tensors of the network; for an exported network its graph, under `GRAPH`.
        known: Descriptors by product.
        samples: Packed pictures (`pack_images`) of each product, as the network sees them, for the self-test.
    """

    config: Json
    preprocess: Preprocess
    tensors: Tensors
    known: Mapping[str, ProductDescriptors]
    samples: Mapping[str, Array] = field(default_factory=dict)

    @classmethod
    def from_stored(
        cls,
        about: Facts,
        tensors: Tensors,
        known: Mapping[str, ProductDescriptors],
        samples: Mapping[str, Array],
    ) -> DescriptorModel:
        """Build the network from the parts that a file stores.

        Args:
            about: Entry of the file's document with the settings of the network and of its preprocessing.
            tensors: Tensors of the network.
            known: Descriptors by product.
            samples: Packed pictures by product.

        Raises:
            KeyError: The entry is damaged.
            InputError: The entry or the descriptors are damaged.
        """
        preprocess = Preprocess.from_dict(about["preprocess"])
        return cls(dict(about.get("config", {})), preprocess, tensors, known, samples)

    def __post_init__(self) -> None:
        """Raise an InputError where the descriptors cannot distinguish the products."""
        for name, descriptors in self.known.items():
            if len(np.unique(descriptors.groups)) < MIN_GROUPS:
                raise InputError(
                    f"{name} can be recognised only by {MIN_GROUPS} good pictures or more, "
                    "of different parts: give more"
                )
        if len({descriptors.good.shape[1] for descriptors in self.known.values()}) > 1:
            raise InputError("the descriptors of its products have different lengths")

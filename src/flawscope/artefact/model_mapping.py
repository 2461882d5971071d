"""Mapping of names to models: of products, of the views of a part, or of a single product."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flawscope.artefact.descriptors import DescriptorModel
from flawscope.artefact.model_facts import ONE, ModelFacts, check_same_parts
from flawscope.artefact.model_file import Artefact
from flawscope.calibration.parts import PartPattern
from flawscope.errors import InputError
from flawscope.types import Facts

MAX_NAME_LENGTH = 200


def parse_views(document: Facts) -> PartPattern | None:
    """Read the pattern of views from a file's document; None: its models are of products.

    Raises:
        InputError: The pattern is damaged.
    """
    fields = document.get("views")
    if fields is None:
        return None
    try:
        return PartPattern(**fields)
    except (TypeError, InputError):
        raise InputError("its pattern of views is damaged; copy it again or fit anew") from None


@dataclass(frozen=True, eq=False)
class ModelMapping:
    """Models by the name of their product or view; the model of a single product under "".

    Attributes:
        products: The models, by name.
        recognition: Descriptors that recognise the product of a picture; None unless there are several
            products.
        views: Pattern by which a picture's name names its view; None unless the models are of views.
    """

    products: Mapping[str, Artefact]
    recognition: DescriptorModel | None = None
    views: PartPattern | None = None

    def __post_init__(self) -> None:
        """Raise an InputError where it is not defined which of several models judges a picture."""
        if self.kind == ONE:
            return
        if not self.products or not all(0 < len(name) <= MAX_NAME_LENGTH for name in self.products):
            raise InputError("a router needs models, each with a name")
        has_recognition = self.recognition is not None
        has_views = self.views is not None
        if has_recognition == has_views:
            raise InputError("a router needs good pictures of each product, or a pattern of views")
        if self.recognition is not None and {*self.recognition.known} != {*self.products}:
            raise InputError("a router needs good pictures of each product")
        check_same_parts([product.manifest.facts.get("part") for product in self.products.values()])

    @classmethod
    def of(cls, artefact: Artefact) -> ModelMapping:
        """Return the mapping of a single product's model."""
        return cls({ONE: artefact})

    @property
    def kind(self) -> str:
        """Word for each of the models: `ONE`, `PRODUCT` or `VIEW`."""
        return ONE if [*self.products] == [ONE] else self.facts.kind

    @property
    def facts(self) -> ModelFacts:
        """Facts about the models that their file holds."""
        return ModelFacts({name: product.manifest for name, product in self.products.items()}, self.views)

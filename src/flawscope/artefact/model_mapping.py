"""A model as a mapping of names to models: of products, of the views of a part, or of one product alone."""

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
    """The pattern of views that a file has; None: its models are of products.

    InputError where it is damaged.
    """
    known = document.get("views")
    try:
        return None if known is None else PartPattern(**known)
    except (TypeError, InputError):
        raise InputError("its pattern of views is damaged; copy it again or fit anew") from None


@dataclass(frozen=True, eq=False)
class ModelMapping:
    """Models by the names of their products, or views; that of one product alone under "".

    recognition: what tells which product a picture shows; of several products alone.
    views: the pattern of names that tells which view a picture shows; of views alone.
    """

    products: Mapping[str, Artefact]
    recognition: DescriptorModel | None = None
    views: PartPattern | None = None

    def __post_init__(self) -> None:
        """InputError where nothing tells which of several models judges a picture."""
        if self.kind == ONE:
            return
        if not self.products or not all(0 < len(name) <= MAX_NAME_LENGTH for name in self.products):
            raise InputError("a router needs models, each with a name")
        if (self.recognition is None) == (self.views is None):
            raise InputError("a router needs good pictures of each product, or a pattern of views")
        if self.recognition is not None and {*self.recognition.known} != {*self.products}:
            raise InputError("a router needs good pictures of each product")
        check_same_parts([one.manifest.facts.get("part") for one in self.products.values()])

    @classmethod
    def of(cls, artefact: Artefact) -> ModelMapping:
        """The mapping of one product's model."""
        return cls({ONE: artefact})

    @property
    def kind(self) -> str:
        """The word for each of the models, as `ModelFacts.kind`."""
        return ONE if [*self.products] == [ONE] else self.facts.kind

    @property
    def facts(self) -> ModelFacts:
        """Facts that the file says of the models."""
        return ModelFacts({name: one.manifest for name, one in self.products.items()}, self.views)

"""Facts about the models in a file, which maps names to models, and the properties that they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from flawscope.artefact.model_file import Manifest
from flawscope.artefact.parts import (
    parts_of_model,
    require_whole_part,
    stored_part_pattern,
    stored_part_reader,
)
from flawscope.calibration.parts import KnownParts, PartCalibration, PartPattern, View
from flawscope.calibration.rows import counted, ranking_scores, scored
from flawscope.errors import InputError
from flawscope.pictures.channels import Channels
from flawscope.pictures.table import Picture
from flawscope.pictures.units import PartReader

T = TypeVar("T")

# the word for each model of a mapping
ONE = ""
PRODUCT = "product"
VIEW = "view"


@dataclass(frozen=True)
class ModelFacts:
    """Facts about a model of one product, several products or several views.

    Attributes:
        manifests: Manifest of each model, by the name of its product or view; of a single product under "".
        views: Pattern by which a picture's name names its view; None: the models are of products.
    """

    manifests: Mapping[str, Manifest]
    views: PartPattern | None = None

    @classmethod
    def of(cls, model: Manifest | ModelFacts) -> ModelFacts:
        """Return the facts of a manifest; facts are returned unchanged."""
        return model if isinstance(model, ModelFacts) else cls({"": model})

    def with_model(self, name: str, manifest: Manifest) -> ModelFacts:
        """Return the facts with another manifest for one of the models."""
        return replace(self, manifests={**self.manifests, name: manifest})

    @property
    def kind(self) -> str:
        """Word for each of the models: `ONE`, `PRODUCT` or `VIEW`."""
        if self.views is not None:
            return VIEW
        return ONE if "" in self.manifests else PRODUCT

    @property
    def is_joint(self) -> bool:
        """Whether the model is a joint one: of several products, which it recognises by the picture."""
        return self.kind == PRODUCT

    # ---- what all models share

    def shared(self, what: str, read: Callable[[Manifest], T]) -> T:
        """Return the value that all models share.

        Args:
            what: Name of the value in the plural, for the error.
            read: Returns the value of a manifest.

        Raises:
            InputError: The models' values differ.
        """
        first, *others = [read(manifest) for manifest in self.manifests.values()]
        if any(other != first for other in others):
            raise InputError(f"the {self.kind}s' {what} differ: fit all with the same, or one by one")
        return first

    @property
    def parts(self) -> PartPattern | None:
        """Pattern by which names name part and view; None: the model judges single pictures."""
        if self.views is not None:
            return self.views
        return self.shared("patterns of parts and views", stored_part_pattern)

    @property
    def channels(self) -> Channels | None:
        """Channels of the pictures; None where they have three at most."""
        return self.shared("channels", lambda manifest: manifest.preprocess.channels)

    @property
    def part_reader(self) -> PartReader | None:
        """Reader of a part's name from a picture's name, of a model of one product; None: not known."""
        if self.views is not None:
            return self.views.part_key
        (manifest,) = self.manifests.values()
        return stored_part_reader(manifest)

    @property
    def rate(self) -> float:
        """Target false-alarm rate; views decide together and share it.

        It is the lowest where the rates in an earlier version's file differ.
        """
        return min(manifest.calibration.rate for manifest in self.manifests.values())

    def check(self) -> None:
        """Check, before a model is written, that its models can stand in one mapping.

        Raises:
            InputError: A property that all models must share differs, or no good part has pictures of all
                views.
        """
        check_same_parts([manifest.facts.get("part") for manifest in self.manifests.values()])
        if self.views is None:
            return
        self.shared("false-alarm rates", lambda manifest: manifest.calibration.rate)
        self.shared("seeds", lambda manifest: manifest.config.get("seed"))
        self.shared("channels", lambda manifest: manifest.preprocess.channels)
        self.check_whole_parts({})

    def check_whole_parts(self, new: Mapping[str, Sequence[str]]) -> None:
        """Check that good parts with all views remain where views are calibrated anew.

        Args:
            new: Names of the good pictures of each view that is calibrated on them; the others keep theirs.

        Raises:
            InputError: No whole part would remain, or names tell no part.
        """
        view_pattern = self.views
        if view_pattern is None:
            return
        names = {
            view: [row.name for row in scored(manifest.pictures)] for view, manifest in self.manifests.items()
        }
        shown = []
        for view, picture_names in {**names, **new}.items():
            shown += [View(view_pattern.parse_part(name), view) for name in picture_names]
        require_whole_part([*self.manifests], shown)

    # ---- what they decide together

    def known_parts(self) -> dict[str, KnownParts]:
        """Return the good parts of each product's calibration, by the product's name.

        The name is "" for a single product, also one in views. Empty where single pictures are judged.

        Raises:
            InputError: Names of pictures tell no part.
        """
        if self.views is not None:
            return {"": self._parts_of_views(self.views)}
        found = {}
        for name, manifest in self.manifests.items():
            if (parts := parts_of_model(manifest)) is not None:
                found[name] = parts
        return found

    def parts_of(self, name: str) -> KnownParts | None:
        """Return the good parts that a model compares with; None: it judges single pictures.

        Args:
            name: Name of the model: a product, or a view.
        """
        if self.views is None:
            return parts_of_model(self.manifests[name])
        view_pattern = self.views

        def view_of(picture_name: str) -> View:
            return View(view_pattern.parse_part(picture_name), name)

        return replace(self._parts_of_views(view_pattern), view_of=view_of)

    def _parts_of_views(self, pattern: PartPattern) -> KnownParts:
        pictures = list[View]()
        scores = list[float]()
        drawn = list[bool]()
        for view, manifest in self.manifests.items():
            rows = counted(manifest.pictures)
            pictures += [View(pattern.parse_part(row.name), view) for row in rows]
            scores += ranking_scores(rows)
            drawn += [row.drawn for row in rows]
        return KnownParts(PartCalibration.from_views(pictures, scores, self.rate, drawn), pattern.parse)

    # ---- all models together

    @property
    def pictures(self) -> list[Picture]:
        """Rows of the pictures of all models."""
        return [row for manifest in self.manifests.values() for row in manifest.pictures]

    def with_rate(self, rate: float) -> ModelFacts:
        """Return the facts of the models at another false-alarm rate."""
        changed = {}
        for name, manifest in self.manifests.items():
            changed[name] = replace(manifest, calibration=manifest.calibration.with_rate(rate))
        return replace(self, manifests=changed)


def check_same_parts(patterns: Sequence[Mapping[str, object] | None]) -> None:
    """Raise an InputError where products have different patterns of parts and views."""
    if any(pattern != patterns[0] for pattern in patterns):
        raise InputError(
            "the products' patterns of parts and views differ, and a part is recognised by all its views: "
            "fit all with the same --part and --view, or none"
        )

"""Facts about the models in a model file, and the properties that these models share."""

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

# Word for each model of a file: of the only product, of one of several products, of a view
ONE = ""
PRODUCT = "product"
VIEW = "view"


@dataclass(frozen=True)
class ModelFacts:
    """Facts about the models in a model file: of one product, of several products, or of several views.

    Attributes:
        manifests: Manifest of each model, by the name of its product or view; "" for a single product.
        views: Pattern that reads the view from a picture's name; None: the models are those of products.
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
        """Return a value that must be the same for all models.

        Args:
            what: Name of the value in the plural, for the error.
            read: Function that reads the value from a manifest.

        Raises:
            InputError: The models' values differ.
        """
        values = [read(manifest) for manifest in self.manifests.values()]
        if any(value != values[0] for value in values):
            raise InputError(f"the {self.kind}s' {what} differ: fit all with the same, or one by one")
        return values[0]

    @property
    def parts(self) -> PartPattern | None:
        """Pattern that reads part and view from a picture's name; None: the models judge single pictures."""
        if self.views is not None:
            return self.views
        return self.shared("patterns of parts and views", stored_part_pattern)

    @property
    def channels(self) -> Channels | None:
        """Channels of the pictures; None where they have three at most."""
        return self.shared("channels", lambda manifest: manifest.preprocess.channels)

    @property
    def part_reader(self) -> PartReader | None:
        """Function that reads the part from a picture's name; None: the model has no rule for it.

        Only for a model of one product.
        """
        if self.views is not None:
            return self.views.part_key
        (manifest,) = self.manifests.values()
        return stored_part_reader(manifest)

    @property
    def rate(self) -> float:
        """Target false-alarm rate, which is the same for all models.

        In a file of an earlier version the models may have different rates; then it is the lowest.
        """
        return min(manifest.calibration.rate for manifest in self.manifests.values())

    def check(self) -> None:
        """Check that the models can be written to one file.

        Raises:
            InputError: The models differ in a property that they must share, or no good part has pictures of
                all views.
        """
        check_same_parts([manifest.facts.get("part") for manifest in self.manifests.values()])
        if self.views is None:
            return
        self.shared("false-alarm rates", lambda manifest: manifest.calibration.rate)
        self.shared("seeds", lambda manifest: manifest.config.get("seed"))
        self.shared("channels", lambda manifest: manifest.preprocess.channels)
        self.check_whole_parts(new={})  # no view is newly calibrated

    def check_whole_parts(self, new: Mapping[str, Sequence[str]]) -> None:
        """Check that at least one good part has pictures of all views, after a new calibration of some views.

        Args:
            new: Names of the good pictures that a view is newly calibrated on, by view. A view that is not
                among the keys keeps the pictures of its calibration.

        Raises:
            InputError: No part would have pictures of all views, or names of pictures state no part.
        """
        view_pattern = self.views
        if view_pattern is None:
            return
        names_by_view: dict[str, Sequence[str]] = {
            view: [row.name for row in scored(manifest.pictures)] for view, manifest in self.manifests.items()
        }
        names_by_view.update(new)
        good_views = []
        for view, names in names_by_view.items():
            good_views += [View(view_pattern.parse_part(name), view) for name in names]
        require_whole_part([*self.manifests], good_views)

    # ---- what they decide together

    def known_parts(self) -> dict[str, KnownParts]:
        """Return the good parts of each product's calibration, by the product's name.

        If the file has a single product (of one or several views), its name is "". Products whose model
        decides on single pictures, not on parts, are left out.

        Raises:
            InputError: Names of pictures state no part.
        """
        if self.views is not None:
            return {"": self._parts_of_views(self.views)}
        parts_by_product = {}
        for name, manifest in self.manifests.items():
            parts = parts_of_model(manifest)
            if parts is not None:
                parts_by_product[name] = parts
        return parts_by_product

    def parts_of(self, name: str) -> KnownParts | None:
        """Return the good parts that a model compares new parts with; None: it judges single pictures.

        Args:
            name: Name of the model: a product, or a view.
        """
        if self.views is None:
            return parts_of_model(self.manifests[name])
        view_pattern = self.views

        def view_of(picture_name: str) -> View:
            """Return the part that a name states, and the view of this model."""
            return View(view_pattern.parse_part(picture_name), name)

        return replace(self._parts_of_views(view_pattern), view_of=view_of)

    def _parts_of_views(self, pattern: PartPattern) -> KnownParts:
        """Return the good parts in the calibration pictures of all views."""
        views = list[View]()
        scores = list[float]()
        drawn = list[bool]()
        for view, manifest in self.manifests.items():
            rows = counted(manifest.pictures)
            views += [View(pattern.parse_part(row.name), view) for row in rows]
            scores += ranking_scores(rows)
            drawn += [row.drawn for row in rows]
        calibration = PartCalibration.from_views(views, scores, self.rate, drawn=drawn)
        return KnownParts(calibration, pattern.parse)

    # ---- all models together

    @property
    def pictures(self) -> list[Picture]:
        """Rows of the pictures of all models."""
        return [row for manifest in self.manifests.values() for row in manifest.pictures]

    def with_rate(self, rate: float) -> ModelFacts:
        """Return the facts of the models at another false-alarm rate."""
        manifests = {}
        for name, manifest in self.manifests.items():
            manifests[name] = replace(manifest, calibration=manifest.calibration.with_rate(rate))
        return replace(self, manifests=manifests)


def check_same_parts(patterns: Sequence[Mapping[str, object] | None]) -> None:
    """Raise an InputError where products have different patterns of parts and views."""
    if any(pattern != patterns[0] for pattern in patterns):
        raise InputError(
            "the products' patterns of parts and views differ, and a part is recognised by all its views: "
            "fit all with the same --part and --view, or none"
        )

"""Good pictures that a method does not learn from, and calibration by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from flawscope.calibration.decision import Calibration, from_values
from flawscope.errors import InputError
from flawscope.methods.detector import Detector
from flawscope.methods.extract import Load, Store, embed_pictures
from flawscope.progress import Step

Values = tuple[float, float, float]  # a picture's score, its map's maximum and median


@dataclass
class HeldOut:
    """Pictures held out. Their pixels are not to be had, only what a detector says of them.

    parts: their numbers, by group, in the order drawn. rate: target false-alarm rate. step: gets progress.
    """

    parts: list[list[int]]
    rate: float
    step: Step
    _load: Load

    @property
    def numbers(self) -> list[int]:
        """All of them, in rising order."""
        return sorted(i for part in self.parts for i in part)

    def embed(self, model: Detector, numbers: Sequence[int], store: Store) -> None:
        """Features of some of the pictures. InputError where they overflow in the model's precision."""

        def checked(index: int, features: Tensor, inside: Tensor | None) -> None:
            if not bool(features.isfinite().all()):
                raise InputError(
                    f"the networks overflow in {model.config.precision}: choose another --set precision, or "
                    "other pretrained weights"
                )
            store(index, features, inside)

        embed_pictures(model, self._load, numbers, checked, self.step, "calibration")

    def values(self, model: Detector, numbers: Sequence[int] | None = None) -> list[Values]:
        """Of some of the pictures, in their order; None: of all."""
        numbers = self.numbers if numbers is None else numbers
        found: dict[int, Values] = {}

        def store(index: int, features: Tensor, inside: Tensor | None) -> None:
            found[index] = values_of(model, features, inside)

        self.embed(model, numbers, store)
        return [found[i] for i in numbers]

    def calibration(self, model: Detector, values: Sequence[Values] | None = None) -> Calibration:
        """By what the fitted detector says of the pictures; `values`, if they are known, are of all or some
        of them."""
        rows = self.values(model) if values is None else values
        precision = model.config.precision
        return from_values(*zip(*rows, strict=True), rate=self.rate, method="held out", precision=precision)


def values_of(model: Detector, features: Tensor, inside: Tensor | None) -> Values:
    """Of one picture's features; the median is that of the pixels that count."""
    scores, maps = model.score(features[None], None if inside is None else inside[None])
    counted = maps[0][model.region(inside)]
    return float(scores[0]), float(maps.max()), float(counted.median())

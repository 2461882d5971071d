"""Kinds of defects that a model names, as its file holds them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawscope.errors import InputError, pluralize


@dataclass(frozen=True)
class Kinds:
    """Kinds of defects that a model knows, without the tensor "kinds" (`KindClassifier`).

    Attributes:
        names: Names of the K kinds.
        counts: Number of examples of each kind.
        error: Error that was asked for, 0..1.
        spread: Variance of a descriptor in directions that the tensor does not hold.
        shape: (rows, C) of the tensor.
        distances: For each example, left out: the squared distance to the nearest kind, less `share` of the
            average distance.
        margins: For each example, left out: how much farther its own kind was than the nearest.
        confusion: [K, K + 2], for the examples of each kind, left out, the number of answers: each kind
            alone, several kinds, something new.
        power: Power of a descriptor's length that distances are multiplied by.
        share: Share of the average distance that the nearest distance is reduced by.
    """

    names: tuple[str, ...]
    counts: tuple[int, ...]
    error: float
    spread: float
    shape: tuple[int, int]
    distances: tuple[float, ...]
    margins: tuple[float, ...]
    confusion: tuple[tuple[int, ...], ...]
    power: float
    share: float

    @property
    def effective_error(self) -> float:
        """Error that the n examples can hold: `error`, and at least twice 1/(n + 1)."""
        return max(self.error, 2 / (len(self.distances) + 1))

    def describe(self) -> str:
        """Return a line with the kinds, their numbers of examples and the promised error."""
        kinds = ", ".join(f"{name} ({count})" for name, count in zip(self.names, self.counts, strict=True))
        asked = ""
        if self.effective_error > self.error:
            asked = f"; {self.error:.1%} takes {math.ceil(2 / self.error) - 1} examples in all"
        return (
            f"{kinds}: an answer lacks the true kind at most {self.effective_error:.1%} of the time, over "
            f"kinds as they are in {pluralize(len(self.distances), 'example')}{asked}"
        )

    def describe_left_out(self) -> str:
        """Return a line with the answers on the examples, each left out."""
        right = sum(row[k] for k, row in enumerate(self.confusion))
        of = sum(map(sum, self.confusion))
        new = sum(row[-1] for row in self.confusion)
        several = sum(row[-2] for row in self.confusion)
        return (
            f"of {pluralize(of, 'example')} left out {right} named right, {of - right - several - new} "
            f"wrong, {several} as several kinds, {new} as something new"
        )

    def check(self, tensor: NDArray[Any] | None) -> None:
        """Raise an InputError where the tensor does not fit, or is missing."""
        if tensor is None or tensor.shape != self.shape or not np.isfinite(tensor).all():
            raise InputError("the model's kinds of defects do not fit it: run `flawscope kinds` anew")

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, as a model's manifest holds them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Kinds:
        """Read the fields that `to_dict` returned. KeyError, TypeError or ValueError: they are damaged."""
        rows, width = map(int, data["shape"])
        kinds = cls(
            tuple(map(str, data["names"])),
            tuple(map(int, data["counts"])),
            float(data["error"]),
            float(data["spread"]),
            (rows, width),
            tuple(map(float, data["distances"])),
            tuple(map(float, data["margins"])),
            tuple(tuple(map(int, row)) for row in data["confusion"]),
            float(data["power"]),
            float(data["share"]),
        )
        count = len(kinds.names)
        numbers = (kinds.error, kinds.spread, kinds.power, kinds.share, *kinds.distances, *kinds.margins)
        fits = 0 < count <= rows and width > 0 and len(kinds.counts) == len(kinds.confusion) == count
        fits &= len(kinds.distances) == len(kinds.margins) > 0 and set(data) <= {f.name for f in fields(cls)}
        fits &= all(len(row) == count + 2 for row in kinds.confusion)
        if not fits or not all(map(math.isfinite, numbers)) or min(kinds.error, kinds.spread) <= 0:
            raise ValueError("kinds")
        return kinds

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
    """Kinds of defects that a model knows, but for tensor "kinds" (`KindClassifier`).

    names: of K kinds. counts: examples of each. error: that was asked for, 0..1. spread: of a descriptor in
    directions that the tensor does not have. shape: (rows, C) of the tensor. distances, margins: of each
    example, left out: squared distance to the nearest kind, less `share` of the average, and how much farther
    its own kind was. confusion: of the examples of each kind, left out, the answers: each kind alone,
    several, something new. power: of a descriptor's length that distances grow by.
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
        """Error that so many examples can hold: twice 1/(n + 1) at least."""
        return max(self.error, 2 / (len(self.distances) + 1))

    def describe(self) -> str:
        """Says the kinds, their examples and the promise."""
        kinds = ", ".join(f"{name} ({count})" for name, count in zip(self.names, self.counts, strict=True))
        asked = ""
        if self.effective_error > self.error:
            asked = f"; {self.error:.1%} takes {math.ceil(2 / self.error) - 1} examples in all"
        return (
            f"{kinds}: an answer lacks the true kind at most {self.effective_error:.1%} of the time, over "
            f"kinds as they are in {pluralize(len(self.distances), 'example')}{asked}"
        )

    def describe_left_out(self) -> str:
        """Says what was answered on the examples, left out."""
        right = sum(row[k] for k, row in enumerate(self.confusion))
        of = sum(map(sum, self.confusion))
        new = sum(row[-1] for row in self.confusion)
        several = sum(row[-2] for row in self.confusion)
        return (
            f"of {pluralize(of, 'example')} left out {right} named right, {of - right - several - new} "
            f"wrong, {several} as several kinds, {new} as something new"
        )

    def check(self, tensor: NDArray[Any] | None) -> None:
        """InputError where the tensor does not fit."""
        if tensor is None or tensor.shape != self.shape or not np.isfinite(tensor).all():
            raise InputError("the model's kinds of defects do not fit it: run `flawscope kinds` anew")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Kinds:
        """Reads what `to_dict` returned. KeyError, TypeError or ValueError where it is damaged."""
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

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
        distances: For each example d_min - `share` * d_mean, of its squared distances d to all kinds. The
            kinds were learnt without this example.
        margins: For each example its distance to its own kind, less its distance to the nearest kind. The
            kinds were learnt without this example.
        confusion: [K, K + 2], number of answers for the examples of each kind. The columns are the K kinds
            alone, then several kinds, then something new. The kinds were learnt without the example.
        power: Exponent: distances are multiplied by this power of the descriptor's length.
        share: Share of the average distance that is subtracted from the nearest distance.
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
        """Error that can be held with n examples: `error`, or 2/(n + 1) if that is larger."""
        return max(self.error, 2 / (len(self.distances) + 1))

    def describe(self) -> str:
        """Return a line with the kinds, their numbers of examples and the `effective_error`."""
        kinds = ", ".join(f"{name} ({count})" for name, count in zip(self.names, self.counts, strict=True))
        remedy = ""
        if self.effective_error > self.error:
            examples_needed = math.ceil(2 / self.error) - 1  # the fewest n with 2/(n + 1) <= error
            remedy = f"; {self.error:.1%} takes {examples_needed} examples in all"
        return (
            f"{kinds}: an answer lacks the true kind at most {self.effective_error:.1%} of the time, over "
            f"kinds as they are in {pluralize(len(self.distances), 'example')}{remedy}"
        )

    def describe_left_out(self) -> str:
        """Return a line with the answers for the examples, each by kinds learnt without this example."""
        # a row for each kind; columns: the kinds, then "several kinds" and "something new"
        total = sum(map(sum, self.confusion))
        right = sum(row[k] for k, row in enumerate(self.confusion))
        several_kinds = sum(row[-2] for row in self.confusion)
        new_kind = sum(row[-1] for row in self.confusion)
        wrong = total - right - several_kinds - new_kind
        return (
            f"of {pluralize(total, 'example')} left out {right} named right, {wrong} "
            f"wrong, {several_kinds} as several kinds, {new_kind} as something new"
        )

    def check(self, tensor: NDArray[Any] | None) -> None:
        """Raise an InputError where the tensor "kinds" of a model does not fit these kinds, or is missing."""
        if tensor is None or tensor.shape != self.shape or not np.isfinite(tensor).all():
            raise InputError("the model's kinds of defects do not fit it: run `flawscope kinds` anew")

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, as a model's manifest holds them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Kinds:
        """Read the fields that `to_dict` returned.

        Raises:
            KeyError, TypeError, ValueError: The fields are damaged.
        """
        rows, width = map(int, data["shape"])
        kinds = cls(
            names=tuple(map(str, data["names"])),
            counts=tuple(map(int, data["counts"])),
            error=float(data["error"]),
            spread=float(data["spread"]),
            shape=(rows, width),
            distances=tuple(map(float, data["distances"])),
            margins=tuple(map(float, data["margins"])),
            confusion=tuple(tuple(map(int, row)) for row in data["confusion"]),
            power=float(data["power"]),
            share=float(data["share"]),
        )
        kind_count = len(kinds.names)
        numbers = (kinds.error, kinds.spread, kinds.power, kinds.share, *kinds.distances, *kinds.margins)
        is_valid = (
            set(data) <= {field.name for field in fields(cls)}
            and 0 < kind_count <= rows
            and width > 0
            and len(kinds.counts) == len(kinds.confusion) == kind_count
            and len(kinds.distances) == len(kinds.margins) > 0
            and all(len(row) == kind_count + 2 for row in kinds.confusion)
            and all(map(math.isfinite, numbers))
            and min(kinds.error, kinds.spread) > 0
        )
        if not is_valid:
            raise ValueError("kinds")
        return kinds

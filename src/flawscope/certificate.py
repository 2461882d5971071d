"""How far an exported model is from the trained one: written into its file, shown by `info`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawscope.calibration import Calibration

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
# Largest |difference| / max(|expected|, 1) of a score: scores of several sizes lie around 0. fp32 is the same
# numbers in another order. A reduced precision is another network, whose scores lie elsewhere and which is
# calibrated anew; beyond this it is no longer the detector that was trained.
TOLERANCE = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 0.1, "int8": 0.2}
BATCHES = (1, 3, 8)
STRIDE = 8  # of the maps that are kept for the self-test


@dataclass(frozen=True)
class Certificate:
    """How far a model is from the trained one.

    pictures: how many were compared, in every one of `batches`.
    score, map: the largest |difference| / max(|expected|, 1) of scores and of map values.
    score_absolute, map_absolute: the largest |difference|.
    decisions: how many pictures are judged otherwise, each model by its own calibration.
    ties: numbers of the pictures whose score is a choice between equals; they are compared in nothing else.
    runtime: what the model ran on.
    """

    pictures: int
    batches: tuple[int, ...]
    score: float
    map: float
    score_absolute: float
    map_absolute: float
    decisions: int
    ties: tuple[int, ...]
    runtime: str
    precision: str = "fp32"

    @property
    def tolerance(self) -> float:
        return TOLERANCE[self.precision]

    @property
    def passed(self) -> bool:
        """A reduced precision may judge otherwise what lies near the threshold; fp32 may not."""
        return self.score <= self.tolerance and (self.precision != "fp32" or not self.decisions)

    def line(self) -> str:
        batches = ", ".join(map(str, self.batches))
        text = (
            f"{self.pictures} pictures in batches of {batches}, {self.precision}, {self.runtime}: "
            f"scores differ by at most {self.score:.1e}, maps by {self.map:.1e} (relative; "
            f"{self.score_absolute:.1e} and {self.map_absolute:.1e} absolute), "
            f"decisions of {self.decisions} pictures; scores may differ by {self.tolerance:g}"
        )
        if self.ties:
            text += f"; ties, not compared: {', '.join(map(str, self.ties))}"
        return text

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "batches": list(self.batches), "ties": list(self.ties)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Certificate:
        """KeyError, TypeError or ValueError if it is none."""
        if data["precision"] not in PRECISIONS:
            raise ValueError(data["precision"])
        return cls(
            pictures=int(data["pictures"]),
            batches=tuple(map(int, data["batches"])),
            score=float(data["score"]),
            map=float(data["map"]),
            score_absolute=float(data["score_absolute"]),
            map_absolute=float(data["map_absolute"]),
            decisions=int(data["decisions"]),
            ties=tuple(map(int, data["ties"])),
            runtime=str(data["runtime"]),
            precision=str(data["precision"]),
        )


def compare(
    session: Any,
    images: NDArray[np.float32],
    scores: NDArray[Any],
    maps: NDArray[Any] | None,
    *,
    decisions: NDArray[np.bool_],
    calibration: Calibration,
    runtime: str,
    ties: NDArray[np.bool_] | None = None,
    stride: int = 1,
) -> Certificate:
    """A session's answers against the expected ones, in batches of every size; a batch that is not full takes
    the first pictures again.

    Args:
        images: `[N, 3, H, W]`, scores: `[N]`, maps: `[N, h, w]`: of every `stride`-th row and column,
            or None: not compared.
        decisions: `[N]`, the expected ones.
        calibration: the session's own.
        ties: `[N]`, pictures not to be compared.
    """
    count = len(images)
    ties = np.zeros(count, bool) if ties is None else ties
    largest = np.zeros(4)
    changed: set[int] = set()
    for batch in BATCHES:
        for start in range(0, count, batch):
            chosen = np.arange(start, start + batch) % count
            found, drawn = session.run(np.ascontiguousarray(images[chosen]))
            use = ~ties[chosen]
            chosen, found, drawn = chosen[use], found[use], drawn[use, ::stride, ::stride]
            if not len(chosen):
                continue
            of_maps = (0.0, 0.0) if maps is None else _differences(drawn, maps[chosen])
            largest = np.maximum(largest, (*_differences(found, scores[chosen]), *of_maps))
            other = calibration.is_anomalous(found) != decisions[chosen]
            changed |= set(chosen[other].tolist())
    score_absolute, score, map_absolute, map_ = map(float, largest)
    return Certificate(
        pictures=count,
        batches=BATCHES,
        score=score,
        map=map_,
        score_absolute=score_absolute,
        map_absolute=map_absolute,
        decisions=len(changed),
        ties=tuple(np.flatnonzero(ties).tolist()),
        runtime=runtime,
        precision=calibration.precision,
    )


def of_pairs(
    consistency: Certificate,
    scores: NDArray[Any],
    expected_scores: NDArray[Any],
    maxima: NDArray[Any],
    expected_maxima: NDArray[Any],
    decisions: int,
) -> Certificate:
    """A reduced precision's: what it says of the `[N]` pictures that it is calibrated on, against what the
    trained model says of them. Of maps the maxima are compared.

    Args:
        consistency: of its answers in batches against its answers one by one; the larger difference counts.
    """
    score_absolute, score = _differences(scores, expected_scores)
    map_absolute, map_ = _differences(maxima, expected_maxima)
    return replace(
        consistency,
        pictures=len(scores),
        score=max(score, consistency.score),
        map=max(map_, consistency.map),
        score_absolute=max(score_absolute, consistency.score_absolute),
        map_absolute=max(map_absolute, consistency.map_absolute),
        decisions=decisions,
    )


def _differences(found: NDArray[Any], expected: NDArray[Any]) -> tuple[float, float]:
    """Largest absolute and relative difference; infinite where one is not a number."""
    expected = np.asarray(expected, np.float64)
    away = np.nan_to_num(np.abs(found.astype(np.float64) - expected), nan=np.inf)
    return float(away.max()), float((away / np.maximum(np.abs(expected), 1.0)).max())

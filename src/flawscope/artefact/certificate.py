"""Certifies the differences between an exported model and the trained one, in its file, for `info`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact.model_file import CERTIFICATE_KEYS, Artefact, unpack_images
from flawscope.calibration.threshold import Calibration
from flawscope.errors import InputError, pluralize

PRECISIONS = ("fp32", "fp16", "bf16", "int8")  # no file is written in int8 any more
# Largest difference of a score. In fp32, the same sums in another order, it is relative to the score, or to 1
# for smaller scores (they may lie around 0). A reduced precision is another network, calibrated anew: there
# it is a share of the distance from the median good picture to the threshold, where from a half on good
# pictures cross the threshold.
TOLERANCE = {"fp32": 1e-4, "fp16": 0.1, "bf16": 0.5, "int8": 0.5}
BATCH_SIZES = (1, 3, 8)
MAP_STRIDE = 8  # of the maps that are kept for the self-test
Scores = NDArray[Any]


class Scorer(Protocol):
    """Part of an engine's session that runs pictures."""

    runtime: str
    size: tuple[int, int]

    def run(self, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run images `[B, 3, H, W]` float32 in 0..1 to scores `[B]` and maps `[B, H, W]`."""


@dataclass(frozen=True)
class Certificate:
    """Measured distance of an exported model from the trained one.

    Attributes:
        pictures: Number of pictures that were compared, in each of `batches`.
        batches: Batch sizes in which the pictures were run.
        score: Largest difference of scores, relative (see `TOLERANCE`).
        map: Largest difference of map values, relative (see `TOLERANCE`).
        score_absolute: Largest absolute difference of scores.
        map_absolute: Largest absolute difference of map values.
        decisions: Number of pictures judged differently, each model by its own calibration; in fp32 without
            those within the tolerance of the threshold, such as the picture that sets it.
        ties: Indices of pictures whose score is a choice between equals; only their maps are compared.
        runtime: Engine that the model ran on.
        precision: Precision of the model, one of `PRECISIONS`.
        simulated: Largest difference of scores of simulated defects; for a reduced precision as a share of
            the distance from the median good score to the defect's, at least to the threshold. None: not
            compared.
        mistaken: Number of samples that a router takes for another product than they show; None: the model
            has one product.
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
    simulated: float | None = None
    mistaken: int | None = None

    @property
    def tolerance(self) -> float:
        """Largest difference of a score that passes, in the `unit` of the precision."""
        return TOLERANCE[self.precision]

    @property
    def unit(self) -> str:
        """Unit of the differences `score` and `map` in words."""
        return "relative" if self.precision == "fp32" else "of the way from the middle to the threshold"

    @property
    def passed(self) -> bool:
        """Whether all scores agree within the tolerance, and a router mistakes no product.

        Clear decisions in fp32 then agree, too. False where no score was compared, or a map value is not
        finite.
        """
        compared = len(self.ties) < self.pictures and not self.mistaken
        largest = max(self.score, self.simulated or 0.0)
        return compared and largest <= self.tolerance and math.isfinite(self.map)

    def describe(self) -> str:
        """Return a line for a person: engine, decisions, largest differences and tolerance."""
        batches = ", ".join(map(str, self.batches))
        defects = "" if self.simulated is None else f", scores of simulated defects by {self.simulated:.1e}"
        shown = pluralize(self.pictures, "picture")
        same = f"{shown} decided as by the trained model"
        other = f"{self.decisions} of {shown} decided otherwise than by the trained model"
        wrong = pluralize(self.mistaken, "product") if self.mistaken else "no product"
        products = "" if self.mistaken is None else f", {wrong} mistaken"
        text = (
            f"{self.runtime}, {self.precision}: {other if self.decisions else same}{products}; "
            f"scores differ by at most {self.score:.1e}, maps by {self.map:.1e} ("
            f"{self.unit}; {self.score_absolute:.1e} and {self.map_absolute:.1e} absolute){defects}, "
            f"in batches of {batches}; scores may differ by {self.tolerance:g}"
        )
        if self.ties:
            text += f"; scores of ties, not compared: {', '.join(map(str, self.ties))}"
        return text

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, with lists for tuples, to be stored as JSON."""
        return {**asdict(self), "batches": list(self.batches), "ties": list(self.ties)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Certificate:
        """Read a certificate. KeyError, TypeError or ValueError where `data` is not a certificate."""
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
            simulated=None if data.get("simulated") is None else float(data["simulated"]),
            mistaken=None if data.get("mistaken") is None else int(data["mistaken"]),
        )


def certificates_to_facts(certificates: Sequence[Certificate]) -> dict[str, Any]:
    """Return the facts that hold the certificates of a file's first engine and, if there, of OpenVINO."""
    return {
        key: certificate.to_dict() for key, certificate in zip(CERTIFICATE_KEYS, certificates, strict=False)
    }


def certificates_from_facts(facts: Mapping[str, Any]) -> list[Certificate]:
    """Read the certificates from a model's facts; empty where the model was not exported.

    Raises:
        KeyError: A certificate is damaged. TypeError and ValueError likewise.
    """
    return [Certificate.from_dict(facts[key]) for key in CERTIFICATE_KEYS if key in facts]


def certify(
    session: Scorer,
    images: NDArray[np.float32],
    scores: NDArray[Any],
    maps: NDArray[Any] | None,
    *,
    calibration: Calibration,
    runtime: str,
    ties: NDArray[np.bool_] | None = None,
    stride: int = 1,
) -> Certificate:
    """Compare a session's answers with the expected ones, in batches of each size in `BATCH_SIZES`.

    A batch that is not full is filled with the first pictures.

    Args:
        session: The session.
        images: `[N, 3, H, W]` float32 in 0..1.
        scores: `[N]`, the expected scores.
        maps: `[N, h, w]`, every `stride`-th row and column of the expected maps; None: not compared.
        calibration: The session's calibration; the expected decisions are by this one, too.
        runtime: Name of the engine, for the certificate.
        ties: `[N]`, True for pictures whose scores are not compared; None: all are.
        stride: Step between the rows and columns of `maps`.
    """
    count = len(images)
    ties = np.zeros(count, bool) if ties is None else ties
    decisions = calibration.is_anomalous(scores)
    clear = _clear_decisions(scores, calibration)
    largest = np.zeros(4)
    changed: set[int] = set()
    for batch in BATCH_SIZES:
        for start in range(0, count, batch):
            rows = np.arange(start, start + batch) % count
            found_scores, found_maps = session.run(np.ascontiguousarray(images[rows]))
            found_maps = found_maps[:, ::stride, ::stride]
            map_errors = (0.0, 0.0) if maps is None else _max_errors(found_maps, maps[rows])
            counted = ~ties[rows]  # a tie is one of scores; maps do not know it
            rows = rows[counted]
            found_scores = found_scores[counted]
            score_errors = _score_errors(found_scores, scores[rows], calibration) if len(rows) else (0.0, 0.0)
            largest = np.maximum(largest, (*score_errors, *map_errors))
            differs = calibration.is_anomalous(found_scores) != decisions[rows]
            changed |= set(rows[differs & clear[rows]].tolist())
    score_absolute, score, map_absolute, map_ = map(float, largest)
    if calibration.precision != "fp32":
        score = score_absolute / median_to_threshold(calibration.scores, calibration.score_threshold)
        map_ = map_absolute / median_to_threshold(calibration.map_maxima, calibration.mask_threshold)
    return Certificate(
        pictures=count,
        batches=BATCH_SIZES,
        score=score,
        map=map_,
        score_absolute=score_absolute,
        map_absolute=map_absolute,
        decisions=len(changed),
        ties=tuple(np.flatnonzero(ties).tolist()),
        runtime=runtime,
        precision=calibration.precision,
    )


def certify_samples(session: Scorer, artefact: Artefact) -> Certificate:
    """Compare a session's answers on the artefact's sample pictures with those in the manifest.

    Raises:
        InputError: The artefact has no sample pictures, or they do not fit the manifest.
    """
    manifest = artefact.manifest
    samples = artefact.tensors.get("samples")
    if samples is None or not len(samples):
        raise InputError(
            "the model holds no sample pictures: it was fitted with --no-samples, or they are too many "
            "or too deep for this kind of file"
        )
    images = unpack_images(samples)
    maps = artefact.tensors.get("sample_maps")
    misfit = InputError("the model's sample pictures do not fit its manifest: fit anew")
    try:
        scores = np.array([s["score"] for s in manifest.samples], np.float64)
    except (KeyError, TypeError, ValueError):
        raise misfit from None
    height, width = session.size
    grid = (len(images), -(-height // MAP_STRIDE), -(-width // MAP_STRIDE))
    if images.shape != (len(scores), 3, height, width) or (maps is not None and maps.shape != grid):
        raise misfit
    return certify(
        session,
        images,
        scores,
        maps,
        calibration=manifest.calibration,
        runtime=session.runtime,
        ties=np.array([s.get("tie") is True for s in manifest.samples]),
        stride=MAP_STRIDE,
    )


def _clear_decisions(scores: NDArray[Any], calibration: Calibration) -> NDArray[np.bool_]:
    """Return the mask `[N]` of the decisions that are compared.

    In fp32, decisions that the tolerance could change are not.
    """
    if calibration.precision != "fp32":
        return np.ones(len(scores), bool)
    margin = TOLERANCE["fp32"] * np.maximum(np.abs(scores), 1.0)
    return np.asarray(np.abs(scores - calibration.score_threshold) > margin)


def certify_reduced(
    consistency: Certificate,
    calibration: Calibration,
    scores: tuple[NDArray[Any], NDArray[Any]],
    maxima: tuple[NDArray[Any], NDArray[Any]],
    decisions: int,
) -> Certificate:
    """Return the certificate of a reduced precision: its answers against those of the trained model.

    The answers are on the `[N]` pictures that the reduced precision is calibrated on.

    Args:
        consistency: Certificate of its answers in batches against its answers one by one; the larger
            difference counts.
        calibration: Calibration of the trained model.
        scores: Found and expected scores, each `[N]`.
        maxima: Found and expected maxima of the maps, each `[N]`.
        decisions: Number of pictures judged differently.
    """
    score = max(_max_errors(*scores)[0], consistency.score_absolute)
    map_ = max(_max_errors(*maxima)[0], consistency.map_absolute)
    return replace(
        consistency,
        pictures=len(scores[0]),
        score=score / median_to_threshold(calibration.scores, calibration.score_threshold),
        map=map_ / median_to_threshold(calibration.map_maxima, calibration.mask_threshold),
        score_absolute=score,
        map_absolute=map_,
        decisions=decisions,
    )


def median_to_threshold(values: Sequence[float], threshold: float) -> float:
    """Return the distance from the median value to the threshold, at least 0.001 of the threshold."""
    return max(threshold - float(np.median(values)), 1e-3 * abs(threshold), 1e-12)


def difference_scales(
    values: Sequence[float], threshold: float, expected: NDArray[Any]
) -> NDArray[np.float64]:
    """Return the scale of each score difference: the distance from the median value to the threshold.

    Where the expected score lies beyond the threshold, it is the distance to that score.
    """
    beyond = np.asarray(expected, np.float64) - float(np.median(values))
    return np.maximum(beyond, median_to_threshold(values, threshold))


def _score_errors(found: Scores, expected: Scores, calibration: Calibration) -> tuple[float, float]:
    """Return the largest absolute and the largest relative difference of scores.

    A picture whose patches are all in the memory bank scores far below every good one: its distances are
    differences of large numbers, near 0, and decide nothing. There a hundredth of the difference counts, as
    a share of the way to the threshold.
    """
    threshold = calibration.score_threshold
    lowest = min(calibration.scores)
    low = np.asarray(expected < 2 * lowest - threshold)
    absolute, relative = _max_errors(found[~low], expected[~low]) if not low.all() else (0.0, 0.0)
    if low.any():
        largest = _max_errors(found[low], expected[low])[0]
        absolute = max(absolute, largest)
        relative = max(relative, 0.01 * largest / float(threshold - expected[low].max()))
    return absolute, relative


def _max_errors(found: Scores, expected: Scores) -> tuple[float, float]:
    """Return the largest absolute and the largest relative difference; infinite where a value is NaN."""
    expected = np.asarray(expected, np.float64)
    differences = np.nan_to_num(np.abs(found.astype(np.float64) - expected), nan=np.inf, posinf=np.inf)
    return float(differences.max()), float((differences / np.maximum(np.abs(expected), 1.0)).max())

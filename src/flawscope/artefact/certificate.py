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
        decisions: Number of pictures that the two models decide differently, each by its own calibration. In
            fp32, pictures within the tolerance of the threshold are left out, such as the one that sets it.
        ties: Indices of pictures whose score depends on a choice between equal patches; only their maps are
            compared.
        runtime: Engine that the model ran on.
        precision: Precision of the model, one of `PRECISIONS`.
        simulated: Largest difference of scores of simulated defects. For a reduced precision it is a share
            (`difference_scales`). None: not compared.
        mistaken: Number of samples that a router takes for another product than the one that they show; None:
            the model has one product.
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

        In fp32, scores within the tolerance give the same decisions, except near the threshold. False if no
        score was compared, or if a map value is not finite.
        """
        has_compared_scores = len(self.ties) < self.pictures  # the scores of ties are not compared
        if not has_compared_scores or self.mistaken:
            return False
        largest = max(self.score, self.simulated or 0.0)
        return largest <= self.tolerance and math.isfinite(self.map)

    def describe(self) -> str:
        """Return a line for a person: engine, decisions, largest differences and tolerance."""
        batches = ", ".join(map(str, self.batches))
        # `score`, `map` and `simulated` are largest differences, `mistaken` is a number of samples
        defects = "" if self.simulated is None else f", scores of simulated defects by {self.simulated:.1e}"
        pictures = pluralize(self.pictures, "picture")
        decided = f"{pictures} decided as by the trained model"
        if self.decisions:
            decided = f"{self.decisions} of {pictures} decided otherwise than by the trained model"
        mistakes = ""
        if self.mistaken is not None:
            products = pluralize(self.mistaken, "product") if self.mistaken else "no product"
            mistakes = f", {products} mistaken"
        text = (
            f"{self.runtime}, {self.precision}: {decided}{mistakes}; "
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
        """Read a certificate from the fields that `to_dict` returned.

        Raises:
            KeyError, TypeError, ValueError: `data` is not a certificate.
        """
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
    """Return the certificates of a file in the form of facts of its model.

    Args:
        certificates: Certificate of the file's first engine. If the file was tested with OpenVINO, too, that
            certificate follows.
    """
    return {
        key: certificate.to_dict() for key, certificate in zip(CERTIFICATE_KEYS, certificates, strict=False)
    }


def certificates_from_facts(facts: Mapping[str, Any]) -> list[Certificate]:
    """Read the certificates from a model's facts; empty where the model was not exported.

    Raises:
        KeyError, TypeError, ValueError: A certificate is damaged.
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
    """Compare a session's answers with the expected answers, in batches of each size in `BATCH_SIZES`.

    A batch that is not full is filled with the first pictures.

    Args:
        session: The session.
        images: `[N, 3, H, W]` float32 in 0..1.
        scores: `[N]`, the expected scores.
        maps: `[N, h, w]`, every `stride`-th row and column of the expected maps; None: maps are not compared.
        calibration: The session's calibration, which also makes the expected decisions.
        runtime: Name of the engine, for the certificate.
        ties: `[N]`, True for pictures whose scores are not compared; None: all scores are compared.
        stride: Step between the rows and columns of `maps`.
    """
    count = len(images)
    if ties is None:
        ties = np.zeros(count, bool)
    decisions = calibration.is_anomalous(scores)
    is_clear = _clear_decisions(scores, calibration)
    largest_errors = np.zeros(4)  # scores: absolute, relative; maps: absolute, relative
    changed_pictures: set[int] = set()
    for batch_size in BATCH_SIZES:
        for start in range(0, count, batch_size):
            indices = np.arange(start, start + batch_size) % count  # indices of the batch's pictures
            session_scores, session_maps = session.run(np.ascontiguousarray(images[indices]))
            session_maps = session_maps[:, ::stride, ::stride]
            map_errors = (0.0, 0.0) if maps is None else _max_errors(session_maps, maps[indices])
            # the scores of ties are not compared
            is_compared = ~ties[indices]
            indices = indices[is_compared]
            session_scores = session_scores[is_compared]
            score_errors = (0.0, 0.0)
            if len(indices):
                score_errors = _score_errors(session_scores, scores[indices], calibration)
            largest_errors = np.maximum(largest_errors, (*score_errors, *map_errors))
            differs = calibration.is_anomalous(session_scores) != decisions[indices]
            changed_pictures |= set(indices[differs & is_clear[indices]].tolist())
    score_absolute, score_relative, map_absolute, map_relative = map(float, largest_errors)
    if calibration.precision != "fp32":
        score_relative = score_absolute / median_to_threshold(calibration.scores, calibration.score_threshold)
        map_relative = map_absolute / median_to_threshold(calibration.map_maxima, calibration.mask_threshold)
    return Certificate(
        pictures=count,
        batches=BATCH_SIZES,
        score=score_relative,
        map=map_relative,
        score_absolute=score_absolute,
        map_absolute=map_absolute,
        decisions=len(changed_pictures),
        ties=tuple(np.flatnonzero(ties).tolist()),
        runtime=runtime,
        precision=calibration.precision,
    )


def certify_samples(session: Scorer, artefact: Artefact) -> Certificate:
    """Compare a session's answers on the artefact's sample pictures with the answers in the manifest.

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
    misfit_error = InputError("the model's sample pictures do not fit its manifest: fit anew")
    try:
        scores = np.array([sample["score"] for sample in manifest.samples], np.float64)
    except (KeyError, TypeError, ValueError):
        raise misfit_error from None
    height, width = session.size
    maps_shape = (len(images), math.ceil(height / MAP_STRIDE), math.ceil(width / MAP_STRIDE))
    if images.shape != (len(scores), 3, height, width):
        raise misfit_error
    if maps is not None and maps.shape != maps_shape:
        raise misfit_error
    return certify(
        session,
        images,
        scores,
        maps,
        calibration=manifest.calibration,
        runtime=session.runtime,
        ties=np.array([sample.get("tie") is True for sample in manifest.samples]),
        stride=MAP_STRIDE,
    )


def _clear_decisions(scores: NDArray[Any], calibration: Calibration) -> NDArray[np.bool_]:
    """Return a mask `[N]` of the pictures whose decisions are compared.

    In fp32, these are the pictures whose decision cannot change by a difference within the tolerance. In
    other precisions, they are all pictures.

    Args:
        scores: Expected scores [N].
        calibration: The session's calibration.
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
    """Return the certificate of a model in a reduced precision, compared with the trained model.

    The two models are compared on the N pictures that the reduced precision is calibrated on.

    Args:
        consistency: Certificate of the reduced precision alone, which compares its answers to batches with
            those to single pictures. Of each difference, the larger of the two certificates' is returned.
        calibration: Calibration of the trained model.
        scores: Scores in the reduced precision and of the trained model, each `[N]`.
        maxima: Maxima of the maps in the reduced precision and of the trained model, each `[N]`.
        decisions: Number of pictures that the two models decide differently.
    """
    score_error, _ = _max_errors(*scores)
    map_error, _ = _max_errors(*maxima)
    score_absolute = max(score_error, consistency.score_absolute)
    map_absolute = max(map_error, consistency.map_absolute)
    return replace(
        consistency,
        pictures=len(scores[0]),
        score=score_absolute / median_to_threshold(calibration.scores, calibration.score_threshold),
        map=map_absolute / median_to_threshold(calibration.map_maxima, calibration.mask_threshold),
        score_absolute=score_absolute,
        map_absolute=map_absolute,
        decisions=decisions,
    )


def median_to_threshold(values: Sequence[float], threshold: float) -> float:
    """Return the distance from the median value to the threshold, at least 0.001 of the threshold.

    The result is divided by, so it is never 0.
    """
    return max(threshold - float(np.median(values)), 1e-3 * abs(threshold), 1e-12)


def difference_scales(
    values: Sequence[float], threshold: float, expected: NDArray[Any]
) -> NDArray[np.float64]:
    """Return the scale [N] that each difference of scores is divided by, as float64.

    It is the distance from the median of `values` to the expected score, and at least the distance from the
    median to the threshold (`median_to_threshold`).

    Args:
        values: Scores of good pictures.
        threshold: Score threshold.
        expected: Expected scores [N].
    """
    median_to_expected = np.asarray(expected, np.float64) - float(np.median(values))
    return np.maximum(median_to_expected, median_to_threshold(values, threshold))


def _score_errors(scores: Scores, expected: Scores, calibration: Calibration) -> tuple[float, float]:
    """Return the largest absolute and the largest relative difference of scores.

    A picture whose patches are all in the memory bank scores far below every good picture. Such a score is
    imprecise, because distances to the bank are differences of large numbers; but it is so low that the
    decision does not depend on it. Therefore its difference is divided not by the score, but by 100 times the
    distance from the score to the threshold.

    Args:
        scores: Scores [N] to compare.
        expected: Expected scores [N].
        calibration: Calibration of the session.
    """
    threshold = calibration.score_threshold
    lowest = min(calibration.scores)
    # farther below the lowest good score than the threshold lies above it:
    # expected < lowest - (threshold - lowest)
    is_low = np.asarray(expected < 2 * lowest - threshold)
    absolute, relative = 0.0, 0.0
    if not is_low.all():
        absolute, relative = _max_errors(scores[~is_low], expected[~is_low])
    if is_low.any():
        low_error, _ = _max_errors(scores[is_low], expected[is_low])
        least_distance = float(threshold - expected[is_low].max())  # from a low score to the threshold
        absolute = max(absolute, low_error)
        relative = max(relative, 0.01 * low_error / least_distance)
    return absolute, relative


def _max_errors(values: Scores, expected: Scores) -> tuple[float, float]:
    """Return the largest absolute and the largest relative difference; infinite where a value is NaN.

    The relative difference is a share of the expected value, or of 1 where that is smaller.
    """
    expected = np.asarray(expected, np.float64)
    # posinf: `nan_to_num` would replace it by a finite number
    differences = np.nan_to_num(np.abs(values.astype(np.float64) - expected), nan=np.inf, posinf=np.inf)
    relative = differences / np.maximum(np.abs(expected), 1.0)
    return float(differences.max()), float(relative.max())

"""Whether a model says what another one says, in numbers: calibration, tensors, scores, maps, decisions,
metrics. The chain's steps are explained in chain.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flawscope.artefact import certificate as certificates
from flawscope.datasets import Dataset, list_pictures, open_dataset
from flawscope.errors import InputError
from flawscope.evaluation import evaluate
from flawscope.predictor import Predictor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

BATCHES = (1, 3)
ITSELF = 1e-5  # of a score, between batches, in fp32 (in the certificate's unit)
# Of maps in fp32. Where a patch is in the memory bank, its distance is all rounding: up to 1e-3 of a map's
# maximum on the small model, where a bank element that is 10 % longer moves some map by 7e-2 or more
MAXIMUM, MAP = 1e-3, 1e-2
WHOLE = ("fp32", "fp16")  # precisions whose maps are compared whole; others round such distances too coarsely
OTHERS = "others"  # folder of the pictures that belong to no data set


@dataclass(frozen=True)
class Answers:
    """scores: `[N]`. maps: `[N, H, W]`. anomalous: `[N]` bool."""

    scores: Floats
    maps: Floats
    anomalous: NDArray[np.bool_]


def answers(predictor: Predictor, pictures: Sequence[Path], batch: int) -> Answers:
    found = []
    for _, result in predictor.stream(pictures, batch=batch):
        if isinstance(result, InputError):
            raise result
        found.append(result)
    return Answers(
        np.array([p.score for p in found], np.float64),
        np.stack([p.map for p in found]).astype(np.float64),
        np.array([p.is_anomalous for p in found]),
    )


@dataclass(frozen=True)
class Expected:
    """What the trained model says of `[N]` pictures, one at a time. ties: `[N]` bool, rounding decides those
    scores."""

    predictor: Predictor
    dataset: Dataset
    pictures: dict[str, Path]
    answers: Answers
    ties: NDArray[np.bool_]

    @classmethod
    def of(cls, predictor: Predictor, folder: Path) -> Expected:
        """
        Args:
            predictor: of the torch session.
            folder: what `draw` returned.
        """
        import torch

        root = folder.parents[1]
        pictures = {path.relative_to(root).as_posix(): path for path in list_pictures(root / OTHERS)}
        for split in ("test", "train"):
            found = list_pictures(folder / split)
            pictures |= {path.relative_to(folder).as_posix(): path for path in found}
        session: Any = predictor.session
        ties = []
        with torch.inference_mode():
            for path in pictures.values():
                image = torch.from_numpy(predictor.manifest.preprocess(path)[0])
                ties.append(bool(session.model.ties(session.model.embed(image))[0]))
        found = answers(predictor, list(pictures.values()), 1)
        return cls(predictor, open_dataset(str(folder)), pictures, found, np.array(ties))


@dataclass
class Row:
    """One combination: the largest differences, and what is beyond its tolerance."""

    method: str
    runtime: str
    precision: str
    batch: int | None = None
    numbers: dict[str, float] = field(default_factory=dict)
    deviations: list[str] = field(default_factory=list)
    skipped: str = ""

    def deviate(self, step: str, text: str) -> None:
        batch = f" batch {self.batch}" if self.batch else ""
        self.deviations.append(f"{self.method} {self.runtime} {self.precision}{batch}: {step}: {text}")

    def within(
        self,
        step: str,
        what: str,
        found: Floats,
        wanted: Floats,
        unit: Floats,
        allowed: float,
        names: list[str],
    ) -> None:
        """Note the largest |found - wanted| / unit, all `[N]`, and which picture it is of if it is too large.
        What is no number is infinitely far away."""
        if not len(names):
            self.deviate(step, f"there is no {what} to compare: all are ties")
            return
        away = np.nan_to_num(np.abs(found - wanted), nan=np.inf, posinf=np.inf) / unit
        worst = int(np.argmax(away))
        self.numbers[f"{step} {what}"] = float(away[worst])
        beyond = int(np.count_nonzero(away > allowed))
        if beyond:
            self.deviate(
                step,
                f"{what} of {names[worst]} is {found[worst]:.6g}, not {wanted[worst]:.6g}: {away[worst]:.2g} "
                f"away, {allowed:g} allowed; {beyond} of {len(names)} are beyond",
            )


def unit_of(values: Floats, precision: str, good: Sequence[float], threshold: float) -> Floats:
    """What differences of scores or map maxima `[N]` are measured in, as the certificate does: themselves, or
    the way from the middle good picture's to the threshold."""
    if precision == "fp32":
        return np.maximum(np.abs(values), 1.0)
    return np.full(len(values), certificates.way(good, threshold))


def compare(expected: Expected, other: Predictor, row: Row) -> list[Row]:
    """A row for every batch size. What does not depend on it is in all of them, its deviations in the
    first."""
    names = list(expected.pictures)
    rows = [Row(row.method, row.runtime, row.precision, batch) for batch in BATCHES]
    first = rows[0]
    of_calibration(first, expected.predictor, other)
    of_preprocessing(first, expected, other)
    alone: Answers | None = None
    for one in rows:
        assert one.batch
        found = answers(other, list(expected.pictures.values()), one.batch)
        of_prediction(one, expected, found, names)
        if alone is None:
            alone = found
            of_evaluation(first, expected, other, found)
            common = dict(first.numbers)
        else:
            of_batches(one, alone, found, expected, names)
            one.numbers = {**common, **one.numbers}
    return rows


def of_calibration(row: Row, trained: Predictor, other: Predictor) -> None:
    """The same pictures; the same numbers in fp32, or as near as scores are."""
    own, before = other.calibration, trained.calibration
    known, wanted = (p.manifest.facts["calibration_pictures"] for p in (other, trained))
    if own.rate != before.rate:
        row.deviate("calibration", f"the target false-alarm rate is {own.rate:g}, not {before.rate:g}")
    if own.precision != row.precision:
        row.deviate("calibration", f"it is of {own.precision}, not {row.precision}")
    if sorted(known) != sorted(wanted) or own.count != before.count:
        row.deviate("calibration", f"of {own.count} pictures, and not of torch's {before.count}")
        return
    names = {p.hash: p.name for p in trained.manifest.pictures}
    order = [known.index(digest) for digest in wanted]
    for what, found, good, line, drawn in (
        ("score", own.scores, before.scores, own.threshold, before.threshold),
        ("map maximum", own.map_maxima, before.map_maxima, own.mask_threshold, before.mask_threshold),
    ):
        values, others = np.array([*good, drawn]), np.array([*(found[k] for k in order), line])
        allowed = 0.0 if row.precision == "fp32" else certificates.TOLERANCE[row.precision]
        unit = unit_of(values, row.precision, good, drawn)
        labels = [*(names[digest] for digest in wanted), "the threshold"]
        row.within("calibration", what, others, values, unit, allowed, labels)


def of_preprocessing(row: Row, expected: Expected, other: Predictor) -> None:
    own, wanted = other.manifest.preprocess, expected.predictor.manifest.preprocess
    away = []
    for path in expected.pictures.values():
        (mine, placed), (theirs, right) = own(path), wanted(path)
        error = float(np.abs(mine - theirs).max())
        away.append(error if error or placed == right else np.inf)
    none = np.zeros(len(away))
    row.within("preprocess", "tensor", np.array(away), none, none + 1.0, 0.0, list(expected.pictures))


def of_prediction(row: Row, expected: Expected, found: Answers, names: list[str]) -> None:
    calibration, wanted, counted = expected.predictor.calibration, expected.answers, ~expected.ties
    allowed = certificates.TOLERANCE[row.precision]
    unit = unit_of(wanted.scores, row.precision, calibration.scores, calibration.threshold)
    told = [name for name, counts in zip(names, counted, strict=True) if counts]
    row.within(
        *("predict", "score", found.scores[counted], wanted.scores[counted], unit[counted], allowed, told)
    )
    maxima, tops = found.maps.max((1, 2)), wanted.maps.max((1, 2))
    size = unit_of(tops, row.precision, calibration.map_maxima, calibration.mask_threshold)
    exact = row.precision == "fp32"
    row.within("predict", "map maximum", maxima, tops, size, MAXIMUM if exact else allowed, names)
    if row.precision in WHOLE:
        away = np.abs(found.maps - wanted.maps).max((1, 2))
        whole = np.maximum(np.abs(tops), 1e-3) if exact else size
        row.within("predict", "map error", away, 0 * away, whole, MAP if exact else allowed, names)
    # the score may differ so much, and the threshold of a reduced precision as well
    near = (1.0 if exact else 2.0) * allowed * unit
    sure = counted & (np.abs(wanted.scores - calibration.threshold) > near)
    changed = np.flatnonzero(sure & (found.anomalous != wanted.anomalous))
    row.numbers["decisions"] = len(changed)
    for k in changed:
        said, right = (("good", "anomalous")[int(a.anomalous[k])] for a in (found, wanted))
        row.deviate(
            "predict", f"{names[k]} is called {said}, not {right}; its score is {found.scores[k]:.6g}"
        )


def of_batches(row: Row, alone: Answers, found: Answers, expected: Expected, names: list[str]) -> None:
    calibration = expected.predictor.calibration
    unit = unit_of(alone.scores, row.precision, calibration.scores, calibration.threshold)
    allowed = ITSELF if row.precision == "fp32" else certificates.TOLERANCE[row.precision]
    row.within("batch", "score", found.scores, alone.scores, unit, allowed, names)


def of_evaluation(row: Row, expected: Expected, other: Predictor, alone: Answers) -> None:
    calibration = expected.predictor.calibration
    where = {path: k for k, path in enumerate(expected.pictures.values())}
    result = evaluate(other, expected.dataset)
    for line in result.failures:
        row.deviate("evaluate", line)
    chosen = [where[picture.item.path] for picture in result.pictures]
    names = [list(expected.pictures)[k] for k in chosen]
    said = np.array([picture.prediction.score for picture in result.pictures])
    wanted = expected.answers.scores[chosen]
    unit = unit_of(wanted, row.precision, calibration.scores, calibration.threshold)
    itself = ITSELF if row.precision == "fp32" else certificates.TOLERANCE[row.precision]
    row.within("evaluate", "score", said, alone.scores[chosen], unit, itself, names)
    truth = np.array([picture.item.anomalous for picture in result.pictures])
    found = result.metrics["image_auroc"]
    if found is None:
        row.deviate("evaluate", "there is no image AUROC")
        return
    row.numbers["AUROC"] = found
    counted = auroc(truth, said)
    if abs(found - counted) > 1e-9:
        row.deviate("evaluate", f"image AUROC is {found:.6f}, and {counted:.6f} by its own scores")
    reach = certificates.TOLERANCE[row.precision] * unit
    reach[expected.ties[chosen]] = np.inf
    low, high = (auroc(truth, wanted + np.where(truth, sign, -sign) * reach) for sign in (-1, 1))
    if not low - 1e-9 <= found <= high + 1e-9:
        row.deviate("evaluate", f"image AUROC is {found:.6f}; torch's scores allow {low:.6f} to {high:.6f}")


def auroc(truth: NDArray[np.bool_], scores: Floats) -> float:
    """The share of pairs of a defective and a good picture that are in the right order, pair by pair."""
    bad, good = scores[truth][:, None], scores[~truth][None]
    return float(((bad > good) + 0.5 * (bad == good)).mean())

"""Does every way from pictures to decisions give the same numbers?

    python tools/chain.py
    python tools/chain.py --methods patchcore --work DIR

On drawn pictures, every method goes through fit, evaluate, export and predict, in every runtime and precision,
with one picture at a time and with an odd number of them. The model as it was fitted, in fp32, is what all
others are compared with, in this order:

    calibration  thresholds and the good pictures' scores: the same in fp32, of a reduced precision within
                 what its certificate allows
    preprocess   the tensors that pictures become: the same, bit by bit
    predict      scores within the certificate's tolerance; map maxima, and in fp32 whole maps; decisions,
                 where torch's score is not as near to the threshold as scores may differ
    batch        the same model on three pictures at once against one at a time
    evaluate     its scores against those of predict; its image AUROC against a count of all pairs, and
                 against what torch's scores allow

The pictures are the test and training pictures, so that every element of a memory bank is the nearest of some
patch, and others that are not square, deep, grey or transparent. A table shows the largest differences; every
deviation is a line, and then the exit code is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from flawscope import certificate as certificates
from flawscope.cli.common import say, table
from flawscope.datasets import Dataset, list_pictures, open_dataset
from flawscope.datasets.synthetic import draw_dataset
from flawscope.errors import FlawscopeError, InputError
from flawscope.evaluation import evaluate
from flawscope.predictor import Predictor, load
from flawscope.registry import METHODS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

BATCHES = (1, 3)
ITSELF = 1e-5  # of a score, between batches, in fp32 (in the certificate's unit)
MAP = 1e-3  # of a map's maximum, in fp32: where a patch is in the memory bank, rounding is all there is
# Settings with which a method is quick, and trained as far as its scores mean something
SMALL: dict[str, dict[str, Any]] = {
    "patchcore": {"size": "64"},
    "efficientad": {"steps": 30, "window": 41, "training": "fp32"},
    "prnet": {"size": "64", "width": 0.25, "batch": 4, "steps": 60, "training": "fp32", "seen": 2},
}
ENGINES = {"onnx": ".onnx", "openvino": ".xml"}

# ---------------------------------------------------------------------------------------------- the pictures


def draw(root: Path, train: int = 12, good: int = 4) -> Path:
    """A small data set, and beside it (`root/others`) pictures that only the right preprocessing makes right.
    Returns the category's folder."""
    folder = draw_dataset(root / "data", train=train, good=good, bad_per_kind=1, size=96, seed=1)
    others = root / "others"
    others.mkdir()
    shown = [np.asarray(Image.open(path)) for path in list_pictures(folder / "test")[:5]]
    light = np.random.default_rng(3).integers(0, 255, shown[2].shape[:2])
    for name, picture in {
        "wide": shown[0][20:71, :],
        "high": shown[1][:, 7:50],
        "deep": shown[2].mean(2).astype(np.uint16) * 257 + light.astype(np.uint16),
        "grey": shown[3].mean(2).astype(np.uint8)[:90],
        "transparent": np.dstack([shown[4], np.arange(96 * 96, dtype=np.uint8).reshape(96, 96)]),
    }.items():
        Image.fromarray(np.ascontiguousarray(picture)).save(others / f"{name}.png")
    return folder


# ------------------------------------------------------------------------------------------- what is compared


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
    """What the trained model says, one picture at a time. `ties`: `[N]` bool, scores that rounding decides."""

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
        pictures = {path.relative_to(root).as_posix(): path for path in list_pictures(root / "others")}
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
        self, step: str, what: str, found: Floats, wanted: Floats, unit: Floats, allowed: float, names: list[str]
    ) -> None:
        """Note the largest |found - wanted| / unit, all `[N]`, and which picture it is of if it is too large.
        What is no number is infinitely far away."""
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
    return np.full(len(values), certificates._way(good, threshold))


def compare(expected: Expected, other: Predictor, row: Row) -> list[Row]:
    """A row for every batch size. What does not depend on it is in all of them, its deviations in the first."""
    names = list(expected.pictures)
    rows = [Row(row.method, row.runtime, row.precision, batch) for batch in BATCHES]
    first = rows[0]
    _calibration(first, expected.predictor, other)
    _preprocess(first, expected, other)
    alone: Answers | None = None
    for one in rows:
        assert one.batch
        found = answers(other, list(expected.pictures.values()), one.batch)
        _predict(one, expected, found, names)
        if alone is None:
            alone = found
            _evaluate(first, expected, other, found)
            common = dict(first.numbers)
        else:
            _batch(one, alone, found, expected, names)
            one.numbers = {**common, **one.numbers}
    return rows


def _calibration(row: Row, trained: Predictor, other: Predictor) -> None:
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


def _preprocess(row: Row, expected: Expected, other: Predictor) -> None:
    own, wanted = other.manifest.preprocess, expected.predictor.manifest.preprocess
    away = []
    for path in expected.pictures.values():
        (mine, placed), (theirs, right) = own(path), wanted(path)
        away.append(float(np.abs(mine - theirs).max()) if placed == right else np.inf)
    none = np.zeros(len(away))
    row.within("preprocess", "tensor", np.array(away), none, none + 1.0, 0.0, list(expected.pictures))


def _predict(row: Row, expected: Expected, found: Answers, names: list[str]) -> None:
    calibration, wanted, counted = expected.predictor.calibration, expected.answers, ~expected.ties
    allowed = certificates.TOLERANCE[row.precision]
    unit = unit_of(wanted.scores, row.precision, calibration.scores, calibration.threshold)
    told = [name for name, counts in zip(names, counted, strict=True) if counts]
    row.within(
        *("predict", "score", found.scores[counted], wanted.scores[counted], unit[counted], allowed, told)
    )
    maxima, tops = found.maps.max((1, 2)), wanted.maps.max((1, 2))
    size = unit_of(tops, row.precision, calibration.map_maxima, calibration.mask_threshold)
    row.within("predict", "map maximum", maxima, tops, size, allowed, names)
    if row.precision == "fp32":
        away = np.abs(found.maps - wanted.maps).max((1, 2))
        row.within("predict", "map", away, 0 * away, np.maximum(np.abs(tops), 1e-3), MAP, names)
    # the score may differ so much, and the threshold of a reduced precision as well
    near = (1.0 if row.precision == "fp32" else 2.0) * allowed * unit
    sure = counted & (np.abs(wanted.scores - calibration.threshold) > near)
    changed = np.flatnonzero(sure & (found.anomalous != wanted.anomalous))
    row.numbers["decisions"] = len(changed)
    for k in changed:
        said = "anomalous" if found.anomalous[k] else "good"
        row.deviate("predict", f"{names[k]} is called {said}, and is not; its score is {found.scores[k]:.6g}")


def _batch(row: Row, alone: Answers, found: Answers, expected: Expected, names: list[str]) -> None:
    calibration = expected.predictor.calibration
    unit = unit_of(alone.scores, row.precision, calibration.scores, calibration.threshold)
    allowed = ITSELF if row.precision == "fp32" else certificates.TOLERANCE[row.precision]
    row.within("batch", "score", found.scores, alone.scores, unit, allowed, names)


def _evaluate(row: Row, expected: Expected, other: Predictor, alone: Answers) -> None:
    calibration, where = expected.predictor.calibration, {p: k for k, p in enumerate(expected.pictures.values())}
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


# ----------------------------------------------------------------------------------------------- the chain


def run(method: str, folder: Path, work: Path, settings: dict[str, Any]) -> Iterator[Row]:
    """All rows of one method.

    Args:
        folder: what `draw` returned.
        work: where models are written, a folder.
        settings: of the fit.
    """
    from flawscope.export import PRECISIONS, export
    from flawscope.fitting import fit

    train = list_pictures(folder / "train/good")
    fitted = fit(str(folder), method=method, device="cpu", **settings)
    expected = Expected.of(fitted, folder)
    model = work / f"{method}.safetensors"
    fitted.save(model)
    yield from compare(expected, load(model, device="cpu"), Row(method, "torch", "fp32"))
    for suffix in ENGINES.values():
        for precision in PRECISIONS[suffix]:
            out = work / f"{method}-{precision}{suffix}"
            runtime = "onnxruntime" if suffix == ".onnx" else "openvino"
            row = Row(method, runtime, precision)
            if precision == "bf16" and not _has_bf16():
                row.skipped = "this processor has no bf16"
                yield row
                continue
            try:
                export(model, out, precision=precision, pictures=[] if precision == "fp32" else train)
                rows = compare(expected, load(out, device="cpu"), row)
            except FlawscopeError as error:
                row.deviate("export", str(error))
                rows = [row]
            yield from rows
    yield by_commands(expected, folder, work, settings)


def _has_bf16() -> bool:
    from flawscope.runtime.openvino import engine

    return "BF16" in engine().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def by_commands(expected: Expected, folder: Path, work: Path, settings: dict[str, Any]) -> Row:
    """The same by the command line, from the pictures to an exported model's answers in JSON: one row."""
    method = expected.predictor.manifest.method
    row = Row(method, "command line", "fp32")
    model, out = work / f"{method}-commands.safetensors", work / f"{method}-commands.onnx"
    options = [word for key, value in settings.items() if key != "seen" for word in ("--set", f"{key}={value}")]
    options += ["--seen", str(settings["seen"])] if "seen" in settings else []
    given = ["--data", str(folder), "--device", "cpu", "--quiet"]
    names = list(expected.pictures)
    paths = list(map(str, expected.pictures.values()))
    for step, command in {
        "fit": ["fit", *given, "--method", method, "--out", str(model), *options],
        "export": ["export", str(model), "--out", str(out), "--quiet"],
        "evaluate": ["evaluate", str(out), *given, "--json"],
        "predict": ["predict", str(out), *paths, "--device", "cpu", "--quiet", "--json"],
    }.items():
        code, text = _command(command)
        if code:
            row.deviate(step, f"flawscope {' '.join(command[:2])} ended with {code}")
            return row
        if step == "evaluate":
            row.numbers["AUROC"] = json.loads(text)["metrics"]["image_auroc"]
    other = load(out, device="cpu")
    _calibration(row, expected.predictor, other)
    said = [json.loads(line) for line in text.splitlines()]
    if [document["path"] for document in said] != paths:
        row.deviate("predict", "it answers for other pictures than it was given")
        return row
    scores = np.array([document["score"] for document in said])
    anomalous = np.array([document["is_anomalous"] for document in said])
    found = answers(other, list(expected.pictures.values()), 1)
    _predict(row, expected, Answers(scores, found.maps, anomalous), names)
    result = evaluate(other, expected.dataset).metrics["image_auroc"]
    if result != row.numbers["AUROC"]:
        row.deviate("evaluate", f"image AUROC is {row.numbers['AUROC']}, and {result} in Python")
    return row


def _command(arguments: list[str]) -> tuple[int, str]:
    """Exit code and standard output of `flawscope ...`; what it says otherwise is seen."""
    from flawscope.cli import main

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main(arguments)
    return code, out.getvalue()

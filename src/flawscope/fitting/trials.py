"""Tries before a model goes to work: which simulated defects it finds, and what more pictures bring."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from flawscope.artefact.tried import Scored, enough
from flawscope.errors import InputError
from flawscope.fitting.fitting import fit
from flawscope.fitting.simulated_defects import (
    DEFECT_SIZES,
    SimulatedDefects,
    defects_on_samples,
    score_with_models,
)
from flawscope.fitting.training_pictures import Reader
from flawscope.pictures.channels import first_view
from flawscope.pictures.listing import pictures_in
from flawscope.pictures.near_duplicates import Look
from flawscope.pictures.units import find_units
from flawscope.predictor import Predictor, open_fitted
from flawscope.progress import ProgressCallback

EXAMPLE_COUNT = 9  # pictures with simulated defects that are shown
SUBSET_STEPS = (8, 4, 2)  # every 8th, 4th and 2nd picture: the subsets that are compared
COMPARED_DEFECTS = 72  # simulated defects by which the subsets are compared
MIN_SUBSET = 8  # pictures in a subset
NO_CURVE: Mapping[str, Any] = {"curve": {}, "enough": None, "tested": {}}  # the models cannot be compared
INPUT_CHANGING_OPTIONS = ("light", "align", "part")  # models of other pictures get another input with them
RING_MARGIN = 6  # pixels between a defect and the ring around it


class DefectExample(NamedTuple):
    """Good picture with a simulated defect in a ring, [H, W, 3] uint8, at network size.

    size: of the defect, in words. is_found: whether the model calls it anomalous.
    """

    picture: NDArray[np.uint8]
    size: str
    is_found: bool


def draw_defect_examples(predictor: Predictor, step: ProgressCallback) -> list[DefectExample]:
    """Draws simulated defects on the model's samples; none where it has no samples."""
    defects = defects_on_samples(predictor.artefact, "cpu")
    if defects is None:
        return []
    scores = score_with_models(defects, [defects.model], range(EXAMPLE_COUNT), step)
    examples = []
    for number, (score,) in scores.items():
        image, before = defects.load(number), defects.load_good(defects.picture_of(number))
        assert image is not None, "it was just scored"
        assert before is not None, "it was just scored"
        rows, columns = np.nonzero((image - before).abs().amax(0).numpy())
        picture = Image.fromarray((image.clamp(0, 1).permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
        if len(rows):
            low, high = (columns.min(), rows.min()), (columns.max(), rows.max())
            box = [*(int(v) - RING_MARGIN for v in low), *(int(v) + RING_MARGIN for v in high)]
            ImageDraw.Draw(picture).ellipse(box, outline=(0, 216, 216), width=3)
        size = str(DEFECT_SIZES[number % len(DEFECT_SIZES)])
        is_found = not score <= predictor.calibration.score_threshold
        examples.append(DefectExample(np.asarray(picture), size, is_found))
    return examples


def learning_curve(
    pictures: Path, options: Mapping[str, Any], device: str, step: ProgressCallback
) -> dict[str, Any]:
    """Measures what more pictures bring: models of an eighth, a quarter and half of the pictures judge the
    same good pictures, that none has learnt from, with simulated defects and without. Near-copies stay
    together and count once.

    Args:
        pictures: folder of good ones.
        options: of `fit`.

    Returns:
        `curve`: share found at the same false-alarm rate, by number of units; `enough`: the smallest of these
        numbers from which no larger one tells good from bad surely better (`tried.enough`), or None;
        `tested`: found and all by size, of the largest model at its own rate. They are empty where the
        models cannot be compared.
    """
    if any(options.get(one, "none") != "none" for one in INPUT_CHANGING_OPTIONS):
        return dict(NO_CURVE)
    units = _units(pictures_in(pictures))
    unseen, models = [unit[0] for unit in units[1::2]], {}
    for stride in SUBSET_STEPS:
        if len(some := units[::stride]) >= MIN_SUBSET:
            subset = [*chain(*some)]
            models[len(some)] = fit(subset, device=device, samples=0, check=False, step=step, **options)
    detectors = [open_fitted(one.artefact, "cpu").detector for one in models.values()]
    if not detectors or detectors[0].config.tile is not None:  # tiles are judged one by one
        return dict(NO_CURVE)
    first, (one, *_) = detectors[0], models.values()
    reader = Reader.of_model(first, one.manifest.preprocess, [str(path) for path in unseen])
    defects = SimulatedDefects(first, reader.load, range(len(unseen)))
    defects.learn_part(math.inf)
    scores = score_with_models(defects, detectors, range(COMPARED_DEFECTS), step)
    good = score_with_models(defects, detectors, range(len(unseen)), step, defects.load_good)
    place = {picture: k for k, picture in enumerate(good)}
    carriers = np.array([place[defects.picture_of(number)] for number in scores])
    compared = {n: Scored(_column(good, k), _column(scores, k), carriers) for k, n in enumerate(models)}
    calibrations = [one.calibration for one in models.values()]
    rate = max(one.expected_rate for one in calibrations)  # more false alarms would find more defects
    limits = [replace(one, rate=rate).score_threshold for one in calibrations]
    shares = [sum(not one[k] <= limit for one in scores.values()) for k, limit in enumerate(limits)]
    limit = calibrations[-1].score_threshold
    tested = {
        str(size): [not one[-1] <= limit for number, one in scores.items() if number % len(DEFECT_SIZES) == k]
        for k, size in enumerate(DEFECT_SIZES)
    }
    return {
        "curve": {str(n): share / len(scores) for n, share in zip(models, shares, strict=True)},
        "enough": enough(compared),
        "tested": {size: [sum(several), len(several)] for size, several in tested.items()},
    }


def _column(scores: Mapping[int, tuple[float, ...]], model: int) -> NDArray[np.float64]:
    return np.array([one[model] for one in scores.values()])


def _units(paths: Sequence[Path]) -> list[list[Path]]:
    """Returns pictures by their unit: near-copies are one. Those that cannot be read are left out."""
    looks: dict[Path, Look] = {}
    for path in paths:
        with suppress(InputError):
            looks[path] = Look.of(first_view(path)[0])
    found: dict[int, list[Path]] = defaultdict(list)
    for path, number in zip(looks, find_units([*looks.values()], range(len(looks))).numbers, strict=True):
        found[number].append(path)
    return [*found.values()]

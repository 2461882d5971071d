"""Measures which simulated defects a fitted model misses, on good pictures that it has not learnt from.

The defects form a ladder of sizes and contrasts, down to some that no model finds: the step where a model
stops finding them says more than the easy ones, which it finds all.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from flawscope.artefact.model_file import Artefact, unpack_images
from flawscope.calibration.parts import KnownParts
from flawscope.calibration.power import CONTRAST_RANGE, MIN_DEFECTS, DefectScores
from flawscope.calibration.size_bounds import SizeBounds, doubted_level
from flawscope.calibration.streams import Stream
from flawscope.calibration.threshold import Calibration
from flawscope.fitting.judging import JudgedFit
from flawscope.fitting.training_views import TrainingViews
from flawscope.methods.detector import BATCH, GPU_BATCH, Detector, LoadPicture, embed_pictures
from flawscope.methods.good_pictures import crop_padding
from flawscope.methods.task import LeaveOut, LeftOut, Task
from flawscope.pictures.pixel_sets import connected_parts, largest_sizes, without_edge
from flawscope.pictures.table import Picture
from flawscope.predictor import Predictor, open_fitted
from flawscope.progress import ProgressCallback, ignore_progress
from flawscope.synthesis import DefectScale, Foreground, simulate_defect

DEFECT_SIZES = tuple(DefectScale)
MAX_PER_SIZE = 40  # defects of a size
COMPARED_PER_SIZE = 20  # of a size, before and after an update
TIME_SHARE = 1 / 9  # of the fit's time before it: the check is then at most a tenth of the whole
MIN_SECONDS = 2.0  # for the check of a short fit, whose share is too short for a number
# Defects that are tried whatever time they take, the same number of each size: of fewer nothing could be said
MIN_TRIED = math.ceil(MIN_DEFECTS / len(DEFECT_SIZES)) * len(DEFECT_SIZES)
BLOCK_MARGIN = 1.25  # reserve for a block of defects that takes longer than the one before
PART_PICTURES = 8  # that the part is learnt from
TIME_FACTOR = 3  # time for learning from a picture, in times of finding the part in it
MIN_SIDE = 16  # pixels a side that a defect needs
GOLDEN = (math.sqrt(5) - 1) / 2  # multiples of it, without whole numbers, fill 0..1 evenly, however many
EXAMPLE_COUNT = 9  # pictures with simulated defects that are shown
RING_MARGIN = 6  # pixels between a defect and the ring around it
Box = tuple[slice, slice]


def draw_carriers(judged: JudgedFit, views: TrainingViews, seed: int) -> dict[int, Picture]:
    """Draw a view of each picture with a score to put simulated defects on.

    Return the rows of the pictures by the numbers of these views.
    """
    if views.are_pictures:
        return {picture: judged.rows[picture] for picture in judged.scored}
    rng = Stream.CARRIERS.rng(seed)
    return {int(rng.choice(views.carriers(picture))): judged.rows[picture] for picture in judged.scored}


def score_simulated_defects(
    leave_out: LeaveOut,
    calibration: Calibration,
    carriers: Mapping[int, Picture],
    task: Task,
    fit_began_at: float,
    parts: KnownParts | None = None,
) -> DefectScores | None:
    """Score simulated defects on the good pictures that the model was calibrated on.

    These pictures were held out, or are left out once more. None where the method cannot leave out pictures
    that it has learnt from.

    The number of defects follows from the time that the first ones take: a tenth of the fit's time, or two
    seconds of a short one, is spent on them, and as much as `MIN_TRIED` take, where the fit has no limit.

    Args:
        leave_out: The model, which can leave out what it has learnt.
        calibration: Calibration of the model.
        carriers: Rows of the pictures that carry the defects, by the number of the view that shows each.
        task: Task with the views as the numbered items.
        fit_began_at: When the fit began, on `time.monotonic`'s clock.
        parts: Good parts, where the model decides on parts; None: it decides on pictures.
    """
    model = leave_out.model
    started_at = time.monotonic()
    until = started_at + max(MIN_SECONDS, TIME_SHARE * (started_at - fit_began_at))
    has_limit = task.budget.until is not None
    if task.budget.until is not None:
        until = min(until, task.budget.until)
    # a picture that is called anomalous without a defect cannot show that a defect is found
    passed = [i for i, row in carriers.items() if _is_passed(row, calibration, parts)]
    defects = SimulatedDefects(model, task.load, passed or [*carriers])
    done = 0
    count = len(DEFECT_SIZES)
    defects.learn_part(until - started_at)
    scores: dict[int, float] = {}
    ratios: list[NDArray[np.float64]] = []  # of true sizes to those of the places that the map doubts

    def store(number: int, features: Tensor, inside: Tensor | None) -> None:
        picture = defects.picture_of(number)
        if (found := leave_out.score(task.groups[picture], features, inside)) is not None:
            scores[number] = _finite_score(found[0])
            sizes = _doubted_sizes(found, calibration, model) if model.config.tile is None else None
            if sizes is not None:
                ratios.append(defects.sizes[number] / sizes)

    while count:
        batch_began_at = time.monotonic()
        embed_pictures(model, defects.load, range(done, done + count), store)
        done = done + count
        now = time.monotonic()
        seconds_each = (now - batch_began_at) / min(count, BATCH)  # of a defect, one after the other
        left = MAX_PER_SIZE * len(DEFECT_SIZES) - done
        count = _next_batch(int((until - now) / (BLOCK_MARGIN * seconds_each)), left, model.roi.device)
        count = max(count, 0 if has_limit else MIN_TRIED - done)
        task.step("simulated defects", done, done + count)
    numbers = sorted(scores)
    by_size, contrasts = (
        {
            str(size): tuple(values[n] for n in numbers if n % len(DEFECT_SIZES) == k)
            for k, size in enumerate(DEFECT_SIZES)
        }
        for values in (scores, defects.contrasts)
    )
    names = {
        str(size): tuple(carriers[defects.picture_of(n)].name for n in numbers if n % len(DEFECT_SIZES) == k)
        for k, size in enumerate(DEFECT_SIZES)
    }
    if not all(by_size.values()):  # a picture can no longer be read
        return None
    return DefectScores(
        by_size,
        contrasts,
        pictures=len({defects.picture_of(n) for n in numbers}),
        seconds=time.monotonic() - started_at,
        rate=calibration.effective_rate if parts is None else parts.calibration.expected_rate,
        threshold=calibration.score_threshold,
        precision=calibration.precision,
        bounds=SizeBounds.of_ratios(ratios),
        carriers=names,
        parts=parts,
    )


def _is_passed(row: Picture, calibration: Calibration, parts: KnownParts | None) -> bool:
    """Whether a good picture without a defect is called good, and its part, too."""
    score = row.score or 0.0
    return score < calibration.score_threshold if parts is None else not parts.is_found(row.name, score)


def _doubted_sizes(found: LeftOut, calibration: Calibration, model: Detector) -> NDArray[np.float64] | None:
    """Return the largest length, width and area of the doubted places around a map's regions, in pixels [3].

    None where no tolerance applies: the picture is good, has no region, or a place reaches the edge.
    """
    values = found[1][0].cpu().numpy()
    if not _finite_score(found[0]) > calibration.score_threshold:
        return None
    doubted = doubted_level(calibration.colour_range[0], calibration.mask_threshold)
    labels, parts = connected_parts(values > doubted)
    places = [parts[number - 1] for number in np.unique(labels[values > calibration.mask_threshold])]
    inside = without_edge(model.roi.cpu().numpy())
    within = places and all(inside[place].all() for place in places)
    return largest_sizes(places) if within else None


def _finite_score(score: Tensor) -> float:
    """Return the score of a picture [1]; NaN, which JSON lacks, becomes the largest float32."""
    return float(score[0].nan_to_num(torch.finfo(torch.float32).max))


def _next_batch(fit: int, left: int, device: torch.device) -> int:
    """Return the number of defects to score next, the same of each size.

    Args:
        fit: How many there is time for one after the other; on a CPU every thread takes a batch at the same
            time.
        left: How many are left.
        device: Device that scores them.
    """
    if device.type != "cpu":
        fit = min(fit, GPU_BATCH)
    elif fit >= BATCH:
        fit = BATCH * torch.get_num_threads()
    count = max(0, min(fit, left))
    return count - count % len(DEFECT_SIZES)


class SimulatedDefects:
    """Simulated defects by number: all sizes in turn on a picture, then the next picture.

    Each depends on its number alone, and so does its contrast, whose logarithms fill `CONTRAST_RANGE` evenly
    at each size.

    Args:
        model: Detector that the defects are drawn for.
        load: Returns picture i as [3, H, W] float32 in 0..1, padding marked, or None where it cannot be read.
        pictures: Numbers of the good pictures that carry the defects.
        has_ladder: Whether contrasts form a ladder. False: all defects are clear, to check results that no
            defect may change.

    Attributes:
        contrasts: Contrast of each loaded defect, by number: mean difference from the good picture, in grey
            levels.
        sizes: Largest length, width and area of a piece of each loaded defect, by number, in pixels [3].
    """

    def __init__(
        self, model: Detector, load: LoadPicture, pictures: Sequence[int], *, has_ladder: bool = True
    ):
        self.model = model
        self.load_good = load
        self.seed = model.config.seed
        self.pictures: list[int] = Stream.SIMULATED_DEFECTS.rng(self.seed).permutation(pictures).tolist()
        self.part = Foreground()
        self.has_ladder = has_ladder
        self.contrasts = dict[int, float]()
        self.sizes = dict[int, NDArray[np.float64]]()
        # where defects may lie, by picture: pixels of the part that count, or all that count if it has none
        self._places = dict[int, NDArray[np.bool_]]()

    def learn_part(self, seconds: float) -> None:
        """Find the part in the pictures.

        It is found by the ground that some of them share, if a third of the time is enough to learn that,
        else in each picture alone.
        """
        started_at = time.monotonic()
        shown = [*filter(None, map(self._read, self.pictures[:1]))]
        for _, picture, _ in shown:
            self.part.mask(picture)
        took = time.monotonic() - started_at
        alike = self.model.config.tile is None  # tiles show different places
        if alike and PART_PICTURES * TIME_FACTOR * took < seconds / 3:
            shown += filter(None, map(self._read, self.pictures[1:PART_PICTURES]))
            self.part = Foreground.of(picture for _, picture, _ in shown)

    def _read(self, picture: int) -> tuple[Tensor, NDArray[np.uint8], Box] | None:
        """Return a good picture, its pixels without padding, and their window; None if it cannot be read."""
        image = self.load_good(picture)
        return None if image is None else (image, *crop_padding(image))

    def picture_of(self, number: int) -> int:
        """Return the number of the picture that carries a defect."""
        return self.pictures[number // len(DEFECT_SIZES) % len(self.pictures)]

    def load(self, number: int) -> Tensor | None:
        """Return the picture with the defect, [3, H, W] float32 in 0..1, padding marked.

        It is exact outside the defect.
        """
        carrier = self.picture_of(number)
        if (read := self._read(carrier)) is None or min(read[1].shape[:2]) < MIN_SIDE:
            return None
        image, picture, box = read
        if carrier not in self._places:
            counted = self.model.roi.cpu().numpy()[box] & (image[0, *box] >= 0).numpy()
            part = self.part.mask(picture) & counted
            self._places[carrier] = part if part.any() else counted
        made = simulate_defect(
            picture,
            Stream.SIMULATED_DEFECTS.rng(self.seed, number),
            scale=DEFECT_SIZES[number % len(DEFECT_SIZES)],
            contrast=_contrast(number) if self.has_ladder else None,
            foreground=self._places[carrier],
        )
        self.contrasts[number] = made.difference
        self.sizes[number] = largest_sizes(connected_parts(made.mask)[1])
        changed = torch.from_numpy(made.picture).permute(2, 0, 1).float() / 255
        shown = image.clone()
        part = (slice(None), *box)
        shown[part] = torch.where(torch.from_numpy(made.mask), changed, image[part])
        return shown


def _contrast(number: int) -> float:
    """Return the contrast of a defect by its number, in grey levels."""
    size = number % len(DEFECT_SIZES)
    low, high = (math.log(level) for level in CONTRAST_RANGE)
    share = (number // len(DEFECT_SIZES) * GOLDEN + (0.5 + size) / len(DEFECT_SIZES)) % 1
    return math.exp(low + share * (high - low))


def defects_on_samples(model: Artefact, device: str) -> SimulatedDefects | None:
    """Return simulated defects on a model's sample pictures; None: it holds none, or those of tiles.

    The model, and those that are made from it, have learnt these pictures: their scores differ by the defects
    alone.
    """
    samples = [torch.from_numpy(unpack_images(image)) for image in model.tensors.get("samples", ())]
    if not samples or model.manifest.preprocess.tile is not None:
        return None
    defects = SimulatedDefects(open_fitted(model, device).detector, samples.__getitem__, range(len(samples)))
    defects.learn_part(math.inf)
    return defects


def score_with_models(
    defects: SimulatedDefects,
    models: Sequence[Detector],
    numbers: Sequence[int] = range(COMPARED_PER_SIZE * len(DEFECT_SIZES)),
    step: ProgressCallback = ignore_progress,
) -> dict[int, tuple[float, ...]]:
    """Return scores of the defects by each of the models, which have one network, by the defect's number."""
    scores: dict[int, tuple[float, ...]] = {}

    def compare(number: int, features: Tensor, inside: Tensor | None) -> None:
        given = features[None], None if inside is None else inside[None]
        scores[number] = tuple(_finite_score(model.score(*given)[0]) for model in models)

    embed_pictures(defects.model, defects.load, numbers, compare, step, "simulated defects")
    return scores


class DefectExample(NamedTuple):
    """Good picture with a simulated defect in a ring.

    Attributes:
        picture: [H, W, 3] uint8, at network size.
        size: Size of the defect, in words.
        is_found: Whether the model calls the picture anomalous.
    """

    picture: NDArray[np.uint8]
    size: str
    is_found: bool


def draw_defect_examples(predictor: Predictor, step: ProgressCallback) -> list[DefectExample]:
    """Draw simulated defects on the model's samples; none where it has no samples."""
    defects = defects_on_samples(predictor.artefact, "cpu")
    if defects is None:
        return []
    scores = score_with_models(defects, [defects.model], range(EXAMPLE_COUNT), step)
    examples = []
    for number, (score,) in scores.items():
        image = defects.load(number)
        before = defects.load_good(defects.picture_of(number))
        assert image is not None, "it was just scored"
        assert before is not None, "it was just scored"
        rows, columns = np.nonzero((image - before).abs().amax(0).numpy())
        picture = Image.fromarray((image.clamp(0, 1).permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
        if len(rows):
            low = (columns.min(), rows.min())
            high = (columns.max(), rows.max())
            box = [*(int(v) - RING_MARGIN for v in low), *(int(v) + RING_MARGIN for v in high)]
            ImageDraw.Draw(picture).ellipse(box, outline=(0, 216, 216), width=3)
        size = str(DEFECT_SIZES[number % len(DEFECT_SIZES)])
        is_found = not score <= predictor.calibration.score_threshold
        examples.append(DefectExample(np.asarray(picture), size, is_found))
    return examples

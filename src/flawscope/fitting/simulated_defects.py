"""Measures which simulated defects a fitted model misses, on good pictures that it has not learnt from.

The defects form a ladder of sizes and contrasts, down to some that no model finds. The step at which a model
stops finding defects says more about it than easy defects, all of which it finds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

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
COMPARED_PER_SIZE = 20  # defects of a size that are compared before and after an update
TIME_SHARE = 1 / 9  # share of the fit's time before the check; the check is then at most a tenth of all
MIN_SECONDS = 2.0  # seconds for the check of a short fit, whose share is too short for a number
# Defects that are tried whatever time they take, the same number of each size: fewer give no result
MIN_TRIED = math.ceil(MIN_DEFECTS / len(DEFECT_SIZES)) * len(DEFECT_SIZES)
BLOCK_MARGIN = 1.25  # factor for a block of defects that takes longer than the one before
PART_PICTURES = 8  # pictures that the part is learnt from
TIME_FACTOR = 3  # how many times longer learning from a picture takes than finding the part in it
MIN_SIDE = 16  # pixels of a picture's shorter side that a defect needs
GOLDEN = (math.sqrt(5) - 1) / 2  # the fractional parts of its multiples fill 0..1 evenly, however many
EXAMPLE_COUNT = 9  # pictures with simulated defects that are shown
RING_MARGIN = 6  # pixels between a defect and the ring around it
RING_WIDTH = 3  # pixels
RING_COLOUR = (0, 216, 216)  # cyan, which stands out on most parts
Box = tuple[slice, slice]
T = TypeVar("T")


def draw_carriers(judged: JudgedFit, views: TrainingViews, seed: int) -> dict[int, Picture]:
    """Choose at random, for each picture with a score, the view that carries simulated defects.

    Returns:
        The row of each picture, by the number of the view that is chosen for this picture.
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

    Each picture is scored by the model without that picture.

    The check takes at most a tenth of the whole time, but two seconds for a short fit. The number of defects
    follows from this and from the time that the first defects take. In a fit without a time limit it is
    at least `MIN_TRIED`.

    Args:
        leave_out: The model, which can leave out what it has learnt.
        calibration: Calibration of the model.
        carriers: Rows of the pictures that carry the defects, by the number of the view that shows each.
        task: Task with the views as the numbered items.
        fit_began_at: When the fit began, on `time.monotonic`'s clock.
        parts: Good parts, where the model decides on parts; None: it decides on pictures.

    Returns:
        The scores; None: the method cannot leave out pictures that it has learnt from, or a picture cannot be
        read any more.
    """
    model = leave_out.model
    started_at = time.monotonic()
    until = started_at + max(MIN_SECONDS, TIME_SHARE * (started_at - fit_began_at))
    time_limit = task.budget.until
    if time_limit is not None:
        until = min(until, time_limit)
    # a picture that is called anomalous without a defect cannot show that a defect is found
    passed = [view for view, row in carriers.items() if _is_passed(row, calibration, parts)]
    defects = SimulatedDefects(model, task.load, passed or [*carriers])
    defects.learn_part(until - started_at)
    scores: dict[int, float] = {}  # number of a defect -> score
    # true length, width and area [3] of each defect, divided by those that its map shows (`_doubted_sizes`)
    size_ratios: list[NDArray[np.float64]] = []

    def store(number: int, features: Tensor, inside: Tensor | None) -> None:
        """Score defect `number`, and compare its sizes with those that its map shows."""
        view = defects.picture_of(number)
        answer = leave_out.score(task.groups[view], features, inside)
        if answer is None:
            return
        score, _ = answer
        scores[number] = _finite_score(score)
        if model.config.tile is not None:
            return  # a tile's map shows only a piece of a defect that reaches into the next tile
        sizes = _doubted_sizes(answer, calibration, model)
        if sizes is not None:
            size_ratios.append(defects.sizes[number] / sizes)

    done = 0
    batch_size = len(DEFECT_SIZES)  # defects in the next batch
    while batch_size:  # until no further batch fits into the time
        batch_began_at = time.monotonic()
        embed_pictures(model, defects.load, range(done, done + batch_size), store)
        done = done + batch_size
        now = time.monotonic()
        defects_per_thread = min(batch_size, BATCH)  # on a CPU, a thread scores these one after the other
        seconds_per_defect = (now - batch_began_at) / defects_per_thread
        count_in_time = int((until - now) / (BLOCK_MARGIN * seconds_per_defect))
        remaining = MAX_PER_SIZE * len(DEFECT_SIZES) - done
        batch_size = _next_batch(count_in_time, remaining, model.roi.device)
        if time_limit is None:
            batch_size = max(batch_size, MIN_TRIED - done)
        task.step("simulated defects", done, done + batch_size)
    numbers = sorted(scores)
    names = {number: carriers[defects.picture_of(number)].name for number in numbers}
    scores_by_size = _group_by_size(numbers, scores)
    if not all(scores_by_size.values()):  # a picture can no longer be read
        return None
    return DefectScores(
        scores_by_size,
        _group_by_size(numbers, defects.contrasts),
        pictures=len({defects.picture_of(number) for number in numbers}),
        seconds=time.monotonic() - started_at,
        rate=calibration.effective_rate if parts is None else parts.calibration.expected_rate,
        threshold=calibration.score_threshold,
        precision=calibration.precision,
        bounds=SizeBounds.of_ratios(size_ratios),
        carriers=_group_by_size(numbers, names),
        parts=parts,
    )


def _group_by_size(numbers: Sequence[int], values: Mapping[int, T]) -> dict[str, tuple[T, ...]]:
    """Group the values of defects by the name of the defect's size.

    Args:
        numbers: Numbers of the defects.
        values: Value of each defect, by its number.
    """
    values_by_size: dict[str, list[T]] = {str(size): [] for size in DEFECT_SIZES}
    for number in numbers:
        size = DEFECT_SIZES[number % len(DEFECT_SIZES)]
        values_by_size[str(size)].append(values[number])
    return {size: tuple(group) for size, group in values_by_size.items()}


def _is_passed(row: Picture, calibration: Calibration, parts: KnownParts | None) -> bool:
    """Whether a good picture is called good; if the model decides on parts, whether its part is."""
    score = row.score or 0.0
    if parts is None:
        return score < calibration.score_threshold
    return not parts.is_found(row.name, score)


def _doubted_sizes(answer: LeftOut, calibration: Calibration, model: Detector) -> NDArray[np.float64] | None:
    """Return the largest length, width and area [3] of the doubted places around a map's regions, in pixels.

    A region is where the map is above the mask's threshold. Its doubted place is the place around it where
    the map is above a lower threshold (`doubted_level`). None: the picture is called good, has no region, or
    a doubted place reaches the edge; no tolerance applies then.
    """
    score, maps = answer
    anomaly_map = maps[0].cpu().numpy()
    if not _finite_score(score) > calibration.score_threshold:
        return None
    lowest_colour, _ = calibration.colour_range
    is_doubted = anomaly_map > doubted_level(lowest_colour, calibration.mask_threshold)
    labels, doubted_places = connected_parts(is_doubted)
    labels_of_regions = np.unique(labels[anomaly_map > calibration.mask_threshold])
    places = [doubted_places[label - 1] for label in labels_of_regions]  # label 0 is the background
    inside = without_edge(model.roi.cpu().numpy())
    if not places or not all(inside[place].all() for place in places):
        return None
    return largest_sizes(places)


def _finite_score(score: Tensor) -> float:
    """Return a score [1] as a number; NaN, which JSON lacks, becomes the largest float32."""
    return float(score[0].nan_to_num(torch.finfo(torch.float32).max))


def _next_batch(count_in_time: int, remaining: int, device: torch.device) -> int:
    """Return the number of defects to score next, equally many of each size.

    Args:
        count_in_time: Number of defects that can be scored one after the other in the remaining time.
        remaining: Number of defects that remain.
        device: Device that scores them.
    """
    count = count_in_time
    if device.type != "cpu":
        count = min(count, GPU_BATCH)
    elif count >= BATCH:  # every thread scores a batch at the same time
        count = BATCH * torch.get_num_threads()
    count = max(0, min(count, remaining))
    return count - count % len(DEFECT_SIZES)


class _GoodPicture(NamedTuple):
    """Good picture that carries a defect.

    Attributes:
        image: The picture, [3, H, W] float32 in 0..1, padding marked.
        pixels: Its pixels without padding, [h, w, 3].
        box: Their rows and columns in `image`.
    """

    image: Tensor
    pixels: NDArray[np.uint8]
    box: Box


class SimulatedDefects:
    """Simulated defects by number: all sizes in turn on a picture, then the next picture.

    A defect and its contrast depend only on the defect's number. The logarithms of the contrasts fill
    `CONTRAST_RANGE` evenly at each size.

    Args:
        model: Detector that the defects are drawn for.
        load: Returns picture i as [3, H, W] float32 in 0..1, padding marked, or None where it cannot be read.
        pictures: Numbers of the good pictures that carry the defects.
        has_ladder: Whether contrasts form a ladder. False: all defects are clear.

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
        # number of a picture -> mask of the pixels where defects may lie: the part inside the region of
        # interest, or the whole region where no part is found
        self._places = dict[int, NDArray[np.bool_]]()

    def learn_part(self, seconds: float) -> None:
        """Learn how the part is found in the pictures.

        The part is found by the background that pictures share, if a third of the time is enough to learn the
        background. Else the part is found in each picture without the other pictures.

        Args:
            seconds: Time that there is.
        """
        started_at = time.monotonic()
        first_read = self._read(self.pictures[0]) if self.pictures else None
        if first_read is not None:
            self.part.mask(first_read.pixels)  # only to measure the time
        seconds_per_picture = time.monotonic() - started_at
        learning_seconds = PART_PICTURES * TIME_FACTOR * seconds_per_picture
        if self.model.config.tile is not None:
            return  # tiles show different places, and share no background
        if learning_seconds < seconds / 3:
            reads = [first_read, *map(self._read, self.pictures[1:PART_PICTURES])]
            self.part = Foreground.of([read.pixels for read in reads if read is not None])

    def _read(self, number: int) -> _GoodPicture | None:
        """Read a good picture by its number; None: it cannot be read."""
        image = self.load_good(number)
        return None if image is None else _GoodPicture(image, *crop_padding(image))

    def picture_of(self, number: int) -> int:
        """Return the number of the picture that carries defect `number`."""
        picture_place = number // len(DEFECT_SIZES)
        return self.pictures[picture_place % len(self.pictures)]

    def load(self, number: int) -> Tensor | None:
        """Return a good picture with a defect, [3, H, W] float32 in 0..1, padding marked.

        Outside the defect, the values are exactly those of the good picture. The defect's contrast and sizes
        are stored in `contrasts` and `sizes`. None: the good picture cannot be read, or is too small.
        """
        carrier = self.picture_of(number)
        good = self._read(carrier)
        if good is None or min(good.pixels.shape[:2]) < MIN_SIDE:
            return None
        image, pixels, box = good
        if carrier not in self._places:
            is_picture = (image[0, *box] >= 0).numpy()  # padding is negative
            counted = self.model.roi.cpu().numpy()[box] & is_picture
            counted_part = self.part.mask(pixels) & counted
            self._places[carrier] = counted_part if counted_part.any() else counted
        defect = simulate_defect(
            pixels,
            Stream.SIMULATED_DEFECTS.rng(self.seed, number),
            scale=DEFECT_SIZES[number % len(DEFECT_SIZES)],
            contrast=_contrast(number) if self.has_ladder else None,
            foreground=self._places[carrier],
        )
        self.contrasts[number] = defect.difference
        _, pieces = connected_parts(defect.mask)
        self.sizes[number] = largest_sizes(pieces)
        defective = torch.from_numpy(defect.picture).permute(2, 0, 1).float() / 255
        result = image.clone()
        window = (slice(None), *box)
        result[window] = torch.where(torch.from_numpy(defect.mask), defective, image[window])
        return result


def _contrast(number: int) -> float:
    """Return the contrast of a defect by its number, in grey levels.

    At each size, contrasts are spread evenly on a logarithmic scale, by multiples of the golden ratio. The
    first contrast differs from size to size.
    """
    size_number = number % len(DEFECT_SIZES)
    low, high = (math.log(level) for level in CONTRAST_RANGE)
    offset = (0.5 + size_number) / len(DEFECT_SIZES)
    number_within_size = number // len(DEFECT_SIZES)
    share = (number_within_size * GOLDEN + offset) % 1
    return math.exp(low + share * (high - low))


def defects_on_samples(model: Artefact, device: str) -> SimulatedDefects | None:
    """Return simulated defects on a model's samples; None: it keeps no samples, or sees pictures in tiles.

    The model has learnt the samples, and so have the models that an update makes from it. So only the defects
    raise the scores.
    """
    samples = [torch.from_numpy(unpack_images(image)) for image in model.tensors.get("samples", ())]
    if not samples or model.manifest.preprocess.tile is not None:
        return None
    defects = SimulatedDefects(open_fitted(model, device).detector, samples.__getitem__, range(len(samples)))
    defects.learn_part(seconds=math.inf)
    return defects


def score_with_models(
    defects: SimulatedDefects,
    models: Sequence[Detector],
    numbers: Sequence[int] = range(COMPARED_PER_SIZE * len(DEFECT_SIZES)),
    step: ProgressCallback = ignore_progress,
) -> dict[int, tuple[float, ...]]:
    """Score simulated defects by several models.

    Args:
        defects: The defects.
        models: Models with the same network.
        numbers: Numbers of the defects to score.
        step: Gets progress.

    Returns:
        The scores of each defect, one for each model, by the defect's number.
    """
    scores: dict[int, tuple[float, ...]] = {}  # number of a defect -> score by each model

    def compare(number: int, features: Tensor, inside: Tensor | None) -> None:
        batch = features[None]
        inside_batch = None if inside is None else inside[None]
        model_scores = []
        for model in models:
            score, _ = model.score(batch, inside_batch)
            model_scores.append(_finite_score(score))
        scores[number] = tuple(model_scores)

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
    """Draw simulated defects on the model's samples, a ring around each; empty where it has no samples."""
    defects = defects_on_samples(predictor.artefact, "cpu")
    if defects is None:
        return []
    scores = score_with_models(defects, [defects.model], range(EXAMPLE_COUNT), step)
    examples = []
    for number, (score,) in scores.items():
        defective = defects.load(number)
        good = defects.load_good(defects.picture_of(number))
        assert defective is not None, "it was just scored"
        assert good is not None, "it was just scored"
        difference = (defective - good).abs().amax(0).numpy()
        rows, columns = np.nonzero(difference)
        pixels = (defective.clamp(0, 1).permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        picture = Image.fromarray(pixels)
        if len(rows):
            left = int(columns.min()) - RING_MARGIN
            top = int(rows.min()) - RING_MARGIN
            right = int(columns.max()) + RING_MARGIN
            bottom = int(rows.max()) + RING_MARGIN
            ImageDraw.Draw(picture).ellipse([left, top, right, bottom], outline=RING_COLOUR, width=RING_WIDTH)
        size = str(DEFECT_SIZES[number % len(DEFECT_SIZES)])
        # `not <=` instead of `>`: NaN counts as found
        is_found = not score <= predictor.calibration.score_threshold
        examples.append(DefectExample(np.asarray(picture), size, is_found))
    return examples

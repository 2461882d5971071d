"""Calibrates on whole pictures that are seen in tiles, as `Predictor` will judge them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flawscope.calibration.threshold import from_values
from flawscope.errors import InputError
from flawscope.fitting.training_views import TrainingTiles
from flawscope.methods.detector import BATCH
from flawscope.methods.task import Fitted, LeaveOut, Task
from flawscope.methods.threads import workers
from flawscope.progress import ProgressCounter
from flawscope.views.light import Light
from flawscope.views.tiles import Fusion, TileBlender
from flawscope.views.views import Views

STREAM = 61  # of random numbers
PIXEL_STEP = 8  # of the canvas pixels that the median map value is taken from


@dataclass(frozen=True)
class PictureValues:
    """Score, maximum and mean of a good picture's maps, and some pixels of each map at the same places. Each
    pair holds the tiles' value and the whole view's."""

    scores: tuple[float, float]
    maxima: tuple[float, float]
    means: tuple[float, float]
    pixels: tuple[NDArray[Any], NDArray[Any]]


@dataclass
class _OpenPicture:
    """Picture with views that are still to be scored.

    early_answers: of views that come after one without an answer. next_view: index of that one.
    unsure_maps: of tiles, upper bounds: the bank lacks patches that it would hold if the picture had never
        been learnt from.
    """

    views: Views
    numbers: list[int]
    blended: TileBlender | None
    early_answers: dict[int, tuple[float, NDArray[np.float32]]] = field(default_factory=dict)
    next_view: int = 0
    unsure_maps: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)

    def add(self) -> bool:
        """Adds answers in the order of the views: sums do not depend on threads. True: all are in."""
        while self.next_view < len(self.numbers):
            number = self.numbers[self.next_view]
            if (answer := self.early_answers.pop(number, None)) is None:
                return False
            if self.blended is not None:
                self.blended.add(number, *answer)
            self.next_view += 1
        return self.next_view == len(self.numbers)


def calibrate_pictures(
    leave_out: LeaveOut, numbers: Fitted, windows: TrainingTiles, task: Task
) -> tuple[Fitted, Fitted, Fusion]:
    """Turns a calibration of views into one of whole pictures, each scored by a model that has not learnt
    from it.

    Returns the fit with that calibration; the same with one tile of each picture, to put simulated defects
    on; and the fusion that combines a picture's views.

    Args:
        numbers: the fit of views.
        task: the fit's task, in pictures.
    """
    model, fitted = leave_out.model, windows.to_pictures(numbers)
    score = "map" if model.score_is_map_maximum else "views"
    fusion = Fusion(score) if task.old is None else task.old.manifest.fusion
    assert fusion is not None
    before = fitted.calibration
    if not before.promised:  # nothing can be left out
        first = windows.reader.picture_of(fitted.pictures[0])
        frames = [frame for frame in fitted.pictures if windows.reader.picture_of(frame) == first]
        scores, maxima = ((max(values),) * len(frames) for values in (before.scores, before.map_maxima))
        fitted.calibration = replace(before, scores=scores, map_maxima=maxima, units=())
        fitted.pictures = frames
        return fitted, fitted, fusion
    if len(windows) == task.count:  # each is one tile: those are the pictures' own
        return fitted, numbers, fusion
    learnt = set(fitted.pictures) <= set(fitted.used)  # then any of them can be left out
    chosen = windows.draw(fitted.used if learnt else fitted.pictures, model.config.seed)
    answers = windows.by_place(numbers.used) if windows.located else {}
    found = _compute_values(_LeaveOneOutViews(leave_out, task, answers), windows, task, chosen)
    if task.old is None:
        fusion = _fit_fusion(score, [values for values in found.values() if values.maxima[1] > -np.inf])
    rows = [_fuse(values, fusion) for values in found.values()]
    fitted.calibration = from_values(
        *zip(*rows, strict=True),
        units=[task.groups[picture] for picture in found],
        rate=before.rate,
        method=before.method,
        precision=before.precision,
    )
    fitted.pictures = list(found)
    if task.old is not None:
        fitted.calibration = fitted.calibration.after(task.old.manifest.calibration)
    rng = np.random.default_rng([model.config.seed, STREAM])
    tiles = [int(rng.choice(windows.tiles_of(picture, leave_out.exact_positions))) for picture in found]
    return fitted, replace(numbers, calibration=fitted.calibration, pictures=tiles), fusion


def judge_tiles_in_lights(
    leave_out: LeaveOut,
    windows: TrainingTiles,
    task: Task,
    fusion: Fusion,
    pictures: Sequence[int],
    lights: Sequence[Light],
) -> NDArray[np.float64]:
    """Scores and map maxima [N, lights, 2] of whole pictures, by a model that has not learnt from them; NaN
    where they cannot be read."""
    values = np.full((len(pictures), len(lights), 2), np.nan)
    answers = _LeaveOneOutViews(leave_out, task, {})  # the fit has those in unchanged light
    for k, light in enumerate(lights):
        found = _compute_values(answers, windows, task, pictures, light)
        for row, picture in enumerate(pictures):
            if picture in found:
                values[row, k] = _fuse(found[picture], fusion)[:2]
    return values


def _compute_values(
    answers: _LeaveOneOutViews,
    windows: TrainingTiles,
    task: Task,
    chosen: Sequence[int],
    light: Light | None = None,
) -> dict[int, PictureValues]:
    """Values of every readable picture, by a model that has not learnt from it."""
    found: dict[int, PictureValues] = {}
    opened: dict[int, _OpenPicture] = {}
    lock = Lock()
    jobs = [(picture, k) for picture in chosen for k in range(0, windows.judged_counts[picture], BATCH)]
    advance = ProgressCounter(task.step, "calibration", len(jobs))

    def begin(picture: int) -> _OpenPicture | None:
        views = windows.of_picture(picture, light)
        if views is None:
            return None
        with lock:
            if picture not in opened:
                grid, numbers = views.grid, views.view_numbers()
                blended = None if grid is None else TileBlender(grid, views.whole, Fusion(), views.region)
                opened[picture] = _OpenPicture(views, numbers, blended)
            return opened[picture]

    def work(job: tuple[int, int]) -> None:
        picture, start = job
        picture_state = begin(picture)
        numbers = [] if picture_state is None else picture_state.numbers[start : start + BATCH]
        for number in numbers:
            assert picture_state is not None
            sure = number == 0 or not answers.has_bound(picture)
            score, drawn = answers.score(picture_state.views, number, picture, sure)
            with picture_state.lock:
                if picture_state.blended is None:
                    found[picture] = _single_tile_values(score, drawn, picture_state.views)
                elif not sure:
                    picture_state.unsure_maps[number] = drawn
                picture_state.early_answers[number] = score, drawn
                done = picture_state.add()
            if done:
                with lock:
                    opened.pop(picture)
                if picture_state.blended is not None:
                    _confirm_maximum(picture_state, picture_state.blended, answers, picture)
                    found[picture] = _blended_values(picture_state.views, picture_state.blended)
        advance()

    with workers(answers.leave_out.model.roi.device) as each:
        each(work, jobs)
    return {picture: found[picture] for picture in chosen if picture in found}


class _LeaveOneOutViews:
    """Answers of the model to views as if their pictures had not been learnt from.

    learnt: numbers of the tiles that the fit has answers for, by picture and view.
    """

    def __init__(self, leave_out: LeaveOut, task: Task, learnt: Mapping[tuple[int, int], int]):
        self.leave_out, self.groups, self.learnt = leave_out, task.groups, learnt
        self.has_bounds = leave_out.has_bound and not learnt and leave_out.model.score_is_map_maximum

    def has_bound(self, picture: int) -> bool:
        """Whether there is a faster answer, whose map is an upper bound."""
        return self.has_bounds and self.groups[picture] in self.leave_out.learnt

    def score(self, views: Views, number: int, picture: int, sure: bool) -> tuple[float, NDArray[np.float32]]:
        """Leave-one-out score and map [H, W] of a view; unless `sure` an upper bound."""
        learnt = self.learnt.get((picture, number))
        result = None if learnt is None else self.leave_out.score_number(learnt)
        if result is None:
            model = self.leave_out.model
            images = torch.from_numpy(views.images([number])).to(model.roi.device)
            features, inside = model.embed(images), model.inside(images)
            answer = self.leave_out.score if sure else self.leave_out.bound
            result = answer(self.groups[picture], features[0], None if inside is None else inside[0], number)
        if result is None:
            raise InputError("this method cannot leave out a picture with all its tiles: leave out --tile")
        return float(result[0][0]), result[1][0].float().cpu().numpy()


def _confirm_maximum(
    one: _OpenPicture, blended: TileBlender, answers: _LeaveOneOutViews, picture: int
) -> None:
    """Scores tiles again, exactly, until the map's maximum lies in exact ones alone."""
    width, grid = blended.grid.canvas[1], blended.grid
    region = None if blended.region is None else blended.region.window(0, 0, *grid.canvas)
    while one.unsure_maps:
        drawn = blended.tiles if region is None else np.where(region, blended.tiles, -np.inf)
        showing = grid.tiles_at(*divmod(int(drawn.argmax()), width))
        unsure = [t + 1 for t in showing if t + 1 in one.unsure_maps]
        if not unsure:
            return
        for number in unsure:
            _, sure = answers.score(one.views, number, picture, sure=True)
            before = one.unsure_maps.pop(number)
            # a bank that was selected anew may also lack patches of the other: over many tiles that adds up
            blended.replace(number, before, np.minimum(before, sure))


def _single_tile_values(score: float, drawn: NDArray[Any], views: Views) -> PictureValues:
    """Values of a picture that is a single tile and so has no whole view beside it."""
    counted = drawn[views.images([0])[0, 0] >= 0]
    nothing = np.full(counted.shape, -np.inf)
    return PictureValues(
        (score, -np.inf), (float(drawn.max()), -np.inf), (float(counted.mean()), 0.0), (counted, nothing)
    )


def _blended_values(views: Views, blended: TileBlender) -> PictureValues:
    grid = blended.grid
    assert blended.view is not None
    score, whole = blended.view
    rows, columns = views.whole.with_picture_size(grid.canvas).nearest_indices()
    region, (height, width) = blended.region, grid.canvas
    step = max(1, (1 << 20) // width)
    total, count, largest, pixels, seen = 0.0, 0, -np.inf, [], []
    for start in range(0, height, step):
        part = blended.tiles[start : start + step]
        inside = (
            np.ones(part.shape, np.bool_) if region is None else region.window(start, 0, len(part), width)
        )
        counted = part[inside]
        total, count = total + float(counted.sum(dtype=np.float64)), count + counted.size
        largest = max(largest, float(counted.max(initial=-np.inf)))
        few = inside[::PIXEL_STEP, ::PIXEL_STEP]
        pixels.append(part[::PIXEL_STEP, ::PIXEL_STEP][few])
        seen.append(whole[rows[start : start + step : PIXEL_STEP]][:, columns[::PIXEL_STEP]][few])
    shown = views.images([0])[0, 0] >= 0
    return PictureValues(
        (blended.score, score),
        (largest, float(whole[shown].max())),
        (total / max(count, 1), float(whole[shown].mean())),
        (np.concatenate(pixels), np.concatenate(seen)),
    )


def _fit_fusion(score: str, found: Sequence[PictureValues]) -> Fusion:
    """Brings good pictures' whole views to the scale of their tiles: the same mean of the maps, and of the
    higher half of the maxima. Then neither drowns the other, and each has its share of the false alarms."""
    if not found:
        return Fusion(score)
    tiles, whole = (np.mean([values.means[k] for values in found]) for k in (0, 1))
    of_tiles, of_whole = (_upper_half_mean([values.maxima[k] for values in found]) for k in (0, 1))
    reach = of_whole - whole
    if not reach > 1e-6 * max(1.0, abs(of_whole)) or not of_tiles > tiles:
        return Fusion(score)
    factor = float((of_tiles - tiles) / reach)
    return Fusion(score, factor, float(tiles - factor * whole))


def _upper_half_mean(values: Sequence[float]) -> float:
    """Mean of the higher half: the median says nothing about the highest, and the maximum alone is chance."""
    return float(np.mean(np.sort(values)[len(values) // 2 :]))


def _fuse(values: PictureValues, fusion: Fusion) -> tuple[float, float, float]:
    """Score, maximum and middle value of the picture's map."""
    scores, maxima = (
        max(pair[0], pair[1] * fusion.factor + fusion.shift) for pair in (values.scores, values.maxima)
    )
    both = np.maximum(values.pixels[0], values.pixels[1] * fusion.factor + fusion.shift)
    return (maxima if fusion.score == "map" else scores), maxima, float(np.median(both))

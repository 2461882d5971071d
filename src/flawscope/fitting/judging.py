"""Judges the good pictures of a fit as if the model had not learnt from them, as a predictor will see them.

They are judged in tiles, by each of several parts or channels, and in each light of a range.

The false-alarm rate holds in every light, not on average. With s_i(l) the score of picture i in light l, a
new picture with score s has in that light the p-value (1 + #{s_i(l) >= s}) / (n + 1), as in
`calibration.threshold`. The light of a new picture is not known. So the largest of the p-values over all
lights is taken, which is never below that of the picture's light, and keeps the rate in each light. It is the
p-value by one list of scores, the envelope: its k-th largest value is the largest, over lights, of the k-th
largest score. #{envelope >= s} is then the largest of the lights' counts #{s_i(l) >= s}.

Of many pictures, only some are judged in each light. Whole units are drawn by the seed. In all lights
together about half as many pictures are judged as were learnt from, so that the lights cost less than the
fit. The calibration counts only these n pictures, whose rate k/(n + 1) holds in every light.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from flawscope.calibration.holding_out import by_group, min_calibration_size
from flawscope.calibration.rows import LOST, Values, worst
from flawscope.calibration.streams import Stream
from flawscope.errors import ExcludedPictureError, InputError, data_checks
from flawscope.fitting.training_views import TrainingViews
from flawscope.methods.detector import BATCH
from flawscope.methods.task import Fitted, LeaveOut, LeftOutRun, Task
from flawscope.methods.threads import workers
from flawscope.pictures.table import CALIBRATION, TRAIN, Picture
from flawscope.predictor.scoring import Answer, Answers, RunOf, score
from flawscope.progress import ProgressCounter
from flawscope.views.light import Light, within_range
from flawscope.views.tiles import Fusion, TileSummary

MIN_RANK = 3  # rank of the threshold among a light's pictures: at a lower rank one odd picture decides
MAX_CALIBRATION_TILES = (
    5000  # tiles of the pictures to calibrate on, unless these are `MIN_PICTURES` or fewer
)
ROUNDING = 1e-9  # a number that exceeds a whole number by less is that whole number
MIN_PICTURES = 60  # pictures to calibrate on, however many tiles they have


@dataclass(frozen=True)
class JudgedFit:
    """A fit of whole pictures, and the pictures' rows with their scores.

    Attributes:
        fitted: The fit.
        rows: Rows of this fit's pictures, by number.
        unlit: The same rows with the scores in the pictures' own light.
        scored: Numbers of the pictures with a score.
        fusion: Fusion of tiles; None without tiles.
        how: Description of the way in which pictures were judged.
    """

    fitted: Fitted
    rows: dict[int, Picture]
    unlit: dict[int, Picture]
    scored: list[int]
    fusion: Fusion | None
    how: str


def judge_fit(
    leave_out: LeaveOut, fitted: Fitted, rows: Mapping[int, Picture], views: TrainingViews, task: Task
) -> JudgedFit:
    """Score the pictures of a fit, each by a model that has not learnt from it.

    Args:
        leave_out: The model, which can leave out what it has learnt.
        fitted: The fit by pictures (`TrainingViews.to_pictures`).
        rows: Rows of the pictures that were read, by number.
        views: Views of the pictures.
        task: Task with the pictures as the numbered items.

    Raises:
        InputError: No picture can be left out to be judged, or a picture cannot be read again.
    """
    preprocess = views.reader.preprocess
    seed = leave_out.model.config.seed
    fusion = None if task.old is None else task.old.manifest.fusion
    judging = FitPictures(leave_out, views, task, fitted.scored, fusion)
    held_out = {*fitted.scored}
    if preprocess.tile is not None:
        _judge_tiles(judging, fitted, rows, seed)
    if not fitted.scored:
        raise InputError("no good picture has all its parts calibrated on: give fewer pictures")
    counted = _draw_for_lights(fitted, task, len(preprocess.lights) - 1, seed)
    # Pictures in reserve have scores, but do not count, and were not learnt from. The model keeps their rows.
    candidates = held_out | {*fitted.scored}
    fitted.held["reserve"] = sorted(candidates - {*counted} - {*fitted.used})
    rows_with_roles = _with_roles(rows, fitted, views)
    counted_lost = _counted_lost_pictures(views, task.count, len(counted))
    lost = [number for number in counted_lost if number in rows_with_roles]
    rows_to_score = {number: rows_with_roles[number] for number in (*counted, *lost)}
    scored = score(judging, rows_to_score, judging.leave_out_part, preprocess.lights)
    _check_lights(scored.answers, counted, preprocess.lights, views.reader.failures, fitted.notes)
    has_lights = len(preprocess.lights) > 1
    return JudgedFit(
        fitted,
        rows=rows_with_roles | scored.rows,
        unlit=rows_with_roles | scored.unlit,
        scored=[number for number in counted if scored.rows[number].score is not None],
        fusion=judging.fusion,
        how=fitted.how + (within_range(preprocess.normalization) if has_lights else ""),
    )


def _judge_tiles(judging: FitPictures, fitted: Fitted, rows: Mapping[int, Picture], seed: int) -> None:
    """Judge pictures in tiles as wholes, and find the fusion of their tiles.

    Sets `fitted.scored` and `judging.known` to the values of these pictures, and `judging.fusion`.
    """
    views = judging.views
    if not fitted.promised or views.are_pictures:
        judging.fusion = judging.fusion or Fusion(judging.score_kind)
        return
    # If the method scored only pictures that it learnt from, it can leave out pictures: all can be judged
    can_leave_out = set(fitted.scored) <= set(fitted.used)
    candidates = fitted.used if can_leave_out else [*fitted.scored]
    usable = [number for number in candidates if number not in views.wrong]
    values = judging.judge_in_tiles(_draw_tiled(views, usable, seed), rows)
    fitted.scored = values
    judging.known = values


def _with_roles(rows: Mapping[int, Picture], fitted: Fitted, views: TrainingViews) -> dict[int, Picture]:
    """Return the rows of the pictures that the fit used, each with its use as role."""
    readable_lost = [number for number in _lost_pictures(views) if number in rows]
    # a picture may have several roles: the last assignment below is kept
    roles = dict.fromkeys(readable_lost, CALIBRATION)
    roles.update(dict.fromkeys(fitted.scored, CALIBRATION))
    for role, numbers in fitted.held.items():
        roles.update(dict.fromkeys(numbers, role))
    roles.update(dict.fromkeys(fitted.used, TRAIN))
    roles.update(dict.fromkeys(fitted.dropped, "dropped"))
    roles.update(dict.fromkeys(views.reader.copies, "duplicate"))
    return {number: replace(rows[number], role=role) for number, role in sorted(roles.items())}


def _lost_pictures(views: TrainingViews) -> list[int]:
    """Return the numbers of the lost pictures: those whose parts are not found or counted wrong.

    If several of them are copies of each other, only the first is returned.
    """
    hashes = views.reader.hashes
    number_by_hash = dict[str, int]()
    for number in sorted({*views.wrong, *views.reader.lost}):
        number_by_hash.setdefault(hashes.get(number, str(number)), number)
    return list(number_by_hash.values())


def _counted_lost_pictures(views: TrainingViews, count: int, judged_count: int) -> list[int]:
    """Return the numbers of the lost pictures that decide the threshold.

    The share of the lost pictures that count equals the share of the other pictures that are judged.

    Args:
        views: Views of the pictures.
        count: Number of all pictures.
        judged_count: Number of judged pictures.
    """
    lost = _lost_pictures(views)
    other_count = count - len(lost)
    counted_count = len(lost) * judged_count / max(1, other_count)
    return lost[: math.ceil(counted_count - ROUNDING)]


def _draw_tiled(views: TrainingViews, pictures: Sequence[int], seed: int) -> list[int]:
    """Choose the pictures to calibrate on: all, or a random sample of about `MAX_CALIBRATION_TILES` tiles."""
    tile_count = sum(map(views.judged_count, pictures))
    tiles_per_picture = tile_count / max(1, len(pictures))
    max_count = max(MIN_PICTURES, int(MAX_CALIBRATION_TILES / max(1.0, tiles_per_picture)))
    if len(pictures) <= max_count:
        return list(pictures)
    return sorted(np.random.default_rng(seed).choice(pictures, max_count, replace=False).tolist())


def _draw_for_lights(fitted: Fitted, task: Task, light_count: int, seed: int) -> list[int]:
    """Return the numbers of the pictures that decide the threshold.

    All pictures with scores decide it, except if there are further lights and many pictures. Then a random
    sample decides it, which is judged in each light, and a note on the sample is added to `fitted.notes`.

    Args:
        fitted: The fit by pictures.
        task: Task with the pictures as the numbered items.
        light_count: Number of further lights.
        seed: Seed of the draw.
    """
    pictures = [*fitted.scored]
    if not light_count:
        return pictures
    drawn = draw_pictures(pictures, task.groups, len(fitted.used), light_count, task.rate, seed)
    if len(drawn) < len(pictures):
        fitted.notes.append(
            f"calibrated in each light on {len(drawn)} of {task.pluralize(len(pictures), 'good')}, "
            "drawn at random: the false-alarm rate is promised by these"
        )
    return drawn


def _check_lights(
    answers: Answers,
    counted: Sequence[int],
    lights: Sequence[Light],
    failures: Mapping[int, str],
    notes: list[str],
) -> None:
    """Add a note if one light decides the threshold.

    Args:
        answers: Answers for the pictures in each light.
        counted: Numbers of the pictures that decide the threshold.
        lights: The lights, the pictures' own first.
        failures: Why a picture could not be used, by its number.
        notes: List to which the note is added, in place.

    Raises:
        InputError: A picture cannot be read any more, or in each picture the part is lost in some light.
    """
    if len(lights) < 2:
        return
    lost = [number for number in counted if answers.pictures[number].is_lost]
    # a lost picture has a failure, except for one that cannot be read
    if not set(lost) <= set(failures):
        raise InputError("a good picture cannot be read any more: fit anew")
    if len(lost) == len(counted):
        raise InputError(f"{failures[counted[0]]}: fit with a smaller --light, or without --align")
    judged = [number for number in counted if number not in lost]
    # the scores are the first column of an answer's values
    scores = np.array([answers.pictures[number].values[:, 0] for number in judged])  # [pictures, lights]
    medians = np.median(scores, axis=0)
    own_light_scores = scores[:, 0]  # the first light is the pictures' own
    if medians.max() > own_light_scores.max():
        worst_light = lights[int(medians.argmax())].name
        line = (
            f"with {worst_light} most good pictures score above all of those in their own light, and "
            "that decides the threshold: where they are clipped at white, expose them less, or give a "
            "smaller --light"
        )
        notes.append(data_checks.OTHER_LIGHT.coded(line))


@dataclass
class FitPictures:
    """Pictures of a fit, and the model, which leaves out a picture to judge it.

    Attributes:
        leave_out: The model, which can leave out what it has learnt.
        views: Views of the pictures.
        task: Task with the pictures as the numbered items.
        known: Values of the pictures in their own light, by number; the fit computed them.
        fusion: Fusion of tiles, once it is known.
    """

    leave_out: LeaveOut
    views: TrainingViews
    task: Task
    known: Mapping[int, Values]
    fusion: Fusion | None

    @property
    def score_kind(self) -> str:
        """Way in which tiles are fused to a picture's score (`Fusion.score`): "map" or "views"."""
        return "map" if self.leave_out.model.score_is_map_maximum else "views"

    def leave_out_part(self, row: Picture) -> LeftOutRun:
        """Return a function that scores by the model without the part that a row shows."""
        return self.leave_out.run(row.unit)

    def judge_in_tiles(self, pictures: Sequence[int], rows: Mapping[int, Picture]) -> dict[int, Values]:
        """Return values of the pictures that can be read, by number; set the fusion if it is not known yet.

        Args:
            pictures: Numbers of the pictures.
            rows: Rows of the pictures, by number.
        """
        summaries = self._summarise(pictures, rows, self.leave_out_part, lights=[], stage="calibration")
        frames_by_picture = {}
        for number, summaries_in_lights in zip(pictures, summaries, strict=True):
            (frames,) = summaries_in_lights  # in the pictures' own light only
            if frames:
                frames_by_picture[number] = frames
        if self.fusion is None:
            all_frames = [frame for frames in frames_by_picture.values() for frame in frames]
            self.fusion = fit_fusion(self.score_kind, all_frames)
        return {number: self._fused_values(frames) for number, frames in frames_by_picture.items()}

    def answers(self, rows: Mapping[int, Picture], run_of: RunOf, lights: Sequence[Light]) -> Answers:
        """Return values of each picture in each light; a picture without known values is lost in all lights.

        Args:
            rows: Rows of the pictures, by number.
            run_of: Returns the run that has not learnt from a row's part.
            lights: Lights, the pictures' own first. For the own light, the known values of the fit are used.
        """
        answers = Answers()
        known_numbers = [number for number in rows if number in self.known]
        further_lights = lights[1:]
        if further_lights:
            summaries = self._summarise(
                known_numbers, rows, run_of, further_lights, "calibration in each light"
            )
        else:
            summaries = [[] for _ in known_numbers]  # none in further lights
        for number, summaries_in_lights in zip(known_numbers, summaries, strict=True):
            values_by_light = [self.known[number]]
            for frames in summaries_in_lights:
                values_by_light.append(self._fused_values(frames) if frames else LOST)
            answers.pictures[number] = Answer(np.array(values_by_light))
        lost_in_all = Answer(np.array([LOST] * len(lights)))
        answers.pictures.update((number, lost_in_all) for number in rows if number not in self.known)
        return answers

    def _fused_values(self, frames: Sequence[TileSummary]) -> Values:
        """Fuse the tiles of each frame of a picture, and return the values of the worst frame."""
        fusion = self.fusion or Fusion("views")
        return worst(Values(*frame.fused(fusion)) for frame in frames)

    def _summarise(
        self,
        pictures: Sequence[int],
        rows: Mapping[int, Picture],
        run_of: RunOf,
        lights: Sequence[Light],
        stage: str,
    ) -> list[list[list[TileSummary]]]:
        """Summarise the results for each frame of each picture in each light.

        Args:
            pictures: Numbers of the pictures.
            rows: Rows of the pictures, by number.
            run_of: Returns the run that has not learnt from a row's part.
            lights: Lights of the summaries; empty: the pictures' own light.
            stage: Name of the stage, for progress.

        Returns:
            Summaries by picture, light and frame; without frames where the picture is lost in a light.

        Raises:
            InputError: The method cannot leave out a picture.
        """
        advance = ProgressCounter(self.task.step, stage, len(pictures))
        reader = self.views.reader
        leave_out = self.leave_out
        batch = BATCH * torch.get_num_threads()
        roi = leave_out.model.roi.cpu().numpy()

        def summarise_picture(picture: int) -> list[list[TileSummary]]:
            row = rows[picture]
            run = run_of(row)
            bound_run = leave_out.bound_run(row.unit)  # a faster run for tiles; None: there is none
            assert run is not None, "each part of a fit can be left out"
            if lights:
                views_by_light = reader.views_in_lights(picture, lights)
            else:
                views_by_light = iter([self.views.load_views(picture)])
            summaries = []
            for views in views_by_light:
                frames = [] if views is None else views.frames
                summaries.append([frame.summary(run, roi, batch, bound_run) for frame in frames])
            advance()
            return summaries

        try:
            # with tiles, a single picture occupies all threads; without tiles, each thread takes a picture
            if reader.preprocess.tile is not None:
                return [summarise_picture(picture) for picture in pictures]
            with workers(leave_out.model.roi.device) as map_in_threads:
                return map_in_threads(summarise_picture, pictures)
        except ExcludedPictureError:
            raise InputError("this method cannot leave out a picture: leave out --tile and --light") from None


def fit_fusion(score_kind: str, summaries: Sequence[TileSummary]) -> Fusion:
    """Return the fusion that scales good pictures' whole views like their tiles.

    After scaling, the maps of whole views and of tiles have the same mean, and their maxima have the same
    mean of the higher half. So both cause false alarms, and neither hides the other.

    Args:
        score_kind: Kind of a picture's score (`FitPictures.score_kind`).
        summaries: Summaries of the good pictures' frames.
    """
    with_whole_view = [summary for summary in summaries if summary.whole_peak > -math.inf]
    if not with_whole_view:
        return Fusion(score_kind)
    tiles_means, whole_means = zip(*(summary.means for summary in with_whole_view), strict=True)
    tiles_mean = np.mean(tiles_means)
    whole_mean = np.mean(whole_means)
    tiles_maxima = [summary.maxima[0] for summary in with_whole_view]
    tiles_peak = _upper_half_mean(tiles_maxima)
    whole_peak = _upper_half_mean([summary.whole_peak for summary in with_whole_view])
    whole_range = whole_peak - whole_mean
    # without a peak above the mean, of tiles and of whole views, there is no factor between their ranges
    has_whole_range = whole_range > 1e-6 * max(1.0, abs(whole_peak))
    if not has_whole_range or not tiles_peak > tiles_mean:
        return Fusion(score_kind)
    # factor * whole + shift: the whole views' mean and peak become those of the tiles
    factor = float((tiles_peak - tiles_mean) / whole_range)
    return Fusion(score_kind, factor, float(tiles_mean - factor * whole_mean))


def _upper_half_mean(values: Sequence[float]) -> float:
    """Return the mean of the higher half of values.

    The median says nothing about the highest values, and the maximum depends too much on chance.
    """
    upper_half = np.sort(values)[len(values) // 2 :]
    return float(np.mean(upper_half))


def draw_pictures(
    pictures: Sequence[int],
    groups: Sequence[int],
    learnt_count: int,
    light_count: int,
    rate: float,
    seed: int,
) -> list[int]:
    """Choose at random the pictures that are judged in each further light; return them sorted.

    Whole groups are chosen until there are enough pictures (`_enough_pictures`) and enough groups for the
    threshold to have at least the rank `MIN_RANK`.

    Args:
        pictures: Numbers of the pictures to draw from.
        groups: Group of each picture of the fit.
        learnt_count: Number of pictures learnt from.
        light_count: Number of further lights.
        rate: False-alarm rate.
        seed: Seed of the draw.
    """
    min_groups = min_calibration_size(rate / MIN_RANK)
    min_pictures = _enough_pictures(learnt_count, light_count, rate)
    drawn: list[int] = []
    pictures_of_groups = [*by_group(pictures, [groups[picture] for picture in pictures]).values()]
    order = Stream.LIGHTS.rng(seed).permutation(len(pictures_of_groups)).tolist()
    for drawn_group_count, place in enumerate(order):
        if drawn_group_count >= min_groups and len(drawn) >= min_pictures:
            break
        drawn += pictures_of_groups[place]
    return sorted(drawn)


def _enough_pictures(learnt_count: int, light_count: int, rate: float) -> int:
    """Return the number n of pictures to judge in all further lights, at less cost than the fit.

    n is about `learnt_count` / (2 * `light_count`): so n * `light_count` pictures are judged, half as many as
    were learnt from. n is rounded up so that (n + 1) * `rate` is a whole number: the threshold's rank then
    uses the full rate.

    Args:
        learnt_count: Number of pictures learnt from.
        light_count: Number of further lights.
        rate: False-alarm rate.
    """
    rank = math.ceil((learnt_count / (2 * light_count) + 1) * rate - ROUNDING)
    return math.ceil(rank / rate - ROUNDING) - 1

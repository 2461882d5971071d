"""Judges the good pictures of a fit as if the model had not learnt from them, as a predictor will see them.

They are judged in tiles, by each of several parts or channels, and in each light of a range.

The false-alarm rate holds in every light, not on average. With s_i(l) the score of picture i in light l, a
new picture's p-value in that light is (1 + #{s_i(l) >= s}) / (n + 1), as in `calibration.threshold`. Which
light it is in is not known. The largest of these p-values over all lights is never below the right one, so
that it keeps the rate in each light. It is the p-value by one list of scores, the envelope, whose k-th
largest value is the largest, over lights, of the k-th largest score: #{envelope >= s} is the largest k whose
value is at least s, the largest of the lights' counts.

Of many pictures some are judged in each light, whole units drawn by the seed: in all lights together about
half as many as were learnt from, so that the lights cost less than the fit before them. The rate of the n
judged pictures is the rate that holds, k/(n + 1) in every light, and the calibration counts these n alone.
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

MIN_RANK = 3  # of the threshold among the pictures of a light: lower, one odd picture decides
MAX_CALIBRATION_TILES = 5000  # in about as many as `MIN_PICTURES` pictures at least
MIN_PICTURES = 60  # pictures, however many tiles they have


@dataclass(frozen=True)
class JudgedFit:
    """A fit of whole pictures, and its rows.

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
        InputError: None can be judged so, or a picture cannot be read again.
    """
    how = views.reader.preprocess
    seed = leave_out.model.config.seed
    fusion = None if task.old is None else task.old.manifest.fusion
    judging = FitPictures(leave_out, views, task, fitted.scored, fusion)
    held_out = {*fitted.scored}
    if how.tile is not None:
        _judge_tiles(judging, fitted, rows, seed)
    if not fitted.scored:
        raise InputError("no good picture has all its parts calibrated on: give fewer pictures")
    counted = _draw_for_lights(fitted, task, len(how.lights) - 1, seed)
    # not drawn, but known
    fitted.held["reserve"] = sorted((held_out | {*fitted.scored}) - {*counted} - {*fitted.used})
    plain = _with_roles(rows, fitted, views)
    lost = [i for i in _count_lost(views, task.count, len(counted)) if i in plain]
    asked = {i: plain[i] for i in (*counted, *lost)}
    scored = score(judging, asked, judging.leave_out_part, how.lights)
    _check_lights(scored.answers, counted, how.lights, views.reader.failures, fitted.notes)
    with_score = [i for i in counted if scored.rows[i].score is not None]
    said = f"{fitted.how}{within_range(how.normalization) if how.lights[1:] else ''}"
    return JudgedFit(fitted, plain | scored.rows, plain | scored.unlit, with_score, judging.fusion, said)


def _judge_tiles(judging: FitPictures, fitted: Fitted, rows: Mapping[int, Picture], seed: int) -> None:
    """Judge pictures in tiles as wholes, and find how their tiles are fused."""
    views = judging.views
    if not fitted.promised or views.are_pictures:
        judging.fusion = judging.fusion or Fusion(judging.score_kind)
        return
    learnt = set(fitted.scored) <= set(fitted.used)  # then any of them can be left out
    right = [i for i in (fitted.used if learnt else fitted.scored) if i not in views.wrong]
    fitted.scored = judging.known = judging.in_tiles(_draw_tiled(views, right, seed), rows)


def _with_roles(rows: Mapping[int, Picture], fitted: Fitted, views: TrainingViews) -> dict[int, Picture]:
    """Return the rows of the pictures that the fit used, each with its use as role."""
    reader = views.reader
    roles = {
        **dict.fromkeys((i for i in _lost_pictures(views) if i in rows), CALIBRATION),
        **dict.fromkeys(fitted.scored, CALIBRATION),
        **{index: role for role, held in fitted.held.items() for index in held},
        **dict.fromkeys(fitted.used, TRAIN),
        **dict.fromkeys(fitted.dropped, "dropped"),
        **dict.fromkeys(reader.copies, "duplicate"),
    }
    return {i: replace(rows[i], role=role) for i, role in sorted(roles.items())}


def _lost_pictures(views: TrainingViews) -> list[int]:
    """Return the numbers of the pictures whose parts are not found or counted wrong, of copies the first."""
    hashes = views.reader.hashes
    found = dict[str, int]()
    for number in sorted({*views.wrong, *views.reader.lost}):
        found.setdefault(hashes.get(number, str(number)), number)
    return list(found.values())


def _count_lost(views: TrainingViews, count: int, judged: int) -> list[int]:
    """Return the numbers of the lost pictures that decide the threshold.

    These are all, or in proportion to the judged ones where only some are judged.

    Args:
        views: Views of the pictures.
        count: Number of pictures.
        judged: Number of judged pictures.
    """
    lost = _lost_pictures(views)
    right = count - len(lost)
    return lost[: math.ceil(len(lost) * judged / max(1, right) - 1e-9)]


def _draw_tiled(views: TrainingViews, pictures: Sequence[int], seed: int) -> list[int]:
    """Draw the pictures to calibrate on, in order: all, or as many as `MAX_CALIBRATION_TILES` allows."""
    tiles = sum(map(views.judged_count, pictures)) / max(1, len(pictures))
    most = max(MIN_PICTURES, int(MAX_CALIBRATION_TILES / max(1.0, tiles)))
    if len(pictures) <= most:
        return list(pictures)
    return sorted(np.random.default_rng(seed).choice(pictures, most, replace=False).tolist())


def _draw_for_lights(fitted: Fitted, task: Task, lights: int, seed: int) -> list[int]:
    """Return the numbers of the pictures that decide the threshold.

    These are all with scores; or, of many, a drawn part of them that is judged in each further light.

    Args:
        fitted: The fit by pictures.
        task: Task with the pictures as the numbered items.
        lights: Number of further lights.
        seed: Seed of the draw.
    """
    pictures = [*fitted.scored]
    if not lights:
        return pictures
    drawn = draw_pictures(pictures, task.groups, len(fitted.used), lights, task.rate, seed)
    if len(drawn) < len(pictures):
        fitted.notes.append(
            f"calibrated in each light on {len(drawn)} of {task.pluralize(len(pictures), 'good')}, "
            "drawn at random: the false-alarm rate is promised by these"
        )
    return drawn


def _check_lights(
    answers: Answers,
    drawn: Sequence[int],
    lights: Sequence[Light],
    failures: Mapping[int, str],
    notes: list[str],
) -> None:
    """Add a note where one light alone decides the threshold.

    Raises:
        InputError: A picture cannot be read any more, or the parts of all are lost in some light.
    """
    if not lights[1:]:
        return
    lost = [i for i in drawn if answers.pictures[i].is_lost]
    if not set(lost) <= set(failures):
        raise InputError("a good picture cannot be read any more: fit anew")
    if len(lost) == len(drawn):
        raise InputError(f"{failures[drawn[0]]}: fit with a smaller --light, or without --align")
    scores = np.array([answers.pictures[i].values[:, 0] for i in drawn if i not in lost])
    middles = np.median(scores, axis=0)
    if middles.max() > scores[:, 0].max():
        worst_light = lights[int(middles.argmax())].name
        line = (
            f"with {worst_light} most good pictures score above all of those in their own light, and "
            "that decides the threshold: where they are clipped at white, expose them less, or give a "
            "smaller --light"
        )
        notes.append(data_checks.OTHER_LIGHT.coded(line))


@dataclass
class FitPictures:
    """Pictures of a fit, and its model, which leaves them out.

    Attributes:
        leave_out: The model, which can leave out what it has learnt.
        views: Views of the pictures.
        task: Task with the pictures as the numbered items.
        known: Values in their own light from the fit, which had the other pictures' features at hand.
        fusion: Fusion of tiles, once it is known.
    """

    leave_out: LeaveOut
    views: TrainingViews
    task: Task
    known: Mapping[int, Values]
    fusion: Fusion | None

    @property
    def score_kind(self) -> str:
        """Kind of a picture's score over its views: "map" where it is the map's maximum, else "views"."""
        return "map" if self.leave_out.model.score_is_map_maximum else "views"

    def leave_out_part(self, row: Picture) -> LeftOutRun:
        """Return the run that has not learnt from a row's part."""
        return self.leave_out.run(row.unit)

    def in_tiles(self, pictures: Sequence[int], rows: Mapping[int, Picture]) -> dict[int, Values]:
        """Return values of the pictures that can be read; find the fusion, unless an earlier fit has."""
        summaries = self._summarise(pictures, rows, self.leave_out_part, [], "calibration")
        found = {i: of[0] for i, of in zip(pictures, summaries, strict=True) if of[0]}
        if self.fusion is None:
            self.fusion = fit_fusion(
                self.score_kind, [frame for frames in found.values() for frame in frames]
            )
        return {i: self._values(frames) for i, frames in found.items()}

    def answers(self, rows: Mapping[int, Picture], run_of: RunOf, lights: Sequence[Light]) -> Answers:
        """Answer for each picture in each light; pictures without known values are lost in all lights.

        Args:
            rows: Rows of the pictures, by number.
            run_of: Returns the run that has not learnt from a row's part.
            lights: Lights, the pictures' own first, in which the fit's values are taken.
        """
        found = Answers()
        shown = [i for i in rows if i in self.known]
        several = [list[list[TileSummary]]()] * len(shown)
        if lights[1:]:
            several = self._summarise(shown, rows, run_of, lights[1:], "calibration in each light")
        for i, in_lights in zip(shown, several, strict=True):
            values = [self.known[i], *(self._values(frames) if frames else LOST for frames in in_lights)]
            found.pictures[i] = Answer(np.array(values))
        lost = Answer(np.array([LOST] * len(lights)))
        found.pictures.update((i, lost) for i in rows if i not in self.known)
        return found

    def _values(self, frames: Sequence[TileSummary]) -> Values:
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
        """Return summaries for the frames of each picture; empty where the picture is lost.

        Args:
            pictures: Numbers of the pictures.
            rows: Rows of the pictures, by number.
            run_of: Returns the run that has not learnt from a row's part.
            lights: Lights of the summaries; empty: the pictures' own light.
            stage: Name of the stage, for progress.
        """
        advance = ProgressCounter(self.task.step, stage, len(pictures))
        reader = self.views.reader
        of = self.leave_out
        batch = BATCH * torch.get_num_threads()
        roi = of.model.roi.cpu().numpy()

        def work(picture: int) -> list[list[TileSummary]]:
            views = reader.views_in_lights(picture, lights) if lights else [self.views.of_picture(picture)]
            row = rows[picture]
            run = run_of(row)
            bound = of.bound_run(row.unit)
            assert run is not None  # each part of a fit is left out
            found = [
                [] if view is None else [frame.summary(run, roi, batch, bound) for frame in view.frames]
                for view in views
            ]
            advance()
            return found

        try:
            if reader.preprocess.tile is not None:  # large: the views of one are judged together
                return [work(picture) for picture in pictures]
            with workers(of.model.roi.device) as each:
                return each(work, pictures)
        except ExcludedPictureError:
            raise InputError("this method cannot leave out a picture: leave out --tile and --light") from None


def fit_fusion(score: str, found: Sequence[TileSummary]) -> Fusion:
    """Return the fusion that brings good pictures' whole views to the scale of their tiles.

    Both then have the same mean of the maps, and of the higher half of the maxima: neither drowns the other,
    and each has its share of the false alarms.
    """
    found = [peaks for peaks in found if peaks.whole_peak > -math.inf]
    if not found:
        return Fusion(score)
    tiles, whole = (np.mean([peaks.means[k] for peaks in found]) for k in (0, 1))
    of_tiles = _upper_half_mean([peaks.maxima[0] for peaks in found])
    of_whole = _upper_half_mean([peaks.whole_peak for peaks in found])
    reach = of_whole - whole
    if not reach > 1e-6 * max(1.0, abs(of_whole)) or not of_tiles > tiles:
        return Fusion(score)
    factor = float((of_tiles - tiles) / reach)
    return Fusion(score, factor, float(tiles - factor * whole))


def _upper_half_mean(values: Sequence[float]) -> float:
    """Return the mean of the higher half of values.

    The median says nothing about the highest, and the maximum alone is chance.
    """
    return float(np.mean(np.sort(values)[len(values) // 2 :]))


def draw_pictures(
    pictures: Sequence[int], groups: Sequence[int], learnt: int, lights: int, rate: float, seed: int
) -> list[int]:
    """Draw the pictures that are judged in each further light, in their order.

    Whole groups are drawn: as many pictures as keep the cost low, and at least as many groups as the rate
    needs, `MIN_RANK` times.

    Args:
        pictures: Numbers of the pictures to draw from.
        groups: Group of each picture of the fit.
        learnt: Number of pictures learnt from.
        lights: Number of further lights.
        rate: False-alarm rate.
        seed: Seed of the draw.
    """
    least = min_calibration_size(rate / MIN_RANK)
    enough = _enough_pictures(learnt, lights, rate)
    drawn: list[int] = []
    every = [*by_group(pictures, [groups[picture] for picture in pictures]).values()]
    order = Stream.LIGHTS.rng(seed).permutation(len(every)).tolist()
    for count, group in enumerate(order):
        if count >= least and len(drawn) >= enough:
            break
        drawn += every[group]
    return sorted(drawn)


def _enough_pictures(learnt: int, lights: int, rate: float) -> int:
    """Return the number of pictures with which all lights cost less than the fit.

    (n + 1) * rate is whole, since n such pictures keep the full rate.
    """
    rank = math.ceil((learnt / (2 * lights) + 1) * rate - 1e-9)
    return math.ceil(rank / rate - 1e-9) - 1

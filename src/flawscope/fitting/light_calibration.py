"""Calibrates for each light of a range: the false-alarm rate holds in every one, not on average.

Good pictures that the model has not learnt from, or that are left out once more, are scored in each light.
With s_i(l) the score of picture i in light l, a new picture's p-value in that light is
(1 + #{s_i(l) >= s}) / (n + 1), as in `calibration.threshold`. Which light it is in is not known. The largest
of these p-values over all lights is never below the right one, so that it keeps the rate in each light. It is
the p-value by one list of scores, the envelope, whose k-th largest value is the largest, over lights, of the
k-th largest score: #{envelope >= s} is the largest k whose value is at least s, the largest of the lights'
counts.

Of many pictures some are judged in each light, whole groups drawn by the seed: in all lights together about
half as many as were learnt from, so that the lights cost less than the fit before them. The rate that n of
them promise is promised, k/(n + 1) in every light, and `Calibration` counts these n alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import compress

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from flawscope.calibration.threshold import envelope
from flawscope.errors import InputError
from flawscope.fitting.training_pictures import JudgeInLights
from flawscope.methods.detector import embed_pictures
from flawscope.methods.task import Fitted, LeaveOut, Task
from flawscope.views.light import Light, within_range
from flawscope.views.preprocess import Preprocess

STREAM = 51  # of random numbers: part of their seed
MIN_RANK = 3  # of the threshold among the pictures of a light: lower, one odd picture decides


def calibrate_in_each_light(
    leave_out: LeaveOut,
    fitted: Fitted,
    task: Task,
    how: Preprocess,
    judge: JudgeInLights,
    failures: Mapping[int, str],
) -> None:
    """Replaces the scores and map maxima of `fitted.calibration`, of this fit's pictures, by their envelopes
    over the lights of `how`, if any. Of many pictures `fitted.pictures` keeps those that were judged in them.
    Pictures that cannot be judged in a light count as above all scores, for `failures`, by their numbers.

    Raises:
        InputError: the method cannot leave out what it has learnt from, or a picture cannot be read again.
    """
    known, lights = fitted.calibration, how.lights[1:]
    if not lights:
        return
    first = len(known.scores) - len(fitted.pictures)  # an extended model has the earlier ones before
    drawn = draw_pictures(fitted, task.groups, len(lights), task.rate, leave_out.model.config.seed)
    pictures, unlit = [fitted.pictures[k] for k in drawn], len(fitted.pictures)
    if len(pictures) < len(fitted.pictures):
        note = (
            f"calibrated in each light on {len(pictures)} of {task.pluralize(len(fitted.pictures), 'good')}, "
            "drawn at random: the false-alarm rate is promised by these"
        )
        fitted.notes.append(note)
    unchanged = [[(known.scores[first + k], known.map_maxima[first + k])] for k in drawn]
    values = np.concatenate([unchanged, judge(pictures, lights)], axis=1)
    lost = np.isnan(values).any(axis=(1, 2))
    if not set(compress(pictures, lost)) <= set(failures):
        raise InputError("a good picture cannot be read any more: fit anew")
    if lost.all():
        raise InputError(f"{failures[pictures[0]]}: fit with a smaller --light, or without --align")
    scores, maxima = np.moveaxis(values[~lost], 2, 0)
    middles = np.median(scores, axis=0)
    if middles.max() > scores[:, 0].max():
        worst = lights[int(middles.argmax()) - 1].name
        fitted.notes.append(
            f"with {worst} most good pictures score above all of those in their own light, and that decides "
            "the threshold: where they are clipped at white, expose them less, or give a smaller --light"
        )
    drawn, lost_places = ([first + k for k in compress(drawn, of)] for of in (~lost, lost))
    pictures = [fitted.pictures[place - first] for place in drawn]
    left = set(fitted.pictures) - set(pictures)
    fitted.held["reserve"] = sorted(left - set(fitted.used))  # they stay known
    fitted.pictures = pictures
    units, lost_units = (tuple(known.units[k] for k in of if known.units) for of in (drawn, lost_places))
    miscounted = math.ceil(known.miscounted * len(lost) / unlit - 1e-9)
    miscounted_units = known.units[len(known.scores) :][:miscounted]
    fitted.calibration = replace(
        known,
        miscounted=miscounted + len(lost_places),
        units=(*known.units[:first], *units, *miscounted_units, *lost_units),
        scores=(*known.scores[:first], *envelope(scores, units).tolist()),
        map_maxima=(*known.map_maxima[:first], *envelope(maxima, units).tolist()),
        method=f"{known.method}{within_range(how.normalization)}",
    )


def judge_in_lights(
    leave_out: LeaveOut,
    task: Task,
    load: Callable[[int, Light], Tensor | None],
    pictures: Sequence[int],
    lights: Sequence[Light],
) -> NDArray[np.float64]:
    """`JudgeInLights` of pictures that are seen as a whole. load: gives picture i in a light, as `task.load`
    gives it."""
    values = np.full((len(pictures), len(lights), 2), np.nan)

    def loaded(number: int) -> Tensor | None:
        picture, light = divmod(number, len(lights))
        return load(pictures[picture], lights[light])

    def store(number: int, features: Tensor, inside: Tensor | None) -> None:
        picture, light = divmod(number, len(lights))
        found = leave_out.score(task.groups[pictures[picture]], features, inside)
        if found is None:
            raise InputError("this method cannot leave out what it has learnt from: leave out --light")
        values[picture, light] = float(found[0][0]), float(found[1].max())

    count = len(pictures) * len(lights)
    embed_pictures(leave_out.model, loaded, range(count), store, task.step, "calibration in each light")
    return values


def draw_pictures(fitted: Fitted, groups: Sequence[int], lights: int, rate: float, seed: int) -> list[int]:
    """Places in `fitted.pictures` of those that are judged in each of so many lights, in their order: whole
    groups; as many pictures as keep the cost low, and as many groups as the rate needs, `MIN_RANK` times."""
    members: dict[int, list[int]] = {}
    for place, picture in enumerate(fitted.pictures):
        members.setdefault(groups[picture], []).append(place)
    least, enough = _least_groups(rate), _enough_pictures(len(fitted.used), lights, rate)
    drawn: list[int] = []
    order = np.random.default_rng([seed, STREAM]).permutation(len(members)).tolist()
    every = list(members.values())
    for count, group in enumerate(order):
        if count >= least and len(drawn) >= enough:
            break
        drawn += every[group]
    return sorted(drawn)


def count_drawn(pictures: int, groups: int, lights: int, rate: float) -> int:
    """About how many of so many pictures in groups are drawn for each light, before they are learnt from."""
    share = max(_enough_pictures(pictures, lights, rate) / pictures, _least_groups(rate) / groups)
    return round(min(1.0, share) * pictures)


def _least_groups(rate: float) -> int:
    return math.ceil(MIN_RANK / rate - 1e-9) - 1


def _enough_pictures(learnt: int, lights: int, rate: float) -> int:
    """Number of pictures with which all lights cost less than the fit; (n + 1) * rate is whole, since n such
    pictures promise all of the rate."""
    rank = math.ceil((learnt / (2 * lights) + 1) * rate - 1e-9)
    return math.ceil(rank / rate - 1e-9) - 1

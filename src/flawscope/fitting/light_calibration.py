"""Calibrates for each light of a range: the false-alarm rate holds in every one, not on average.

Good pictures that the model has not learnt from, or that are left out once more, are scored in each light.
With s_i(l) the score of picture i in light l, a new picture's p-value in that light is
(1 + #{s_i(l) >= s}) / (n + 1), as in `calibration.threshold`. Which light it is in is not known. The largest
of these p-values over all lights is never below the right one, so that it keeps the rate in each light. It is
the p-value by one list of scores, the envelope, whose k-th largest value is the largest, over lights, of the
k-th largest score: #{envelope >= s} is the largest k whose value is at least s, the largest of the lights'
counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from torch import Tensor

from flawscope.calibration.threshold import envelope
from flawscope.errors import InputError
from flawscope.fitting.simulated_defects import LeaveOneOutScorer
from flawscope.methods.detector import Detector
from flawscope.methods.extract import embed_pictures
from flawscope.methods.task import Fitted, Task
from flawscope.pictures.light import Light, light_variations


def calibrate_in_each_light(
    model: Detector,
    fitted: Fitted,
    task: Task,
    share: float,
    load: Callable[[int, Light], Tensor | None],
) -> None:
    """Replaces the scores and map maxima of `fitted.calibration`, of this fit's pictures, by their envelopes
    over the lights within `share`.

    Args:
        load: gives picture i in a light, as `task.load` gives it.

    Raises:
        InputError: the method cannot leave out what it has learnt from, or a picture cannot be read again.
    """
    lights, pictures = light_variations(share)[1:], fitted.pictures
    count, known = len(pictures), fitted.calibration
    own = slice(len(known.scores) - count, None)  # an extended model has the earlier ones before
    scores, maxima = (
        np.repeat(np.array(values[own], dtype=np.float64)[:, None], 1 + len(lights), axis=1)
        for values in (known.scores, known.map_maxima)
    )
    unlearnt, done = LeaveOneOutScorer(model, fitted, fitted.used, task.groups), 0

    def loaded(number: int) -> Tensor | None:
        light, picture = divmod(number, count)
        return load(pictures[picture], lights[light])

    def store(number: int, features: Tensor, inside: Tensor | None) -> None:
        nonlocal done
        light, picture = divmod(number, count)
        found = unlearnt(pictures[picture], features, inside)
        if found is None:
            raise InputError("this method cannot leave out what it has learnt from: leave out --light")
        score, drawn = found
        scores[picture, 1 + light] = float(score[0])
        maxima[picture, 1 + light] = float(drawn.max())
        done += 1

    numbers = range(count * len(lights))
    embed_pictures(model, loaded, numbers, store, task.step, "calibration in each light")
    if done < len(numbers):
        raise InputError("a good picture cannot be read any more: fit anew")
    before = slice(0, own.start)
    fitted.calibration = replace(
        known,
        scores=(*known.scores[before], *envelope(scores).tolist()),
        map_maxima=(*known.map_maxima[before], *envelope(maxima).tolist()),
        method=f"{known.method}, in each light within {share:.0%}",
    )

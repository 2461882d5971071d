"""Fits on pictures that show several parts: a method learns from the parts, and a picture is judged by its
worst one. The picture's own rate holds (`calibration.threshold`), since its parts are left out together."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from flawscope.errors import InputError
from flawscope.fitting.picture_views import PictureViews
from flawscope.fitting.training_pictures import UNREAD, Reader
from flawscope.methods.task import Fitted
from flawscope.pictures.several_learning import Learnt

STREAM = 62  # of random numbers


class PartsOfPictures(PictureViews):
    """Numbers the parts of all pictures.

    wrong: pictures whose parts are counted wrong by a model that has not learnt from them.
    """

    def __init__(self, reader: Reader, learnt: Learnt):
        counts = [max(1, count) for count in learnt.counts]  # one without parts is reported when it is loaded
        super().__init__(reader, counts, counts)
        self.wrong = {i for i, reason in enumerate(learnt.wrong) if reason not in ("", UNREAD)}

    def calibrated(self, fit: Fitted, seed: int) -> tuple[Fitted, Fitted]:
        """Turns a calibration of parts into one of whole pictures: each scores as its worst part.

        Returns the fit with that calibration; and the same with one part of each picture, to put simulated
        defects on.

        Args:
            fit: of the parts.
        """
        fitted, before = self.of_pictures(fit), fit.calibration
        rows: dict[int, list[tuple[float, float]]] = {}
        for number, *values in zip(fit.pictures, before.scores, before.map_maxima, strict=True):
            rows.setdefault(self.picture(number), []).append((values[0], values[1]))
        kept = [i for i, of in rows.items() if i not in self.wrong and len(of) == self.views_of[i]]
        if not kept:
            raise InputError("no good picture has all its parts calibrated on: give fewer pictures")
        scores, maxima = (tuple(max(one[k] for one in rows[i]) for i in kept) for k in (0, 1))
        # of as many pictures as calibrate, where some were held out
        share = len(kept) / max(1, len(self.views_of) - len(self.wrong))
        wrong = math.ceil(len(self.wrong) * share - 1e-9)
        calibration = replace(before, scores=scores, map_maxima=maxima, miscounted=wrong)
        fitted.calibration, fitted.pictures = calibration, kept
        rng = np.random.default_rng([seed, STREAM])
        some = [int(rng.choice(self.numbers(i))) for i in kept]
        return fitted, replace(fit, calibration=calibration, pictures=some)

"""What a fit says of its time before it begins: how many views there are, and about how long they take."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import flawscope
from flawscope.calibration import MIN_HELD_OUT
from flawscope.calibration.threshold import Calibration
from flawscope.fitting import fitting, light_calibration, time_forecast
from flawscope.methods import registry
from flawscope.methods.method import ViewTimes
from flawscope.methods.task import Fitted
from flawscope.progress import format_duration
from flawscope.synthesis.demo.dataset import draw_picture


def parts(count, size=96):
    return [draw_picture("plate", np.random.default_rng([7, k]), None, size=size)[0] for k in range(count)]


class EnoughError(Exception):
    """The lines that are asked for were said."""


def told(monkeypatch, times, count, **options):
    """The line on time of a fit whose views take these times, and the line said after it."""
    method = registry.method("patchcore")
    fake = replace(method, predict_times=lambda model, task, images: times)
    monkeypatch.setattr(registry, "method", lambda name: fake)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    said = []

    def say(line):
        said.append(line)
        if any(before.startswith("time: ") for before in said[:-1]):
            raise EnoughError

    settings = {"size": 64, "device": "cpu", "check": False, "samples": 0, **options}
    with pytest.raises(EnoughError):
        flawscope.fit(parts(count), say=say, **settings)
    (k,) = [k for k, line in enumerate(said) if line.startswith("time: ")]
    return said[k], said[k + 1]


SECOND = ViewTimes(2.0, 1.0, 3.0)


@pytest.mark.parametrize(
    ("options", "views", "judged", "fit", "picture"),
    [
        ({}, "6 views", 6, 6 * 2 + 6, 1),
        ({"light": "10%"}, "6 views", 6 + 6 * 6, 6 * 2 + 6 + 36 * 3, 1),
        # the whole, and 3 x 3 tiles of 48 pixels
        ({"tile": 48, "size": 32}, "60 views of 6 pictures", 60, 60 * 2 + 60, 10),
    ],
)
def test_views_and_their_times_are_told_before_the_work(monkeypatch, options, views, judged, fit, picture):
    line, after = told(monkeypatch, SECOND, 6, **options)
    assert line.startswith(
        f"time: about {format_duration(fit)} for the fit, which learns from {views} and judges {judged}; "
        f"about {format_duration(picture)} for a picture later ("
    )
    assert after.startswith("memory: ")  # the first line of the work itself


@pytest.mark.parametrize(
    ("options", "word"),
    [({"tile": 48, "size": 32}, "--min-defect"), ({"light": "10%"}, "--light"), ({"size": 544}, "--size")],
)
def test_where_it_is_long_the_setting_that_makes_it_long_is_named(monkeypatch, options, word):
    with monkeypatch.context() as patch:
        line, _ = told(patch, ViewTimes(40.0, 2.0, 60.0), 4, **options)
    assert word in line.partition(". ")[2]
    with monkeypatch.context() as patch:
        line, _ = told(patch, ViewTimes(0.1, 0.1, 0.1), 4, **options)
    assert not line.partition(". ")[2]


@pytest.mark.slow
def test_a_real_fit_takes_about_as_long_as_foretold():
    """Very roughly: machines in use are uneven."""
    foretold = []
    forecast = time_forecast.forecast

    def kept(*args, **options):
        made = forecast(*args, **options)
        if made is not None:
            foretold.append(made)
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "forecast", kept)
        model = flawscope.fit(parts(16), size=128, tile=64, device="cpu", samples=0, check=False)
    took = model.manifest.facts["seconds_total"]
    assert foretold[0].fit_seconds / 8 < took < 8 * foretold[0].fit_seconds + 1


@pytest.mark.parametrize(("count", "rate"), [(20, 0.05), (300, 0.05), (762, 0.05), (762, 0.01)])
def test_as_many_pictures_are_foretold_for_the_lights_as_are_drawn(count, rate):
    given = Fitted(Calibration((0.0,), (0.0,), 0.0), [*range(count)], [*range(count)])
    drawn = light_calibration.draw_pictures(given, range(count), 6, rate, seed=0)
    assert light_calibration.count_drawn(count, count, 6, rate) == len(drawn)


def test_a_training_is_told_apart_from_what_follows_it():
    said = []

    def say(line):
        said.append(line)
        if line.startswith("time: "):
            raise EnoughError

    how = {"method": "prnet", "size": "64", "width": 0.25, "steps": 2, "device": "cpu"}
    with pytest.raises(EnoughError):
        flawscope.fit(parts(20), say=say, **how)
    assert f"for judging {MIN_HELD_OUT} of 20 views after the training's steps; " in said[-1]
    assert said[-1].endswith("for a picture later (1 view)")

"""Models that are extended by further pictures."""

from dataclasses import replace

import pytest

import flawscope
from flawscope.fitting.update_evaluation import (
    ReviewedPicture,
)

QUICK = {"device": "cpu", "check": False}


def reviewed(model, number, source, good, **more):
    found = model.predict(source)
    learn = good and found.is_anomalous
    return replace(ReviewedPicture(number, source, good, learn=learn, before=found.score), **more)


@pytest.fixture(name="stained")
def stained_fixture(model, part):
    """Three good pictures with a mark that is new, which were looked at twice."""
    return [reviewed(model, k, part(200 + k, stained=True), True, sure=True) for k in range(3)]


def extended(model, images, **how):
    return flawscope.extend(model, images, device="cpu", check=False, **how)

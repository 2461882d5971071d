"""Layers that the browser lays over the photo: the same as what is drawn on pictures elsewhere."""

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from flawscope.datasets import Item
from flawscope.evaluation.result import EvaluatedPicture
from flawscope.pages.report.thumbnails import (
    MAX_SIDE,
    MIN_SIDE,
    PAGE_FULL,
    picture_layers,
    thumbnails,
)
from thumbnails_helpers import opened, prediction


def size_of(made):
    return sum(map(len, made.values()))


@pytest.fixture
def noise(tmp_path):
    """Noise all over and a map that is hot and cold everywhere: nothing compresses worse."""
    rng = np.random.default_rng(0)
    values = gaussian_filter(rng.normal(size=(256, 256)), 4)
    values /= values.std()
    picture, mask = tmp_path / "noise.png", tmp_path / "mask.png"
    Image.fromarray(rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)).save(picture)
    Image.fromarray(np.where(values > 0, 255, 0).astype(np.uint8)).save(mask)
    return EvaluatedPicture(Item(picture, "noise", True, (mask,)), prediction(0.5 + values, (256, 256)), None)


def test_thumbnails_shrink_until_they_fit(noise, monkeypatch):
    """170 of them have 9 MB, 10 a seventeenth of it."""
    (large,) = thumbnails([noise], [0])
    assert opened(large["photo"]).size == (MAX_SIDE, MAX_SIDE)
    monkeypatch.setattr("flawscope.pages.report.thumbnails.PAGE_BYTES", 9_000_000 * 10 / 170)
    made = [found for found in thumbnails([noise] * 10, range(10)) if isinstance(found, dict)]
    assert len(made) == 10
    assert sum(map(size_of, made)) <= 9_000_000 * 10 / 170
    assert MIN_SIDE < opened(made[0]["photo"]).width < MAX_SIDE


def test_at_the_least_size_the_first_in_the_order_are_shown(noise, monkeypatch):
    one = picture_layers(noise.item.path, noise.prediction, noise.item.masks, MIN_SIDE, None)
    monkeypatch.setattr("flawscope.pages.report.thumbnails.PAGE_BYTES", int(2.5 * size_of(one)))
    made = thumbnails([noise] * 5, [3, 1, 4, 0, 2])
    shown = [found if isinstance(found, str) else opened(found["photo"]).width for found in made]
    assert shown == [PAGE_FULL, MIN_SIDE, PAGE_FULL, MIN_SIDE, PAGE_FULL]

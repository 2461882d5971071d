"""A model that anybody can compute in the head, and pictures for it: a picture's map is one of its channels,
its score the brightest pixel."""

import os

import numpy as np
from PIL import Image

from flawscope.artefact.model_file import Artefact, Manifest
from flawscope.calibration.rows import calibrate
from flawscope.pictures.decoding import decode, pixel_hash
from flawscope.pictures.table import Picture
from flawscope.predictor import Predictor
from flawscope.views.preprocess import Preprocess

SIDE = 16  # of the network; pictures are twice as large
RED, GREEN = 0, 1
HOSTILE = "<img src=x onerror=alert(1)>\"'&amp;日本"  # a name that must never become markup


class Brightness:
    """A `Session`; what is brighter than `limit` overflows."""

    runtime, batch, lanes = "fake", 3, 1

    def __init__(self, size=(SIDE, SIDE), channel=RED, limit=2.0):
        self.size, self.channel, self.limit = size, channel, limit

    def run(self, images):
        assert images.dtype == np.float32
        assert images.shape[1:] == (3, *self.size)
        maps = images[:, self.channel]
        scores = maps.max((1, 2))
        return np.where(scores > self.limit, np.nan, scores).astype(np.float32), maps

    def run_alone(self, images):
        return self.run(images)


def model(channel=RED, *, seen=None, preprocess=None, tensors=None, limit=2.0, **manifest):
    """Call anomalous what is brighter than 0.5, the largest of 20 calibration scores.

    `seen`: role -> pictures that the model knows.
    """
    values = (*map(float, np.linspace(0.1, 0.49, 19)), 0.5)
    known = ((role, path) for role, paths in (seen or {}).items() for path in paths)
    scored = [
        Picture(f"{k:064d}", "calibration", f"{k}.png", k, value, value, 0.1, True)
        for k, value in enumerate(values)
    ]
    preprocess = preprocess or Preprocess((SIDE, SIDE))
    made = Manifest(
        method="patchcore",
        config={"seed": 0},
        preprocess=preprocess,
        calibration=calibrate(scored, 0.05, outline=0.0),
        pictures=(*(Picture(pixel_hash(decode(path)), role, path.name) for role, path in known), *scored),
        **manifest,
    )
    return Predictor(Artefact(made, tensors or {}), Brightness(preprocess.network_size, channel, limit))


def draw(path, red, green=None, *, spot=False, size=(32, 32)):
    """A picture [H, W] with noise of its own in blue, and in green if that has no level.

    The whole has the levels, or a square on black if `spot`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([*os.fsencode(f"{path.parent.name}/{path.name}")])
    pixels, (height, width) = np.zeros((*size, 3), np.uint8), size
    pixels[..., 1:] = rng.integers(0, 255, (*size, 2))
    where = (slice(height // 4, height // 2), slice(width // 4, width // 2)) if spot else ...
    for channel, level in ((RED, red), (GREEN, green)):
        if level is not None:
            pixels[..., channel] = 0
            pixels[where][..., channel] = round(level * 255)
    Image.fromarray(pixels).save(path)
    return path


def draw_mask(path, size=(32, 32)):
    """The mask of a spot."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels, (height, width) = np.zeros(size, np.uint8), size
    pixels[height // 4 : height // 2, width // 4 : width // 2] = 255
    Image.fromarray(pixels).save(path)
    return path

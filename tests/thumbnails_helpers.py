"""Thumbnails of a page, and what they are drawn from."""

import base64
import io

import numpy as np
from PIL import Image

from flawscope.results.prediction import Prediction, ScoreLevels
from flawscope.views.preprocess import Preprocess


def prediction(values, size):
    geometry = Preprocess(values.shape).geometry(size)
    return Prediction(
        1.0, 0.5, 2.0, True, values.astype(np.float32), geometry, ScoreLevels(0.5, 0.5, (0.0, 1.0))
    )


def opened(uri):
    head, body = uri.split(",")
    assert head == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(body)))

"""Judges pictures with several parts: each part by itself, the picture by its worst part and by their number.

Torch-free.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawscope.calibration.threshold import Calibration
from flawscope.results.found_parts import FoundPart, FoundParts, PartSearch
from flawscope.results.prediction import Prediction
from flawscope.views.preprocess import Preprocess
from flawscope.views.views import PartFrameViews


def with_parts(
    found: Prediction,
    views: PartFrameViews,
    scores: NDArray[Any],
    numbers: NDArray[np.uint16],
    how: Preprocess,
    known: Calibration,
) -> Prediction:
    """Return the prediction of a picture's worst part, with all parts of the picture.

    Args:
        found: The prediction of the worst part.
        views: Views of the parts.
        scores: [n], a score for each view.
        numbers: [H, W], at each pixel of the views' geometry the number of its part.
        how: Preprocessing of the model; its `reference` and `several` are set.
        known: Calibration of the model.
    """
    reference = how.reference
    several = how.several
    assert reference is not None
    assert several is not None
    values = (known.p_values(scores), known.severity(scores), known.is_anomalous(scores))
    parts = tuple(
        FoundPart(k, float(score), float(p), float(s), bool(bad), reference.p_value(pose.error), pose)
        for k, (pose, score, p, s, bad) in enumerate(zip(views.poses, scores, *values, strict=False), 1)
    )
    lost = float(known.p_values(np.inf)) if views.count_error else 1.0
    every = FoundParts(parts, several.least, several.most, tuple(views.objects), views.count_error)
    if how.corrections:
        corrected = numbers
        numbers = np.zeros(found.map.shape, np.uint16)
        for part in parts:
            here = (corrected == part.part_index).astype(np.float32)
            numbers[how.restored(here, views.geometry, 0.0)[0] > 0.5] = part.part_index
    search = PartSearch(lost, several=every, numbers=numbers)
    return replace(found, parts=search).noticing(*search.findings())

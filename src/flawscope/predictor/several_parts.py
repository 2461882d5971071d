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
    prediction: Prediction,
    views: PartFrameViews,
    scores: NDArray[Any],
    numbers: NDArray[np.uint16],
    how: Preprocess,
    calibration: Calibration,
) -> Prediction:
    """Return the prediction of a picture's worst part, with all parts of the picture.

    Args:
        prediction: The prediction of the worst part.
        views: Views of the parts.
        scores: [n], a score for each view.
        numbers: [H, W], at each pixel of the views' map the number of the part there; 0: none.
        how: Preprocessing of the model, with `reference` and `several`.
        calibration: Calibration of the model.
    """
    reference = how.reference
    several = how.several
    assert reference is not None
    assert several is not None
    p_values = calibration.p_values(scores)
    severities = calibration.severity(scores)
    decisions = calibration.is_anomalous(scores)
    parts = []
    # `strict=False`: a picture without parts has one view with a score, but no pose
    rows = zip(views.poses, scores, p_values, severities, decisions, strict=False)
    for number, (pose, score, p_value, severity, is_anomalous) in enumerate(rows, start=1):
        place_p_value = reference.p_value(pose.error)
        parts.append(
            FoundPart(
                part_index=number,
                score=float(score),
                p_value=float(p_value),
                severity=float(severity),
                is_anomalous=bool(is_anomalous),
                part_p_value=place_p_value,
                part_pose=pose,
            )
        )
    all_parts = FoundParts(
        parts=tuple(parts),
        least=several.least,
        most=several.most,
        objects=tuple(views.objects),
        wrong=views.count_error,
    )
    # the lowest p-value that the calibration gives, for a wrong number of parts
    count_p_value = float(calibration.p_values(np.inf)) if views.count_error else 1.0
    picture_numbers = numbers
    if how.corrections:
        picture_numbers = np.zeros(prediction.map.shape, np.uint16)
        for part in parts:
            part_mask = (numbers == part.part_index).astype(np.float32)
            restored, _ = how.restored(part_mask, views.geometry, 0.0)  # 0 outside the map
            picture_numbers[restored > 0.5] = part.part_index
    search = PartSearch(count_p_value, several=all_parts, numbers=picture_numbers)
    return replace(prediction, parts=search).noticing(*search.findings())

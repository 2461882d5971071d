"""Finds whether parts lie elsewhere from picture to picture, by poses that bring them to lie alike."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flawscope.errors import InputError
from flawscope.views.congealing import learn_reference
from flawscope.views.pose import HALF_SIDE, PoseKind

# Parts lie elsewhere where their places, in sides of the part, or their angles spread by more
MIN_SHIFT, MIN_TURN = 0.1, math.radians(8)
MIN_MIRRORED, MIN_SCALE = 0.1, 0.03  # share of mirrored parts, and spread of the logarithm of their scale
MIN_FOUND = 0.8  # share of the pictures that must show the part


def poses_that_vary(pictures: Sequence[NDArray[np.float32]]) -> tuple[PoseKind, ...]:
    """Kinds of poses that bring parts to lie alike, the simplest first; none where they do already.

    Args:
        pictures: small ones (`Preprocess.small`).
    """
    for kind in ("full", "turn", "shift"):
        try:
            reference = learn_reference(pictures, kind)
        except InputError:
            continue
        poses = [pose for pose in map(reference.find, pictures) if pose.found]
        if len(poses) < MIN_FOUND * len(pictures):
            continue
        side = 2 * reference.extent
        places = np.array([(pose.x, pose.y) for pose in poses])
        turns = np.array([pose.angle for pose in poses]) * reference.period
        length = abs(np.exp(1j * turns).mean())  # of the mean direction: 1 where all are alike
        spread = math.sqrt(max(0.0, -2 * math.log(max(length, 1e-9)))) / max(reference.period, 1)
        mirrored = np.mean([pose.mirrored for pose in poses])
        scales = np.std([math.log(pose.scale) for pose in poses])
        is_shifted = bool(places.std(0).max() > MIN_SHIFT * min(side, 2 * HALF_SIDE))
        is_turned = kind != "shift" and reference.period > 0 and spread > MIN_TURN
        is_full = kind == "full" and (min(mirrored, 1 - mirrored) > MIN_MIRRORED or scales > MIN_SCALE)
        if is_full and (is_turned or is_shifted):
            return ("turn", "full") if is_turned else ("shift", "full")
        return ("turn",) if is_turned else ("shift",) if is_shifted else ()
    return ()

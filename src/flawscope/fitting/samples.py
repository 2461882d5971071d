"""Scores the pictures that a model keeps, for its self-test."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from flawscope.artefact.certificate import MAP_STRIDE
from flawscope.methods.detector import Detector
from flawscope.types import Array


@dataclass(frozen=True)
class Samples:
    """Pictures that a model keeps, for its self-test.

    Attributes:
        scores: The model's answer to each picture, as in `Manifest.samples`.
        tensors: Tensors for the model file, each with its name.
        seconds: Seconds that the quickest picture took; None: the model keeps no pictures.
    """

    scores: tuple[dict[str, Any], ...] = ()
    tensors: tuple[tuple[str, Array], ...] = ()
    seconds: float | None = None


def score_samples(model: Detector, names: Sequence[str], packed: Array, images: Array) -> Samples:
    """Score the pictures of a model's self-test, and return them with the model's answers.

    Args:
        model: The model.
        names: Names of the pictures.
        packed: The pictures as a model file holds them.
        images: The pictures, [N, 3, H, W] float32.
    """
    answers = []
    maps = []
    seconds = []
    with torch.inference_mode():
        for image, name in zip(images, names, strict=True):
            batch = torch.from_numpy(image)[None].to(model.roi.device)
            started_at = time.monotonic()
            features = model.embed(batch)
            inside = model.inside(batch)
            score, anomaly_map = model.score(features, inside)
            seconds.append(time.monotonic() - started_at)
            has_tie = bool(model.ties(features, inside)[0])
            map_maximum = float(anomaly_map.max())
            answers.append(
                {"name": name, "score": float(score[0]), "map_maximum": map_maximum, "tie": has_tie}
            )
            maps.append(anomaly_map[0, ::MAP_STRIDE, ::MAP_STRIDE].float().cpu().numpy())
    tensors = (("samples", packed), ("sample_maps", np.stack(maps)))
    return Samples(tuple(answers), tensors, min(seconds))

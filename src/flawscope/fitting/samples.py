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
        tensors: Tensors of the model file.
        seconds: Seconds that the quickest took; None: there are none.
    """

    scores: tuple[dict[str, Any], ...] = ()
    tensors: tuple[tuple[str, Array], ...] = ()
    seconds: float | None = None


def score_samples(model: Detector, names: Sequence[str], packed: Array, images: Array) -> Samples:
    """Score pictures of a model's self-test.

    Args:
        model: The model.
        names: Names of the pictures.
        packed: The pictures as a model file holds them.
        images: The pictures, [N, 3, H, W] float32.
    """
    found = []
    maps = []
    seconds = []
    with torch.inference_mode():
        for image, name in zip(images, names, strict=True):
            given = torch.from_numpy(image)[None].to(model.roi.device)
            began = time.monotonic()
            features = model.embed(given)
            inside = model.inside(given)
            score, drawn = model.score(features, inside)
            seconds.append(time.monotonic() - began)
            tie = bool(model.ties(features, inside)[0])
            of_map = float(drawn.max())
            found.append({"name": name, "score": float(score[0]), "map_maximum": of_map, "tie": tie})
            maps.append(drawn[0, ::MAP_STRIDE, ::MAP_STRIDE].float().cpu().numpy())
    tensors = (("samples", packed), ("sample_maps", np.stack(maps)))
    return Samples(tuple(found), tensors, min(seconds))

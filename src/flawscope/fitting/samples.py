"""Scores the pictures that a model keeps, for its self-test."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flawscope.artefact.certificate import MAP_STRIDE
from flawscope.artefact.model_file import Artefact, pack_images, unpack_images
from flawscope.fitting.training_views import TrainingViews
from flawscope.methods.detector import Detector
from flawscope.types import Array


@dataclass(frozen=True)
class Samples:
    """Pictures that a model keeps: what it says of each, as `Manifest.samples`, and the tensors of its file.

    seconds: that the quickest took; None: there are none.
    """

    scores: tuple[dict[str, Any], ...] = ()
    tensors: tuple[tuple[str, Array], ...] = ()
    seconds: float | None = None


def score_new_samples(model: Detector, views: TrainingViews, used: Sequence[int], count: int) -> Samples:
    """Scores so many of the pictures learnt from. used: the numbers of all."""
    chosen = used[:: max(1, len(used) // count)][:count] if count else []
    images = dict[str, NDArray[np.float32]]()
    for number in chosen:
        image = views.load(views.numbers(number)[0])
        if image is not None:
            images[views.reader.names[number]] = image.numpy()
    if not images:
        return Samples()
    return _score(model, [*images], pack_images(np.stack([*images.values()])))


def score_kept_samples(model: Detector, old: Artefact) -> Samples:
    """Scores the samples that a model had before it was extended."""
    packed = old.tensors.get("samples")
    if packed is None:
        return Samples()
    return _score(model, [one["name"] for one in old.manifest.samples], packed)


def _score(model: Detector, names: Sequence[str], packed: Array) -> Samples:
    found, maps, seconds = [], [], []
    with torch.inference_mode():
        for image, name in zip(packed, names, strict=True):
            given = torch.from_numpy(unpack_images(image))[None].to(model.roi.device)
            began = time.monotonic()
            features, inside = model.embed(given), model.inside(given)
            score, drawn = model.score(features, inside)
            seconds.append(time.monotonic() - began)
            tie, of_map = bool(model.ties(features, inside)[0]), float(drawn.max())
            found.append({"name": name, "score": float(score[0]), "map_maximum": of_map, "tie": tie})
            maps.append(drawn[0, ::MAP_STRIDE, ::MAP_STRIDE].float().cpu().numpy())
    tensors = (("samples", packed), ("sample_maps", np.stack(maps)))
    return Samples(tuple(found), tensors, min(seconds))

"""Learns how each view of a part looks to the models of the other views, to name exchanged views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact.expected import ExpectedPictures
from flawscope.errors import FlawscopeError
from flawscope.pictures.channels import Channels
from flawscope.pictures.decoding import PictureSource
from flawscope.predictor.predictor import Predictor
from flawscope.views.view_looks import thumbnail

LOOKED_AT = 24  # good pictures of each view, evenly spaced, that are compared


def looked_at(pictures: Sequence[PictureSource]) -> list[PictureSource]:
    """Choose at most `LOOKED_AT` pictures of a view, evenly spaced, from which its look is learnt."""
    numbers = np.linspace(0, len(pictures) - 1, min(len(pictures), LOOKED_AT)).round().astype(int)
    return [pictures[number] for number in np.unique(numbers)]


def with_looks_of_views(
    models: Mapping[str, Predictor], pictures: Mapping[str, Sequence[PictureSource]]
) -> dict[str, Predictor]:
    """Return the models, each of one view, with looks of all views: thumbnails of their good pictures.

    Thumbnails differ between models, as each model preprocesses pictures in its own way. A picture is decoded
    once for all models that read the same channels.

    Args:
        models: The models, by view.
        pictures: Good pictures, by view. Pictures that a model cannot preprocess are left out. If a view has
            too few pictures, the model keeps its former looks.
    """
    # thumbnails, by the model's name and then by the view that is shown
    looks: dict[str, dict[str, list[NDArray[np.float32]]]] = {name: {} for name in models}
    for view, sources in pictures.items():
        for model_looks in looks.values():
            model_looks[view] = []
        for source in looked_at(sources):
            for name, look in _looks(models, source).items():
                looks[name][view].append(look)
    return {name: _set_looks(model, looks[name]) for name, model in models.items()}


def _looks(models: Mapping[str, Predictor], source: PictureSource) -> dict[str, NDArray[np.float32]]:
    """Return a picture's thumbnail for each model, by the model's name.

    Models that cannot preprocess the picture are left out.
    """
    decoded: dict[Channels | None, NDArray[np.generic]] = {}
    looks = {}
    for name, model in models.items():
        preprocess = model.manifest.preprocess
        try:
            if preprocess.channels not in decoded:
                decoded[preprocess.channels] = preprocess.decode(source)
            loaded = model.see(source, decoded[preprocess.channels])
            views = loaded[0]
            looks[name] = thumbnail(views.images([0])[0])
        except FlawscopeError:
            continue
    return looks


def _set_looks(model: Predictor, looks: Mapping[str, Sequence[NDArray[np.float32]]]) -> Predictor:
    """Return the model with these looks of views."""
    facts = model.manifest.facts
    expected = ExpectedPictures.from_facts(facts).with_views(looks)
    return model.with_manifest(replace(model.manifest, facts=expected.to_facts(facts)))

"""Learns what each view of a part looks like to the model of another, so that exchanged views are named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact.expected import ExpectedPictures
from flawscope.errors import FlawscopeError
from flawscope.pictures.decoding import PictureSource
from flawscope.predictor.predictor import Predictor
from flawscope.views.view_looks import thumbnail

LOOKED_AT = 24  # good pictures of each view, evenly drawn, that are compared


def looked_at(pictures: Sequence[PictureSource]) -> list[PictureSource]:
    """The pictures of a view that are compared with those of others."""
    chosen = np.linspace(0, len(pictures) - 1, min(len(pictures), LOOKED_AT)).round().astype(int)
    return [pictures[number] for number in np.unique(chosen)]


def with_looks_of_views(predictor: Predictor, pictures: Mapping[str, Sequence[PictureSource]]) -> Predictor:
    """Returns the model of one view, which knows what the pictures of all views look like as it sees them.

    Args:
        pictures: good ones by view. Those that the model cannot see are left out; where a view has too few,
            the model knows what it knew before.
    """
    looks = dict[str, list[NDArray[np.float32]]]()
    for view, own in pictures.items():
        seen = (_look(predictor, source) for source in looked_at(own))
        looks[view] = [look for look in seen if look is not None]
    facts = predictor.manifest.facts
    expected = ExpectedPictures.from_facts(facts).with_views(looks)
    return predictor.with_manifest(replace(predictor.manifest, facts=expected.to_facts(facts)))


def _look(predictor: Predictor, source: PictureSource) -> NDArray[np.float32] | None:
    """Thumbnail of a picture as the model sees it; None: it cannot see it."""
    try:
        views, _, *_ = predictor.see(source, source)
        return thumbnail(views.images([0])[0])
    except FlawscopeError:
        return None

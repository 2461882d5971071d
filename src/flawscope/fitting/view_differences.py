"""Finds out, before a fit, whether the views of a part look so different that each needs its own model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from flawscope.errors import FlawscopeError
from flawscope.pictures.decoding import PictureSource, decode
from flawscope.views.view_looks import look_different, thumbnail

LOOKED_AT = 24  # good pictures of each view, evenly drawn, that are compared


def views_differ(pictures: Mapping[str, Sequence[PictureSource]]) -> bool:
    """Whether every two views look different (`view_looks.look_different`). False where a view has too few
    pictures to tell, or more channels than three.

    Args:
        pictures: good ones by view.
    """
    looks: dict[str, list[NDArray[np.float32]]] = {}
    for view, own in pictures.items():
        looks[view] = []
        chosen = np.linspace(0, len(own) - 1, min(len(own), LOOKED_AT)).round().astype(int)
        for index in np.unique(chosen):
            look = _look(own[index])
            if look is not None:
                looks[view].append(look)
    return look_different(looks)


def _look(source: PictureSource) -> NDArray[np.float32] | None:
    """Thumbnail of a picture; None: it cannot be read, which the fit says."""
    try:
        picture = decode(source)
    except FlawscopeError:
        return None
    if picture.shape[2] == 1:
        picture = np.repeat(picture, 3, axis=2)
    return thumbnail(np.asarray(picture, np.float32).transpose(2, 0, 1))

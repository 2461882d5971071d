"""The region of interest of a fit: the picture that it is drawn on, its check, its place in frames."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flawscope.errors import InputError, suggest_name
from flawscope.pictures.decoded import DecodedPictures
from flawscope.pictures.decoding import PictureSource
from flawscope.progress import Say
from flawscope.views.preprocess import Preprocess
from flawscope.views.roi import (
    FrameRegion,
    RoiSource,
    describe_roi,
    drawn_size,
    needs_picture_size,
    read_roi,
    same_shape,
    split_picture,
)


def check_region(
    roi: RoiSource | None,
    sources: Sequence[PictureSource],
    names: Sequence[str],
    sizes: Sequence[tuple[int, int] | None],
) -> None:
    """Raise InputError where a region cannot be read, or does not have the shape of its picture.

    Where it names no picture, it must have the shape of any picture: else it would be stretched.

    Args:
        roi: The region; None: there is none.
        sources: The pictures.
        names: Names of the pictures.
        sizes: (H, W) of the pictures, upright; None where one cannot be read.
    """
    if roi is None or isinstance(roi, FrameRegion):
        return
    spec, named = split_picture(roi)
    if named:
        sizes = DecodedPictures([_region_picture(named, sources, names)]).survey().sizes
    drawn = drawn_size(spec)
    known = sorted({size for size in sizes if size is not None})
    if drawn is None or not known or any(same_shape(drawn, size) for size in known):
        return
    on_its_side = any(same_shape(drawn, size[::-1]) for size in known)
    shown = spec if isinstance(spec, str | os.PathLike) else "given"
    raise InputError(
        f"region of interest {shown} is drawn on {drawn[1]} x {drawn[0]} pixels, and pictures have "
        f"{known[0][1]} x {known[0][0]}: draw it on a picture"
        + (" as it is shown, not as it is stored" if on_its_side else "")
    )


def _region_picture(named: str, sources: Sequence[PictureSource], names: Sequence[str]) -> PictureSource:
    """Return the picture that a region names: by its name, by the end of its path, or another file.

    Raises:
        InputError: There is none, or there are several.
    """
    if named in names:
        return sources[[*names].index(named)]
    parts = Path(named).parts
    paths = [source for source in sources if isinstance(source, str | os.PathLike)]
    found = [path for path in paths if Path(path).parts[-len(parts) :] == parts]
    if len(found) > 1:
        raise InputError(f"--roi: {named} names {len(found)} pictures; write more of its path")
    if not found and not os.path.exists(named):
        raise InputError(f"--roi: there is no picture {named}; {suggest_name(named, names[:9])}")
    return found[0] if found else named


def learn_region(
    roi: RoiSource,
    preprocess: Preprocess,
    sources: Sequence[PictureSource],
    names: Sequence[str],
    say: Say,
) -> NDArray[np.bool_]:
    """Return the region of interest [H, W] bool, in the view of the whole frame.

    Where parts are aligned it is drawn on the picture that it names, else on the first, and moves with the
    part; likewise where the aspect is kept, and for a box in pixels. Where pictures are corrected it is drawn
    on the picture as taken.

    Args:
        roi: The region.
        preprocess: Preprocessing of the pictures.
        sources: The pictures.
        names: Names of the pictures.
        say: Gets lines for a person.

    Raises:
        InputError: It cannot be read, holds nothing, or the picture shows no part.
    """
    how = preprocess.whole
    if isinstance(roi, FrameRegion):
        return roi.carried(how)
    spec, named = split_picture(roi)
    # with its aspect kept a fraction means another place in each shape: the first picture's shape tells
    holds_for_all = how.reference is None and not (how.corrections or how.keep_aspect)
    if not named and holds_for_all and not needs_picture_size(spec):
        mask = read_roi(spec, how)
        if text := describe_roi(spec, mask):
            say(text)
        return mask
    name = named or names[0]
    views = how.views(_region_picture(named, sources, names) if named else sources[0], name)
    if views.unusable:
        raise InputError(
            f"the region of interest is drawn on {name}, and {views.unusable}: name a better picture, "
            "--roi REGION@PICTURE"
        )
    mask = read_roi(spec, how, [frame.placed for frame in views.frames])
    moves = "" if how.reference is None else ", and moves with the part"
    say(f"region of interest: drawn on {name}{moves}; {mask.mean():.0%} of what the network sees counts")
    return mask

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
    """Raise InputError where a region cannot be read, or has another aspect ratio than its picture.

    A region of another aspect ratio would be stretched. A region that names no picture must have the aspect
    ratio of at least one picture.

    Args:
        roi: The region; None: there is none.
        sources: The pictures.
        names: Names of the pictures.
        sizes: (H, W) of the pictures, upright; None where one cannot be read.
    """
    if roi is None or isinstance(roi, FrameRegion):
        return
    spec, picture_name = split_picture(roi)
    possible_sizes = sizes
    if picture_name:
        picture = _region_picture(picture_name, sources, names)
        possible_sizes = DecodedPictures([picture]).survey().sizes
    region_size = drawn_size(spec)
    known_sizes = sorted({size for size in possible_sizes if size is not None})
    if region_size is None or not known_sizes:
        return
    if any(same_shape(region_size, size) for size in known_sizes):
        return
    is_on_its_side = any(same_shape(region_size, size[::-1]) for size in known_sizes)
    region_name = spec if isinstance(spec, str | os.PathLike) else "given"
    region_height, region_width = region_size
    height, width = known_sizes[0]
    remedy = "draw it on a picture"
    if is_on_its_side:
        remedy += " as it is shown, not as it is stored"
    raise InputError(
        f"region of interest {region_name} is drawn on {region_width} x {region_height} pixels, and pictures "
        f"have {width} x {height}: {remedy}"
    )


def _region_picture(name: str, sources: Sequence[PictureSource], names: Sequence[str]) -> PictureSource:
    """Return the picture that a region names.

    These are tried in turn: the good picture with that name, the good picture whose path ends with the name,
    and any file with the name as its path.

    Raises:
        InputError: There is no such picture, or there are several.
    """
    if name in names:
        return sources[[*names].index(name)]
    path_end = Path(name).parts
    paths = [source for source in sources if isinstance(source, str | os.PathLike)]
    matches = [path for path in paths if Path(path).parts[-len(path_end) :] == path_end]
    if len(matches) > 1:
        raise InputError(f"--roi: {name} names {len(matches)} pictures; write more of its path")
    if matches:
        return matches[0]
    if not os.path.exists(name):
        raise InputError(f"--roi: there is no picture {name}; {suggest_name(name, names[:9])}")
    return name


def learn_region(
    roi: RoiSource,
    preprocess: Preprocess,
    sources: Sequence[PictureSource],
    names: Sequence[str],
    say: Say,
) -> NDArray[np.bool_]:
    """Return the region of interest [H, W] bool, in the view of the whole frame.

    A region that names a picture was drawn on that picture. Without a name, the first picture is used if
    parts are aligned (the region then moves with the part), if the aspect is kept, if pictures are corrected,
    or if the region is a box in pixels. Else no picture is needed: the region is the same share of each
    picture. A region is always given on pictures as taken, before corrections.

    Args:
        roi: The region.
        preprocess: Preprocessing of the pictures.
        sources: The pictures.
        names: Names of the pictures.
        say: Gets lines for a person.

    Raises:
        InputError: The region cannot be read or is empty, or no part is found in its picture.
    """
    whole = preprocess.whole
    if isinstance(roi, FrameRegion):
        return roi.carried(whole)
    spec, picture_name = split_picture(roi)
    # with `keep_aspect`, a fraction of a side means another place in a picture of another aspect ratio
    is_same_in_all = whole.reference is None and not (whole.corrections or whole.keep_aspect)
    if not picture_name and is_same_in_all and not needs_picture_size(spec):
        mask = read_roi(spec, whole)
        if text := describe_roi(spec, mask):
            say(text)
        return mask
    if picture_name:
        name = picture_name
        source = _region_picture(name, sources, names)
    else:
        name = names[0]
        source = sources[0]
    views = whole.views(source, name)
    if views.unusable:
        raise InputError(
            f"the region of interest is drawn on {name}, and {views.unusable}: name a better picture, "
            "--roi REGION@PICTURE"
        )
    mask = read_roi(spec, whole, [frame.placed for frame in views.frames])
    motion = "" if whole.reference is None else ", and moves with the part"
    say(f"region of interest: drawn on {name}{motion}; {mask.mean():.0%} of what the network sees counts")
    return mask

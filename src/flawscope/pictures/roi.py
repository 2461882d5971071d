"""Reads a region of interest: the pixels of the network's view that count. Torch-free."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from flawscope.errors import InputError
from flawscope.pictures.decoding import read_mask

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flawscope.pictures.preprocess import Preprocess

    Mask = NDArray[np.bool_]

_NUMBER = r"\s*(\d+(?:\.\d*)?|\.\d+)\s*"
_BOX = re.compile(rf"{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}(?:@\s*(\d+)\s*x\s*(\d+)\s*)?")


def read_roi(spec: str | os.PathLike[str] | NDArray[Any], preprocess: Preprocess) -> Mask:
    """The region of interest [H, W] bool at network size: the pixels whose centre lies in it.

    `spec` is a mask at the pictures' size (array or file; above 0 counts), or a box "x0,y0,x1,y1": fractions
    of the picture, or pixels of a picture of W x H as "x0,y0,x1,y1@WxH". Fractions alone say nothing about
    the picture's shape, so they are refused where it matters, with `keep_aspect`. Raises InputError; also
    where the region holds no pixel that the network sees.
    """
    box = _BOX.fullmatch(spec) if isinstance(spec, str) else None
    if box is not None:
        roi = _roi_from_box(str(spec), box, preprocess)
    else:
        if isinstance(spec, np.ndarray):
            if spec.ndim != 2 or spec.size == 0:
                raise InputError(f"region of interest of shape {list(spec.shape)}; give a mask [H, W]")
            mask: Mask = spec > 0
        else:
            mask = read_mask(spec)
        height, width = mask.shape
        roi = preprocess.geometry((height, width)).mask_to_network(mask)
    if not roi.any():
        shown = "given" if isinstance(spec, np.ndarray) else str(spec)
        raise InputError(f"region of interest {shown} holds no pixel the network sees; make it larger")
    return roi


def _roi_from_box(spec: str, match: re.Match[str], preprocess: Preprocess) -> Mask:
    x0, y0, x1, y1 = (float(match[i]) for i in range(1, 5))
    if match[5] is not None:
        width, height = int(match[5]), int(match[6])
        if min(width, height) < 1:
            raise InputError(
                f"region of interest {spec}: the picture after @ has no pixels; give WIDTHxHEIGHT"
            )
    else:
        if max(x0, y0, x1, y1) > 1:
            raise InputError(
                f"region of interest {spec}: values above 1 are pixels; add the picture's size, {spec}@WxH"
            )
        if preprocess.keep_aspect:
            raise InputError(
                f"region of interest {spec}: fractions need the picture's shape with keep_aspect; "
                "give pixels as x0,y0,x1,y1@WxH or a mask file"
            )
        width, height = 1, 1  # stretched: fractions mean the same in every picture
    if not (x0 < x1 <= (width if match[5] else 1) and y0 < y1 <= (height if match[5] else 1)):
        raise InputError(
            f"region of interest {spec} is empty or leaves the picture; give x0 < x1 and y0 < y1"
        )
    geometry = preprocess.geometry((height, width))
    left, upper, right, lower = geometry.to_network((x0, y0, x1, y1))
    rows, columns = (np.arange(length) + 0.5 for length in geometry.size)
    inside: Mask = ((rows >= upper) & (rows < lower))[:, None] & ((columns >= left) & (columns < right))
    return inside

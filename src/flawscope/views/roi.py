"""Reads a region of interest: the pixels of the network's view that count. Torch-free.

Where parts are aligned a region is drawn on one picture, and carried into the frame by the pose of its part.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flawscope.errors import InputError
from flawscope.pictures.masks import read_mask
from flawscope.types import Array
from flawscope.views.frames import AlignedPart
from flawscope.views.geometry import Geometry
from flawscope.views.pose import HALF_SIDE, Pose, PoseReference
from flawscope.views.preprocess import Preprocess

Mask = NDArray[np.bool_]
Drawn = str | os.PathLike[str] | Sequence[float] | NDArray[np.bool_] | NDArray[np.number]

_NUMBER = r"\s*(\d+(?:\.\d*)?|\.\d+)\s*"
_CARRIED_SIDE = 512  # pixels of the reference as a picture
_LIKE_A_BOX = re.compile(r"[\d.,;:@xX\s-]+")  # numbers, though not four as `_BOX` takes them
_BOX = re.compile(rf"{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}(?:@\s*(\d+)\s*x\s*(\d+)\s*)?")


def split_picture(spec: Drawn) -> tuple[Drawn, str]:
    """Split "REGION@PICTURE" into the region and the picture that it is drawn on; empty: none."""
    if not isinstance(spec, str) or _BOX.fullmatch(spec) or "@" not in spec or os.path.exists(spec):
        return spec, ""
    region, _, picture = spec.rpartition("@")
    return region, picture


def drawn_size(spec: Drawn) -> tuple[int, int] | None:
    """Return the size (H, W) of the picture that a region is drawn on; None for a box in fractions.

    Raises:
        InputError: It is a mask that cannot be read.
    """
    if isinstance(spec, np.ndarray):
        return (spec.shape[0], spec.shape[1]) if spec.ndim == 2 else None
    if isinstance(spec, list | tuple):
        return None
    if match := _BOX.fullmatch(str(spec)):
        return (int(match[6]), int(match[5])) if match[5] else None
    assert isinstance(spec, str | os.PathLike)
    mask = _read_drawn(spec)
    return mask.shape[0], mask.shape[1]


def _read_drawn(spec: str | os.PathLike[str]) -> Mask:
    """Read a mask's file. InputError: it cannot be read, or the text is a box with a mistake in it."""
    if isinstance(spec, str) and _LIKE_A_BOX.fullmatch(spec) and not os.path.exists(spec):
        raise InputError(
            f"region of interest {spec}: give four numbers with points and commas between them, x0,y0,x1,y1, "
            "such as 0.1,0.2,0.8,0.9, or a mask's file"
        )
    return read_mask(spec)


def needs_picture_size(spec: Drawn) -> bool:
    """Whether a region is a box in pixels without the size of its picture."""
    match = _BOX.fullmatch(spec) if isinstance(spec, str) else None
    return match is not None and not match[5] and max(float(match[i]) for i in range(1, 5)) > 1


def same_shape(first: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes (H, W) have one shape, but for rounding."""
    return abs(first[0] * other[1] - first[1] * other[0]) <= max(*first, *other)


def read_roi(spec: Drawn, preprocess: Preprocess, drawn_on: Sequence[Geometry] = ()) -> Mask:
    """Return the region of interest [H, W] bool at network size: the pixels whose centre lies in it.

    A box in fractions says nothing about the picture's shape, and is refused where that matters, with
    `keep_aspect`.

    Args:
        spec: A mask at the pictures' size: an array, whose values above 0 count, or a file that `read_mask`
            reads. Or a box "x0,y0,x1,y1", or these four numbers: fractions of the picture; or pixels of a
            picture of W x H as "x0,y0,x1,y1@WxH".
        preprocess: Preprocessing of the model.
        drawn_on: Places of views in the picture that the region is drawn on; the view that shows most of it
            counts. A box may be in pixels of that picture, then.

    Raises:
        InputError: The region cannot be read, or holds no pixel that the network sees.
    """
    if isinstance(spec, list | tuple):
        spec = _box_text(spec)
    assert isinstance(spec, str | os.PathLike | np.ndarray)
    box = _BOX.fullmatch(spec) if isinstance(spec, str) else None
    if box is not None and not drawn_on:
        roi = _roi_from_box(str(spec), box, preprocess)
    else:
        roi = _roi_from_mask(_drawn_mask(spec, box, drawn_on), preprocess, drawn_on)
    if not roi.any():
        shown = "given" if isinstance(spec, np.ndarray) else str(spec)
        raise InputError(f"region of interest {shown} holds no pixel the network sees; make it larger")
    return roi


def _roi_from_mask(mask: Mask, preprocess: Preprocess, drawn_on: Sequence[Geometry]) -> Mask:
    """Return a mask at network size, by the place that shows most of it.

    Args:
        mask: [H, W], at the size of the picture that it is drawn on.
        preprocess: Preprocessing of the model.
        drawn_on: Places of views in that picture; none: the view of the whole picture.
    """
    size = (mask.shape[0], mask.shape[1])
    corrected = preprocess.corrected_mask(mask)
    places = [placed.with_picture_size(size) for placed in drawn_on] or [preprocess.geometry(size)]
    return max((placed.mask_to_network(corrected) for placed in places), key=np.count_nonzero)


def _box_text(numbers: Sequence[float]) -> str:
    """Four fractions as the text of a box. InputError: they are others."""
    if len(numbers) != 4:
        raise InputError(f"region of interest of {len(numbers)} numbers; give four: x0, y0, x1, y1")
    text = ",".join(f"{number:.6f}".rstrip("0").rstrip(".") for number in numbers)
    if _BOX.fullmatch(text) is None:  # below 0, or not finite
        raise InputError(f"region of interest {text} leaves the picture; give fractions from 0 to 1")
    return text


def _drawn_mask(
    spec: str | os.PathLike[str] | Array, box: re.Match[str] | None, drawn_on: Sequence[Geometry]
) -> Mask:
    """Return the mask [H, W] of a region, at the size of the picture that it is drawn on.

    Args:
        spec: Mask, its file, or a box as text.
        box: Match of `spec` where it is a box.
        drawn_on: Places of views in the picture; a box is drawn at the size of the first one's picture.
    """
    if isinstance(spec, np.ndarray):
        if spec.ndim != 2 or spec.size == 0:
            raise InputError(f"region of interest of shape {list(spec.shape)}; give a mask [H, W]")
        mask: Mask = spec > 0
        return mask
    return _read_drawn(spec) if box is None else _draw_box(str(spec), box, drawn_on[0].picture_size)


def describe_roi(spec: str | os.PathLike[str] | Sequence[float] | Array | None, roi: Mask) -> str:
    """Return a sentence on the share of the picture that counts by a mask, which may be inverted.

    It is empty for a box.

    Args:
        spec: The region, as `read_roi` takes it.
        roi: [H, W], the region at network size.
    """
    if isinstance(spec, list | tuple) or (isinstance(spec, str) and _BOX.fullmatch(spec)):
        return ""
    name = spec if isinstance(spec, str | os.PathLike) else "given"
    share = roi.mean()
    doubt = "; if that is the wrong side, invert the mask: white counts" if share > 0.5 else ""
    return f"region of interest {name}: {share:.0%} of the picture counts{doubt}"


@dataclass(frozen=True, eq=False)
class FrameRegion:
    """Region of interest in the frames of an earlier model.

    Attributes:
        mask: [H, W], pixels that count.
        reference: Reference that aligned the earlier model's parts; None: frames are corrected pictures.
    """

    mask: Mask
    reference: PoseReference | None

    def carried(self, preprocess: Preprocess) -> Mask:
        """Return the region at network size, in the frames of another reference.

        The earlier reference finds the part in the new one as in a picture.

        Raises:
            InputError: It does not find it.
        """
        reference = preprocess.reference
        if reference is None or self.reference is None or reference == self.reference:
            return preprocess.geometry((self.mask.shape[0], self.mask.shape[1])).mask_to_network(self.mask)
        pose = self.reference.find(np.divide(reference.levels, 255, dtype=np.float32))
        if not pose.found:
            raise InputError(
                "the parts look otherwise than those of the earlier model, and its region of interest cannot "
                "be carried over: fit anew with --roi"
            )
        size = (_CARRIED_SIDE, _CARRIED_SIDE)
        middle = Pose(HALF_SIDE, HALF_SIDE, error=0.0)
        picture = np.empty((*size, 1), np.uint8)
        frame = AlignedPart(reference).frame(picture, 255.0, preprocess.size, middle)
        earlier = self.reference.geometry(pose, size, (self.mask.shape[0], self.mask.shape[1]))
        return frame.place(preprocess.geometry(frame.size)).mask_to_network(earlier.warp_mask(self.mask))


RoiSource = str | os.PathLike[str] | Sequence[float] | NDArray[np.bool_] | FrameRegion


def _roi_from_box(spec: str, match: re.Match[str], preprocess: Preprocess) -> Mask:
    if not match[5] and preprocess.keep_aspect and max(float(match[i]) for i in range(1, 5)) <= 1:
        raise InputError(
            f"region of interest {spec}: fractions need the picture's shape with keep_aspect; "
            "give pixels as x0,y0,x1,y1@WxH or a mask file"
        )
    box, size = _parse_box(spec, match)  # stretched: fractions mean the same in every picture
    geometry = preprocess.geometry(size)
    return _box_mask(geometry.to_network(box), geometry.size)


def _draw_box(spec: str, match: re.Match[str], picture_size: tuple[int, int]) -> Mask:
    """Mask [H, W] of a box in fractions or pixels of a picture of (H, W) pixels."""
    whole: re.Match[str] | None = match
    if needs_picture_size(spec):
        whole = _BOX.fullmatch(f"{spec}@{picture_size[1]}x{picture_size[0]}")
    assert whole is not None
    box, size = _parse_box(spec, whole)
    down, across = (side / part for side, part in zip(picture_size, size, strict=True))
    x0, y0, x1, y1 = box
    return _box_mask((x0 * across, y0 * down, x1 * across, y1 * down), picture_size)


def _parse_box(spec: str, match: re.Match[str]) -> tuple[tuple[float, float, float, float], tuple[int, int]]:
    """A box and the size (H, W) of the picture that it is in; 1 by 1 for fractions."""
    x0, y0, x1, y1 = (float(match[i]) for i in range(1, 5))
    width, height = (int(match[5]), int(match[6])) if match[5] else (1, 1)
    if min(width, height) < 1:
        raise InputError(f"region of interest {spec}: the picture after @ has no pixels; give WIDTHxHEIGHT")
    if not match[5] and max(x0, y0, x1, y1) > 1:
        raise InputError(
            f"region of interest {spec}: values above 1 are pixels; add the picture's size, {spec}@WxH"
        )
    if not (x0 < x1 <= width and y0 < y1 <= height):
        raise InputError(
            f"region of interest {spec} is empty or leaves the picture; give x0 < x1 and y0 < y1"
        )
    return (x0, y0, x1, y1), (height, width)


def _box_mask(box: tuple[float, float, float, float], size: tuple[int, int]) -> Mask:
    """Mask (H, W) of the pixels whose middle lies in a box."""
    left, upper, right, lower = box
    rows, columns = (np.arange(length) + 0.5 for length in size)
    inside: Mask = ((rows >= upper) & (rows < lower))[:, None] & ((columns >= left) & (columns < right))
    return inside

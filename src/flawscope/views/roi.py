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
_CARRIED_SIDE = 512  # pixels of a side of the new reference's image, through which a region is carried
_LIKE_A_BOX = re.compile(r"[\d.,;:@xX\s-]+")  # numbers, perhaps not in the form of `_BOX`
_BOX = re.compile(rf"{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}(?:@\s*(?P<width>\d+)\s*x\s*(?P<height>\d+)\s*)?")


def split_picture(spec: Drawn) -> tuple[Drawn, str]:
    """Split "REGION@PICTURE" into the region and the name of its picture; without "@PICTURE", "" as name."""
    if not isinstance(spec, str) or _BOX.fullmatch(spec) or "@" not in spec or os.path.exists(spec):
        return spec, ""
    region, _, picture = spec.rpartition("@")
    return region, picture


def drawn_size(spec: Drawn) -> tuple[int, int] | None:
    """Return the size (H, W) of the picture that a region is drawn on; None: the region does not state it.

    Raises:
        InputError: The region is a mask's file that cannot be read.
    """
    if isinstance(spec, np.ndarray):
        return (spec.shape[0], spec.shape[1]) if spec.ndim == 2 else None
    if isinstance(spec, list | tuple):
        return None
    if match := _BOX.fullmatch(str(spec)):
        width, height = match["width"], match["height"]
        return (int(height), int(width)) if width else None
    assert isinstance(spec, str | os.PathLike)
    mask = _read_drawn(spec)
    return mask.shape[0], mask.shape[1]


def _read_drawn(spec: str | os.PathLike[str]) -> Mask:
    """Read the file of a mask.

    Raises:
        InputError: The file cannot be read, or `spec` looks like a box but is not a valid one.
    """
    if isinstance(spec, str) and _LIKE_A_BOX.fullmatch(spec) and not os.path.exists(spec):
        raise InputError(
            f"region of interest {spec}: give four numbers with points and commas between them, x0,y0,x1,y1, "
            "such as 0.1,0.2,0.8,0.9, or a mask's file"
        )
    return read_mask(spec)


def needs_picture_size(spec: Drawn) -> bool:
    """Whether a region is a box in pixels without the size of its picture."""
    match = _BOX.fullmatch(spec) if isinstance(spec, str) else None
    if match is None or match["width"]:
        return False
    return max(_box_numbers(match)) > 1


def _box_numbers(match: re.Match[str]) -> tuple[float, float, float, float]:
    """Return the numbers x0, y0, x1, y1 of a match of `_BOX`."""
    return float(match[1]), float(match[2]), float(match[3]), float(match[4])


def same_shape(first: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes (H, W) have the same aspect ratio, up to a pixel of rounding."""
    height, width = first
    other_height, other_width = other
    return abs(height * other_width - width * other_height) <= max(*first, *other)


def read_roi(spec: Drawn, preprocess: Preprocess, view_places: Sequence[Geometry] = ()) -> Mask:
    """Return the region of interest [H, W] bool at network size: the pixels whose centre lies in it.

    With `keep_aspect`, a box in fractions is refused: it does not state the picture's aspect ratio.

    Args:
        spec: A mask at the pictures' size: an array, whose values above 0 count, or a file that `read_mask`
            reads. Or a box in fractions of the picture, as four numbers or as text "x0,y0,x1,y1". Or a box
            in pixels of a picture of W x H, as "x0,y0,x1,y1@WxH".
        preprocess: Preprocessing of the model.
        view_places: Places of views in the picture that the region is drawn on. The view that shows most of
            the region is used. If views are given, a box may be in pixels without "@WxH".

    Raises:
        InputError: The region cannot be read, or holds no pixel that the network sees.
    """
    if isinstance(spec, list | tuple):
        spec = _box_text(spec)
    assert isinstance(spec, str | os.PathLike | np.ndarray)
    box = _BOX.fullmatch(spec) if isinstance(spec, str) else None
    if box is not None and not view_places:
        roi = _roi_from_box(str(spec), box, preprocess)
    else:
        roi = _roi_from_mask(_drawn_mask(spec, box, view_places), preprocess, view_places)
    if not roi.any():
        name = "given" if isinstance(spec, np.ndarray) else str(spec)
        raise InputError(f"region of interest {name} holds no pixel the network sees; make it larger")
    return roi


def _roi_from_mask(mask: Mask, preprocess: Preprocess, view_places: Sequence[Geometry]) -> Mask:
    """Return a mask at network size, in the view that shows most of the mask.

    Args:
        mask: [H, W], at the size of the picture that it is drawn on.
        preprocess: Preprocessing of the model.
        view_places: Places of views in that picture; empty: the view of the whole picture is used.
    """
    size = (mask.shape[0], mask.shape[1])
    corrected = preprocess.corrected_mask(mask)
    places = [place.with_picture_size(size) for place in view_places] or [preprocess.geometry(size)]
    view_masks = [place.mask_to_network(corrected) for place in places]
    return max(view_masks, key=np.count_nonzero)


def _box_text(numbers: Sequence[float]) -> str:
    """Write four fractions as the text of a box.

    Raises:
        InputError: There are not four numbers, or one is below 0 or not finite.
    """
    if len(numbers) != 4:
        raise InputError(f"region of interest of {len(numbers)} numbers; give four: x0, y0, x1, y1")
    text = ",".join(f"{number:.6f}".rstrip("0").rstrip(".") for number in numbers)
    if _BOX.fullmatch(text) is None:  # below 0, or not finite
        raise InputError(f"region of interest {text} leaves the picture; give fractions from 0 to 1")
    return text


def _drawn_mask(
    spec: str | os.PathLike[str] | Array, box: re.Match[str] | None, view_places: Sequence[Geometry]
) -> Mask:
    """Return the mask [H, W] of a region, at the size of the picture that it is drawn on.

    Args:
        spec: Mask, its file, or a box as text.
        box: Match of `_BOX`; None: `spec` is no box.
        view_places: Places of views in the picture. The first one gives the picture's size to a box.
    """
    if isinstance(spec, np.ndarray):
        if spec.ndim != 2 or spec.size == 0:
            raise InputError(f"region of interest of shape {list(spec.shape)}; give a mask [H, W]")
        mask: Mask = spec > 0
        return mask
    return _read_drawn(spec) if box is None else _draw_box(str(spec), box, view_places[0].picture_size)


def describe_roi(spec: str | os.PathLike[str] | Sequence[float] | Array | None, roi: Mask) -> str:
    """Describe how much of the picture counts by a mask, so that an inverted mask is noticed.

    The text is empty for a box.

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
        """Return the region at network size, in the frames of a new model.

        If the models have different references, the earlier reference finds the part in the image of the
        new one.

        Args:
            preprocess: Preprocessing of the new model.

        Raises:
            InputError: The part is not found.
        """
        new_reference = preprocess.reference
        mask_size = (self.mask.shape[0], self.mask.shape[1])
        if new_reference is None or self.reference is None or new_reference == self.reference:
            return preprocess.geometry(mask_size).mask_to_network(self.mask)
        reference_picture = np.divide(new_reference.levels, 255, dtype=np.float32)
        pose = self.reference.find(reference_picture)
        if not pose.found:
            raise InputError(
                "the parts look otherwise than those of the earlier model, and its region of interest cannot "
                "be carried over: fit anew with --roi"
            )
        reference_size = (_CARRIED_SIDE, _CARRIED_SIDE)
        earlier_place = self.reference.geometry(pose, reference_size, mask_size)
        mask_in_picture = earlier_place.warp_mask(self.mask)
        blank_picture = np.empty((*reference_size, 1), np.uint8)  # only its size is used
        pose_in_itself = Pose(HALF_SIDE, HALF_SIDE, error=0.0)
        frame = AlignedPart(new_reference).frame(blank_picture, 255.0, preprocess.size, pose_in_itself)
        new_place = frame.place(preprocess.geometry(frame.size))
        return new_place.mask_to_network(mask_in_picture)


RoiSource = str | os.PathLike[str] | Sequence[float] | NDArray[np.bool_] | FrameRegion


def _roi_from_box(spec: str, match: re.Match[str], preprocess: Preprocess) -> Mask:
    """Return the mask of a box at network size.

    Args:
        spec: The box as text.
        match: Match of `_BOX`.
        preprocess: Preprocessing of the model.

    Raises:
        InputError: Fractions are given where the aspect is kept, or the box is wrong.
    """
    is_in_fractions = not match["width"] and max(_box_numbers(match)) <= 1
    if is_in_fractions and preprocess.keep_aspect:
        raise InputError(
            f"region of interest {spec}: fractions need the picture's shape with keep_aspect; "
            "give pixels as x0,y0,x1,y1@WxH or a mask file"
        )
    # pictures are stretched to the network's size, so that fractions mean the same in every picture
    box, size = _parse_box(spec, match)
    geometry = preprocess.geometry(size)
    return _box_mask(geometry.to_network(box), geometry.size)


def _draw_box(spec: str, match: re.Match[str], picture_size: tuple[int, int]) -> Mask:
    """Draw a box, in fractions or pixels, as a mask [H, W] of a picture of this size."""
    height, width = picture_size
    match_with_size: re.Match[str] | None = match
    if needs_picture_size(spec):  # pixels, which `_parse_box` takes only with the picture's size
        match_with_size = _BOX.fullmatch(f"{spec}@{width}x{height}")
    assert match_with_size is not None
    (x0, y0, x1, y1), (box_height, box_width) = _parse_box(spec, match_with_size)
    y_factor = height / box_height
    x_factor = width / box_width
    return _box_mask((x0 * x_factor, y0 * y_factor, x1 * x_factor, y1 * y_factor), picture_size)


def _parse_box(spec: str, match: re.Match[str]) -> tuple[tuple[float, float, float, float], tuple[int, int]]:
    """Return a box, and the size (H, W) of its picture: (1, 1) if the box is in fractions.

    Raises:
        InputError: The box is empty, leaves the picture, or is in pixels without the picture's size.
    """
    x0, y0, x1, y1 = _box_numbers(match)
    has_size = bool(match["width"])
    width, height = (int(match["width"]), int(match["height"])) if has_size else (1, 1)
    if min(width, height) < 1:
        raise InputError(f"region of interest {spec}: the picture after @ has no pixels; give WIDTHxHEIGHT")
    if not has_size and max(x0, y0, x1, y1) > 1:
        raise InputError(
            f"region of interest {spec}: values above 1 are pixels; add the picture's size, {spec}@WxH"
        )
    if not (x0 < x1 <= width and y0 < y1 <= height):
        raise InputError(
            f"region of interest {spec} is empty or leaves the picture; give x0 < x1 and y0 < y1"
        )
    return (x0, y0, x1, y1), (height, width)


def _box_mask(box: tuple[float, float, float, float], size: tuple[int, int]) -> Mask:
    """Return the mask (H, W) of the pixels whose middle lies in a box (left, upper, right, lower)."""
    left, upper, right, lower = box
    height, width = size
    y = np.arange(height) + 0.5
    x = np.arange(width) + 0.5
    row_inside = (y >= upper) & (y < lower)
    column_inside = (x >= left) & (x < right)
    inside: Mask = row_inside[:, None] & column_inside
    return inside

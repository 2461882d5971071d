"""Finds the masks of a picture: files by the folder's and the file's name, or marks from labelling tools
(COCO and LabelMe files); and forms their union."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from flawscope.errors import InputError
from flawscope.pictures.decoding import PillowSource, read_mask, source_name
from flawscope.pictures.listing import pictures_in, walk_files

MASK_FOLDERS = ("ground_truth", "masks", "mask")
IGNORED_FOLDERS = ("annotations", "labels", *MASK_FOLDERS)  # their names are no part of a picture's name
Shape = NDArray[Any]  # a polygon [N, 2] of x, y in pixels, or the runs [N] of a mask, column by column
NameParts = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class PictureLabels(os.PathLike[str]):
    """Marks of the label file at `path` in one picture of `size` (H, W). Every shape is a defect, whatever
    its name. `boxes`: number of shapes that are boxes, which mark more than the defect."""

    path: Path
    size: tuple[int, int]
    shapes: tuple[Shape, ...]
    boxes: int = 0

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise TypeError(f"a picture of {self.size[1]}x{self.size[0]} pixels")

    def read(self) -> NDArray[np.bool_]:
        """Draws the mask [H, W]."""
        mask = np.zeros(self.size, np.bool_)
        for shape in self.shapes:
            mask |= _fill_polygon(shape, self.size) if shape.ndim == 2 else from_runs(shape, self.size)
        return mask

    def __fspath__(self) -> str:
        return str(self.path)

    __str__ = __fspath__


class LabelFiles:
    """Label files anywhere below a folder; read when the labels of the first picture are asked for.

    A COCO file names its pictures; a LabelMe file has the name of its picture. A name without folders means
    the picture of that name, wherever it lies.
    """

    def __init__(self, root: Path):
        self.root = root
        self._taken: dict[PictureLabels, Path] = {}

    def find(self, picture: Path) -> tuple[PictureLabels, ...]:
        """The labels of a picture below the folder. InputError: a label file is damaged, or means another
        picture of the same name as well."""
        if not picture.is_relative_to(self.root):
            return ()
        own = _name_parts(picture.relative_to(self.root).as_posix())
        fits = [(parts, labels) for parts, labels in self._known.get(own[-1], ()) if _ends_match(parts, own)]
        longest = max((len(parts) for parts, _ in fits), default=0)
        found = tuple(labels for parts, labels in fits if len(parts) == longest)
        for labels in found:
            other = self._taken.setdefault(labels, picture)
            if other != picture:
                raise InputError(
                    f"{labels.path}: {own[-1]} may be {other} or {picture}: name pictures with their folders"
                )
        return found

    @cached_property
    def _known(self) -> dict[str, list[tuple[NameParts, PictureLabels]]]:
        """All labels, by the picture's name without folders and suffix."""
        known: dict[str, list[tuple[NameParts, PictureLabels]]] = {}
        for path in walk_files(self.root):
            if path.suffix.lower() != ".json":
                continue
            own = _name_parts(path.relative_to(self.root).as_posix())
            own = (*(part for part in own[:-1] if part.casefold() not in IGNORED_FOLDERS), own[-1])
            for parts, labels in _read_label_file(path, own):
                if labels.shapes:
                    known.setdefault(parts[-1], []).append((parts, labels))
        return known


def _name_parts(name: str) -> NameParts:
    path = PurePosixPath(name.replace("\\", "/"))
    return (*path.parts[:-1], path.stem)


def _ends_match(one: NameParts, other: NameParts) -> bool:
    short = min(len(one), len(other))
    return one[-short:] == other[-short:]


Mask = Path | PictureLabels  # a file of its own, or the picture's marks in a labelling tool's file


class MaskFolder:
    """Masks below one folder. Three spellings are known, and the first that fits is taken: `STEM_mask.*`,
    `STEM.*`, and a folder `STEM/` with any number of masks (MVTec LOCO)."""

    def __init__(self, folder: Path | None) -> None:
        self._single: dict[str, list[Path]] = {}
        self._several: dict[str, list[Path]] = {}
        for path in pictures_in(folder) if folder is not None and folder.is_dir() else ():
            relative = PurePosixPath(path.relative_to(folder).as_posix())  # type: ignore[arg-type]
            self._single.setdefault(str(relative.with_suffix("")), []).append(path)
            self._several.setdefault(str(relative.parent), []).append(path)

    def find(self, names: Iterable[str]) -> tuple[Path, ...]:
        """Masks of a picture that may be called by any of these names (relative, without suffix)."""
        for name in names:
            for key in (f"{name}_mask", name):
                if key in self._single:
                    return (self._single[key][0],)
            if name in self._several:
                return tuple(self._several[name])
        return ()


def relative_stem(path: Path, folder: Path) -> str:
    """The picture's path relative to `folder`, without its suffix."""
    return path.relative_to(folder).with_suffix("").as_posix()


def union_masks(
    masks: Iterable[PillowSource | PictureLabels | NDArray[Any]],
    size: tuple[int, int],
    picture: str | None = None,
) -> NDArray[np.bool_]:
    """The union of a picture's masks, [H, W] bool of the picture's `size`; arrays count where they are not 0.

    `picture` names the picture in the error where the masks have no path. Raises InputError where a mask
    cannot be read or has another size.
    """
    whole = np.zeros(size, np.bool_)
    for mask in masks:
        name = f"mask {source_name(mask)}" if picture is None else f"the mask of {picture}"
        whole |= require_size(
            mask.astype(bool) if isinstance(mask, np.ndarray) else read_any_mask(mask), size, name
        )
    return whole


def read_any_mask(mask: PillowSource | PictureLabels) -> NDArray[np.bool_]:
    """Reads a mask, [H, W] bool; InputError where it cannot be read."""
    return mask.read() if isinstance(mask, PictureLabels) else read_mask(mask)


def require_size(mask: NDArray[Any], size: tuple[int, int], name: str) -> NDArray[Any]:
    """The mask, if it has its picture's size (H, W); InputError otherwise."""
    if mask.shape != tuple(size):
        found = "x".join(map(str, mask.shape[1::-1] + mask.shape[2:]))
        raise InputError(
            f"cannot use {name}: it is {found}, its picture {size[1]}x{size[0]}; make them agree"
        )
    return mask


# ----------------------------------------------------------------------------------------------- the formats


def _read_label_file(path: Path, own: NameParts) -> Iterable[tuple[NameParts, PictureLabels]]:
    """Pictures and labels of a label file; empty for any other file."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return []  # a damaged file may be anything
    if not isinstance(document, dict):
        return []
    try:
        if {"images", "annotations"} <= document.keys():
            return list(_parse_coco(path, document))
        return [(own, _parse_labelme(path, document))] if {"shapes", "imageWidth"} <= document.keys() else []
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        kind = "COCO" if "images" in document else "LabelMe"
        raise InputError(
            f"{path} is damaged, it looks like a {kind} file ({error}): export it again"
        ) from None


def _parse_coco(path: Path, document: dict[str, Any]) -> Iterator[tuple[NameParts, PictureLabels]]:
    annotations_of: dict[Any, list[dict[str, Any]]] = {}
    for annotation in document["annotations"]:
        if "score" in annotation:  # a model's findings are no ground truth
            continue
        annotations_of.setdefault(annotation["image_id"], []).append(annotation)
    for image in document["images"]:
        size, shapes, boxes = (int(image["height"]), int(image["width"])), list[Shape](), 0
        for annotation in annotations_of.get(image["id"], ()):
            marked = annotation.get("segmentation")
            if isinstance(marked, dict):
                if tuple(marked["size"]) != size:
                    raise ValueError(f"a mask of {image['file_name']} has another size")
                counts = marked["counts"]
                shapes.append(_decompress_runs(counts) if isinstance(counts, str) else np.array(counts, int))
            elif marked:
                shapes += [np.array(polygon, float).reshape(-1, 2) for polygon in marked]
            else:
                x, y, width, height = map(float, annotation["bbox"])
                shapes.append(_box_polygon(x, y, x + width, y + height))
                boxes += 1
        yield _name_parts(image["file_name"]), PictureLabels(path, size, tuple(shapes), boxes)


def _parse_labelme(path: Path, document: dict[str, Any]) -> PictureLabels:
    size, shapes, boxes = (int(document["imageHeight"]), int(document["imageWidth"])), list[Shape](), 0
    for shape in document["shapes"]:
        points, kind = np.array(shape["points"], float).reshape(-1, 2), shape.get("shape_type", "polygon")
        if kind == "rectangle":
            shapes.append(_box_polygon(*points[:2].min(0), *points[:2].max(0)))
            boxes += 1
        elif kind == "circle":
            angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
            radius = float(np.hypot(*(points[1] - points[0])))
            shapes.append(points[0] + radius * np.stack([np.cos(angles), np.sin(angles)], 1))
        elif kind == "mask":
            part, whole = read_mask(base64.b64decode(shape["mask"])), np.zeros(size, np.bool_)
            left, top = points[0].round().astype(int)
            whole[top : top + part.shape[0], left : left + part.shape[1]] = part
            shapes.append(to_runs(whole))
        else:  # lines and points are drawn one pixel wide
            is_polygon = len(points) > 2 and kind not in _LINES
            shapes.append(points if is_polygon else to_runs(_draw_line(points, size)))
    return PictureLabels(path, size, tuple(shapes), boxes)


_LINES = ("line", "linestrip", "point", "points")


# ----------------------------------------------------------------------------------------------- the shapes


def _box_polygon(x0: float, y0: float, x1: float, y1: float) -> Shape:
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], float)


def _fill_polygon(polygon: Shape, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Fills a polygon, [H, W] bool: pixels whose centre lies inside, by the even-odd rule."""
    height, width = size
    crossings = np.zeros((height, width + 1), np.uint8)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, 0), strict=True):
        if y0 == y1:
            continue
        first, last = (int(np.clip(np.ceil(y - 0.5), 0, height)) for y in sorted((y0, y1)))
        rows = np.arange(first, last)
        at = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
        crossings[rows, np.clip(np.ceil(at - 0.5), 0, width).astype(int)] ^= 1
    inside: NDArray[np.bool_] = np.bitwise_xor.accumulate(crossings[:, :width], axis=1).astype(np.bool_)
    return inside


def _draw_line(points: Shape, size: tuple[int, int]) -> NDArray[np.bool_]:
    canvas = Image.new("1", size[::-1])
    ImageDraw.Draw(canvas).line([*map(tuple, np.floor(points[[0, *range(len(points))]]))], fill=1)
    return np.asarray(canvas, np.bool_)


def from_runs(runs: NDArray[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask [H, W] from COCO's run lengths: down the columns, unmarked pixels first."""
    if runs.sum() != size[0] * size[1] or (runs < 0).any():
        raise InputError(f"a mask's run lengths do not make {size[1]}x{size[0]} pixels: export it again")
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return values.reshape(size, order="F")


def to_runs(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Undoes `from_runs`."""
    values = np.concatenate([[False], mask.ravel(order="F")])
    changes = np.flatnonzero(values[1:] != values[:-1])
    return np.diff(np.concatenate([[0], changes, [mask.size]]))


def _decompress_runs(text: str) -> NDArray[np.int64]:
    """Runs of COCO's compressed form. A character holds six bits from "0" on: five of the number, low ones
    first, and the sixth says that more follow. From the third run on, the number is the difference from the
    run before the last."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:  # negative
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return np.array(runs, np.int64)

"""Reads the text files of YOLO: a file for each picture, a line for each box or polygon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope.datasets.labels import shapes
from flawscope.datasets.labels.shapes import Entry, Mark, Polygon, Shape
from flawscope.errors import InputError
from flawscope.pictures.text_files import load_yaml, read_text

SETTINGS = ("data.yaml", "dataset.yaml", "classes.txt", "obj.names")
ROUNDING = 0.01  # how far outside of the picture marks at its edge may lie


class YoloSettings(NamedTuple):
    """Names of the kinds by their numbers, and whether key points follow each box."""

    names: dict[int, str]
    key_points: bool = False


def find_settings(root: Path, folder: Path) -> YoloSettings:
    """Read the settings that lie next to a folder of labels, there or above, within the root."""
    for place in (folder, *folder.parents):
        for path in (place / name for name in SETTINGS):
            if path.is_file():
                return _read_settings(path)
        if place == root:
            break
    return YoloSettings({})


def _read_settings(path: Path) -> YoloSettings:
    try:
        text = read_text(path)
        document = load_yaml(text) if path.suffix == ".yaml" else {"names": text.splitlines()}
        if not isinstance(document, dict):
            raise TypeError(document)
        names = document.get("names") or {}
        numbered = names if isinstance(names, dict) else dict(enumerate(names))
        return YoloSettings({int(k): str(v) for k, v in numbered.items()}, "kpt_shape" in document)
    except (OSError, ValueError, TypeError, AttributeError):
        raise InputError(
            f"{path} is damaged, it looks like the settings of YOLO (it names no kinds): export it again"
        ) from None


def is_yolo(lines: list[list[str]]) -> bool:
    """Whether lines of words are YOLO's, by the first line."""
    return bool(lines) and any(_read_line(lines[0], key_points) for key_points in (False, True))


def _read_line(words: list[str], key_points: bool) -> tuple[int, list[float]] | None:
    """Return kind and coordinates of a line, as shares of the picture; None where it is not YOLO's.

    The third number of a key point is 2 where it is visible.
    """
    try:
        kind, *numbers = map(float, words)
    except ValueError:
        return None
    inside = all(-ROUNDING <= n <= 1 + ROUNDING or (n == 2 and key_points) for n in numbers)
    if len(numbers) < 4 or kind < 0 or not kind.is_integer() or not inside:
        return None
    return int(kind), numbers[:4] if key_points else numbers


def have_key_points(lines: list[list[str]]) -> bool | None:
    """Whether key points follow the box of each line, by the numbers alone; None: they may be corners.

    With visibility, every third number is 0, 1 or 2. Without it, key points lie in the box that the first
    four numbers are; the second corner of a polygon would hardly be the only one outside.
    """
    try:
        rows = [np.array(words[1:], float) for words in lines]
    except ValueError:
        return False
    if min(map(len, rows)) <= 4 or len({*map(len, rows)}) > 1:
        return False
    table = np.array(rows)
    boxes = table[:, :4]
    rest = table[:, 4:]
    if not _are_boxes(boxes):
        return False
    if rest.shape[1] % 3 == 0 and _are_visible_points(rest.reshape(len(table), -1, 3), boxes):
        return True
    if rest.shape[1] % 2 == 0:
        pairs = rest.reshape(len(table), -1, 2)
        second_corner = boxes[:, None, 2:]
        if _in_box(pairs, boxes).all() and not _in_box(second_corner, boxes).any():
            return None
    return False


def _are_boxes(table: NDArray[np.float64]) -> bool:
    """Whether [N, 4] are centres and sides of boxes in the picture."""
    centre = table[:, :2]
    half = table[:, 2:] / 2
    is_inside = (centre >= half - ROUNDING) & (centre + half <= 1 + ROUNDING)
    return bool(is_inside.all())


def _are_visible_points(triples: NDArray[np.float64], boxes: NDArray[np.float64]) -> bool:
    """Whether [N, K, 3] are points of boxes with their visibility.

    The place of an unseen point does not matter.
    """
    visibility = triples[..., 2]
    is_in_place = _in_box(triples[..., :2], boxes) | (visibility == 0)
    return bool(np.isin(visibility, (0, 1, 2)).all() and is_in_place.all())


def _in_box(points: NDArray[np.float64], boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Find points [N, K, 2] that lie in the box of their row, [N, K] bool.

    Args:
        points: x and y, as shares of the picture.
        boxes: Centre and sides [N, 4], as shares of the picture.
    """
    distance = np.abs(points - boxes[:, None, :2])
    inside: NDArray[np.bool_] = np.all(distance <= boxes[:, None, 2:] / 2 + ROUNDING, axis=-1)
    return inside


def parse_yolo(lines: list[list[str]], picture_name: str, settings: YoloSettings) -> Iterator[Entry]:
    """Yield the entry of a file of YOLO (https://docs.ultralytics.com/datasets/segment).

    A line is a box by centre and size, also with key points, a box by four corners, or a polygon.
    """
    marks = []
    key_points = settings.key_points or have_key_points(lines)
    for row, words in enumerate(lines, start=1):
        if (read := _read_line(words, bool(key_points))) is None:
            raise InputError(f"line {row} is neither a box nor a polygon in shares of the picture")
        kind, numbers = read
        label = settings.names.get(kind, str(kind))
        if key_points is None:
            marks.append(Mark(None, "box with key points or polygon"))
        elif len(numbers) % 2:  # the last one says how sure a model is
            marks.append(Mark(None, "finding of a model"))
        elif len(numbers) == 4:
            x, y, width, height = numbers
            outline = shapes.box((x - width / 2, y - height / 2, x + width / 2, y + height / 2))
            marks.append(Mark(_filled_share(outline), label, is_box=True))
        else:
            points = shapes.to_points(numbers)
            is_box = len(points) == 4 and all(len({*points[:, k]}) == 2 for k in (0, 1))
            marks.append(Mark(_filled_share(points), label, is_box))
    yield Entry(picture_name, size=None, marks=marks)


def _filled_share(polygon: Polygon) -> Shape:
    """Shape of a polygon whose coordinates are shares of the picture's width and height."""
    return shapes.placed(lambda size: polygon * size[::-1])

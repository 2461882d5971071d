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
ROUNDING = 0.01  # share of a side by which coordinates may lie outside of the picture


class YoloSettings(NamedTuple):
    """Settings of a folder of labels.

    Attributes:
        names: Names of the kinds of marks by their numbers.
        key_points: Whether key points follow the box in each line.
    """

    names: dict[int, str]
    key_points: bool = False


def find_settings(root: Path, folder: Path) -> YoloSettings:
    """Read the settings of a folder of labels from the nearest file of settings.

    It is in the folder itself or in one above it, up to `root`. Without such a file, the kinds have no names.

    Raises:
        InputError: The file of settings is damaged.
    """
    for parent in (folder, *folder.parents):
        for name in SETTINGS:
            path = parent / name
            if path.is_file():
                return _read_settings(path)
        if parent == root:
            break
    return YoloSettings({})


def _read_settings(path: Path) -> YoloSettings:
    """Read a file of settings: YAML with `names`, or a text with one name a line.

    Raises:
        InputError: The file is damaged.
    """
    try:
        text = read_text(path)
        document = load_yaml(text) if path.suffix == ".yaml" else {"names": text.splitlines()}
        if not isinstance(document, dict):
            raise TypeError(document)
        names = document.get("names") or {}
        name_of_number = names if isinstance(names, dict) else dict(enumerate(names))
        kinds = {int(number): str(name) for number, name in name_of_number.items()}
        return YoloSettings(kinds, key_points="kpt_shape" in document)
    except (OSError, ValueError, TypeError, AttributeError):
        raise InputError(
            f"{path} is damaged, it looks like the settings of YOLO (it names no kinds): export it again"
        ) from None


def is_yolo(lines: list[list[str]]) -> bool:
    """Whether lines of words are YOLO's; only the first line is looked at."""
    if not lines:
        return False
    return any(_read_line(lines[0], has_key_points) for has_key_points in (False, True))


def _read_line(words: list[str], has_key_points: bool) -> tuple[int, list[float]] | None:
    """Return the number of the kind and the coordinates of a line; None where the line is not YOLO's.

    The coordinates are shares of the picture.

    Args:
        words: Words of the line.
        has_key_points: Whether key points follow a box, so that only the box is returned.
    """
    try:
        kind, *numbers = map(float, words)
    except ValueError:
        return None
    if len(numbers) < 4 or kind < 0 or not kind.is_integer():
        return None
    for number in numbers:
        is_share = -ROUNDING <= number <= 1 + ROUNDING
        is_visibility = has_key_points and number == 2  # 2: the key point is visible
        if not is_share and not is_visibility:
            return None
    coordinates = numbers[:4] if has_key_points else numbers
    return int(kind), coordinates


def have_key_points(lines: list[list[str]]) -> bool | None:
    """Whether key points follow the box of each line; None if the lines may be polygons, too.

    True if the first four numbers of each line are a box, points in this box follow, and each point has its
    visibility 0, 1 or 2 as the third number.

    None if points in the box follow without visibility. Such lines may be polygons instead, whose first two
    corners are the four numbers. A polygon's second corner nearly always lies in what would be the box, so
    the result is False if it does in any line.
    """
    try:
        rows = [np.array(words[1:], float) for words in lines]
    except ValueError:
        return False
    if min(map(len, rows)) <= 4 or len({*map(len, rows)}) > 1:
        return False
    table = np.array(rows)
    boxes = table[:, :4]
    numbers = table[:, 4:]
    count = numbers.shape[1]
    if not _are_boxes(boxes):
        return False
    if count % 3 == 0 and _are_visible_points(numbers.reshape(len(table), -1, 3), boxes):
        return True
    if count % 2 == 0:
        points = numbers.reshape(len(table), -1, 2)
        second_corners = boxes[:, None, 2:]
        if _in_box(points, boxes).all() and not _in_box(second_corners, boxes).any():
            return None
    return False


def _are_boxes(table: NDArray[np.float64]) -> bool:
    """Whether the rows of [N, 4], as centre and sides, are boxes in the picture."""
    centres = table[:, :2]
    half_sides = table[:, 2:] / 2
    is_inside = (centres >= half_sides - ROUNDING) & (centres + half_sides <= 1 + ROUNDING)
    return bool(is_inside.all())


def _are_visible_points(triples: NDArray[np.float64], boxes: NDArray[np.float64]) -> bool:
    """Whether all triples are points in the box of their row, with a visibility of 0, 1 or 2.

    A point with visibility 0 was not marked, and may lie anywhere.

    Args:
        triples: Points as x, y and visibility [N, K, 3].
        boxes: Centre and sides [N, 4] of the box of each row.
    """
    visibility = triples[..., 2]
    is_in_place = _in_box(triples[..., :2], boxes) | (visibility == 0)
    return bool(np.isin(visibility, (0, 1, 2)).all() and is_in_place.all())


def _in_box(points: NDArray[np.float64], boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return whether each point lies in the box of its row, [N, K] bool.

    Args:
        points: Points as x and y [N, K, 2], in shares of the picture.
        boxes: Centre and sides [N, 4], as shares of the picture.
    """
    centres = boxes[:, None, :2]
    half_sides = boxes[:, None, 2:] / 2
    distances = np.abs(points - centres)
    is_inside: NDArray[np.bool_] = np.all(distances <= half_sides + ROUNDING, axis=-1)
    return is_inside


def parse_yolo(lines: list[list[str]], picture_name: str, settings: YoloSettings) -> Iterator[Entry]:
    """Yield the entry of a file of YOLO (https://docs.ultralytics.com/datasets/segment).

    A line is a box by centre and size, which key points may follow; a box by four corners; or a polygon.

    Raises:
        InputError: A line is none of these.
    """
    marks = []
    has_key_points = settings.key_points or have_key_points(lines)
    is_ambiguous = has_key_points is None  # boxes with key points, or polygons
    for row, words in enumerate(lines, start=1):
        line = _read_line(words, bool(has_key_points))
        if line is None:
            raise InputError(f"line {row} is neither a box nor a polygon in shares of the picture")
        kind_number, numbers = line
        label = settings.names.get(kind_number, str(kind_number))
        if is_ambiguous:
            marks.append(Mark(draw=None, kind="box with key points or polygon"))
        else:
            marks.append(_mark_of_numbers(numbers, label))
    yield Entry(picture_name, size=None, marks=marks)


def _mark_of_numbers(numbers: list[float], label: str) -> Mark:
    """Return the mark of a line: a box by centre and size, or a polygon by its corners."""
    if len(numbers) % 2:  # a model's confidence comes last
        return Mark(draw=None, kind="finding of a model")
    if len(numbers) == 4:
        x, y, width, height = numbers
        corners = shapes.box((x - width / 2, y - height / 2, x + width / 2, y + height / 2))
        return Mark(_filled_share(corners), label, is_box=True)
    points = shapes.to_points(numbers)
    # the corners of an upright box have only two different x and two different y
    xs, ys = points.T
    is_upright_box = len(points) == 4 and len({*xs}) == 2 and len({*ys}) == 2
    return Mark(_filled_share(points), label, is_box=is_upright_box)


def _filled_share(polygon: Polygon) -> Shape:
    """Return the shape of a polygon whose coordinates are shares of the picture's width and height."""
    return shapes.placed(lambda size: polygon * size[::-1])  # size is (H, W), corners are (x, y)

"""Draws contact sheets, rows of pictures with captions on one large picture, and animations. Torch-free."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from flawscope.errors import FlawscopeError, InputError
from flawscope.results import drawing
from flawscope.results.drawing import INK, PALE, PAPER, Colour, Drawable, fitted, font_of


def contact_sheet(
    rows: Sequence[tuple[Sequence[Drawable], Sequence[str]]],
    cell: tuple[int, int] | Sequence[tuple[int, int]],
    *,
    frames: Sequence[Sequence[Colour | None]] | None = None,
    headings: Sequence[str | None] | None = None,
    title: str | None = None,
    bar: Image.Image | None = None,
) -> Image.Image:
    """Rows of (images, captions) on white; each image fitted into `cell` (height, width), caption below.

    `cell`: for all rows, or one a row. `frames`: per row and image a colour or None. `headings`: per row a
    line above it, or None. `title`: its first line is large, further ones are small. `bar`: a `colour_bar`,
    set to the right. Captions that are too long for their cell end in an ellipsis; they may have several
    lines.
    """
    if not rows or not any(images for images, _ in rows):
        raise InputError("no images to draw; give at least one")
    cells = _cells(cell, len(rows))
    for images, captions in rows:
        if len(images) != len(captions):
            raise InputError(f"{len(images)} images and {len(captions)} captions in a row; give one for each")
    of = _Lengths(min(max(round(min(map(min, cells)) / 14), 11), 28))
    large, *small = title.split("\n") if title else [""]
    grid = [[fitted(image, cells[k]) for image in images] for k, (images, _) in enumerate(rows)]
    named = list(headings or [None] * len(rows))
    above = [2 * of.heading if name else 0 for name in named]
    # no gap under flat pictures
    tall = [max((image.height for image in images), default=0) for images in grid]
    below = [
        of.line * max((caption.count("\n") + 1 for caption in captions if caption), default=0)
        for _, captions in rows
    ]
    right = of.margin + max(len(row) * (cells[k][1] + of.gap) - of.gap for k, row in enumerate(grid))
    top = of.margin + (of.heading + len(small) * of.line + of.gap if title else 0)
    body = max(sum(above) + sum(tall) + sum(below) + (len(rows) - 1) * of.gap, bar.height if bar else 0)
    total = right + of.margin + (bar.width + of.margin if bar else 0)
    sheet = Image.new("RGB", (total, top + body + of.margin), PAPER)
    if title:
        _paint_title(sheet, of, large, small)
    y = top
    for row, (_, captions) in enumerate(rows):
        if name := named[row]:
            at, font = (of.margin, y + above[row] * 0.45), font_of(of.heading)
            shown = _shortened(name, font, right - of.margin)
            ImageDraw.Draw(sheet).text(at, shown, INK, font, anchor="lm")
            y += above[row]
        for column, (image, caption) in enumerate(zip(grid[row], captions, strict=True)):
            x, frame = of.margin + column * (cells[row][1] + of.gap), frames[row][column] if frames else None
            _paint_example(sheet, of, (x, y, cells[row][1], tall[row]), image, caption, frame)
        y += tall[row] + below[row] + of.gap
    if bar:
        sheet.paste(bar, (right + of.margin, top))
    return sheet


class _Lengths:
    """Lengths on a contact sheet, in pixels, by the size of its text."""

    def __init__(self, text: int):
        self.text, self.line, self.heading = text, round(text * 1.35), round(text * 1.4)
        self.gap, self.edge = max(8, text), max(2, text // 5)
        self.margin = round(1.5 * self.gap)


def _paint_title(sheet: Image.Image, of: _Lengths, large: str, small: Sequence[str]) -> None:
    draw, width = ImageDraw.Draw(sheet), sheet.width - 2 * of.margin
    font, heading_font = font_of(of.text), font_of(of.heading)
    at = (of.margin, of.margin + of.heading / 2)
    draw.text(at, _shortened(large, heading_font, width), INK, heading_font, anchor="lm")
    for number, words in enumerate(small):
        at = (of.margin, of.margin + of.heading + of.line * (number + 0.75))
        draw.text(at, _shortened(words, font, width), PALE, font, anchor="lm")


def _paint_example(
    sheet: Image.Image,
    of: _Lengths,
    place: tuple[int, int, int, int],
    image: Image.Image,
    caption: str,
    frame: Colour | None,
) -> None:
    """Paints an image in `place` (x, y, width and height), and its caption below."""
    draw, font, (x, y, width, height) = ImageDraw.Draw(sheet), font_of(of.text), place
    left, upper = x + (width - image.width) // 2, y + (height - image.height) // 2
    sheet.paste(image, (left, upper))
    if frame is not None:
        end = (left + image.width + of.edge - 1, upper + image.height + of.edge - 1)
        draw.rectangle(((left - of.edge, upper - of.edge), end), outline=frame, width=of.edge)
    for number, words in enumerate(caption.split("\n")):
        middle = (x + width / 2, y + height + of.edge + of.line * (number + 0.5))
        draw.text(middle, _shortened(words, font, width), INK, font, anchor="mm")


def _cells(cell: tuple[int, int] | Sequence[tuple[int, int]], rows: int) -> list[tuple[int, int]]:
    """Returns a cell size for every row, from one for all or one a row."""
    cells: list[Any] = [cell] * rows if isinstance(cell[0], int) else list(cell)
    if len(cells) != rows:
        raise InputError(f"{len(cells)} cell sizes for {rows} rows; give one, or one a row")
    for one in cells:
        if min(one) < 1:
            raise InputError(f"cell size is {one}; give a height and a width of at least 1 pixel")
    return cells


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """Shortens the text to `width` pixels, with an ellipsis where it is cut."""
    if font.getlength(text) <= width:
        return text
    keep = len(text)
    while keep and font.getlength(text[:keep] + "…") > width:
        keep -= 1
    return text[:keep] + "…"


Pixels = NDArray[np.uint8]

SHOTS = 8  # pictures of a kind that are shown at most
BOX = (220, 330)  # pixels that one may be high and wide
LINE = 2  # pixels; a finer one is lost on a busy picture
CELLS = 8  # pictures at a time
WIDTH = 960  # pixels that a row of them may take
TURNS = 4  # how often the pictures change, at most
MOST_BYTES = 3 * 2**20  # bearable for a web page; larger frames are scaled down
LEAST_SCALE = 0.2

STEPS = (  # panel, and for how many milliseconds it is shown
    ("the picture", 1000),
    ("heat map, its colours the same for every picture", 1300),
    ("outlined: regions of the map above the mask threshold", 2000),
)
AROUND = (244, 244, 246)  # around a picture of another shape than its cell


class Shot(NamedTuple):
    """Picture of the animation; its panels are those of `STEPS`, [H, W, 3] each, fitted into `BOX`."""

    name: str
    panels: tuple[Pixels, Pixels, Pixels]
    verdict: str
    is_anomalous: bool


def shot(
    name: str, picture: Pixels, heat: Pixels, found: NDArray[np.bool_], verdict: str, *, is_anomalous: bool
) -> Shot:
    """Makes a shot of a picture [H, W, 3], its heat map [H, W, 3] and its marked pixels [H, W] bool."""
    small, warm = (np.asarray(fitted(image, BOX)) for image in (picture, heat))
    panels = (small, warm, drawing.contour(small, found, width=LINE))
    return Shot(name, panels, verdict, is_anomalous)


def room(kinds: int) -> int:
    """Number of pictures of each kind that an animation of so many kinds shows."""
    return min(SHOTS, TURNS * _cells_each(kinds))


def animate(
    kinds: Sequence[Sequence[Shot]], title: str, scale: tuple[float, float, float]
) -> tuple[list[Image.Image], list[int]]:
    """The pictures of an animation, all of one size, and how long each is shown in milliseconds.

    `kinds`: the shots of each (`room` says how many); the first `CELLS` kinds are shown, few of them in
    several cells each. `scale`: the map's values at both ends of the colours, and the mask threshold.
    """
    cells = _shown(kinds)
    if not cells:
        raise InputError("no pictures to animate; give at least one")
    shots = [one for cell in cells for one in cell]
    size = (
        max(panel.shape[0] for one in shots for panel in one.panels),
        max(panel.shape[1] for one in shots for panel in one.panels),
    )
    wide = max(1, min(len(cells), WIDTH // size[1]))
    columns = math.ceil(len(cells) / math.ceil(len(cells) / wide))  # rows of about the same length
    bar = drawing.colour_bar(*scale, height=round(size[0] * 0.8), label="map")
    pictures, times = [], []
    for turn in range(min(TURNS, max(map(len, cells)))):
        now = [cell[turn % len(cell)] for cell in cells]
        for step, (words, milliseconds) in enumerate(STEPS):
            last = step == len(STEPS) - 1
            images = [_padded(one.panels[step], size) for one in now]
            # the second line keeps its place while it is empty, or the frames would differ in height
            captions = [f"{one.name}\n{one.verdict if last else ' '}" for one in now]
            colours = [(drawing.BAD if one.is_anomalous else drawing.GOOD) if last else None for one in now]
            parts = [slice(start, start + columns) for start in range(0, len(now), columns)]
            sheet = contact_sheet(
                [(images[part], captions[part]) for part in parts],
                size,
                frames=[colours[part] for part in parts],
                title=f"{title}\n{words}",
                bar=bar,
            )
            pictures.append(sheet)
            times.append(milliseconds)
    return pictures, times


def save_animation(
    path: Path, pictures: Sequence[Image.Image], milliseconds: Sequence[int], most: int = MOST_BYTES
) -> None:
    """Writes an endless .gif or .webp of at most `most` bytes: frames that take more are scaled down.

    Raises FlawscopeError where the file cannot be written, or not that small.
    """
    scale = 1.0
    while True:
        data = _encoded(path.suffix, pictures, milliseconds, scale)
        if len(data) <= most:
            break
        # half the area takes about half the bytes; a little less, so that few rounds are needed
        scale *= min(0.9, 0.95 * math.sqrt(most / len(data)))
        if scale < LEAST_SCALE:
            raise FlawscopeError(f"cannot write {path} in {most} bytes; show fewer pictures")
    try:
        path.write_bytes(data)
    except OSError as error:
        raise FlawscopeError(f"cannot write {path}: {error.strerror}; free some space") from None


def _cells_each(kinds: int) -> int:
    """Number of cells of each kind: with few kinds one row is filled."""
    return max(1, CELLS // 2 // max(1, kinds))


def _shown(kinds: Sequence[Sequence[Shot]]) -> list[Sequence[Shot]]:
    """Shots that each cell shows in turn."""
    kinds = [shots for shots in kinds if shots][:CELLS]
    cells = []
    for shots in kinds:
        count = min(_cells_each(len(kinds)), len(shots))
        bounds = [round(k * len(shots) / count) for k in range(count + 1)]
        cells += [shots[start:end] for start, end in pairwise(bounds)]
    return cells


def _padded(panel: Pixels, size: tuple[int, int]) -> Pixels:
    """The panel in the middle of a cell (height, width)."""
    top, left = (size[0] - panel.shape[0]) // 2, (size[1] - panel.shape[1]) // 2
    cell: Pixels = np.empty((*size, 3), np.uint8)
    cell[:] = AROUND
    cell[top : top + panel.shape[0], left : left + panel.shape[1]] = panel
    return cell


def _encoded(
    suffix: str, pictures: Sequence[Image.Image], milliseconds: Sequence[int], scale: float
) -> bytes:
    images = list(pictures)
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in images[0].size)
        images = [image.resize((width, height), Image.Resampling.LANCZOS) for image in images]
    options: dict[str, Any]
    if suffix == ".gif":
        # 256 colours a frame; those that cover few pixels, such as the outline's, are kept, too
        images = [
            image.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE) for image in images
        ]
        options = {"format": "GIF", "disposal": 1, "optimize": False}
    elif suffix == ".webp":
        options = {"format": "WEBP", "quality": 82, "method": 4}
    else:
        raise InputError(f"{suffix} is not a kind of animation: choose .gif or .webp")
    file = io.BytesIO()
    try:
        images[0].save(
            file, save_all=True, append_images=images[1:], duration=list(milliseconds), loop=0, **options
        )
    except (OSError, KeyError) as error:  # KeyError: a Pillow that was built without WebP
        raise FlawscopeError(f"this Pillow cannot write {suffix}: {error}; choose another kind") from None
    return file.getvalue()

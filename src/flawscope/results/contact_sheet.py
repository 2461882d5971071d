"""Draws contact sheets, rows of pictures with captions on one large picture, and animations. Torch-free."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from flawscope.errors import FlawscopeError, InputError
from flawscope.results import drawing
from flawscope.results.drawing import MUTED, TEXT, WHITE, Colour, Drawable, fit_into, load_font


class SheetRow(NamedTuple):
    """Row of a contact sheet.

    captions: one for each image, perhaps of several lines. frames: colours around the images, or None; empty:
    no frames. width: pixels of a cell; 0: as all others.
    """

    images: Sequence[Drawable]
    captions: Sequence[str]
    heading: str = ""
    frames: Sequence[Colour | None] = ()
    width: int = 0


def contact_sheet(
    lines: Sequence[SheetRow], cell: tuple[int, int], *, title: str = "", bar: Image.Image | None = None
) -> Image.Image:
    """Draws rows of images on white, each fitted into `cell` (height, width), its caption below.

    `title`: its first line is large, further ones are small. `bar`: a `colour_bar`, set to the right. Words
    that are too long for their place end in an ellipsis.
    """
    if not any(line.images for line in lines):
        raise InputError("no images to draw; give at least one")
    text = min(max(round(min(cell) / 14), 11), 28)
    heading, step, gap, edge = round(text * 1.4), round(text * 1.35), max(8, text), max(2, text // 5)
    font, large, margin = load_font(text), load_font(heading), round(1.5 * gap)
    rows = [_draw_row(line, (cell[0], line.width or cell[1]), text) for line in lines]
    above = [2 * heading if line.heading else 0 for line in lines]
    right = margin + max(row.width for row in rows) - 2 * edge
    top = margin + (heading + title.count("\n") * step + gap if title else 0)
    body = sum(above) + sum(row.height - 2 * edge + gap for row in rows) - gap
    size = (right + margin + (bar.width + margin if bar else 0), top + max(body, bar.height if bar else 0))
    sheet = Image.new("RGB", (size[0], size[1] + margin), WHITE)
    draw, most = ImageDraw.Draw(sheet), size[0] - 2 * margin
    first, *others = title.split("\n")
    draw.text((margin, margin + heading / 2), _truncate(first, large, most), TEXT, large, anchor="lm")
    for number, words in enumerate(others):
        y = margin + heading + step * (number + 0.75)
        draw.text((margin, y), _truncate(words, font, most), MUTED, font, anchor="lm")
    y = top
    for line, row, over in zip(lines, rows, above, strict=True):
        words = _truncate(line.heading, large, right - margin)
        draw.text((margin, y + over * 0.45), words, TEXT, large, anchor="lm")
        sheet.paste(row, (margin - edge, y + over - edge))
        y += over + row.height - 2 * edge + gap
    if bar:
        sheet.paste(bar, (right + margin, top))
    return sheet


def _draw_row(line: SheetRow, cell: tuple[int, int], text: int) -> Image.Image:
    """Images side by side with their frames and captions, and around all of them room for the frames."""
    font, step, gap, edge = load_font(text), round(text * 1.35), max(8, text), max(2, text // 5)
    images = [fit_into(image, cell) for image in line.images]
    tall = max((image.height for image in images), default=0)  # no gap under flat pictures
    below = step * max((caption.count("\n") + 1 for caption in line.captions if caption), default=0)
    width = max(len(images) * (cell[1] + gap) - gap, 0)
    row = Image.new("RGB", (width + 2 * edge, tall + below + 2 * edge), WHITE)
    draw = ImageDraw.Draw(row)
    for place, (image, caption) in enumerate(zip(images, line.captions, strict=True)):
        x = edge + place * (cell[1] + gap)
        left, upper = x + (cell[1] - image.width) // 2, edge + (tall - image.height) // 2
        if line.frames and (colour := line.frames[place]):
            end = (left + image.width + edge - 1, upper + image.height + edge - 1)
            draw.rectangle(((left - edge, upper - edge), end), outline=colour, width=edge)
        row.paste(image, (left, upper))
        for number, words in enumerate(caption.split("\n")):
            middle = (x + cell[1] / 2, tall + 2 * edge + step * (number + 0.5))
            draw.text(middle, _truncate(words, font, cell[1]), TEXT, font, anchor="mm")
    return row


def _truncate(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """Shortens the text to `width` pixels, with an ellipsis where it is cut."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"


Pixels = NDArray[np.uint8]

MAX_SHOTS = 8  # pictures of a kind that are shown at most
SHOT_SIZE = (220, 330)  # pixels that one may be high and wide
OUTLINE_WIDTH = 2  # pixels; a finer one is lost on a busy picture
MAX_CELLS = 8  # pictures at a time
MAX_WIDTH = 960  # pixels that a row of them may take
MAX_TURNS = 4  # how often the pictures change, at most
MAX_BYTES = 3 * 2**20  # of an animation in a web page; larger frames are scaled down
MIN_SCALE = 0.2

PANELS = (  # panel, and for how many milliseconds it is shown
    ("the picture", 1000),
    ("heat map, its colours the same for every picture", 1300),
    ("outlined: regions of the map above the mask threshold", 2000),
)
CELL_BACKGROUND = (244, 244, 246)  # around a picture of another shape than its cell


class Shot(NamedTuple):
    """Picture of the animation; its panels are those of `PANELS`, [H, W, 3] each, fitted into `SHOT_SIZE`."""

    name: str
    panels: tuple[Pixels, Pixels, Pixels]
    verdict: str
    is_anomalous: bool


def make_shot(
    name: str, picture: Pixels, heat: Pixels, mask: NDArray[np.bool_], verdict: str, *, is_anomalous: bool
) -> Shot:
    """Makes a shot of a picture [H, W, 3], its heat map [H, W, 3] and its marked pixels [H, W] bool."""
    small, small_heat = (np.asarray(fit_into(image, SHOT_SIZE)) for image in (picture, heat))
    panels = (small, small_heat, drawing.contour(small, mask, width=OUTLINE_WIDTH))
    return Shot(name, panels, verdict, is_anomalous)


def _cells_per_kind(kinds: int) -> int:
    """Number of cells of each kind: with few kinds one row is filled."""
    return max(1, MAX_CELLS // 2 // max(1, kinds))


def shots_per_kind(kinds: int) -> int:
    """Number of pictures of each kind that an animation of so many kinds shows."""
    return min(MAX_SHOTS, MAX_TURNS * _cells_per_kind(kinds))


def assign_cells(kinds: Sequence[Sequence[Shot]]) -> list[Sequence[Shot]]:
    """Shots that each cell shows in turn."""
    kinds = [shots for shots in kinds if shots][:MAX_CELLS]
    each = _cells_per_kind(len(kinds))
    return [shots[k::each] for shots in kinds for k in range(min(each, len(shots)))]


def animate(
    kinds: Sequence[Sequence[Shot]], title: str, scale: tuple[float, float, float]
) -> tuple[list[Image.Image], list[int]]:
    """The pictures of an animation, all of one size, and how long each is shown in milliseconds.

    `kinds`: the shots of each, `shots_per_kind` of them; the first `MAX_CELLS` kinds are shown, and few kinds
    in several cells each. `scale`: the map's values at both ends of the colours, and the mask threshold.
    """
    cells = assign_cells(kinds)
    if not cells:
        raise InputError("no pictures to animate; give at least one")
    shapes = [panel.shape for cell in cells for one in cell for panel in one.panels]
    size = (max(shape[0] for shape in shapes), max(shape[1] for shape in shapes))
    wide = max(1, min(len(cells), MAX_WIDTH // size[1]))
    columns = math.ceil(len(cells) / math.ceil(len(cells) / wide))  # rows of about the same length
    bar = drawing.colour_bar(*scale, height=round(size[0] * 0.8), label="map")
    pictures, times = [], []
    for turn in range(min(MAX_TURNS, max(map(len, cells)))):
        now = [cell[turn % len(cell)] for cell in cells]
        for step, (words, milliseconds) in enumerate(PANELS):
            lines = [_animation_row(now[k : k + columns], step, size) for k in range(0, len(now), columns)]
            pictures.append(contact_sheet(lines, size, title=f"{title}\n{words}", bar=bar))
            times.append(milliseconds)
    return pictures, times


def _animation_row(shots: Sequence[Shot], step: int, size: tuple[int, int]) -> SheetRow:
    """Row of an animation's picture, in cells of one size (height, width); the last step has the verdicts."""
    last = step == len(PANELS) - 1
    images = []
    for one in shots:
        panel = Image.fromarray(one.panels[step])
        images.append(Image.new("RGB", size[::-1], CELL_BACKGROUND))
        images[-1].paste(panel, ((size[1] - panel.width) // 2, (size[0] - panel.height) // 2))
    # the second line keeps its place while it is empty, or the frames would differ in height
    captions = [f"{one.name}\n{one.verdict if last else ' '}" for one in shots]
    frames = [drawing.BAD_COLOUR if one.is_anomalous else drawing.GOOD_COLOUR for one in shots]
    return SheetRow(images, captions, frames=frames if last else ())


def save_animation(
    path: Path, pictures: Sequence[Image.Image], milliseconds: Sequence[int], most: int = MAX_BYTES
) -> None:
    """Writes an endless .gif or .webp of at most `most` bytes: frames that take more are scaled down.

    Raises FlawscopeError where the file cannot be written, or not that small.
    """
    scale = 1.0
    while len(data := _encode_animation(path.suffix, pictures, milliseconds, scale)) > most:
        # half the area takes about half the bytes; a little less, so that few rounds are needed
        scale *= min(0.9, 0.95 * math.sqrt(most / len(data)))
        if scale < MIN_SCALE:
            raise FlawscopeError(f"cannot write {path} in {most} bytes; show fewer pictures")
    try:
        path.write_bytes(data)
    except OSError as error:
        raise FlawscopeError(f"cannot write {path}: {error.strerror}; free some space") from None


def _encode_animation(
    suffix: str, pictures: Sequence[Image.Image], milliseconds: Sequence[int], scale: float
) -> bytes:
    images = list(pictures)
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in images[0].size)
        images = [image.resize((width, height), Image.Resampling.LANCZOS) for image in images]
    options: dict[str, Any] = {"format": "WEBP", "quality": 82, "method": 4}
    if suffix == ".gif":
        # 256 colours a frame; those that cover few pixels, such as the outline's, are kept, too
        images = [
            image.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE) for image in images
        ]
        options = {"format": "GIF", "disposal": 1, "optimize": False}
    file, times = io.BytesIO(), list(milliseconds)
    try:
        images[0].save(file, save_all=True, append_images=images[1:], duration=times, loop=0, **options)
    except (OSError, KeyError) as error:  # KeyError: a Pillow that was built without WebP
        raise FlawscopeError(f"this Pillow cannot write {suffix}: {error}; choose another kind") from None
    return file.getvalue()

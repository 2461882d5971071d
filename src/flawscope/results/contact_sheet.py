"""A contact sheet: pictures in rows, with captions, on one large picture. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from flawscope.errors import InputError
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
    """`place`: x, y, width and height that the image may take; the caption comes below."""
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
    """One cell a row."""
    cells: list[Any] = [cell] * rows if isinstance(cell[0], int) else list(cell)
    if len(cells) != rows:
        raise InputError(f"{len(cells)} cell sizes for {rows} rows; give one, or one a row")
    for one in cells:
        if min(one) < 1:
            raise InputError(f"cell size is {one}; give a height and a width of at least 1 pixel")
    return cells


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """The text, or as much of it as fits in `width` pixels with an ellipsis."""
    if font.getlength(text) <= width:
        return text
    keep = len(text)
    while keep and font.getlength(text[:keep] + "…") > width:
        keep -= 1
    return text[:keep] + "…"

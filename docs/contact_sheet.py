"""Draws contact sheets: rows of pictures with captions on one large picture. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from flawscope.errors import InputError
from flawscope.results.drawing import TEXT, WHITE, Colour, Drawable, fit_into, load_font

MUTED: Colour = (120, 120, 128)


class SheetRow(NamedTuple):
    """Row of a contact sheet.

    captions: one for each image, perhaps of several lines. frames: colours around the images, or None; empty:
    no frames.
    """

    images: Sequence[Drawable]
    captions: Sequence[str]
    heading: str = ""
    frames: Sequence[Colour | None] = ()


def contact_sheet(lines: Sequence[SheetRow], cell: tuple[int, int], *, title: str = "") -> Image.Image:
    """Draws rows of images on white, each fitted into `cell` (height, width), its caption below.

    `title`: its first line is large, further ones are small. Words that are too long for their place end in
    an ellipsis.
    """
    if not any(line.images for line in lines):
        raise InputError("no images to draw; give at least one")
    text = min(max(round(min(cell) / 14), 11), 28)
    heading, step, gap, edge = round(text * 1.4), round(text * 1.35), max(8, text), max(2, text // 5)
    font, large, margin = load_font(text), load_font(heading), round(1.5 * gap)
    rows = [_draw_row(line, cell, text) for line in lines]
    above = [2 * heading if line.heading else 0 for line in lines]
    right = margin + max(row.width for row in rows) - 2 * edge
    top = margin + (heading + title.count("\n") * step + gap if title else 0)
    body = sum(above) + sum(row.height - 2 * edge + gap for row in rows) - gap
    sheet = Image.new("RGB", (right + margin, top + body + margin), WHITE)
    draw, most = ImageDraw.Draw(sheet), right - margin
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

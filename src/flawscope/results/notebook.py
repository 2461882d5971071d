"""Results in a notebook: HTML that needs nothing else and stays small."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope.datasets.files import printable

SIDE = 280  # pixels that a picture is high and wide at most
QUALITY = 80  # of its JPEG


def small(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[H, W, 3], at most `SIDE` high and wide."""
    image = Image.fromarray(picture)
    image.thumbnail((SIDE, SIDE))
    return np.asarray(image)


def image_tag(picture: NDArray[np.uint8]) -> str:
    """A picture [H, W, 3] in the page itself."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "jpeg", quality=QUALITY)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    height, width = picture.shape[:2]
    style = "display:inline-block;margin:2px"
    return f"<img style='{style}' width='{width}' height='{height}' src='data:image/jpeg;base64,{data}'>"


def table(rows: Iterable[Sequence[str]], header: Sequence[str] = ()) -> str:
    """Text in rows; everything is escaped."""

    def row(cells: Sequence[str], tag: str) -> str:
        inside = (f"<{tag} style='text-align:left'>{escaped(cell)}</{tag}>" for cell in cells)
        return f"<tr>{''.join(inside)}</tr>"

    head = row(header, "th") if header else ""
    return f"<table>{head}{''.join(row(cells, 'td') for cells in rows)}</table>"


def escaped(text: str) -> str:
    """Text for HTML; control characters are shown."""
    return escape(printable(text))

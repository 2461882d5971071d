"""Makes HTML for pages and notebooks; Jinja2 is loaded when it is used.

It holds the environment of the pages' templates, data inside a page, and small pictures and tables for
notebooks.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope.pictures.listing import printable

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

MAX_SIDE = 280  # pixels that a picture in a notebook is high and wide at most
JPEG_QUALITY = 80  # of its JPEG


def environment(text_of: Callable[[str], str]) -> Environment:
    """Return Jinja's environment: it escapes, and refuses unknown names; `code` shows code in a text.

    Args:
        text_of: Returns the text of a template by its name.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    made = Environment(
        loader=FunctionLoader(text_of),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["code"] = _mark_code
    return made


def _mark_code(text: str) -> Markup:
    """A text as HTML, in which what stands between ` is code."""
    from markupsafe import Markup

    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", escape(text)))


def script_json(value: object) -> Markup:
    """Markup of a JSON value that can stand inside <script>: no text ends the element or opens a comment."""
    from markupsafe import Markup

    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def shrink(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Scale a picture down to [H, W, 3] of at most `MAX_SIDE` high and wide."""
    image = Image.fromarray(picture)
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    return np.asarray(image)


def image_tag(picture: NDArray[np.uint8]) -> str:
    """Element with a picture [H, W, 3] as data in the page."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "jpeg", quality=JPEG_QUALITY)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    height, width = picture.shape[:2]
    style = "display:inline-block;margin:2px"
    return f"<img style='{style}' width='{width}' height='{height}' src='data:image/jpeg;base64,{data}'>"


def table(rows: Iterable[Sequence[str]], header: Sequence[str] = ()) -> str:
    """Table of texts; all of them are escaped."""

    def row(cells: Sequence[str], tag: str) -> str:
        inside = (f"<{tag} style='text-align:left'>{escape_text(cell)}</{tag}>" for cell in cells)
        return f"<tr>{''.join(inside)}</tr>"

    head = row(header, "th") if header else ""
    return f"<table>{head}{''.join(row(cells, 'td') for cells in rows)}</table>"


def escape_text(text: str) -> str:
    """Escape text for HTML; control characters are shown."""
    return escape(printable(text))

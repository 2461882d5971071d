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

MAX_SIDE = 280  # pixels of the longer side of a picture in a notebook
JPEG_QUALITY = 80  # of such a picture, 0..100


def environment(text_of: Callable[[str], str]) -> Environment:
    """Return Jinja's environment: it escapes texts, and raises an error for unknown names.

    The environment's filter `code` shows text between backticks as code.

    Args:
        text_of: Returns the text of the template with the given name.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    jinja_environment = Environment(
        loader=FunctionLoader(text_of),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja_environment.filters["code"] = _mark_code
    return jinja_environment


def _mark_code(text: str) -> Markup:
    """Return a text as HTML, in which text between backticks is code."""
    from markupsafe import Markup

    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", escape(text)))


def script_json(value: object) -> Markup:
    """Return a JSON value to stand in a <script> element, escaped so that no text in it ends the element."""
    from markupsafe import Markup

    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def shrink(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Scale a picture down to [H, W, 3] of at most `MAX_SIDE` high and wide."""
    image = Image.fromarray(picture)
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    return np.asarray(image)


def image_tag(picture: NDArray[np.uint8]) -> str:
    """Return an <img> element that holds a picture [H, W, 3] itself, as a data URL."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "jpeg", quality=JPEG_QUALITY)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    height, width = picture.shape[:2]
    style = "display:inline-block;margin:2px"
    return f"<img style='{style}' width='{width}' height='{height}' src='data:image/jpeg;base64,{data}'>"


def table(rows: Iterable[Sequence[str]], header: Sequence[str] = ()) -> str:
    """Return a <table> element with texts; all of them are escaped."""

    def row(cells: Sequence[str], tag: str) -> str:
        elements = [f"<{tag} style='text-align:left'>{escape_text(cell)}</{tag}>" for cell in cells]
        return f"<tr>{''.join(elements)}</tr>"

    head = row(header, "th") if header else ""
    return f"<table>{head}{''.join(row(cells, 'td') for cells in rows)}</table>"


def escape_text(text: str) -> str:
    """Escape text for HTML; control characters are shown."""
    return escape(printable(text))

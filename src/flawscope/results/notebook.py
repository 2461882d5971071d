"""How results look in a notebook: HTML that needs nothing else and stays small."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope.datasets.files import printable
from flawscope.errors import InputError
from flawscope.pictures.decoding import Source, decode
from flawscope.pictures.eight_bits import to_eight_bits
from flawscope.results import drawing

if TYPE_CHECKING:
    from flawscope.results.prediction import Prediction

SIDE = 280  # pixels that a picture is high and wide at most
QUALITY = 80  # of its JPEG
REGIONS = 5  # boxes that are named
COLOURS = {"anomalous": "#dc2626", "good": "#16a34a"}  # readable on white and on black


def prediction_html(found: Prediction, caption: str = "", source: Source | None = None) -> str:
    """The picture, its heat map, and the decision; the heat map alone where the picture cannot be read.

    Args:
        caption: beside the decision.
        source: the picture; by default the file that the prediction is of.
    """
    name = found.path or ""
    words = [
        f"<b style='color:{COLOURS[found.decision]}'>{found.decision}</b>",
        f"severity {found.severity:+.1f}",
        f"p {found.p_value:.3f}",
        f"score {found.score:.4g}, threshold {found.score_threshold:.4g}",
        *([escape(caption)] if caption else []),
        *([f"<code>{_text(name)}</code>"] if name else []),
    ]
    boxes = [f"({', '.join(f'{v:.0f}' for v in region.box)})" for region in found.regions]
    if boxes:
        more = f" and {len(boxes) - REGIONS} more" if len(boxes) > REGIONS else ""
        words.append(f"regions {' '.join(boxes[:REGIONS])}{more}")
    pictures = "".join(image_tag(panel) for panel in _panels(found, source))
    return f"<div><div>{pictures}</div><div>{' &nbsp; '.join(words)}</div></div>"


def _panels(found: Prediction, source: Source | None) -> list[NDArray[np.uint8]]:
    """The picture and the picture with its heat map, both small."""
    given = found.path if source is None else source
    try:
        if given is None:
            raise InputError("not known")
        picture = small(to_eight_bits(decode(given)))
        values = found.picture_map(picture.shape[:2])
        heat = drawing.overlay(picture, values, *found.colour_range)
        return [picture, drawing.contour(heat, found.outlined(values))]
    except InputError:  # moved since, or never a file
        return [small(drawing.colour_map(found.map, *found.colour_range))] if found.map.size else []


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
        return "<tr>" + "".join(f"<{tag} style='text-align:left'>{_text(c)}</{tag}>" for c in cells) + "</tr>"

    head = row(header, "th") if header else ""
    return f"<table>{head}{''.join(row(cells, 'td') for cells in rows)}</table>"


def _text(text: str) -> str:
    return escape(printable(text))

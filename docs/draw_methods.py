"""Draw how each method decides: `python docs/draw_methods.py` writes images/METHOD.svg.

A picture goes from left to right. What is learnt from good pictures, or from defects, has another colour.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

IMAGES = Path(__file__).parent / "images"
WIDTH, MARGIN, TOP, COLUMNS = 860, 6, 24, 5  # pixels; boxes in a row
BOX, BOX_HEIGHT, LINE = 144, 50, 17
STEP, ROW = (WIDTH - 2 * MARGIN - BOX) / (COLUMNS - 1), 76
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #16302e; text-anchor: middle }
  .step { fill: #e0f2f1; stroke: #00796b; stroke-width: 1.2 }
  .learnt { fill: #ffedd5; stroke: #c2410c; stroke-width: 1.2 }
  .picture { fill: #f8fafc; stroke: #64748b; stroke-width: 1.2 }
  .arrow { fill: none; stroke: #64748b; stroke-width: 1.3; marker-end: url(#head) }
  #head path { fill: #64748b }
  @media (prefers-color-scheme: dark) {
    text { fill: #e2f3f1 }
    .step { fill: #134e4a; stroke: #5eead4 }
    .learnt { fill: #7c2d12; stroke: #fdba74 }
    .picture { fill: #1e293b; stroke: #94a3b8 }
    .arrow { stroke: #94a3b8 }
    #head path { fill: #94a3b8 }
  }
"""


class Box(NamedTuple):
    """Box in a column and a row; `text` has one or two lines. `to`: names of the boxes that it leads to."""

    column: float
    row: float
    kind: str
    text: str
    to: tuple[str, ...] = ()


METHODS = {
    "patchcore": {
        "good": Box(0, 0, "picture", "good pictures", ("learn",)),
        "learn": Box(1, 0, "step", "frozen network:\npatches", ("coreset",)),
        "coreset": Box(2, 0, "step", "greedy coreset", ("bank",)),
        "bank": Box(3, 0, "learnt", "memory bank", ("distance", "threshold")),
        "threshold": Box(4, 0, "learnt", "threshold: each\npicture left out", ("decision",)),
        "new": Box(0, 1, "picture", "new picture", ("patches",)),
        "patches": Box(1, 1, "step", "frozen network:\npatches", ("distance",)),
        "distance": Box(3, 1, "step", "distance to\nthe nearest: map", ("decision",)),
        "decision": Box(4, 1, "step", "score and\ndecision"),
    },
    "efficientad": {
        "new": Box(0, 1, "picture", "picture", ("teacher", "student", "autoencoder")),
        "teacher": Box(1, 0, "step", "teacher, frozen", ("local",)),
        "student": Box(1, 1, "learnt", "student, two\noutputs", ("local", "global")),
        "autoencoder": Box(1, 2, "learnt", "autoencoder", ("global",)),
        "local": Box(2, 0.5, "step", "local difference", ("scaled",)),
        "global": Box(2, 1.5, "step", "global difference", ("scaled",)),
        "scaled": Box(3, 1, "learnt", "scaled by good\npictures’ quantiles", ("decision",)),
        "decision": Box(4, 1, "step", "mean: map;\nmaximum: score"),
    },
    "prnet": {
        "new": Box(0, 0, "picture", "picture", ("features",)),
        "features": Box(1, 0, "step", "frozen network,\nthree scales", ("residuals", "fusion")),
        "prototypes": Box(2, 1, "learnt", "prototypes of\ngood pictures", ("residuals",)),
        "residuals": Box(2, 0, "step", "residuals: minus\nthe nearest", ("fusion",)),
        "defects": Box(3, 1, "picture", "seen and\nsimulated defects", ("fusion",)),
        "fusion": Box(3, 0, "learnt", "fusion, attention,\ndecoder", ("decision",)),
        "decision": Box(4, 0, "step", "map; score: mean\nof the largest"),
    },
}


def arrow(start: Box, end: Box) -> str:
    """From the right side to the left side; within a column up or down."""
    (x, y), (to, end_y) = place(start), place(end)
    if start.column == end.column:
        down = end.row > start.row
        way = f"M{x + BOX / 2} {y + BOX_HEIGHT * down}V{end_y + BOX_HEIGHT * (not down)}"
    elif start.row == end.row == 0 and end.column - start.column > 1:  # over the box between them
        way = f"M{x + BOX / 2} {y}V{y - 16}H{to + BOX / 2}V{end_y}"
    else:
        (x, y), end_y = (x + BOX, y + BOX_HEIGHT / 2), end_y + BOX_HEIGHT / 2
        half = (x + to) / 2
        way = f"M{x} {y}C{half} {y} {half} {end_y} {to} {end_y}"
    return f'<path class="arrow" d="{way}"/>'


def place(box: Box) -> tuple[float, float]:
    """The upper left corner."""
    return MARGIN + box.column * STEP, TOP + box.row * ROW


def svg(name: str) -> str:
    boxes = METHODS[name]
    height = TOP + max(box.row for box in boxes.values()) * ROW + BOX_HEIGHT + MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" role="img" '
        f'aria-label="How {name} judges a picture">',
        f"<style>{STYLE}</style>",
        '<marker id="head" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        '<path d="M0 0L8 4L0 8Z"/></marker>',
    ]
    lines += [arrow(box, boxes[end]) for box in boxes.values() for end in box.to]
    for box in boxes.values():
        x, y = place(box)
        lines.append(f'<rect class="{box.kind}" x="{x}" y="{y}" width="{BOX}" height="{BOX_HEIGHT}" rx="7"/>')
        words = box.text.split("\n")
        first = y + BOX_HEIGHT / 2 + 5 - LINE * (len(words) - 1) / 2
        lines += [
            f'<text x="{x + BOX / 2}" y="{first + LINE * k}">{word}</text>' for k, word in enumerate(words)
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"


def main() -> None:
    for name in METHODS:
        (IMAGES / f"{name}.svg").write_text(svg(name), encoding="utf-8")
        print(f"images/{name}.svg")


if __name__ == "__main__":
    main()

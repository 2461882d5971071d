"""Draw what corrections are worth: `python docs/draw_corrections.py` writes images/corrections.svg from
bench/results/corrections.json.

A row is a line of pictures. From left to right: false alarms, defects found and AUROC on the pictures that
judge, after so many pictures of the line: curves are of the version that is live by the rule, rings of what
was made then and would be worth that much if somebody used it. They are means over the orders of the pictures
that were also measured with wrong verdicts, and over these draws.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results" / "corrections.json"
PICTURE = Path(__file__).parent / "images" / "corrections.svg"

ROWS = (  # title, and how the cells' names begin
    ("plates, half with a label", "plates/128, label 0.5, 4 rounds, "),
    ("transistor, half with a label", "transistor/256, label 0.5, 3 rounds, "),
    ("toothbrush, half with a label", "toothbrush/256, 24 good ones more, label 0.5, 4 rounds, "),
)
COLUMNS = (("false alarms", "false_alarms"), ("defects found", "found"), ("AUROC", "auroc"))
TARGET = 0.05  # false alarms that are asked for

WIDTH, LEFT, TOP, RIGHT = 860, 46, 74, 6  # pixels
PLOT, GAP, STEP = 236, 46, 184
HEIGHT = 112  # of a plot
WIDER = 1.1  # it goes on beyond the last picture, so that the last version is seen
RING = {"right": 5, "wrong": 3}
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #16302e }
  .title { font-weight: 600 }
  .tick { font-size: 11px; fill: #64748b }
  .grid { stroke: #cbd5e1; stroke-width: 1 }
  .target { stroke: #64748b; stroke-width: 1.2; stroke-dasharray: 2 3 }
  .right, .wrong { fill: none; stroke-width: 2.2 }
  .right { stroke: #00796b }
  .wrong { stroke: #c2410c; stroke-dasharray: 7 4 }
  circle.right, circle.wrong { stroke-width: 1.6; stroke-dasharray: none }
  @media (prefers-color-scheme: dark) {
    text { fill: #e2f3f1 }
    .tick { fill: #94a3b8 }
    .grid { stroke: #334155 }
    .target { stroke: #94a3b8 }
    .right { stroke: #5eead4 }
    .wrong { stroke: #fdba74 }
  }
"""

Cell = dict[str, Any]
Points = Sequence[tuple[float, float]]


def share(point: Cell, key: str) -> float:
    value = point[key]
    return float(value[0] / value[1] if isinstance(value, list) else value)


def curves(orders: list[list[Cell]], key: str) -> tuple[Points, Points]:
    """Pictures seen, and the mean over orders of the mean over an order's cells: of the versions that are
    live then, and of what was made then."""
    live, made = [], []
    seen = [0, *(one["pictures"] for one in orders[0][0]["candidates"])]
    for number, pictures in enumerate(seen):
        of_live, of_made = [], []
        for cells in orders:
            last = [[p for p in cell["curve"] if p["pictures"] <= pictures][-1] for cell in cells]
            then = [
                cell["candidates"][number - 1].get("second_half", point) if number else point
                for cell, point in zip(cells, last, strict=True)
            ]
            of_live.append(mean(share(point, key) for point in last))
            of_made.append(mean(share(point, key) for point in then))
        live.append((pictures, mean(of_live)))
        made.append((pictures, mean(of_made)))
    return live, made


def plot(cells: dict[str, list[list[Cell]]], key: str, x: float, y: float) -> list[str]:
    """One plot, its upper left corner at x, y."""
    drawn = {kind: curves(of, key) for kind, of in cells.items() if of}
    last = WIDER * max(point[0] for live, _ in drawn.values() for point in live)
    low = 0.5 if key == "auroc" else 0.0
    bottom = y + HEIGHT

    def at(pictures: float, value: float) -> tuple[float, float]:
        return x + PLOT * pictures / last, bottom - HEIGHT * (value - low) / (1 - low)

    lines = []
    for part in (0.0, 0.5, 1.0):
        value = low + part * (1 - low)
        _, height = at(0, value)
        name = f"{value:.2f}" if key == "auroc" else f"{value:.0%}"
        lines.append(f'<path class="grid" d="M{x} {height:.1f}h{PLOT}"/>')
        lines.append(f'<text class="tick" x="{x - 4}" y="{height + 4:.1f}" text-anchor="end">{name}</text>')
    if key == "false_alarms":
        lines.append(f'<path class="target" d="M{x} {at(0, TARGET)[1]:.1f}h{PLOT}"/>')
    for kind, (live, made) in drawn.items():
        places = [at(*point) for point in live]
        way = f"M{places[0][0]:.1f} {places[0][1]:.1f}"
        for across, up in places[1:]:  # a version is live until the next one
            way += f"H{across:.1f}V{up:.1f}"
        lines.append(f'<path class="{kind}" d="{way}H{x + PLOT}"/>')
        rings = [at(*point) for point in made[1:]]
        lines += [f'<circle class="{kind}" cx="{a:.1f}" cy="{b:.1f}" r="{RING[kind]}"/>' for a, b in rings]
    for pictures, _ in next(iter(drawn.values()))[0]:
        across, _ = at(pictures, low)
        place = f'x="{across:.1f}" y="{bottom + 15}" text-anchor="middle"'
        lines.append(f'<text class="tick" {place}>{pictures:.0f}</text>')
    return lines


def svg() -> str:
    cells = json.loads(RESULTS.read_text(encoding="utf-8"))["cells"]
    height = TOP + STEP * len(ROWS)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'aria-label="False alarms, defects found and AUROC after so many pictures of a line">',
        f"<style>{STYLE}</style>",
    ]
    for k, (kind, name) in enumerate((("right", "verdicts are right"), ("wrong", "5 % of them are wrong"))):
        x = LEFT + 220 * k
        lines.append(f'<path class="{kind}" d="M{x} 16h34"/><text x="{x + 42}" y="20">{name}</text>')
    x = LEFT + 440
    lines.append(f'<path class="target" d="M{x} 16h34"/><text x="{x + 42}" y="20">target</text>')
    x = LEFT + 560
    lines.append(
        f'<circle class="right" cx="{x}" cy="16" r="4"/><text x="{x + 12}" y="20">if it were used</text>'
    )
    for row, (title, begins) in enumerate(ROWS):
        y = TOP + STEP * row
        of = {name: cell for name, cell in cells.items() if name.startswith(begins)}
        orders = sorted({re.findall(r"order (\d+), wrong 0.05", name)[0] for name in of if "0.05" in name})
        kinds = {
            kind: [
                [cell for name, cell in of.items() if f"order {order}, wrong {wrong}," in name]
                for order in orders
            ]
            for kind, wrong in (("right", "0"), ("wrong", "0.05"))
        }
        draws = sum(map(len, kinds["wrong"]))
        said = f"{title} ({len(orders)} orders, {draws} times with wrong verdicts)"
        lines.append(f'<text class="title" x="{LEFT}" y="{y - 24}">{said}</text>')
        for column, (name, key) in enumerate(COLUMNS):
            x = LEFT + column * (PLOT + GAP)
            lines.append(f'<text class="tick" x="{x}" y="{y - 7}">{name}</text>')
            lines += plot(kinds, key, x, y)
    lines.append(
        f'<text class="tick" x="{WIDTH - RIGHT}" y="{height - 22}" text-anchor="end">'
        "pictures of the line seen</text>"
    )
    return "\n".join([*lines, "</svg>"]) + "\n"


def main() -> None:
    PICTURE.write_text(svg(), encoding="utf-8")
    print(f"{PICTURE.relative_to(ROOT)}: {len(ROWS)} lines of pictures")


if __name__ == "__main__":
    main()

"""Are the scores of all forms of fits what they were?

    python bench/forms.py --out before.json
    python bench/forms.py --against before.json

Thirty forms of a fit of drawn parts, by a small network: options, updates, calibrations, joint models. Of
each the scores that calibrate, and what new pictures score. `--against`: the largest relative difference
from another commit's file, form by form.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import common
import known_again
from calibration import tray

SIDE, LEARNT, MORE, NEW = 80, 12, 6, 3
SMALL: dict[str, Any] = known_again.QUICK | {"force": True}
GROUP = r"^(\d+)_"
FITS: dict[str, dict[str, Any]] = {  # of plates
    "plain": {}, "two sizes": {"size": "48+64"}, "letterbox": {"keep_aspect": True},
    "crop": {"crop": 48, "size": "64"}, "tiles": {"tile": 64},
    "tiles, region": {"tile": 64, "roi": "0,0,0.9,1"},
    "region": {"roi": "0.1,0.1,0.9,0.9"}, "light": {"light": 0.1}, "light, tiles": {"light": 0.1, "tile": 64},
    "turned copies": {"augment": "turn"}, "all copies": {"augment": "all"}, "count": {"count": 200},
    "cap": {"cap": 150}, "ratio": {"ratio": 0.3}, "dimensions": {"dimensions": 24},
    "re-weighted": {"score": "reweighted"},
    "another seed": {"seed": 3}, "streamed": {"shards": 2}, "few calibrate": {"calibration_pictures": 6},
    "a rate": {"false_alarm_rate": 0.2},
}  # fmt: skip
PLACED: dict[str, dict[str, Any]] = {  # of parts that lie aside
    "found by shift": {"align": "shift"}, "found by turn": {"align": "turn"},
    "found, light": {"align": "shift", "light": 0.05}, "found, tiles": {"align": "shift", "tile": 48},
}  # fmt: skip
TRAYS: dict[str, dict[str, Any]] = {
    "several": {"several": True, "align": "turn"},
    "several, light": {"several": True, "align": "turn", "light": 0.05},
}
LIVES = ("updated", "calibrated", "by parts", "joint")
Pixels = NDArray[np.uint8]


def plates(first: int, count: int) -> list[Pixels]:
    return [known_again.plate(0, part, 0) for part in range(first, first + count)]


def blocks(first: int, count: int) -> list[Pixels]:
    return [known_again.block(0, number, False) for number in range(first, first + count)]


def trays(first: int, count: int) -> list[Pixels]:
    return [tray(np.random.default_rng([6, number])) for number in range(first, first + count)]


def answers(model: Any, new: list[Pixels]) -> dict[str, Any]:
    found = [model.predict(picture) for picture in new]
    scores = [score for one in model.products.values() for score in one.calibration.scores]
    return {"calibration": scores, "scores": [one.score for one in found],
            "maxima": [float(one.map.max()) for one in found]}  # fmt: skip


def fit_form(draw: Callable[[int, int], list[Pixels]], how: dict[str, Any]) -> dict[str, Any]:
    import flawscope

    return answers(flawscope.fit(draw(0, LEARNT), **SMALL | how), draw(500, NEW))


def live(life: str) -> dict[str, Any]:
    import flawscope

    named = {f"{k:03d}_{view}.png": one for view in "ab" for k, one in enumerate(plates(0, LEARNT))}
    if life == "by parts":
        how = SMALL | {"part": GROUP, "view": r"_([ab])"}
        return answers(flawscope.fit([*named.values()], names=[*named], **how), plates(500, NEW))
    model = flawscope.fit(plates(0, LEARNT), **SMALL)
    if life == "updated":
        given = {"fair": True, "force": True, "check": False, "device": "cpu"}
        return answers(flawscope.extend(model, plates(100, MORE), **given), plates(500, NEW))
    if life == "calibrated":
        return answers(model.calibrate(plates(100, LEARNT), force=True), plates(500, NEW))
    other = flawscope.fit(trays(0, LEARNT), **SMALL)
    pictures = {"plate": plates(0, LEARNT), "tray": trays(0, LEARNT)}
    joint = flawscope.join({"plate": model, "tray": other}, pictures, device="cpu")
    return answers(joint, [*plates(500, NEW), *trays(500, NEW)])


def difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest relative difference of two answers; infinite where they are not as many."""
    largest = 0.0
    for key in ("calibration", "scores", "maxima"):
        first, second = np.array(one[key]), np.array(other[key])
        if first.shape != second.shape:
            return float("inf")
        apart = np.abs(first - second) / np.maximum(np.abs(second), 1e-9)
        largest = max(largest, float(apart.max(initial=0.0)))
    return largest


def main() -> int:
    parser = common.make_parser(__doc__, "forms", data=False)
    parser.add_argument("--against", type=Path, help="results of another commit")
    parser.add_argument("--only", default="", help="forms, separated by ;")
    args = common.parse_arguments(parser, only="plain")
    works: dict[str, Callable[[], dict[str, Any]]] = {}
    for draw, forms in ((plates, FITS), (blocks, PLACED), (trays, TRAYS)):
        works |= {name: partial(fit_form, draw, how) for name, how in forms.items()}
    works |= {life: partial(live, life) for life in LIVES}
    record = common.Record(args, "scores of all forms of fits")
    chosen = args.only.split(";") if args.only else [*works]
    cells = {name: record.cell(name, works[name]) for name in chosen}
    before = json.loads(args.against.read_text())["cells"] if args.against else cells
    rows = [
        {"form": name, "scores": len(cell["calibration"]), "difference": difference(cell, before[name])}
        for name, cell in cells.items()
        if name in before
    ]
    common.print_table("forms", rows)
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))

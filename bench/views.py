"""One model for all views of a part, or one for each: what each finds, and when `fit --part` chooses which.

    python bench/views.py

Drawn parts before two cameras. `other`: the second camera sees another surface; `mirrored`, `turned`: the
same one, mirrored or turned by 90 degrees; `alike`: as the first; `darker`: alike, by a fifth darker. A draw
learns from 24 good parts; of 12 bad ones six have a defect in the first view and six in the second. `found`
of these and `alarms` of 10 good ones, sums over the draws; `chosen`: in how many draws the views are found to
look different (`fitting.view_models`), and have a model each.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import common

SIDE, LEARNT, GOOD, BAD = 160, 24, 10, 12
VIEWS = ("one", "two")
QUICK = {"size": "128", "augment": "none", "check": False, "samples": 0, "device": "cpu"}
Pixels = NDArray[np.uint8]


def darker(picture: Pixels) -> Pixels:
    return np.asarray(picture * 0.8, np.uint8)


def mirrored(picture: Pixels) -> Pixels:
    return np.ascontiguousarray(picture[:, ::-1])


def turned(picture: Pixels) -> Pixels:
    return np.ascontiguousarray(np.rot90(picture))


def same(picture: Pixels) -> Pixels:
    return picture


# What the second camera sees, and how
CASES: dict[str, tuple[str, Callable[[Pixels], Pixels]]] = {
    "other": ("fabric", same),
    "mirrored": ("plate", mirrored),
    "turned": ("plate", turned),
    "alike": ("plate", same),
    "darker": ("plate", darker),
}


def draw_part(folder: Path, case: str, draw: int, part: int, bad_view: str | None) -> None:
    """Writes the two pictures of a part, with a defect in one of them."""
    from flawscope.synthesis.demo.dataset import CATEGORIES, draw_picture

    folder.mkdir(parents=True, exist_ok=True)
    second, change = CASES[case]
    for k, (view, category) in enumerate(zip(VIEWS, ("plate", second), strict=True)):
        rng = np.random.default_rng([draw, part, k])
        kinds = CATEGORIES[category].defects
        defect = kinds[part % len(kinds)] if view == bad_view else None
        picture, _ = draw_picture(category, rng, defect, 0.4, size=SIDE)
        picture = change(picture) if k else picture
        Image.fromarray(picture).save(folder / f"p{part:03d}_{view}.png")


def measure(work: Path, case: str, draw: int) -> dict[str, Any]:
    """Parts that are called anomalous, by one model and by one for each view."""
    import flawscope
    from flawscope.fitting.view_models import views_differ

    for part in range(LEARNT):
        draw_part(work / "good", case, draw, part, None)
    for part in range(LEARNT, LEARNT + GOOD):
        draw_part(work / "new", case, draw, part, None)
    for k, part in enumerate(range(100, 100 + BAD)):
        draw_part(work / "bad", case, draw, part, VIEWS[k % 2])
    by_view = {view: sorted((work / "good").glob(f"*_{view}.png")) for view in VIEWS}
    models = {view: flawscope.fit(own, group=r"p\d+", **QUICK) for view, own in by_view.items()}
    made = {
        "one": flawscope.fit(sorted((work / "good").iterdir()), part=r"p\d+", **QUICK),
        "each": flawscope.join(models, part=r"p\d+", device="cpu"),
    }
    found: dict[str, Any] = {"chosen": views_differ(by_view)}
    for name, model in made.items():
        counts = []
        for folder in ("bad", "new"):
            parts = {path.name.partition("_")[0] for path in (work / folder).iterdir()}
            told = [
                model.predict_part({view: work / folder / f"{part}_{view}.png" for view in VIEWS}, part)
                for part in sorted(parts)
            ]
            counts.append(sum(one.is_anomalous for one in told))
        found[name] = counts
    return found


def sum_up(cells: Sequence[Mapping[str, Any]], case: str) -> dict[str, object]:
    """Row of a case, over its draws."""
    row: dict[str, object] = {"second view": case, "chosen": sum(one["chosen"] for one in cells)}
    for name in ("one", "each"):
        row[f"{name}: found of {BAD * len(cells)}"] = sum(one[name][0] for one in cells)
        row[f"{name}: alarms of {GOOD * len(cells)}"] = sum(one[name][1] for one in cells)
    return row


def main() -> int:
    parser = common.make_parser(__doc__, "views", data=False)
    parser.add_argument("--draws", type=int, default=5, help="default: %(default)s")
    args = common.parse_arguments(parser, draws=1)
    from flawscope.methods.threads import set_thread_count

    set_thread_count(args.threads)
    record = common.Record(args, "one model for all views of a part, and one for each")
    with common.workspace(args.work) as work:
        for draw in range(args.draws):  # each with all cases: a run that is stopped has some of each
            for case in CASES:
                record.cell(f"{case}/{draw}", partial(measure, work / case / str(draw), case, draw))
    rows = []
    for case in CASES:
        cells = [record.cells[f"{case}/{draw}"] for draw in range(args.draws)]
        rows.append(sum_up(cells, case))
    common.print_table("views", rows)
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))

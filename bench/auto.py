"""Is what `flawscope fit --auto` finds out better than the default, and nowhere worse?

    python bench/auto.py --data DATA --parts products
    python bench/auto.py --parts drawn,promise

`products`: real sets below DATA; `drawn`: plates that lie turned, several in a picture, large ones with small
defects, and plain ones. The search sees the good pictures to learn from; model and default are judged on test
pictures that it never saw. `given`: with so many of the test defects to choose by, judged on the others.
`promise`: p-values of new good pictures after the search, over draws. `budget`: time of 60 pictures with so
many minutes; `sharing`: with features computed once for settings that share them, and without. Seconds are of
the processor: the machine may be shared.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

import common
from common import Cell, Record
from flawscope.synthesis.demo import dataset
from flawscope.synthesis.textures import Picture

REAL = (
    "mvtec/toothbrush", "real/commutator", "real/fabric", "real/cookie", "real/lens", "real/pcb",
    "mvtec/transistor",
)  # fmt: skip
GIVEN_PRODUCTS, GIVEN_COUNTS, GIVEN_MOST = ("real/fabric", "real/commutator"), (5, 10, 20), 20
LEARNT, NEW, DEFECTIVE = 30, 30, 40  # drawn pictures
PROMISE_LEARNT, DRAWS = 24, 20
BUDGETS, BUDGET_PRODUCT, BUDGET_PICTURES = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0), "mvtec/transistor", 60
MINUTES = 120.0  # no limit: a shared machine is slow
SEED = 67


class Scene(NamedTuple):
    """Drawn plates on a ground: the picture's side, how many plates, their share of the side, whether they
    lie at any angle, and how hard their defects are, 0..1."""

    side: int
    count: int = 1
    share: float = 0.6
    turned: bool = True
    hard: tuple[float, float] = (0.3, 1.0)

    def draw(self, number: int, defect: str | None = None) -> Picture:
        """A picture [side, side, 3]; of several plates the last has the defect."""
        rng = np.random.default_rng([SEED, number])
        level = rng.normal(70, 4, (self.side, self.side, 1)).repeat(3, 2)
        ground = Image.fromarray(level.clip(0, 255).astype(np.uint8))
        columns = 1 if self.count == 1 else 2
        cell = self.side // columns
        length = round(cell * self.share)
        for k in range(self.count):
            own = defect if k == self.count - 1 else None
            plate = dataset.draw_picture("plate", rng, own, rng.uniform(*self.hard), size=min(length, 768))[0]
            shown = Image.fromarray(plate).resize((length, length), Image.Resampling.BICUBIC).convert("RGBA")
            angle = rng.uniform(0, 360) if self.turned else rng.uniform(-1, 1)
            shown = shown.rotate(angle, Image.Resampling.BICUBIC, expand=True)
            room = max(0, (cell - shown.width) // 2)
            spread = 0.6 if self.turned else 0.05
            x, y = (
                cell * (k // by % columns) + room + int(rng.integers(-room, room + 1) * spread)
                for by in (1, 2)
            )
            ground.paste(shown, (x, y), shown)
        return np.asarray(ground)


SCENES = {
    "turned": Scene(384),
    "turned, small": Scene(640, share=0.4),
    "several": Scene(640, count=4, share=0.6),
    "large": Scene(1600, share=0.55, turned=False, hard=(0.9, 1.0)),
    "plain": Scene(384, share=0.9, turned=False),
}
RECIPES: dict[str, dict[str, Any]] = {
    "turned": {"align": "turn"},
    "turned, small": {"align": "turn"},
    "several": {"align": "turn", "several": True},
    "large": {"size": "256+1024"},
}


def drawn_pictures(folder: Path, name: str, draw: int = 0) -> Path:
    """Folder in MVTec AD's layout; other pictures with each draw."""
    scene, root = SCENES[name], folder / f"{name.replace(', ', '-')}{draw or ''}"
    if root.is_dir():
        return root
    defects = dataset.CATEGORIES["plate"].defects
    jobs: list[tuple[str, str | None, int]] = [("train/good", None, k) for k in range(LEARNT)]
    jobs += [("test/good", None, 1000 + k) for k in range(NEW)]
    jobs += [(f"test/{d}", d, 2000 + k) for k in range(DEFECTIVE) for d in [defects[k % len(defects)]]]
    for where, defect, k in jobs:
        path = root / where / f"{k:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene.draw(10_000 * draw + k, defect)).save(path, compress_level=1)
    return root


def judge(predictor: Any, items: Sequence[Any]) -> Cell:
    """Image AUROC, false alarms and what is found; a picture without its part is beyond all others."""
    from flawscope.evaluation.metrics import auroc

    bad = np.array([item.anomalous for item in items])
    found = [predictor.predict(item.path) for item in items]
    sure = [any(one.decides for one in answer.findings) for answer in found]
    scores = [np.inf if s else answer.score for answer, s in zip(found, sure, strict=True)]
    finite = np.nan_to_num(np.array(scores), posinf=np.finfo(np.float32).max)
    above = np.array([answer.is_anomalous for answer in found])
    return {
        "image_auroc": round(float(auroc(bad, finite)), 4),
        "false_alarms": f"{int(above[~bad].sum())} of {int((~bad).sum())}",
        "found": f"{int(above[bad].sum())} of {int(bad.sum())}",
    }


def timed(work: Callable[[], Any]) -> tuple[Any, Cell]:
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    return found, {
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "wall_seconds": round(time.perf_counter() - wall, 1),
    }


def compare(
    root: Path,
    given: int | None = None,
    recipe: dict[str, Any] | None = None,
    size: str | None = None,
    minutes: float = MINUTES,
) -> Cell:
    """What the search finds out, and what model and default get on test pictures that it never saw.

    given: defects to choose by, None: none. recipe: known to be right, judged beside. size: of the pictures,
        which is not searched for then; None: it is. minutes: of the search.
    """
    import flawscope
    from flawscope.artefact.tried import Choice
    from flawscope.fitting.auto import fit_auto

    data = flawscope.open_dataset(root)
    items, seen = list(data.test), []
    if given is not None:
        bad = [item for item in items if item.anomalous]
        order = np.random.default_rng(SEED).permutation(len(bad))[:GIVEN_MOST]
        pool = [bad[k] for k in order]
        seen = [(item.path, []) for item in pool[:given]]
        items = [item for item in items if item not in pool]
    good = [item.path for item in data.train]
    options: dict[str, Any] = {"device": "cpu", "check": False, "samples": 0, "force": True}
    options |= {} if size is None else {"size": size}
    model, spent = timed(lambda: fit_auto(good, minutes=minutes, seen=seen, **options))
    choice = Choice.from_facts(model.manifest.facts)
    assert choice is not None
    found: Cell = {
        "chosen": choice.flags or "as given",
        "reason": choice.reason,
        "auto": judge(model, items),
        "search": {**spent, "search_seconds": choice.seconds},
        "trials": [[*trial.cells(), trial.stage] for trial in choice.trials],
    }
    found["default"] = found["auto"] if not choice.flags else judge(flawscope.fit(good, **options), items)
    if recipe is not None:
        found["recipe"] = judge(flawscope.fit(good, **options, **recipe), items)
    return found


def measure_promise(draw: int, size: str | None) -> Cell:
    """P-values of new good pictures after a search on few; every other draw is of turned parts."""
    from flawscope.artefact.tried import Choice
    from flawscope.fitting.auto import fit_auto

    scene = (Scene(256), Scene(256, share=0.9, turned=False))[draw % 2]
    first = 100_000 * (1 + draw)
    good = [scene.draw(first + k) for k in range(PROMISE_LEARNT)]
    options: dict[str, Any] = {"device": "cpu", "check": False, "samples": 0, "force": True}
    options |= {} if size is None else {"size": size}
    model = fit_auto(good, minutes=MINUTES, **options)
    new = [model.predict(scene.draw(first + 1000 + k)) for k in range(NEW)]
    choice = Choice.from_facts(model.manifest.facts)
    assert choice is not None
    return {
        "chosen": choice.flags or "as given",
        "rate": model.calibration.expected_rate,
        "p_values": [round(float(one.p_value), 4) for one in new],
        "false_alarms": sum(one.is_anomalous for one in new),
        "units": model.calibration.unit_count,
    }


def measure_budget(root: Path, minutes: float, is_shared: bool = True, size: str | None = None) -> Cell:
    """Time of a search and of all that `flawscope fit` does after it. is_shared: settings share features."""
    import flawscope
    from flawscope.artefact.tried import Choice
    from flawscope.fitting import auto
    from flawscope.methods.feature_memory import FeatureMemory

    auto.FeatureMemory = FeatureMemory if is_shared else partial(FeatureMemory, most=0)  # type: ignore
    good = [item.path for item in flawscope.open_dataset(root).train][:BUDGET_PICTURES]
    how = {} if size is None else {"size": size}
    model, spent = timed(lambda: auto.fit_auto(good, minutes=minutes, device="cpu", force=True, **how))
    choice = Choice.from_facts(model.manifest.facts)
    assert choice is not None
    return {
        **spent,
        "minutes": minutes,
        "search_seconds": choice.seconds,
        "fit_seconds": model.manifest.facts["seconds_total"],
        "chosen": choice.flags or "as given",
        "reason": choice.reason,
        "trials": [[*trial.cells(), trial.stage] for trial in choice.trials],
    }


def promise_rows(cells: Sequence[Cell]) -> list[Cell]:
    """Distribution of the p-values, which is that of uniform ones on 1/(n+1), ..., 1."""
    values = np.array([value for cell in cells for value in cell["p_values"]])
    alarms = sum(cell["false_alarms"] for cell in cells)
    row: Cell = {"draws": len(cells), "pictures": values.size, "mean p": round(float(values.mean()), 3)}
    row |= {f"p <= {level}": round(float((values <= level).mean()), 3) for level in (0.1, 0.25, 0.5, 0.75)}
    promised = float(np.mean([cell["rate"] for cell in cells]))
    return [{**row, "false alarms": round(alarms / values.size, 4), "promised": round(promised, 4)}]


def main() -> int:
    import torch

    parser = common.make_parser(__doc__, "auto")
    parser.add_argument("--parts", default="products,drawn,given,promise", help="default: %(default)s")
    parser.add_argument("--products", default=",".join(REAL), help="of `products` (default: %(default)s)")
    parser.add_argument("--scenes", default=";".join(SCENES), help="of `drawn` (default: %(default)s)")
    parser.add_argument(
        "--size", help="of the pictures: only how parts lie is searched for then, in less time"
    )
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of `drawn` (default: no limit)")
    parser.add_argument("--draws", type=int, default=1, help="of each of `drawn` (default: %(default)s)")
    parser.add_argument("--counts", type=common.ints, default=list(GIVEN_COUNTS), help="of `given`")
    args = common.parse_arguments(parser, parts="drawn", scenes="plain", size="32")
    torch.set_num_threads(args.threads)
    record = Record(args, "settings found out by themselves")
    data = Path(args.data or os.environ.get("FLAWSCOPE_DATA") or common.ROOT / "data")
    parts = args.parts.split(",")
    cells: dict[str, Cell] = {}

    at = "" if args.size is None else f", at {args.size} px"

    def attempt(name: str, work: Callable[[], Cell]) -> None:
        if (cell := record.attempt(f"{name}{at}", work)) is not None:
            cells[name] = cell

    with common.workspace(args.work) as folder:
        for name, draw in product(args.scenes.split(";"), range(args.draws)) if "drawn" in parts else ():
            attempt(f"{name}, draw {draw}" if draw else name, lambda name=name, draw=draw: compare(
                drawn_pictures(Path(folder), name, draw), size=args.size, minutes=args.minutes,
                recipe=RECIPES.get(name) if args.minutes == MINUTES else None))  # fmt: skip
    for name in args.products.split(",") if "products" in parts else ():
        if (data / name).is_dir():
            attempt(name, partial(compare, data / name, size=args.size))
    for name in GIVEN_PRODUCTS if "given" in parts else ():
        for count in args.counts if (data / name).is_dir() else ():
            attempt(f"{name}, {count} given", partial(compare, data / name, count, size=args.size))
    root = data / BUDGET_PRODUCT
    spent = {
        f"budget of {minutes:g} minutes": partial(measure_budget, root, minutes)
        for minutes in (BUDGETS if "budget" in parts else ())
    }
    if "sharing" in parts:
        where = {"": root, "turned, ": drawn_pictures(args.work, "turned")} if args.work else {"": root}
        spent |= {
            f"{name}features are {how}{at}": partial(
                measure_budget, folder, MINUTES, how == "shared", args.size
            )
            for name, folder in where.items()
            for how in ("shared", "not shared")
        }
    if found := {name: cell for name, work in spent.items() if (cell := record.attempt(name, work))}:
        common.print_table("time of 60 pictures", [
            {"": name, "wall s": cell["wall_seconds"], "cpu s": cell["cpu_seconds"],
             "tried": len({trial[0] for trial in cell["trials"] if trial[5] != "no time"})}
            for name, cell in found.items()
        ])  # fmt: skip
    promised = list[Cell]()
    for draw in range(DRAWS) if "promise" in parts else ():
        cell = record.attempt(f"promise {draw}{at}", partial(measure_promise, draw, args.size))
        promised += [] if cell is None else [cell]
    rows = [
        {"pictures": name, "default": cell["default"]["image_auroc"], "auto": cell["auto"]["image_auroc"],
         "recipe": cell.get("recipe", {}).get("image_auroc"), "chosen": cell["chosen"],
         "minutes": round(cell["search"]["cpu_seconds"] / 60, 1)}
        for name, cell in cells.items() if "auto" in cell
    ]  # fmt: skip
    common.print_table("image AUROC on pictures that the search never saw", rows)
    if promised:
        common.print_table("p-values of new good pictures", promise_rows(promised))
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))

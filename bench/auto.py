"""How much is lost by what `flawscope fit --auto` finds out, beside the best of all that it could have taken?

    python bench/auto.py --data DATA --parts regret --seeds 0,1,2,3,4 --minutes 3,5,10
    python bench/auto.py --data DATA --parts regret --products real/fabric --given 6

`regret`: of real sets below DATA, drawn plates and textures, the image AUROC on pictures that the search
never saw: of the best of all settings that were tried less that of the chosen one. Each setting is fitted and
judged once for a product; presets on whole sets are taken from the results of `accuracy.py`. A search that is
cut short is judged by the settings that a longer one tried, too. The minutes are of the processor, and
shorter searches are made from the record of the longest (`searches.py`). `--given`: so many of the test
defects choose, the others judge. `promise`: p-values of new good pictures after the search, over draws.
`budget`: time of 60 pictures with so many minutes; `sharing`: with features computed once for settings that
share them, and without: both of the clock.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
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
    "mvtec/transistor", "real/paper_brg01_rl", "real/paper_btn01_rl", "real/paper_flr01_tl",
    "real/paper_fvn01_tl", "real/paper_gla01_tl", "real/paper_zpb01_rl",
)  # fmt: skip
LEARNT, NEW, DEFECTIVE = 30, 30, 40  # drawn pictures
PROMISE_LEARNT, DRAWS = 24, 20
BUDGETS, BUDGET_PRODUCT, BUDGET_PICTURES = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0), "mvtec/transistor", 60
MINUTES = 120.0  # no limit: a shared machine is slow
SEED = 67
KNOWN = {"": "default", "--preset accurate": "accurate", "--preset small": "small"}  # files of `accuracy.py`


class Scene(NamedTuple):
    """Drawn plates on a ground: the picture's side, how many plates, their share of the side, whether they
    lie at any angle, how hard their defects are, 0..1, and the noise of the pixels, in grey levels. kind: of
    what is drawn, a key of `dataset.CATEGORIES`."""

    side: int
    count: int = 1
    share: float = 0.6
    turned: bool = True
    hard: tuple[float, float] = (0.3, 1.0)
    noise: float = 0.0
    kind: str = "plate"

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
            plate = dataset.draw_picture(self.kind, rng, own, rng.uniform(*self.hard), size=min(length, 768))[
                0
            ]
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
        found = np.asarray(ground)
        if not self.noise:
            return found
        return (found + rng.normal(0, self.noise, found.shape)).clip(0, 255).astype(np.uint8)


SCENES = {
    "turned": Scene(384),
    "turned, small": Scene(640, share=0.4),
    "several": Scene(640, count=4, share=0.6),
    "large": Scene(1600, share=0.55, turned=False, hard=(0.9, 1.0)),
    "plain": Scene(384, share=0.9, turned=False),
    "texture, noisy": Scene(384, share=1.1, turned=False, noise=12.0, kind="fabric"),
}


def drawn_pictures(folder: Path, name: str, draw: int = 0) -> Path:
    """Folder in MVTec AD's layout; other pictures with each draw."""
    scene, root = SCENES[name], folder / f"{name.replace(', ', '-')}{draw or ''}"
    if root.is_dir():
        return root
    defects = dataset.CATEGORIES[scene.kind].defects
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


class Trialled(NamedTuple):
    """Pictures of a product: good ones to learn from, test ones, and defects to choose by. is_whole: the test
    pictures and good ones are all that the set has."""

    good: list[Any]
    items: list[Any]
    seen: list[Any]
    is_whole: bool

    @classmethod
    def drawn(cls, root: Path, args: Any) -> Trialled:
        """args: how many of them, at most."""
        import flawscope

        data, rng = flawscope.open_dataset(root), np.random.default_rng(SEED)
        good = [data.train[int(k)].path for k in rng.permutation(len(data.train))][: args.learnt]
        classes = []
        for is_bad in (False, True):
            items = [item for item in data.test if item.anomalous == is_bad]
            classes.append([items[int(k)] for k in rng.permutation(len(items))])
        clean, bad = classes
        items = [*clean[: args.judged], *bad[args.given :][: args.judged]]
        seen = [(item.path, []) for item in bad[: args.given]]
        is_whole = len(good) == len(data.train) and len(items) == len(data.test)
        return cls(good, items, seen, is_whole)


def options_of(seed: int, size: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {"device": "cpu", "check": False, "samples": 0, "force": True, "seed": seed}
    return found if size is None else {**found, "size": size}


def search(
    pictures: Trialled,
    minutes: float,
    seed: int,
    size: str | None,
    record: Sequence[Cell] = (),
    own: Sequence[Cell] = (),
) -> Cell:
    """What a search finds out, in minutes of the processor.

    Args:
        record: trials of a longer search.
        own: trials of this search at an earlier rule of choice.
    """
    from flawscope.fitting.proposals import Recipe
    from searches import OneTrial, RecordedSearch, told

    longer = [OneTrial.from_dict(one) for one in record]
    known = [OneTrial.from_dict(one) for one in own]
    options = options_of(seed, size)
    done = RecordedSearch(pictures.good, pictures.seen, options, minutes, [*longer, *known])
    choice, recipe = done.run()
    assert recipe == Recipe.from_flags(choice.flags)
    return told(choice, done, done.clock.final_seconds(recipe, len(done.sources)), known)


def judge_setting(pictures: Trialled, flags: str, size: str | None) -> Cell:
    """What one setting gets on test pictures, learnt from all good ones."""
    import flawscope
    from flawscope.fitting.proposals import Recipe

    options = {**options_of(0, size), **Recipe.from_flags(flags).options}
    model, spent = timed(lambda: flawscope.fit(pictures.good, **options))
    return {**judge(model, pictures.items), **spent}


def known_auroc(name: str, flags: str) -> float | None:
    """Image AUROC of a preset on all test pictures of a product, as `accuracy.py` measured it; None: it did
    not."""
    preset = KNOWN.get(flags)
    file = common.RESULTS / f"accuracy-{preset}.json"
    if preset is None or not file.is_file():
        return None
    cells = json.loads(file.read_text())["cells"]
    label = f"test/{name.rpartition('/')[2]}/patchcore, {preset}/0 seen, seed 0"
    return cells[label]["metrics"]["image_auroc"] if label in cells else None


def measure_searches(record: Record, args: Any, name: str, root: Path, seed: int) -> dict[float, Cell]:
    """What searches of a product choose, by their minutes: the longest is run, the others from its record."""
    pictures = Trialled.drawn(root, args)
    where = place_of(name, args)
    found: dict[float, Cell] = {}
    trials: list[Cell] = []
    for minutes in sorted(args.minutes, reverse=True):
        name = f"{where}, seed {seed}, {minutes:g} minutes"
        own = record.cells.pop(name, {}).get("trials", []) if args.decide_again else []
        work = partial(search, pictures, minutes, seed, args.size, trials, own)
        if (cell := record.attempt(name, work)) is not None:
            found[minutes] = cell
            trials += cell["trials"]
    return found


def measure_settings(record: Record, args: Any, name: str, root: Path, tried: Sequence[str]) -> Cell:
    """Image AUROC on test pictures by setting."""
    pictures = Trialled.drawn(root, args)
    where = place_of(name, args)
    aurocs: Cell = {}
    for flags in tried:
        known = known_auroc(name, flags) if pictures.is_whole and args.size is None else None
        if known is not None:
            aurocs[flags] = round(known, 4)
            continue
        work = partial(judge_setting, pictures, flags, args.size)
        if (cell := record.attempt(f"{where}: {flags or 'as given'}", work)) is not None:
            aurocs[flags] = cell["image_auroc"]
    return aurocs


def place_of(name: str, args: Any) -> str:
    given = f", {args.given} given" if args.given else ""
    return f"{name}{given}" + ("" if args.size is None else f", at {args.size} px")


def regret_rows(
    where: str, seed: int, searches: Mapping[float, Cell], aurocs: Mapping[str, float]
) -> list[Cell]:
    """Rows of a product: what each search lost beside the best of all settings that any of them tried."""
    rows = []
    for minutes, cell in searches.items():
        flags = "" if cell["chosen"] == "as given" else cell["chosen"]
        if flags not in aurocs:
            continue
        best = max(aurocs, key=lambda one: aurocs[one])
        rows.append({
            "pictures": where, "seed": seed, "minutes": minutes, "chosen": cell["chosen"],
            "auto": aurocs[flags], "as given": aurocs.get(""), "best": best or "as given",
            "regret": round(aurocs[best] - aurocs[flags], 4),
            "seconds": cell["search_seconds"], "fit": cell["fit_seconds"], "untried": len(cell["untried"]),
        })  # fmt: skip
    return rows


def measure_regret(record: Record, args: Any, folder: Path, data: Path) -> list[Cell]:
    """Rows of all products: one seed of each, then the next seed."""
    roots = {name: data / name for name in args.products.split(",") if name}
    roots |= {name: drawn_pictures(folder, name) for name in args.scenes.split(";") if name}
    found: dict[str, dict[int, dict[float, Cell]]] = {}
    aurocs: dict[str, Cell] = {}
    for seed in args.seeds:
        for name, root in roots.items():
            if not root.is_dir():
                continue
            searches = found.setdefault(name, {})
            searches[seed] = measure_searches(record, args, name, root, seed)
            tried = {
                flags for cells in searches.values() for cell in cells.values() for flags in cell["tried"]
            }
            aurocs[name] = measure_settings(record, args, name, root, sorted(tried))
    return [
        row
        for name, searches in found.items()
        for seed, cells in searches.items()
        for row in regret_rows(place_of(name, args), seed, cells, aurocs[name])
    ]


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
    from flawscope.fitting import auto_search as searching
    from flawscope.methods.feature_memory import FeatureMemory

    searching.FeatureMemory = FeatureMemory if is_shared else partial(FeatureMemory, most=0)  # type: ignore
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
        "tried": [one.flags for one in choice.trials if one.rounds],
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
    parser.add_argument("--parts", default="regret,promise", help="default: %(default)s")
    parser.add_argument("--products", default=",".join(REAL), help="real sets (default: %(default)s)")
    parser.add_argument("--scenes", default=";".join(SCENES), help="drawn ones (default: %(default)s)")
    parser.add_argument("--seeds", type=common.ints, default=[0, 1, 2, 3, 4], help="default: 0 to 4")
    parser.add_argument("--minutes", type=floats, default=[3.0, 5.0, 10.0], help="default: 3,5,10")
    parser.add_argument("--given", type=int, default=0, help="test defects that choose (default: none)")
    parser.add_argument("--learnt", type=int, default=1000, help="good pictures, at most (default: all)")
    parser.add_argument("--judged", type=int, default=1000, help="test pictures of a class, at most")
    parser.add_argument(
        "--decide-again", action="store_true", help="by today's rule, from the trials that the results hold"
    )
    parser.add_argument(
        "--size", help="of the pictures: only how parts lie is searched for then, in less time"
    )
    args = common.parse_arguments(
        parser, parts="regret", scenes="plain", products="", size="32", seeds=[0], minutes=[MINUTES]
    )
    torch.set_num_threads(args.threads)
    record = Record(args, "settings found out by themselves")
    data = Path(args.data or os.environ.get("FLAWSCOPE_DATA") or common.ROOT / "data")
    parts = args.parts.split(",")
    with common.workspace(args.work) as folder:
        rows = measure_regret(record, args, Path(folder), data) if "regret" in parts else []
    common.print_table("image AUROC on pictures that the search never saw", rows)
    if rows:
        lost = [row["regret"] for row in rows]
        print(f"regret: {np.mean(lost):.4f} in the mean, {max(lost):.4f} at most, of {len(lost)} searches")
    if found := measure_times(record, args, data, parts):
        common.print_table("time of 60 pictures", [
            {"": name, "wall s": cell["wall_seconds"], "cpu s": cell["cpu_seconds"],
             "tried": len(cell["tried"])}
            for name, cell in found.items()
        ])  # fmt: skip
    promised = list[Cell]()
    for draw in range(DRAWS) if "promise" in parts else ():
        cell = record.attempt(f"promise {draw}", partial(measure_promise, draw, args.size))
        promised += [] if cell is None else [cell]
    if promised:
        common.print_table("p-values of new good pictures", promise_rows(promised))
    return record.status()


def floats(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def measure_times(record: Record, args: Any, data: Path, parts: Sequence[str]) -> dict[str, Cell]:
    """Times of searches, by what is asked."""
    root = data / BUDGET_PRODUCT
    works: dict[str, Callable[[], Cell]] = {}
    for minutes in BUDGETS if "budget" in parts else ():
        works[f"budget of {minutes:g} minutes"] = partial(measure_budget, root, minutes)
    for how in ("shared", "not shared") if "sharing" in parts else ():
        works[f"features are {how}"] = partial(measure_budget, root, MINUTES, how == "shared", args.size)
    found = {name: record.attempt(name, work) for name, work in works.items()}
    return {name: cell for name, cell in found.items() if cell is not None}


if __name__ == "__main__":
    sys.exit(common.run_script(main))

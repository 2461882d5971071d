"""Is the promised false-alarm rate that of whole parts, and what does one decision on all views find?

    python bench/parts.py --set size=128

Drawn parts, seen from --views sides each, which share their tone. In every draw a model learns --learnt good
parts and decides on new good ones and on ones with a small scratch that shows in one view, any of them. A
single view decides by the same rule on its pictures alone; `best_view` is the one that finds most of all.
"""

from __future__ import annotations

import itertools
import statistics
import sys
from pathlib import Path

import common
from common import Args, Cell, Record

RATE, DIFFICULTY, SEED = 0.05, 0.8, 37  # of false alarms; of the scratch, 0 to 1


def draw(args: Args, folder: Path, views: int, learnt: int, number: int) -> dict[str, list[Path]]:
    """Pictures of parts: learnt, good and bad. The first parts that are learnt do not depend on how many."""
    import numpy as np
    from PIL import Image

    import drawn
    from flawscope.synthesis.demo import scene

    found: dict[str, list[Path]] = {}
    kinds = {"learnt": learnt, "good": args.good, "bad": args.bad}
    for place, (kind, count) in enumerate(kinds.items()):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for part in range(count):
            rng = np.random.default_rng([SEED, number, place, part])
            tone, spoilt = rng.normal(0, 6), int(rng.integers(views))
            for k, own in enumerate(rng.spawn(views)):
                path = folder / kind / f"p{part:03d}_{k}.png"
                found.setdefault(kind, []).append(path)
                if path.is_file():
                    continue
                hard = scene.Flaw("scratch", DIFFICULTY, own.spawn(1)[0])
                flaw = hard if kind == "bad" and k == spoilt else None
                canvas = drawn.view(args.side, own, k, tone, flaw)
                Image.fromarray(scene.simulate_sensor(canvas, own)).save(path, compress_level=1)
    return found


def measure(args: Args, folder: Path, views: int, learnt: int, number: int) -> Cell:
    """One draw: p-values of the new good parts, and what is called anomalous by all views and by each."""
    import torch

    import flawscope
    from flawscope.predictor.parts import PartCollector

    torch.set_num_threads(args.threads)
    pictures = draw(args, folder, views, learnt, number)
    settings = common.settings(args, "patchcore")
    settings |= {"part": r"p\d+", "false_alarm_rate": RATE, "check": False, "samples": 0, "device": "cpu"}
    model = flawscope.fit(pictures["learnt"], **settings)
    parts = PartCollector(model.manifest)
    cell: Cell = {}
    for kind in ("good", "bad"):
        answers = model.predict(pictures[kind])
        whole, single = [], [0] * views
        for first in range(0, len(answers), views):
            given = {str(k): answer for k, answer in enumerate(answers[first : first + views])}
            whole.append(parts.decide("part", given))
            for k, (view, answer) in enumerate(given.items()):
                single[k] += parts.decide("part", {view: answer}).is_anomalous
        called = sum(one.is_anomalous for one in whole)
        cell |= {f"{kind}_parts": len(whole), f"{kind}_called": called, f"{kind}_called_by_view": single}
        if kind == "good":
            cell["p_values"] = [common.round_to(one.p_value, 4) for one in whole]
    return cell


def summed(cells: list[Cell], learnt: int) -> Cell:
    """All draws together. Standard errors are those over the draws, in which parts share a threshold."""
    rates = [cell["good_called"] / cell["good_parts"] for cell in cells]
    found = [cell["bad_called"] / cell["bad_parts"] for cell in cells]
    shares = {  # of each view, in all draws together
        kind: [
            statistics.fmean(cell[f"{kind}_called_by_view"][k] / cell[f"{kind}_parts"] for cell in cells)
            for k in range(len(cells[0]["bad_called_by_view"]))
        ]
        for kind in ("good", "bad")
    }
    best = max(range(len(shares["bad"])), key=shares["bad"].__getitem__)
    p = [statistics.fmean(cell["p_values"]) for cell in cells]
    error = lambda values: common.round_to(statistics.stdev(values) / len(values) ** 0.5, 2)  # noqa: E731
    several = len(cells) > 1
    rank = max(1, int(RATE * (learnt + 1) + 1e-9))
    return {
        "draws": len(cells),
        "expected": common.round_to(rank / (learnt + 1), 3),
        "rate": common.round_to(statistics.fmean(rates), 3),
        "rate_error": error(rates) if several else None,
        "mean_p": common.round_to(statistics.fmean(p), 3),
        "mean_p_error": error(p) if several else None,
        "mean_p_expected": common.round_to((learnt + 2) / (2 * (learnt + 1)), 3),
        "found": common.round_to(statistics.fmean(found), 3),
        "best_view": common.round_to(shares["bad"][best], 3),
        "best_view_rate": common.round_to(shares["good"][best], 3),
    }


def main() -> int:
    parser = common.make_parser(__doc__, "parts", methods="patchcore", data=False)
    parser.add_argument("--views", type=common.ints, default=[3, 5], help="default: 3,5")
    parser.add_argument("--learnt", type=common.ints, default=[20, 60], help="good parts (default: 20,60)")
    parser.add_argument("--draws", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--good", type=int, default=30, help="new good parts a draw (default: %(default)s)")
    parser.add_argument("--bad", type=int, default=30, help="defective parts a draw (default: %(default)s)")
    parser.set_defaults(side=160)
    args = common.parse_arguments(parser, threads=2, views=[2], learnt=[5], draws=1, good=2, bad=2, side=64)
    record = Record(args, "parts in several views: false alarms of parts, and defective parts found")
    words, rows = common.label_of(common.settings(args, "patchcore"), args.preset), []
    with common.workspace(args.work) as work:
        for views, learnt in itertools.product(args.views, args.learnt):
            name, cells = f"{views} views/{learnt} learnt/{words}/seed {SEED}", []
            for k in range(args.draws):
                folder = work / f"parts-{SEED}-{views}-{k}"
                own = lambda f=folder, v=views, n=learnt, k=k: measure(args, f, v, n, k)  # noqa: E731
                cells.append(record.attempt(f"{name}/draw {k}", own))
            if None not in cells:
                every = record.cell(f"{name}/all of {args.draws}", lambda c=cells, n=learnt: summed(c, n))
                rows.append({"views": views, "learnt": learnt, **common.without_metadata(every)})
    common.print_table("decisions on parts", rows)
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))

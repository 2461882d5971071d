"""Is the false-alarm rate kept in other light, and what does that cost?

    python bench/light.py --set size=128
    python bench/light.py --set size=256 --kinds fabric,sheet
    python bench/light.py --kinds plate --learnt 762 --draws 1 --categories ""

Models with and without --light are fitted on the same good pictures: drawn plates, fabrics and sheets,
newly drawn in each of --draws, and the categories of --categories. New good pictures are judged in
each single light, and defective ones in unchanged light. `most` is the most false alarms within the binomial
95 % band of the expected rate. A threshold from n good pictures has itself a rate that differs from draw to
draw (beta distribution); `most_drawn` allows for that, of one draw.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import common
from common import Args, Cell, Record

KINDS = "plate,fabric,sheet"
LIGHT = "10%"  # range of the light
FACTORS = (0.9, 0.95, 1.05, 1.1)


def measure(args: Args, root: Path, method: str, light: str | None) -> Cell:
    """Fits, and judges the test's good pictures in every light and its defective ones in unchanged light."""
    import torch

    import flawscope
    from flawscope.evaluation.robustness import robustness
    from flawscope.pictures.light import Light

    lights = [
        Light(),
        *(Light(brightness=factor) for factor in FACTORS),
        *(Light(contrast=factor) for factor in FACTORS),
        *(Light(white_balance=share) for share in (-0.05, 0.05)),
    ]
    torch.set_num_threads(args.threads)
    dataset, settings = flawscope.open_dataset(root), common.settings(args, method)
    settings |= {"method": method, "light": light, "check": False, "samples": 0, "device": "cpu"}
    began = time.perf_counter()
    model = flawscope.fit(dataset, **settings)
    took = time.perf_counter() - began
    good = dataclasses.replace(dataset, test=[item for item in dataset.test if not item.anomalous])
    (unchanged,) = robustness(model, dataset, lights=[Light()])
    calibration = model.calibration
    return {
        "learnt": len(model.manifest.pictures),
        "fit_seconds": common.round_to(took, 4),
        "calibrated": len(calibration.scores),
        "expected": common.round_to(calibration.expected_rate, 4),
        "good": unchanged.good,
        "defective": unchanged.defective,
        "found": unchanged.found,
        "image_auroc": common.round_to(unchanged.image_auroc, 5),
        "alarms": {one.light.name: one.false_alarms for one in robustness(model, good, lights=lights)},
    }


def summed(cells: list[Cell]) -> Cell:
    """All draws of a product together."""
    from scipy import stats

    good, expected = cells[0]["good"], cells[0]["expected"]
    times = [cell["fit_seconds"] for cell in cells if "fit_seconds" in cell]  # earlier results have none
    total = good * len(cells)
    scores = cells[0]["calibrated"]
    rank = round(expected * (scores + 1))  # the threshold is one of the scores: its rate is drawn, too
    alarms = {name: sum(cell["alarms"][name] for cell in cells) for name in cells[0]["alarms"]}
    most = int(stats.binom.interval(0.95, total, expected)[1])
    return {
        "expected": expected,
        "good": total,
        "most": most,
        "most_drawn": int(stats.betabinom.ppf(0.975, good, rank, scores + 1 - rank)),
        "alarms": alarms,
        "fit_seconds": common.round_to(sum(times) / len(times), 4) if times else None,
        "above": [name for name, count in alarms.items() if count > most],
        "draws": {name: [cell["alarms"][name] for cell in cells] for name in alarms},
        "found": sum(cell["found"] for cell in cells),
        "defective": sum(cell["defective"] for cell in cells),
        "image_auroc": common.round_to(sum(cell["image_auroc"] for cell in cells) / len(cells), 4),
    }


def sources(args: Args, work: Path, kind: str) -> list[Path]:
    """Folders of a drawn product, one for each draw."""
    import drawn

    counts = {"train": args.learnt, "good": args.good, "bad": args.bad, "size": args.side}
    return [drawn.product(work / f"draw{k}", kind, seed=3700 + k, **counts) for k in range(args.draws)]


def main() -> int:
    parser = common.make_parser(__doc__, "light", methods="patchcore")
    parser.set_defaults(categories="transistor", good=60, side=256)
    parser.add_argument("--learnt", type=int, default=40, help="drawn good pictures (default: %(default)s)")
    parser.add_argument("--kinds", default=KINDS, help="drawn products (default: %(default)s)")
    parser.add_argument("--draws", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--bad", type=int, default=60, help="defective pictures (default: %(default)s)")
    args = common.parse_arguments(parser, threads=2, kinds="sheet", draws=1, learnt=8, good=2, bad=4, side=96)
    record = Record(args, "false alarms in other light, without and with --light")
    with common.workspace(args.work) as work:
        rows = [row for method in common.methods(args) for row in rows_of(args, record, work, method)]
    common.print_table("false alarms in other light", rows)
    return record.status()


def rows_of(args: Args, record: Record, work: Path, method: str) -> list[Cell]:
    """Rows of the table, of every product; a light's cell shows false alarms without and with --light."""
    words = common.label_of(common.settings(args, method), args.preset)
    given: dict[str, Any] = {category: [root] for category, root in common.category_folders(args)}
    given |= dict.fromkeys(filter(None, args.kinds.split(",")))
    rows = []
    for kind, roots in given.items():
        both: list[Cell] = []
        for light in (None, LIGHT):
            name = f"{kind}/{method}, {words}/{'light ' + light if light else 'without'}"
            draws = [f"{name}/draw {k}" for k in range(len(roots) if roots else args.draws)]
            if not all(map(record.has, draws)):
                roots = roots or sources(args, work, kind)
            cells = [
                record.attempt(draw, lambda k=k, li=light: measure(args, roots[k], method, li))  # noqa: B023
                for k, draw in enumerate(draws)
            ]
            if None not in cells:
                every = f"{name}/all of {len(cells)}"
                both.append(record.cell(every, lambda c=cells: summed(c)))
        if len(both) == 2:
            plain, lit = both
            alarms = {name: f"{count} > {lit['alarms'][name]}" for name, count in plain["alarms"].items()}
            found = f"{plain['found']} > {lit['found']} of {plain['defective']}"
            times = plain.get("fit_seconds"), lit.get("fit_seconds")
            ratio = f"{times[1] / times[0]:.2f}" if all(times) else ""
            row = {"product": kind, "good": plain["good"], "most": lit["most"], **alarms, "found": found}
            rows.append({**row, "time of the fit, times": ratio})
    return rows


if __name__ == "__main__":
    sys.exit(common.run_script(main))

"""Is the promise kept where options go together?

    python bench/combinations.py

Drawn products of ten kinds, twice. Of each a model of two options, or a router of such models, learns good
parts and judges new ones: their p-values are uniform, and no more are called anomalous than was promised.
`--times` measures instead how long a pair of options takes beside its slower half, for each view.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import common
from common import Args, Cell

SEED, RATE = 83, 0.1
REGIONS = ((0.1, 0.1, 0.9, 0.8), (0.2, 0.1, 0.9, 0.9))
Draw = Callable[[int], Any]  # number of a part -> picture [H, W, 3] uint8
# combination: options of the fits, and how the models are used
COMBINATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "two sizes": ({"size": "96+192"}, "single"),
    "align + region": ({"align": "turn", "roi": REGIONS[0]}, "single"),
    "align + tile": ({"align": "turn", "tile": True}, "single"),
    "align + joint": ({"align": "turn"}, "joint"),
    "align + each view": ({"align": "turn"}, "views"),
    "joint + a region each": ({"roi": REGIONS}, "joint"),
    "joint + tile": ({"tile": True}, "joint"),
    "light + tile": ({"light": 0.1, "tile": True}, "single"),
    "several + light": ({"light": 0.1}, "several"),
    "several + region": ({"roi": REGIONS[0]}, "several"),
    "several + update": ({}, "several, updated"),
    "several + miscounted + update": ({}, "several, miscounted, updated"),
    "copies": ({}, "single, copies"),
    "joint + copies": ({}, "joint, copies"),
}
KINDS = ("gear", "keys", "cable", "pill", "painted", "plate", "nearer", "fabric", "wood", "mesh")
OBJECTS = KINDS[:6]  # products with an outline by which they are found
SEVERAL = ("gear", "pill")  # and that stand out from a smooth ground


# pairs whose halves are timed beside them
TIMED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "align + region": ({"align": "turn"}, {"roi": REGIONS[0]}),
    "align + tile": ({"align": "turn"}, {"tile": True}),
    "align + light": ({"align": "turn"}, {"light": 0.1}),
    "light + tile": ({"light": 0.1}, {"tile": True}),
    "several + region": ({"align": "turn", "several": True}, {"roi": REGIONS[0]}),
    "several + tile": ({"align": "turn", "several": True}, {"tile": True}),
}


def picture(kind: str, product: int, part: int, side: int) -> Any:
    """A good part of a drawn product, [side, side, 3] uint8."""
    import numpy as np

    import drawn
    from flawscope.synthesis.demo import dataset, scene

    rng = np.random.default_rng([SEED, product, part])
    category = {**dataset.CATEGORIES, **drawn.CATEGORIES}[kind]
    return scene.simulate_sensor(category.render(side, rng, None), rng)


def several(kind: str, product: int, number: int, side: int) -> Any:
    """Four parts in a picture, at any angle each."""
    import numpy as np

    cells = [picture(kind, product, 4 * number + k, side) for k in range(4)]
    return np.vstack([np.hstack(cells[:2]), np.hstack(cells[2:])])


def again(shown: Any, number: int) -> Any:
    """A near-copy of a picture: a little brighter, with noise of its own."""
    import numpy as np

    noisy = 1.02 * shown + np.random.default_rng([SEED, number]).normal(0, 1.5, shown.shape)
    return noisy.clip(0, 255).round().astype(np.uint8)


def measure_times(args: Args, name: str) -> Cell:
    """Processor seconds of a fit and of a picture, of a pair and of its halves, the least of some turns; the
    views that the fit embeds, in all lights, and those of a picture."""
    import torch

    import flawscope
    from flawscope.methods.patch_detector import PatchDetector

    embed, embedded = PatchDetector.embed, []

    def counted(model: Any, images: Any) -> Any:
        embedded.append(len(images))
        return embed(model, images)

    torch.set_num_threads(args.threads)
    halves, side = TIMED[name], args.side
    draw = several if any("several" in half for half in halves) else picture
    good, new = ([draw("gear", 0, first + k, side) for k in range(args.learnt)] for first in (0, 10_000))
    settings = {"size": side // 2, "device": "cpu", "check": False, "samples": 0}
    cell: Cell = {}
    for _ in range(args.turns):
        for which, options in zip(("first", "second", "both"), (*halves, halves[0] | halves[1]), strict=True):
            tile = {"tile": side // 2} if "tile" in options else {}
            embedded.clear()
            began = time.process_time()
            with mock.patch.object(PatchDetector, "embed", counted):
                model = flawscope.fit(good, **settings, **options | tile)
            fitted = time.process_time()
            model.predict(new)
            spent = [fitted - began, (time.process_time() - fitted) / len(new)]
            before = cell.setdefault(which, {"fit": spent[0], "picture": spent[1]})
            before |= {"fit": min(before["fit"], spent[0]), "picture": min(before["picture"], spent[1])}
            before |= {"views": len(model.manifest.preprocess.views(new[0])), "fit views": sum(embedded)}
    return cell


def time_row(name: str, cell: Cell) -> Cell:
    """How many times the slower half's time a pair takes, and how many times its views it has: a fit in tiles
    and lights judges each tile in each light."""
    halves = cell["first"], cell["second"]
    ratios = {
        what: round(cell["both"][what] / max(half[what] for half in halves), 2)
        for what in ("fit", "fit views", "picture", "views")
    }
    return {"pair": name, **ratios}


def judge(predictions: list[Any], promised: float) -> Cell:
    """p-values and alarms of new good units beside what was promised."""
    return {
        "p": [round(prediction.p_value, 4) for prediction in predictions],
        "alarms": sum(prediction.is_anomalous for prediction in predictions),
        "of": len(predictions),
        "promised": round(promised, 4),
    }


def measure(args: Args, name: str, product: int) -> Cell:
    """A model of a combination, of one drawn product or of two, and its answers for new good units."""
    import torch

    import flawscope
    from flawscope.fitting.fitting import partial_fit
    from flawscope.fitting.joining import join

    torch.set_num_threads(args.threads)
    options, use = COMBINATIONS[name]
    kinds = SEVERAL if use.startswith("several") else OBJECTS if "align" in options else KINDS
    kind, other = (kinds[(product + k) % len(kinds)] for k in range(2))
    side, learnt, new = args.side, range(args.learnt), range(10_000, 10_000 + args.new)
    settings = {"size": side // 2 if "tile" in options else side, "false_alarm_rate": RATE, "device": "cpu"}
    settings |= {"check": False, "samples": 0, **options}
    if "tile" in options:
        settings["tile"] = side // 2

    def fit(pictures: list[Any], k: int = 0) -> Any:
        roi = options.get("roi")
        given = settings | ({"roi": roi[k]} if isinstance(roi, tuple) and isinstance(roi[0], tuple) else {})
        names = [f"p{number:03d}_{kinds[(product + k) % len(kinds)]}.png" for number in range(len(pictures))]
        return flawscope.fit(pictures, names=names, **given)

    def good(of: str) -> list[Any]:
        found = [picture(of, product, k, side) for k in learnt]
        return found + [again(one, k) for k, one in enumerate(found)] if "copies" in use else found

    if use.startswith("several"):
        settings |= {"align": "turn", "several": True}
        shown = [several(kind, product, k, side) for k in learnt]
        if "miscounted" in use:  # one has an empty place
            shown[-1] = shown[-1].copy()
            shown[-1][side:, side:] = shown[-1][side : side + 8, side : side + 8].mean((0, 1))
        model = fit(shown)
        if use.endswith("updated"):
            more = [several(kind, product, 5_000 + k, side) for k in learnt]
            model = partial_fit(model, more, device="cpu", check=False)
        return judge(
            model.predict([several(kind, product, k, side) for k in new]), model.calibration.expected_rate
        )
    if use.startswith("single"):
        model = fit(good(kind))
        return judge(
            model.predict([picture(kind, product, k, side) for k in new]), model.calibration.expected_rate
        )
    names = (kind, other)  # of products, or of views
    pictures = {of: good(of) for of in names}
    models = {of: fit(pictures[of], k) for k, of in enumerate(names)}
    if use.startswith("joint"):
        router = join(models, pictures, device="cpu")
        answers = [router.predict(picture(names[k % 2], product, k, side)) for k in new]
        return judge(answers, statistics.mean(model.calibration.expected_rate for model in models.values()))
    router = join(models, part=r"p\d+", view="|".join(names), device="cpu")
    answers = [router.predict_part({of: picture(of, product, k, side) for of in names}, f"p{k}") for k in new]
    return judge(answers, router.parts().calibration.expected_rate)


def main() -> int:
    parser = common.make_parser(__doc__, "combinations", data=False)
    parser.add_argument("--draws", type=int, default=20, help="drawn products (default: %(default)s)")
    parser.add_argument("--learnt", type=int, default=24, help="good units (default: %(default)s)")
    parser.add_argument("--new", type=int, default=20, help="new good units (default: %(default)s)")
    parser.add_argument("--side", type=int, default=96, help="of a drawn part (default: %(default)s)")
    parser.add_argument("--times", action="store_true", help="measure times of pairs and their halves")
    parser.add_argument("--only", help="combinations, as the table calls them, divided by commas")
    parser.add_argument("--turns", type=int, default=3, help="of the times (default: %(default)s)")
    args = common.parse_arguments(parser, draws=1, new=4, learnt=8, turns=1)
    record = common.Record(args, "the promise where options go together")
    if args.times:
        cells = {name: record.attempt(f"times, {name}", partial(measure_times, args, name)) for name in TIMED}
        common.print_table(
            "times the slower half", [time_row(name, cell) for name, cell in cells.items() if cell]
        )
        return record.status()
    names = [*COMBINATIONS] if args.only is None else args.only.split(",")
    cells: dict[str, list[Cell]] = {name: [] for name in names}
    for product in range(args.draws):  # a run that is stopped has as many of each combination
        for name, found in cells.items():
            work = partial(measure, args, name, product)
            if cell := record.attempt(f"{name}, product {product}", work):
                found.append(cell)
    common.print_table(
        "new good units", [{"combination": name, **summary(found)} for name, found in cells.items()]
    )
    return record.status()


def summary(cells: list[Cell]) -> Cell:
    """All products of a combination together."""
    from scipy.stats import binom

    if not cells:
        return {}
    alarms, count = (sum(cell[key] for cell in cells) for key in ("alarms", "of"))
    promised = statistics.mean(cell["promised"] for cell in cells)
    return {
        "products": len(cells),
        "mean p": round(statistics.mean(p for cell in cells for p in cell["p"]), 3),
        "alarms": f"{alarms} of {count}",
        "promised": f"{promised:.1%}",
        "kept": bool(binom(count, promised).sf(alarms - 1) >= 0.01),
    }


if __name__ == "__main__":
    sys.exit(common.run_script(main))

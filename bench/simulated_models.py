"""Do simulated defects tell a good model from a bad one, as real defects do?

    python bench/simulated_models.py --data DATA --threads 1

Of each product several models are fitted, of which some see too little: 96 px, or eight pictures learnt from.
All judge the same simulated defects, on good pictures that none has learnt from, made as `fit --auto` makes
them, and the test pictures. A product's models are compared two by two.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

import auto
import common
import drawn
from common import Cell, Record

LEARNT, LEFT_OUT = 32, 12  # good pictures, at most
MOST = 40  # real defects of a product
SEED = 81
MODELS: dict[str, dict[str, Any]] = {
    "96 px": {"size": "96"},
    "8 pictures": {"size": "256"},
    "256 px, small": {"size": "256", "preset": "small"},
    "256 px": {"size": "256"},
    "256 px, turned": {"size": "256", "align": "turn"},
}
TURNED = ("turned", "turned, small")  # drawn scenes whose parts are found


def size_of(share: float) -> str:
    """Size of a defect that covers this share of the picture, as simulated ones are called."""
    from flawscope.synthesis.masks import SCALE_AREAS

    return next((str(name) for name, (_, high) in SCALE_AREAS.items() if share <= high), "larger")


def judged(model: Any, pictures: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Scores and decisions; a picture without its part is beyond all others."""
    found = [model.predict(one) for one in pictures]
    sure = [any(each.decides for each in one.findings) for one in found]
    scores = [np.finfo(np.float32).max if s else one.score for one, s in zip(found, sure, strict=True)]
    return np.array(scores, float), np.array([one.is_anomalous for one in found])


def measure(root: Path, aligned: bool) -> Cell:
    import flawscope
    from flawscope.artefact.tried import auroc
    from flawscope.datasets.masks import union_masks
    from flawscope.fitting.trial_pictures import make_rounds
    from flawscope.pictures.decoding import decode, to_eight_bits

    data = flawscope.open_dataset(root)
    rng = np.random.default_rng(SEED)
    good = [data.train[int(k)].path for k in rng.permutation(len(data.train))][: LEARNT + 2 * LEFT_OUT]
    pixels = {k: to_eight_bits(decode(path)) for k, path in enumerate(good)}
    made = make_rounds(pixels.__getitem__, range(len(good)), [], SEED, True)[0]
    learnt = [path for k, path in enumerate(good) if k not in made.left_out][:LEARNT]
    simulated = [one.draw(pixels.__getitem__) for one in made.simulated]
    sizes = [size_of(_changed(one, pixels)) for one in made.simulated]
    test_good = [item.path for item in data.test if not item.anomalous][:MOST]
    bad = [item for item in data.test if item.anomalous]
    bad = [bad[int(k)] for k in rng.permutation(len(bad))][:MOST]
    shares = []
    for item in bad:
        shape = decode(item.path).shape[:2]
        shares.append(float(union_masks(item.masks, shape).mean()) if item.masks else math.nan)
    models: Cell = {}
    for name, options in MODELS.items():
        if "align" in options and not aligned:
            continue
        own = learnt[:8] if name == "8 pictures" else learnt
        model = flawscope.fit(own, device="cpu", check=False, samples=0, force=True, **options)
        clean, _ = judged(model, [good[k] for k in made.left_out])
        drawn, drawn_found = judged(model, simulated)
        new, alarms = judged(model, test_good)
        real, real_found = judged(model, [item.path for item in bad])
        models[name] = {
            "simulated": round(auroc(clean, drawn), 4),
            "real": round(auroc(new, real), 4),
            "false alarms": [int(alarms.sum()), len(alarms)],
            "simulated found": counts(sizes, drawn_found),
            "real found": counts([size_of(s) if s == s else "no mask" for s in shares], real_found),
        }
    return {"learnt": len(learnt), "left out": len(made.left_out), "models": models}


def places(name: str) -> Cell:
    """Of eight drawn pictures of a product: the share of the places for simulated defects that lie on the
    part, in the mean and at least, and the share of the part that they cover. The part's outline, a few
    pixels wide, counts as part."""
    from scipy import ndimage

    from flawscope.synthesis import Foreground

    scene, pictures, parts = (drawn.SCENES | drawn.HELD)[name], [], []
    for number in range(8):
        canvas, part = scene(256, np.random.default_rng([SEED, number]))
        pictures.append(canvas.clip(0, 255).astype(np.uint8))
        parts.append(ndimage.binary_fill_holes(ndimage.binary_dilation(part, iterations=6)))
    masks = [Foreground.of(pictures).mask(one) for one in pictures]
    on = [(mask & part).sum() / mask.sum() for mask, part in zip(masks, parts, strict=True)]
    of = [(mask & part).sum() / part.sum() for mask, part in zip(masks, parts, strict=True)]
    return {"on the part": round(float(np.mean(on)), 3), "least": round(float(min(on)), 3),
            "of the part": round(float(np.mean(of)), 3),
            "of the picture": round(float(np.mean(parts)), 3)}  # fmt: skip


def _changed(one: Any, pixels: Mapping[int, np.ndarray]) -> float:
    """Share of the picture that a simulated defect changes."""
    height, width = one.pixels.shape[:2]
    before = pixels[one.carrier][one.y : one.y + height, one.x : one.x + width]
    return float((one.pixels != before).any(-1).sum() / math.prod(pixels[one.carrier].shape[:2]))


def counts(sizes: Sequence[str], found: np.ndarray) -> dict[str, list[int]]:
    """Found and all, by size."""
    return {
        size: [int(found[[s == size for s in sizes]].sum()), sizes.count(size)]
        for size in ("small", "medium", "large", "larger", "no mask")
        if size in sizes
    }


def total(found: Mapping[str, Sequence[int]]) -> str:
    return "{} of {}".format(*map(sum, zip(*found.values(), strict=True)))


def agreement(cells: Mapping[str, Cell], least: float) -> Cell:
    """Pairs of models of a product that simulated defects tell apart by `least` or more, in AUROC: how often
    the one that they prefer is better on real ones, too, and what it gains there."""
    gains = []
    for cell in cells.values():
        for a, b in combinations(cell["models"].values(), 2):
            told = a["simulated"] - b["simulated"]
            if abs(told) >= least:
                gains.append(math.copysign(1.0, told) * (a["real"] - b["real"]))
    right = sum(gain > 0 for gain in gains)
    return {
        "told apart by": least,
        "pairs": len(gains),
        "real agree": right,
        "real equal": sum(gain == 0 for gain in gains),
        "mean gain on real": round(float(np.mean(gains)), 4) if gains else None,
        "worst": round(min(gains), 4) if gains else None,
    }


def main() -> int:
    import torch

    parser = common.make_parser(__doc__, "simulated_models")
    parser.add_argument("--products", default=",".join(auto.REAL), help="default: %(default)s")
    parser.add_argument("--scenes", default=";".join(auto.SCENES), help="default: %(default)s")
    args = common.parse_arguments(parser, products="", scenes="plain")
    torch.set_num_threads(args.threads)
    record = Record(args, "simulated defects against real ones, by models that are good and bad")
    data = Path(args.data or os.environ.get("FLAWSCOPE_DATA") or common.ROOT / "data")
    cells: dict[str, Cell] = {}
    for name in filter(None, args.products.split(",")):
        if (data / name).is_dir():
            found = record.attempt(name, partial(measure, data / name, False))
            cells |= {} if found is None else {name: found}
    with common.workspace(args.work) as folder:
        for name in filter(None, args.scenes.split(";")):
            root = partial(auto.drawn_pictures, Path(folder), name)
            found = record.attempt(name, lambda root=root, name=name: measure(root(), name in TURNED))
            cells |= {} if found is None else {name: found}
    if not args.quick:
        where = {n: record.attempt(f"places: {n}", partial(places, n)) for n in drawn.SCENES | drawn.HELD}
        common.print_table("places of simulated defects", [
            {"product": name, **{key: value for key, value in cell.items() if key != "_"}}
            for name, cell in where.items() if cell
        ])  # fmt: skip
    common.print_table("simulated and real", [
        {"product": product, "model": name, "simulated": model["simulated"], "real": model["real"],
         "simulated found": total(model["simulated found"]), "real found": total(model["real found"])}
        for product, cell in cells.items() for name, model in cell["models"].items()
    ])  # fmt: skip
    common.print_table("pairs of models", [agreement(cells, least) for least in (0.0, 0.02, 0.05, 0.1)])
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))

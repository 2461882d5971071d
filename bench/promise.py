"""Are p-values of new good pictures spread evenly, on products of other kinds than the data at hand?

    python bench/promise.py

Good pictures of drawn products are learnt from: plates, fabrics, sheets with noise, and boards of many parts
that lie a little differently each time. --new new ones get p-values. Right are a mean of .5 and a share of a
where p <= a, on average over the draws; of n pictures (n + 2)/(2n + 2), and k/(n + 1) at most a.
"""

from __future__ import annotations

import math
import sys

import common
from common import Cell, Settings

RATES = (0.05, 0.2, 0.5)
SIDE = 256


def draw(product: str, seed: int):
    """A good picture [SIDE, SIDE, 3] uint8."""
    import numpy as np
    from PIL import Image, ImageDraw

    from flawscope.synthesis.demo.dataset import CATEGORIES, draw_picture

    rng = np.random.default_rng([7, seed])
    if product in CATEGORIES:
        return draw_picture(product, rng, size=SIDE)[0]
    if product == "sheet":
        light = 150 * (1 + rng.normal(0, 0.01)) + rng.normal(0, 5, (SIDE, SIDE, 1))
        return np.clip(light + np.zeros(3), 0, 255).astype(np.uint8)
    plan, board = np.random.default_rng(99), Image.new("RGB", (SIDE, SIDE), (24, 92, 52))
    pen = ImageDraw.Draw(board)
    for k in range(26):
        (x, y), (w, h), (dx, dy) = (
            plan.uniform(10, SIDE - 40, 2),
            plan.uniform(8, 35, 2),
            rng.normal(0, 1.2, 2),
        )
        colour = ((20, 20, 22), (180, 150, 90), (190, 190, 195), (120, 60, 30))[k % 4]
        pen.rectangle([x + dx, y + dy, x + dx + w, y + dy + h], fill=colour, outline=(210, 210, 210))
    noisy = np.asarray(board) * (1 + rng.normal(0, 0.03)) + rng.normal(0, 4, (SIDE, SIDE, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def measure(product: str, count: int, seed: int, new: int, settings: Settings, threads: int) -> Cell:
    """p-values of new good pictures by a model of `count` others."""
    import numpy as np
    import torch

    import flawscope

    torch.set_num_threads(threads)
    shown = [draw(product, 10_000 * seed + k) for k in range(count + new)]
    model = flawscope.fit(shown[:count], samples=0, check=False, device="cpu", **settings)
    scores = np.array([p.score for _, p in model.stream(shown[count:])])
    return {"p": model.calibration.p_values(scores).tolist()}


def main() -> int:
    import numpy as np

    parser = common.parser(__doc__, "promise", methods="patchcore", data=False)
    parser.add_argument("--products", default="plate,fabric,sheet,board", help="default: %(default)s")
    parser.add_argument("--counts", type=common.numbers, default=[20, 60], help="good pictures (20,60)")
    parser.add_argument("--draws", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--new", type=int, default=100, help="new good pictures (default: %(default)s)")
    args = common.arguments(parser, threads=2, draws=1, products="sheet", counts=[4])
    record, rows = common.Record(args, "p-values of new good pictures of drawn products"), []
    for product in args.products.split(","):
        for count in args.counts:
            given = {"product": product, "count": count, "new": args.new, "threads": args.threads}
            given["settings"] = common.settings(args, "patchcore")
            cells = [
                record.attempt(
                    f"{product}/{count}/{seed}",
                    lambda s=seed, g=given: common.task(measure, seed=s, **g).json,
                )
                for seed in range(args.draws)
            ]
            p = np.array([cell["p"] for cell in cells if cell])
            row: Cell = {"product": product, "pictures": count, "draws": len(p), "mean": p.mean()}
            row["mean can be"] = (count + 2) / (2 * count + 2)
            for rate in RATES:
                row[f"p <= {rate}"] = float((p <= rate + 1e-9).mean())
                row[f"{rate} can be"] = math.floor(rate * (count + 1) + 1e-9) / (count + 1)
            rows.append({k: common.sig(v, 3) if isinstance(v, float) else v for k, v in row.items()})
    common.table("p-values of new good pictures", rows)
    return record.status()


if __name__ == "__main__":
    sys.exit(common.start(main))

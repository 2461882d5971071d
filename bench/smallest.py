"""How large must a defect be at the network for PatchCore to find it?

    python bench/smallest.py

Good pictures of drawn products, 1,024 pixels a side, are learnt from, reduced to one network size. New good
ones get a round spot of known size, a quarter of full scale darker or brighter than what it lies on. Counted
is the share of them that is anomalous at the target false-alarm rate, by the spot's diameter at the network.
"""

from __future__ import annotations

import sys

import common
from common import Cell, Settings

SIDE = 1024
SPOTS = (2, 3, 4, 6, 8, 10, 12, 16)  # network pixels across


def draw(product: str, seed: int):
    """A good picture [SIDE, SIDE, 3] uint8."""
    import numpy as np

    from flawscope.demo.board import draw_board
    from flawscope.demo.dataset import draw_picture

    rng = np.random.default_rng([11, seed])
    return (
        draw_board(rng, (SIDE, SIDE))[0] if product == "board" else draw_picture(product, rng, size=SIDE)[0]
    )


def spotted(picture, diameter: float, strength: float, rng):
    """The picture with a spot of so many of its pixels across, at a random place on the part."""
    import numpy as np

    y, x = rng.uniform(0.15 * SIDE, 0.85 * SIDE, 2)
    rows, columns = np.ogrid[:SIDE, :SIDE]
    opacity = np.clip(diameter / 2 + 0.5 - np.hypot(rows - y, columns - x), 0, 1)[..., None]
    darker = picture[opacity[..., 0] > 0].mean() > 128
    changed = np.clip(picture + (-255 if darker else 255) * strength * opacity, 0, 255)
    return np.rint(changed).astype(np.uint8)


def measure(
    product: str, size: int, count: int, new: int, strength: float, settings: Settings, threads: int
) -> Cell:
    """Shares above the score threshold, of new good pictures and of the same with a spot."""
    import numpy as np
    import torch

    import flawscope

    torch.set_num_threads(threads)
    shown = [draw(product, k) for k in range(count + new)]
    given = {**settings, "size": str(size)}
    model = flawscope.fit(shown[:count], samples=0, check=False, device="cpu", **given)
    good = shown[count:]

    def above(pictures) -> float:
        return float(np.mean([p.is_anomalous for _, p in model.stream(pictures)]))

    found = {}
    for across in SPOTS:
        rng = np.random.default_rng([13, across])
        found[str(across)] = above(spotted(p, across * SIDE / size, strength, rng) for p in good)
    return {"false_alarms": above(good), "found": found}


def main() -> int:
    parser = common.parser(__doc__, "smallest", methods="patchcore", data=False)
    parser.add_argument("--products", default="plate,fabric,board", help="default: %(default)s")
    parser.add_argument("--sizes", type=common.numbers, default=[256, 384, 512], help="default: 256,384,512")
    parser.add_argument("--count", type=int, default=40, help="good pictures learnt from (40)")
    parser.add_argument("--new", type=int, default=40, help="new good pictures (40)")
    parser.add_argument("--strength", type=float, default=0.25, help="of a spot, share of full scale")
    args = common.arguments(parser, threads=2, products="fabric", sizes=[64], count=4, new=2)
    record, rows = common.Record(args, "spots found, by their size at the network"), []
    settings = {k: v for k, v in common.settings(args, "patchcore").items() if k != "size"}
    drawn = {k: getattr(args, k) for k in ("count", "new", "strength", "threads")}
    for product in args.products.split(","):
        for size in args.sizes:

            def work(product: str = product, size: int = size) -> Cell:
                return common.task(measure, product=product, size=size, settings=settings, **drawn).json

            if cell := record.attempt(f"{product}/{size}/{args.strength:g}", work):
                shares = {f"{n} px": share for n, share in cell["found"].items()}
                rows.append(
                    {"product": product, "size": size, "false alarms": cell["false_alarms"], **shares}
                )
    common.table("share of spots found, by network pixels across", rows)
    return record.status()


if __name__ == "__main__":
    sys.exit(common.start(main))

"""Which parts does a tolerance let pass whose defect is longer than the rule allows?

    python bench/tolerance.py --data DATA

Each defective test picture with a mask is judged by rules that allow a little less than the longest piece of
its mask, the worst rule for this very part, and by rules that allow more: `longer` must not be tolerated, the
others may be. `outline` is the first of these by the outlined length alone. Widths and areas likewise.
`drawn`: plates and fabrics of the simulator, with defects from easy to hard.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common
from common import Args, Cell

SEED, SIDE = 65, 128
ALLOWED = {"longer": 0.999, "1.5x": 1.5, "2x": 2.0, "3x": 3.0, "4x": 4.0}  # shares of the true size
LIMITS = ("length", "width", "area")
DEFECTIVE = ("test/*/*.png", "test/*/*.jpg")


def drawn(category: str, count: int, seed: int, *, bad: bool) -> Iterator[tuple[Any, Any]]:
    import numpy as np

    from flawscope.synthesis.demo.dataset import CATEGORIES, draw_picture

    kinds = CATEGORIES[category].defects
    for k in range(count):
        kind = kinds[k % len(kinds)] if bad else None
        yield draw_picture(category, np.random.default_rng([seed, k]), kind, k * 0.618 % 1, size=SIDE)


def photographed(root: Path) -> Iterator[tuple[Any, Any]]:
    import numpy as np
    from PIL import Image

    for path in sorted(path for pattern in DEFECTIVE for path in root.glob(pattern)):
        mask = root / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
        if mask.is_file():
            yield str(path), np.asarray(Image.open(mask).convert("L")) > 127


def measure(good: list[Any], pictures: Iterator[tuple[Any, Any]], **settings: Any) -> Cell:
    import flawscope
    from flawscope.pictures.pixel_sets import connected_parts, largest_sizes
    from flawscope.predictor.tolerating import tolerator
    from flawscope.results.tolerance import Rule, Tolerances

    model = flawscope.fit(good, device="cpu", samples=0, force=True, **settings).with_scale(1.0)
    cell: Cell = {"learnt from": len(good), "bounds": model.size_bounds.to_dict(), "parts": 0, "found": 0}
    counts = {f"{limit} {name}": 0 for limit in LIMITS for name in ("outline", *ALLOWED)}
    for picture, mask in pictures:
        found, true = model.predict(picture), largest_sizes(connected_parts(mask)[1])
        cell["parts"] += 1
        if not found.is_anomalous:
            continue
        cell["found"] += 1
        for k, limit in enumerate(LIMITS):
            attribute = ("length_mm", "width_mm", "area_mm2")[k]
            outlined = [getattr(region, attribute) for region in found.regions]
            counts[f"{limit} outline"] += bool(outlined and max(outlined) <= ALLOWED["longer"] * true[k])
            for name, share in ALLOWED.items():
                rule = Rule("any", **{limit: share * float(true[k])})
                rules = Tolerances("1", "0" * 64, found.geometry.picture_size, (rule,))
                counts[f"{limit} {name}"] += tolerator(model, rules)(found).is_tolerated
    return cell | counts


def real(args: Args, name: str) -> Cell:
    import numpy as np

    root = next(args.data.glob(f"*/{name}"))
    paths = [str(path) for path in sorted((root / "train/good").iterdir())]
    chosen = np.random.default_rng(SEED).permutation(paths)[: args.train].tolist()
    return measure(chosen, photographed(root), size=args.size)


def main() -> int:
    parser = common.make_parser(__doc__, "tolerance")
    parser.set_defaults(categories="transistor,toothbrush,commutator")
    parser.add_argument("--train", type=int, default=60, help="pictures to learn from (default: %(default)s)")
    parser.add_argument("--size", default="256", help="of the network (default: %(default)s)")
    parser.add_argument(
        "--drawn", type=int, default=500, help="of each category (0: none; default: %(default)s)"
    )
    args = common.parse_arguments(parser, train=16, size="64", drawn=10)
    record, rows = common.Record(args, "defects that are longer than a tolerance allows"), []
    for category in ("plate", "fabric") if args.drawn else ():
        name = f"drawn/{category}"
        cell = record.attempt(
            name,
            lambda c=category: measure(  # type: ignore[misc]
                [picture for picture, _ in drawn(c, args.train, 1, bad=False)],
                drawn(c, args.drawn, 2, bad=True),
                size=str(SIDE),
            ),
        )
        rows.append({"pictures": name, **common.without_metadata(cell or {})})
    for category in args.categories.split(","):
        cell = record.attempt(category, lambda c=category: real(args, c))  # type: ignore[misc]
        rows.append({"pictures": category, **common.without_metadata(cell or {})})
    common.print_table("tolerated parts", rows)
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))

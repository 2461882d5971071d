"""Does a router recognise the products of its pictures, and what does that cost?

    python bench/recognition.py --photos PHOTOGRAPHS --data DATA

A model is fitted for each product and all are joined. Test pictures are recognised; then each product is left
out in turn, and its pictures must be none of the others, as photographs must be. `time`: CPU time of a
picture from its path to its answer, by the router to two drawn products and by the product's model alone, in
turns.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common
import drawn
from common import Args, Cell

SEED = 3
PRODUCTS = "plate,painted,fabric,nearer,gear,bottle,keys,cable,wood,mesh,leather,pill"
TIMED = ("plate", "fabric")


def joined(args: Args, folders: dict[str, Path], size: str) -> tuple[Any, dict[str, Any]]:
    """A router to products, and their models."""
    import torch

    import flawscope

    torch.set_num_threads(args.threads)
    settings = {"size": size, "check": False, "device": "cpu", "samples": 0}
    models = {name: flawscope.fit(folder, **settings) for name, folder in folders.items()}
    return flawscope.join(models, folders, device="cpu"), models


def recognised(args: Args, folders: dict[str, Path]) -> Cell:
    """How many test pictures, pictures of a product that is left out, and photographs are taken for what."""
    import numpy as np

    from flawscope import open_dataset
    from flawscope.calibration.recognition import Recogniser

    router, _ = joined(args, folders, args.size)
    rule, rows = Recogniser(router.artefact.recognition.known), {}
    for name, folder in folders.items():
        items, counts = open_dataset(str(folder)).test, dict.fromkeys(("good", "defective"), (0, 0))
        none, mistaken, others = 0, 0, {*folders} - {name}
        shown = router.recognise([item.path for item in items])
        for item, (_, found) in zip(items, shown, strict=True):
            kind = "defective" if item.anomalous else "good"
            right, of = counts[kind]
            counts[kind] = right + (found.product == name), of + 1
            mistaken += found.product not in (name, None)
            left_out = rule.recognise_group(np.array([found.distances]), others)
            none += left_out.product is None
        rows[name] = {kind: f"{right} of {of}" for kind, (right, of) in counts.items()}
        rows[name] |= {"taken for another": mistaken, "left out: none": f"{none} of {len(items)}"}
    photos = common.pictures_below(args.photos)[:: args.every] if args.photos else []
    found = [one.product for _, one in router.recognise(photos)] if photos else []
    return {"products": rows, "photographs: none": f"{found.count(None)} of {len(found)}"}


def timed(args: Args, folders: dict[str, Path], size: str) -> Cell:
    """Median milliseconds of CPU time of a picture by the router and by the product's model."""
    import numpy as np

    router, models = joined(args, folders, size)
    pictures = [(name, path) for name, folder in folders.items() for path in _test_pictures(folder)]
    spent: dict[str, list[float]] = {"router": [], "single": []}
    for k in range(args.repeats):
        name, path = pictures[k % len(pictures)]
        for kind in ("router", "single") if k % 2 else ("single", "router"):
            model = router if kind == "router" else models[name]
            begun = time.process_time()
            model.predict(path)
            spent[kind].append(1000 * (time.process_time() - begun))
    one, other = (np.array(spent[kind][4:]) for kind in ("router", "single"))
    return {
        "router": round(float(np.median(one)), 1),
        "single": round(float(np.median(other)), 1),
        "ratio": round(float(np.median(one / other)), 3),
    }


def _test_pictures(folder: Path) -> Iterator[str]:
    from flawscope import open_dataset

    return (str(item.path) for item in open_dataset(str(folder)).test)


def main() -> int:
    parser = common.make_parser(__doc__, "recognition")
    parser.add_argument("--products", default=PRODUCTS, help="drawn (default: %(default)s)")
    parser.add_argument("--photos", type=Path, help="folder of pictures that show no product")
    parser.add_argument("--every", type=int, default=10, help="of so many of them one (default: %(default)s)")
    parser.add_argument("--size", default="64", help="of the models (default: %(default)s)")
    parser.add_argument("--sizes", default="256,256+384", help="of timed models (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=80, help="timed pictures (default: %(default)s)")
    args = common.parse_arguments(parser, products="plate,fabric", sizes="64", repeats=8)
    record = common.Record(args, "recognition of products by a router")
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        counts = {"train": 8, "good": 2, "bad": 4, "size": 96} if args.quick else {}
        counts = {"train": 40, "good": 16, "bad": 24, "size": 256} | counts
        folders = dict(drawn.products(args, work, SEED, **counts))
        if found := record.attempt("recognised", lambda: recognised(args, folders)):
            rows = [{"product": name, **cell} for name, cell in found["products"].items()]
            common.print_table(f"photographs, none of these: {found['photographs: none']}", rows)
        two = {name: folders[name] for name in TIMED}
        rows = []
        for size in args.sizes.split(","):
            if found := record.attempt(f"time/{size}", lambda size=size: timed(args, two, size)):
                rows.append({"size": size, **common.without_metadata(found)})
        common.print_table("CPU time of a picture, ms", rows)
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))

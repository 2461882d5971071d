"""Large pictures in tiles: how long does one take, and how much memory?

    python bench/tiles.py --anomalib ENVIRONMENT/bin/python

From path to answer for one drawn picture by its megapixels, and the memory above the opened model; with
--anomalib beside its tiler: the same tiles, network and number of elements in the bank, processes that take
turns. What is in the bank does not matter for the time.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import common
from common import Args, Cell, Record

TILE, OVERLAP = 512, 0.25


def side(megapixels: int) -> int:
    return round((1e6 * megapixels) ** 0.5)


def draw(path: Path, pixels: int) -> None:
    """A fabric of `pixels` a side."""
    import numpy as np
    from PIL import Image

    from flawscope.synthesis.demo.dataset import draw_picture

    picture = draw_picture("fabric", np.random.default_rng(1), size=pixels)[0]
    draft = path.with_suffix(".tmp.png")
    Image.fromarray(picture).save(draft, compress_level=1)
    draft.rename(path)


def opened(model: str, pictures: list[str], threads: int, repeats: int) -> Cell:
    """Seconds from path to answer, and the memory above the opened model."""
    import flawscope

    part = flawscope.load(model, threads=threads)
    before = resident()
    times = [common.seconds(lambda p=p: part.predict(p)) for _ in range(repeats) for p in pictures]
    return {"seconds": times, "above_mib": (peak() - before) // common.MIB}


def resident() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


def peak() -> int:
    import resource

    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def small_model(path: Path, tile: int, elements: int, threads: int) -> None:
    """A model of a few small pictures with so many elements, which looks at large ones as any other does."""
    common.task(learn, path=str(path), tile=tile, elements=elements, threads=threads)


def learn(path: str, tile: int, elements: int, threads: int) -> Cell:
    import numpy as np
    import torch

    import flawscope
    from flawscope.synthesis.demo.dataset import draw_picture

    torch.set_num_threads(threads)
    shown = [draw_picture("fabric", np.random.default_rng(k), size=2 * tile)[0] for k in range(3)]
    part = flawscope.fit(shown, tile=tile, count=elements, samples=1, check=False, device="cpu")
    part.save(path)
    return {"bank": part.manifest.facts["bank"]}


def cost(args: Args, record: Record, work: Path) -> list[Cell]:
    trained = work / f"cost-{args.tile}-{args.elements}.safetensors"
    exported = trained.with_suffix(".onnx")
    if not trained.is_file():
        small_model(trained, args.tile, args.elements, args.threads)
    if not exported.is_file():
        common.flawscope("export", trained, "--out", exported)
    pictures = {}
    for megapixels in common.numbers(args.megapixels):
        path = work / f"fabric-{megapixels}.png"
        if not path.is_file():
            draw(path, side(megapixels))
        pictures[megapixels] = path
    rows = []
    for megapixels, path in pictures.items():

        def measure(path: Path = path) -> Cell:
            ours = {"torch": trained, "onnxruntime": exported}
            values = {"pictures": [str(path)], "threads": args.threads, "repeats": 1}
            turns: list[dict[str, Any]] = []
            for _ in range(args.rounds):
                turn = {k: common.task(opened, model=str(m), **values).json for k, m in ours.items()}
                if args.anomalib and path.stat().st_size < 100 * common.MIB:
                    turn["anomalib"] = anomalib(args, path)
                turns.append(turn)
            return {
                **{k: common.spread([s for t in turns for s in t[k]["seconds"]]) for k in turns[0]},
                "above_mib": {k: max(t[k]["above_mib"] for t in turns) for k in turns[0]},
            }

        found = record.attempt(f"cost/{megapixels}/{args.tile}/{args.elements}", measure)
        for k in ("torch", "onnxruntime", "anomalib"):
            if found and k in found:
                middle = found[k]["median"]
                rows.append(
                    {
                        "megapixels": megapixels,
                        "runtime": k,
                        "seconds": common.sig(middle, 4),
                        "seconds per megapixel": common.sig(middle / megapixels, 3),
                        "MiB above": found["above_mib"][k],
                    }
                )
    return rows


def anomalib(args: Args, picture: Path) -> Cell:
    """Its own tiler in its own environment."""
    side = Path(__file__).with_name("peers") / "anomalib_side.py"
    from flawscope.methods.features.weights import DEFAULT_BACKBONE, locate

    words = ["tiles", picture, "--tile", args.tile, "--stride", round(args.tile * (1 - OVERLAP))]
    words += ["--elements", args.elements, "--threads", args.threads]
    return common.run(
        [args.anomalib, side, *map(str, words), "--weights", locate(DEFAULT_BACKBONE).path]
    ).json


def main() -> int:
    parser = common.parser(__doc__, "tiles", data=False)
    parser.add_argument("--megapixels", default="12,100", help="of the pictures (default: %(default)s)")
    parser.add_argument("--tile", type=int, default=TILE, help="default: %(default)s")
    parser.add_argument("--elements", type=int, default=10_000, help="of the bank")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--anomalib", type=Path, help="Python of an environment with anomalib")
    args = common.arguments(parser, threads=2, megapixels="1", tile=256, elements=200, rounds=1)
    record = Record(args, "large pictures in tiles")
    with common.workspace(args.work) as work:
        common.table("cost", cost(args, record, work))
    return record.status()


if __name__ == "__main__":
    sys.exit(common.start(main))

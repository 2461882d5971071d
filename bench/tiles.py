"""Large pictures in tiles: are small defects found, is the promise kept, and what does it cost?

    python bench/tiles.py --only boards
    python bench/tiles.py --only upscaled --data ROOT
    python bench/tiles.py --only cost --anomalib ENVIRONMENT/bin/python

boards      drawn circuit boards of 12 megapixels with defects of 8 to 20 pixels: the default, which scales
            them, tiles, and tiles with a memory bank for each place; all learn from the same pictures and are
            judged on the same new ones
upscaled    real pictures enlarged four times and seen in tiles at their own resolution, beside the untiled
            model of the originals
cost        from path to answer for one picture by its megapixels, and the memory above the opened model;
            with --anomalib beside its tiler: the same tiles, network and number of elements in the bank,
            processes that take turns. What is in the bank does not matter for the time.
"""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import common
from common import Args, Cell, Record

SIZES = {
    "1024x768": (768, 1024),
    "2000x1500": (1500, 2000),
    "4000x3000": (3000, 4000),
    "10000x10000": (10_000, 10_000),
}
TILE, OVERLAP = 512, 0.25
UPSCALED = 4
RANDOM = 7


# ---------------------------------------------------------------------------------------------- drawn boards


def draw(path: str, size: tuple[int, int], seed: int, defect: str | None) -> None:
    import numpy as np
    from PIL import Image

    from flawscope.demo.board import draw_board

    picture = draw_board(np.random.default_rng([RANDOM, seed]), size=size, defect=defect)[0]
    draft = Path(path).with_suffix(".tmp.png")
    Image.fromarray(picture).save(draft, compress_level=1)
    draft.rename(path)


def boards(folder: Path, size: tuple[int, int], good: int, new: int, bad: int) -> None:
    """Pictures train/good, test/good and test/DEFECT; those that are there stay."""
    from flawscope.demo.board import DEFECTS

    kinds = list(DEFECTS)
    wanted = [(f"train/good/{k:03}.png", k, None) for k in range(good)]
    wanted += [(f"test/good/{k:03}.png", 10_000 + k, None) for k in range(new)]
    wanted += [(f"test/{(d := kinds[k % len(kinds)])}/{k:03}.png", 20_000 + k, d) for k in range(bad)]
    missing = [
        (folder / name, seed, defect) for name, seed, defect in wanted if not (folder / name).is_file()
    ]
    for path, _, _ in missing:
        path.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(2) as pool:
        list(
            pool.map(draw, *zip(*[(str(p), size, s, d) for p, s, d in missing], strict=True))
            if missing
            else []
        )


def judge(folder: str, settings: dict[str, Any], threads: int, model: str) -> Cell:
    """Fit on train/good, and judge what is in test."""
    import numpy as np
    import torch

    import flawscope
    from flawscope.calibration.simulated import wilson
    from flawscope.metrics import auroc

    torch.set_num_threads(threads)
    root = Path(folder)
    learnt = common.pictures_below(root / "train" / "good")
    took = common.seconds(
        lambda: flawscope.fit(learnt, samples=0, check=False, device="cpu", **settings).save(model)
    )
    part = flawscope.load(model)
    shown = common.pictures_below(root / "test")
    scores, began = [], common.time.perf_counter()
    for _, found in part.stream(shown):
        scores.append(float(found.score))
    each = (common.time.perf_counter() - began) / len(shown)
    values, kinds = np.array(scores), np.array([p.parent.name for p in shown])
    called, bad = part.calibration.is_anomalous(values), kinds != "good"
    p = part.calibration.p_values(values)[~bad]
    alarms, all_good = int(called[~bad].sum()), int((~bad).sum())
    return {
        "fit_seconds": took,
        "seconds_per_picture": each,
        "image_auroc": float(auroc(bad, values)),
        "found": float(called[bad].mean()),
        "found_by_kind": {k: float(called[kinds == k].mean()) for k in sorted(set(kinds[bad]))},
        "false_alarms": alarms / all_good,
        "expected": part.calibration.expected_rate,
        "interval": list(wilson(alarms, all_good)),
        "mean_p": float(p.mean()),
        "pictures": [len(learnt), all_good, int(bad.sum())],
        "elements": part.manifest.facts.get("bank"),
    }


def drawn(args: Args, record: Record, work: Path) -> list[Cell]:
    size = SIZES[args.size]
    folder = work / f"boards-{args.size}"
    boards(folder, size, args.good, args.new, args.bad)
    rows = []
    for name, settings in models(args).items():
        found = record.attempt(
            f"boards/{args.size}/{args.good}/{name}",
            lambda s=settings, n=name: (
                common.task(
                    judge,
                    folder=str(folder),
                    settings=s,
                    threads=args.threads,
                    model=str(work / f"boards-{args.size}-{common.slug(n)}.safetensors"),
                ).json
            ),
        )
        if found:
            rows.append({"model": name, **{k: common.sig(found[k], 4) for k in SHOWN}})
    return rows


def models(args: Args) -> dict[str, dict[str, Any]]:
    every = {
        "default": {},
        f"tile={args.tile}": {"tile": args.tile},
        f"tile={args.tile} positions=each": {"tile": args.tile, "positions": "each"},
        "min_defect=8 positions=each": {"min_defect": 8, "positions": "each"},
    }
    chosen = args.models.split(",") if args.models else list(every)
    return {name: every[name] for name in chosen}


SHOWN = ("image_auroc", "found", "false_alarms", "mean_p", "fit_seconds", "seconds_per_picture")


# -------------------------------------------------------------------------------------------------- enlarged


def enlarge(pair: tuple[str, str]) -> None:
    from PIL import Image

    source, target = map(Path, pair)
    with Image.open(source) as image:
        size = (image.width * UPSCALED, image.height * UPSCALED)
        mask = image.mode == "L" and "ground_truth" in source.parts
        how = Image.Resampling.NEAREST if mask else Image.Resampling.BICUBIC
        target.parent.mkdir(parents=True, exist_ok=True)
        image.resize(size, how).save(target, quality=95)


def accuracy(root: str, category: str, settings: dict[str, Any], threads: int) -> Cell:
    import torch

    import flawscope
    from flawscope.datasets import open_dataset
    from flawscope.evaluation import evaluate

    torch.set_num_threads(threads)
    part = flawscope.fit(root, category=category, samples=0, check=False, device="cpu", **settings)
    return dict(evaluate(part, open_dataset(root, category)).metrics)


def upscaled(args: Args, record: Record, work: Path) -> list[Cell]:
    """The original at the default, and the enlarged one in tiles that are scaled to the default's sizes."""
    rows = []
    for category, source in common.roots(args):
        large = work / "upscaled" / category
        if not large.is_dir():
            draft = large.with_name(f".{category}")
            pairs = [(str(p), str(draft / p.relative_to(source))) for p in common.pictures_below(source)]
            with ProcessPoolExecutor(2) as pool:
                list(pool.map(enlarge, pairs))
            draft.rename(large)
        tiles = {"size": "256+384", "tile": 384 * UPSCALED}
        for name, root, settings in (("original", source.parent, {}), ("tiles", large.parent, tiles)):
            found = record.attempt(
                f"upscaled/{category}/{name}",
                lambda r=root, s=settings, c=category: (
                    common.task(accuracy, root=str(r), category=c, settings=s, threads=args.threads).json
                ),
            )
            if found:
                rows.append({"model": f"{category} {name}", **{k: found.get(k) for k in common.METRICS}})
    return rows


# ------------------------------------------------------------------------------------------------------ cost


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
    """A model of a few small boards with so many elements, which looks at large ones as any other does."""
    common.task(learn, path=str(path), tile=tile, elements=elements, threads=threads)


def learn(path: str, tile: int, elements: int, threads: int) -> Cell:
    import numpy as np
    import torch

    import flawscope
    from flawscope.demo.board import draw_board

    torch.set_num_threads(threads)
    shown = [draw_board(np.random.default_rng([RANDOM, k]), size=(2 * tile, 2 * tile))[0] for k in range(3)]
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
    for name, size in SIZES.items():
        if name in args.sizes.split(","):
            path = work / f"board-{name}.png"
            if not path.is_file():
                draw(str(path), size, 1, None)
            pictures[name] = path
    rows = []
    for name, path in pictures.items():
        megapixels = SIZES[name][0] * SIZES[name][1] / 1e6

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

        found = record.attempt(f"cost/{name}/{args.tile}/{args.elements}", measure)
        for k in ("torch", "onnxruntime", "anomalib"):
            if found and k in found:
                middle = found[k]["median"]
                rows.append(
                    {
                        "picture": name,
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
    from flawscope.features.weights import DEFAULT_BACKBONE, locate

    words = ["tiles", picture, "--tile", args.tile, "--stride", round(args.tile * (1 - OVERLAP))]
    words += ["--elements", args.elements, "--threads", args.threads]
    return common.run(
        [args.anomalib, side, *map(str, words), "--weights", locate(DEFAULT_BACKBONE).path]
    ).json


def main() -> int:
    parser = common.parser(__doc__, "tiles")
    parser.add_argument("--only", default="boards,upscaled,cost", help="default: %(default)s")
    parser.add_argument("--size", default="4000x3000", choices=tuple(SIZES), help="of boards to judge")
    parser.add_argument(
        "--sizes", default="4000x3000,10000x10000", help="of boards to time (default: %(default)s)"
    )
    parser.add_argument("--tile", type=int, default=TILE, help="default: %(default)s")
    parser.add_argument("--elements", type=int, default=10_000, help="of the bank that is timed")
    parser.add_argument("--good", type=int, default=20, help="boards to learn from (%(default)s)")
    parser.add_argument("--new", type=int, default=40, help="new good ones (%(default)s)")
    parser.add_argument("--bad", type=int, default=40, help="defective ones (%(default)s)")
    parser.add_argument("--models", help="of boards, with commas (default: all that there are)")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--anomalib", type=Path, help="Python of an environment with anomalib")
    args = common.arguments(
        parser, threads=2, only="boards,cost", size="1024x768", sizes="1024x768", tile=256, elements=200,
        good=3, new=2, bad=2, rounds=1,
    )  # fmt: skip
    record = Record(args, "large pictures in tiles")
    steps = {"boards": drawn, "upscaled": upscaled, "cost": cost}
    with common.workspace(args.work) as work:
        for name in args.only.split(","):
            common.table(name, steps[name](args, record, work))
    return record.status()


if __name__ == "__main__":
    sys.exit(common.start(main))

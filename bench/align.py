"""Does aligning find as much in parts that lie anyhow as in the same parts that lie alike?

    python bench/align.py --set size=256

Every picture of a data set, learnt or tested, is turned by any angle and shifted, on a larger ground in the
colour of its border, so that nothing is cut; its mask too. A method learns the pictures as they are,
and the turned ones, with each of --align, and is judged on the test pictures, which choose nothing.
"""

from __future__ import annotations

import math
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import common
from common import Cell

ROOM = 0.1  # of a side: how far a picture is moved at most, beside what turning it takes
LIES = ("as they are", "turned")


def turned(root: Path, folder: Path) -> Path:
    """A copy of a data set whose pictures are turned and shifted, made once; its root."""
    import numpy as np
    from PIL import Image

    made = folder / "turned" / root.name
    if made.is_dir():
        return made
    draft = made.with_suffix(".draft")
    for path in common.pictures_below(root):
        place = path.relative_to(root)
        masked = place.parts[0] == "ground_truth"
        # a mask is turned as its picture is
        name = "/".join(("test", *place.parts[1:-1], place.stem.removesuffix("_mask"))) if masked else None
        rng = np.random.default_rng(zlib.crc32((name or place.with_suffix("").as_posix()).encode()))
        with Image.open(path) as opened:
            image = opened.convert("L" if masked else "RGB")
        side, pixels = max(image.size), np.asarray(image)
        border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        ground = 0 if masked else tuple(int(level) for level in np.median(border, axis=0))
        canvas = 2 * (math.ceil(side * (2**0.5 + 2 * ROOM)),)
        whole = Image.new(image.mode, canvas, ground)
        whole.paste(image, tuple((a - b) // 2 for a, b in zip(canvas, image.size, strict=True)))
        shift = tuple(int(one) for one in rng.uniform(-ROOM, ROOM, 2) * side)
        how = Image.Resampling.NEAREST if masked else Image.Resampling.BICUBIC
        whole = whole.rotate(rng.uniform(0, 360), how, translate=shift, fillcolor=ground)
        to = draft / place.with_suffix(".png")
        to.parent.mkdir(parents=True, exist_ok=True)
        whole.save(to, compress_level=1)
    draft.rename(made)
    return made


def measure(root: str, align: str, settings: dict[str, Any], threads: int) -> Cell:
    """One fit, judged on the test pictures."""
    import torch

    from flawscope import evaluate, fit, open_dataset

    torch.set_num_threads(threads)
    dataset, began = open_dataset(root), time.perf_counter()
    model = fit(dataset, align=align, device="cpu", check=False, **settings)
    took, result = time.perf_counter() - began, evaluate(model, dataset)
    found = result.to_dict()
    reference = model.manifest.preprocess.reference
    return {
        "image_auroc": common.sig(found["metrics"]["image_auroc"]),
        "pixel_auroc": common.sig(found["metrics"].get("pixel_auroc")),
        "false_alarms": found["false_alarms"],
        "kinds": found["kinds"],
        "aligned": None if reference is None else reference.described(),
        "summary": model.manifest.facts["summary"],
        "left_out": len(model.failures),
        "fit_seconds": common.sig(took, 3),
    }


def main() -> int:
    parser = common.parser(__doc__, "align", methods="patchcore")
    parser.add_argument("--align", default="none,auto,turn", help="default: %(default)s")
    args = common.arguments(parser, align="none,auto")
    record = common.Record(args, "parts that lie anyhow, aligned or not")
    rows = []
    with common.workspace(args.work) as folder:
        for category, root in common.roots(args):
            for lies in LIES:
                lying = turned(root, folder) if lies == "turned" else root
                for align in args.align.split(","):
                    settings = common.settings(args, "patchcore")
                    name = f"{category}/{lies}/{align}, {common.label(settings)}"
                    given = {"root": lying, "align": align, "settings": settings, "threads": args.threads}
                    if cell := record.attempt(name, lambda g=given: common.task(measure, **g).json):
                        keys = ("image_auroc", "pixel_auroc", "fit_seconds")
                        of = {"product": category, "lies": lies, "align": align}
                        rows.append({**of, **{k: cell[k] for k in keys}})
    common.table("PatchCore on parts that lie anyhow", rows)
    return record.status()


if __name__ == "__main__":
    sys.exit(common.start(main))

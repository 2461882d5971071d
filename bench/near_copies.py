"""Which pictures count as copies of others, rightly and wrongly?

    python bench/near_copies.py --data DATA

`pairs`: of good pictures, wrong where each shows a part of its own (in real/lens and real/commutator some
show a part again, and no name tells which), and `unsure` ones. `found`: of 22 more pictures of 8 parts, moved
by up to 10 of 256 px, turned by up to 1.5 degrees, 5 % brighter or darker, with noise of their own, each
third one mirrored. `anew`: of twelve pictures that were saved anew, one of each kind of `ANEW`, beside all
good ones. `wrong`: pairs of different parts among either.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

import auto
import common
import guards
from flawscope.pictures.near_duplicates import Compared, Look, compare_pictures
from flawscope.synthesis.textures import Picture

SIDE, PARTS, PICTURES = 256, 8, 30


def moved(picture: Picture, k: int) -> Picture:
    """Another picture [H, W, 3] of the same part."""
    rng = np.random.default_rng([9, k])
    shown = picture[:, ::-1] if k % 3 == 2 else picture
    height, width = shown.shape[:2]
    angle, (dx, dy) = np.radians(rng.uniform(-1.5, 1.5)), rng.uniform(-1, 1, 2) * 10 / 256 * width
    cos, sin, x, y = np.cos(angle), np.sin(angle), width / 2, height / 2
    edge = width // 8  # repeated, so that nothing black comes in
    wide = Image.fromarray(np.pad(shown, ((edge, edge), (edge, edge), (0, 0)), mode="edge"))
    x, y = x + edge, y + edge
    affine = (cos, sin, x - cos * x - sin * y + dx, -sin, cos, y + sin * x - cos * y + dy)
    turned = wide.transform(wide.size, Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC)
    inner = np.asarray(turned, np.float32)[edge : edge + height, edge : edge + width]
    noisy = inner * rng.uniform(0.95, 1.05) + rng.normal(0, 1.5, inner.shape)
    return np.clip(noisy, 0, 255).round().astype(np.uint8)


def jpeg(picture: Picture, quality: int) -> Picture:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


def scaled(picture: Picture, factor: float) -> Picture:
    image = Image.fromarray(picture)
    size = round(image.width * factor), round(image.height * factor)
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC))


def cropped(picture: Picture, share: float) -> Picture:
    down, right = (max(1, round(side * share / 2)) for side in picture.shape[:2])
    return picture[down:-down, right:-right]


def blurred(picture: Picture, radius: float) -> Picture:
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)))


def turned(picture: Picture, degrees: float) -> Picture:
    ground = tuple(int(level) for level in np.median(picture.reshape(-1, 3), axis=0))
    return np.asarray(Image.fromarray(picture).rotate(degrees, Image.Resampling.BICUBIC, fillcolor=ground))


def brighter(picture: Picture, factor: float) -> Picture:
    return np.clip(picture * factor, 0, 255).astype(np.uint8)


ANEW: dict[str, Callable[[Picture], Picture]] = {
    "JPEG 90": lambda one: jpeg(one, 90), "JPEG 50": lambda one: jpeg(one, 50),
    "twice": lambda one: scaled(one, 2), "half": lambda one: scaled(one, 1 / 2),
    "a third": lambda one: scaled(one, 1 / 3), "cropped 2 %": lambda one: cropped(one, 0.02),
    "cropped 4 %": lambda one: cropped(one, 0.04), "cropped 8 %": lambda one: cropped(one, 0.08),
    "blurred 1 px": lambda one: blurred(one, 1), "blurred 2 px": lambda one: blurred(one, 2),
    "turned 1°": lambda one: turned(one, 1), "brighter": lambda one: brighter(one, 1.08),
}  # fmt: skip


def compared(pictures: list[Picture]) -> Compared:
    return compare_pictures([Look.of(one) for one in pictures], np.arange(len(pictures)))


def measure(good: list[Picture]) -> dict[str, Any]:
    started = time.process_time()
    alone = compared(good)
    parts = good[:PARTS]
    again = compared([*parts, *(moved(parts[k % PARTS], k) for k in range(PARTS, PICTURES))])
    right = [(i, j) for i, j, _ in again.copies if i % PARTS == j % PARTS]
    saved = [change(good[k % len(good)]) for k, change in enumerate(ANEW.values())]
    count, looks = len(saved), [Look.of(one) for one in (*saved, *good)]
    beside = compare_pictures(looks, np.arange(count)).copies
    known = {i for i, j, _ in beside if j >= count and j - count == i % len(good)}
    told = right + [(i, j) for i, j, _ in again.unsure if i % PARTS == j % PARTS]
    return {
        "pictures": len(good), "pairs": len(alone.copies), "unsure": len(alone.unsure),
        "nearest": [[i, j, round(much, 3)] for i, j, much in alone.copies[:6]],
        "found": len({k for pair in right for k in pair if k >= PARTS}), "of": PICTURES - PARTS,
        "told": len({k for pair in told for k in pair if k >= PARTS}),
        "anew": [name for k, name in enumerate(ANEW) if k in known],
        "wrong": len(again.copies) - len(right) + sum(j < count or j - count != i for i, j, _ in beside),
        "cpu_s": round(time.process_time() - started, 1),
    }  # fmt: skip


def main() -> int:
    parser = common.make_parser(__doc__, "near_copies")
    parser.add_argument("--sets", default=",".join(guards.REAL))
    parser.add_argument("--products", default="all")
    parser.add_argument("--most", type=int, default=24)
    args = common.parse_arguments(parser, most=24)
    kinds = {**guards.drawn_kinds()[0], "turned plates": lambda side, k: auto.Scene(side).draw(k)}
    record = common.Record(args, "pictures that count as copies, rightly and wrongly")
    products = [*kinds] if args.products == "all" else [*filter(None, args.products.split(","))]
    real = (
        (name, guards.read(sorted((folder / "train" / "good").iterdir()), SIDE, args.most))
        for name, folder in common.set_folders(args, args.sets.split(","))
    )
    drawn = ((name, [kinds[name](SIDE, k) for k in range(args.most)]) for name in products)
    for name, good in chain(real, drawn):
        record.cell(name, partial(measure, good))
    names = ("pictures", "pairs", "unsure", "found", "told", "of", "wrong")
    rows = [
        {"set": name, **{key: cell[key] for key in names}, "anew": f"{len(cell['anew'])} of {len(ANEW)}"}
        for name, cell in record.cells.items()
    ]
    common.print_table("near-copies", rows)
    kinds_of = [
        {"saved anew": kind, "known in sets": sum(kind in cell["anew"] for cell in record.cells.values())}
        for kind in ANEW
    ]
    common.print_table(f"kinds of copies, of {len(rows)} sets", kinds_of)
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))

"""Measure `data check --still`: frames of lying parts, drawn with and without faults of camera, light, mount.

    python bench/still_frames.py --data FOLDER      # good pictures of real products below it, as scenes
    python bench/still_frames.py                    # drawn products

Each scene is a good picture. Its frames are shifted, lit and blurred as the fault says, with the noise of a
good camera, and rounded to 8 bits. Written: which faults are named, and what is named on good frames.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

import common
from common import Cell, Record
from flawscope.pictures.decoding import decode, to_eight_bits
from flawscope.pictures.listing import picture_files_in
from flawscope.pictures.still_frames import check_still_frames
from flawscope.synthesis.demo.dataset import CATEGORIES, draw_picture

Scene = NDArray[np.float64]  # [H, W, 3], 0..255
FRAMES = 30
SIDE = 640  # pixels of a scene at most
GOOD_NOISE = 1.2  # grey levels at half brightness


def good_frame(scene: Scene, number: int, rng: np.random.Generator) -> Scene:
    return scene


def noisy(scene: Scene, number: int, rng: np.random.Generator) -> Scene:
    return scene + rng.normal(0, 6, scene.shape)


def flicker(scene: Scene, number: int, rng: np.random.Generator) -> Scene:
    return scene * (1 + 0.02 * np.sin(1.7 * number))


def bands(scene: Scene, number: int, rng: np.random.Generator) -> Scene:
    rows = np.arange(len(scene))[:, None, None]
    return scene * (1 + 0.025 * np.sin(rows / len(scene) * 12 + 2.1 * number))


def drift(scene: Scene, number: int, rng: np.random.Generator) -> Scene:
    return scene * (1 + 0.04 * number / FRAMES)


def sudden(scene: Scene, number: int, rng: np.random.Generator) -> Scene:
    return scene * (1.06 if number > 12 else 1.0)


def colour(scene: Scene, number: int, rng: np.random.Generator) -> Scene:
    return scene * np.array([1.0, 1.0, 1 + 0.06 * number / FRAMES])


def shake(scene: Scene, number: int, rng: np.random.Generator) -> Scene:
    return shifted(scene, rng.normal(0, 0.5, 2))


def creep(scene: Scene, number: int, rng: np.random.Generator) -> Scene:
    return shifted(scene, np.array([1.6, 1.0]) * number / FRAMES)


def shifted(scene: Scene, by: NDArray[np.float64]) -> Scene:
    return ndimage.shift(scene, (*by, 0), order=3, mode="nearest")


def defocus(scene: Scene, number: int, rng: np.random.Generator) -> Scene:
    return ndimage.gaussian_filter(scene, (4, 4, 0))


def hunting(scene: Scene, number: int, rng: np.random.Generator) -> Scene:
    blur = 1.0 + np.sin(0.8 * number)
    return ndimage.gaussian_filter(scene, (blur, blur, 0))


def saturated(scene: Scene, number: int, rng: np.random.Generator) -> Scene:
    return scene * (262 / max(1.0, float(np.percentile(scene.mean(axis=2), 94))))


def shadow(scene: Scene, number: int, rng: np.random.Generator) -> Scene:
    height, width = scene.shape[:2]
    changed = scene.copy()
    left = int(width * (0.1 + 0.02 * number))
    changed[height // 3 : height // 2, left : left + width // 6] *= 0.8
    return changed


def blinking(scene: Scene, number: int, rng: np.random.Generator) -> Scene:
    changed = scene.copy()
    places = np.random.default_rng(5).integers(8, min(scene.shape[:2]) - 8, (12, 2))
    for row, column in places[rng.random(12) < 0.3]:
        value = changed[row, column].mean()
        changed[row, column] = value + (90 if value < 140 else -90)
    return changed


FAULTS: dict[str, Callable[[Scene, int, np.random.Generator], Scene]] = {
    "noise": noisy,
    "flicker": flicker,
    "bands": bands,
    "drift": drift,
    "sudden change": sudden,
    "colour": colour,
    "shake": shake,
    "slow movement": creep,
    "edges": defocus,
    "change of focus": hunting,
    "white pixels": saturated,
    "changing places": shadow,
    "blinking pixels": blinking,
}


def frames_of(
    scene: Scene, change: Callable[[Scene, int, np.random.Generator], Scene], rng: np.random.Generator
) -> list[NDArray[np.uint8]]:
    found = []
    for number in range(FRAMES):
        lit = change(scene, number, rng) * (1 + rng.normal(0, 0.0005))
        deviation = GOOD_NOISE * np.sqrt(np.clip(lit, 0, 255) / 128 + 0.3)
        found.append(np.clip(np.rint(lit + deviation * rng.normal(size=lit.shape)), 0, 255).astype(np.uint8))
    return found


def scenes(data: Path | None, each: int) -> Iterator[tuple[str, Scene]]:
    """Yield names and scenes: drawn products, or good pictures of each data set below a folder."""
    if data is None:
        for name in CATEGORIES:
            for seed in range(each):
                yield name, draw_picture(name, np.random.default_rng(seed), size=480)[0].astype(float)
        return
    for folder in sorted(path for path in data.iterdir() if path.is_dir()):
        good = [path for path in picture_files_in(folder) if path.parent.name == "good"]
        for path in good[:: max(1, len(good) // each)][:each]:
            picture = Image.fromarray(to_eight_bits(decode(path)))
            picture.thumbnail((SIDE, SIDE))
            yield folder.name, np.asarray(picture, float)


def measure(product: str, scene: Scene, faults: int) -> Cell:
    """Return what is named on good frames, and of which faults it is named, or not known."""
    rng = np.random.default_rng(0)
    good = [one.name for one in check_still_frames(frames_of(scene, good_frame, rng)).faults]
    named, unknown = [], []
    for fault, change in list(FAULTS.items())[:faults]:
        report = check_still_frames(frames_of(scene, change, rng))
        values = {one.name: one.value for one in report.measurements}
        if fault in [one.name for one in report.faults]:
            named.append(fault)
        elif values[fault] is None:
            unknown.append(fault)
    return {"product": product, "on good frames": good, "named": named, "not known": unknown}


def main() -> int:
    parser = common.make_parser(__doc__, "still_frames", data=False)
    parser.add_argument("--data", type=Path, help="folder of data sets whose good pictures are scenes")
    parser.add_argument("--each", type=int, default=1, help="scenes of a product (default: 1)")
    parser.add_argument("--faults", type=int, default=len(FAULTS), help="how many kinds of faults are drawn")
    args = common.parse_arguments(parser, faults=2)
    record = Record(args, "faults of cameras that are named by frames of a still part")
    rows = []
    for number, (product, scene) in enumerate(scenes(args.data, args.each)):
        key = f"{product} {number}"
        rows.append(record.cell(key, lambda p=product, s=scene: measure(p, s, args.faults)))  # type: ignore[misc]
    told = [
        {
            "product": row["product"],
            "on good frames": ", ".join(row["on good frames"]),
            "named": len(row["named"]),
            "not known": ", ".join(row["not known"]),
            "missed": args.faults - len(row["named"]) - len(row["not known"]),
        }
        for row in rows
    ]
    common.print_table("faults named", told)
    return record.status()


if __name__ == "__main__":
    sys.exit(main())

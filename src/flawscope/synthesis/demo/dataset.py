"""Generated data set in MVTec AD layout: no network, no files needed, the same for the same seed.

Two categories look the same at any size: "plate", an object, and "fabric", a texture. Every picture comes
from a generator of (seed, category, split, type, index) alone: it does not depend on the number of others.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from flawscope.errors import InputError
from flawscope.synthesis.demo import fabric, plate, scene
from flawscope.synthesis.masks import Mask
from flawscope.synthesis.simulate import largest_change, visible_part
from flawscope.synthesis.textures import Floats, Picture

_TRIES = 16
_MIN_CHANGE = 5.0  # mean change over the mask in grey levels below which a defect is drawn again


class Category(NamedTuple):
    """Category that can be drawn.

    Attributes:
        defects: Names of its types of defect.
        render: Draws a part of a size, with a generator, and a flaw or None.
    """

    defects: tuple[str, ...]
    render: Callable[[int, np.random.Generator, scene.Flaw | None], Floats]


CATEGORIES: dict[str, Category] = {
    "plate": Category(plate.DEFECTS, plate.render),
    "fabric": Category(fabric.DEFECTS, fabric.render),
}


def draw_picture(
    category: str,
    rng: np.random.Generator,
    defect: str | None = None,
    difficulty: float = 0.5,
    *,
    size: int = 320,
) -> tuple[Picture, Mask]:
    """Draw a picture `[size, size, 3]` uint8 and the exact mask `[size, size]` bool of its defect.

    For the same state of `rng`, the good and the defective picture show the same part in the same light,
    equal in every pixel outside the mask.

    Args:
        category: Name of the category.
        rng: Generator of the picture.
        defect: A name in `CATEGORIES[category].defects`; None: a good part, with an empty mask.
        difficulty: 0 (large, strong) to 1 (small, faint).
        size: Side of the picture in pixels.

    Raises:
        InputError: The defect cannot be seen at this size.
    """
    known = CATEGORIES[category]
    part, light, flaw = (int(s) for s in rng.integers(2**63, size=3))

    def shoot(canvas: Floats) -> Picture:
        return scene.simulate_sensor(canvas, np.random.default_rng(light))

    canvas = known.render(size, np.random.default_rng(part), None)
    good = shoot(canvas)
    if defect is None:
        return good, np.zeros((size, size), np.bool_)
    for attempt in range(_TRIES):
        # a defect that does not show (off the edge, in the dark) is drawn elsewhere, and in the end easier
        ease = difficulty * (1 - max(0, attempt - 3) / (_TRIES - 4))
        details = scene.Flaw(defect, ease, np.random.default_rng([flaw, attempt]))
        spoilt = known.render(size, np.random.default_rng(part), details)
        intended = np.abs(spoilt - canvas).max(-1) > 0.5
        if not intended.any():
            continue
        changed = shoot(spoilt)
        difference = largest_change(good, changed)
        mask = visible_part(intended, difference)
        if mask.sum() >= min(4, size // 16) and difference[mask].mean() >= _MIN_CHANGE:
            return np.where(mask[..., None], changed, good), mask
    raise InputError(f"A {defect} cannot be seen at {size} pixels a side: draw it larger.")


def _seeded_generator(seed: int, *names: str | int) -> np.random.Generator:
    """Return a generator that depends on the seed and the names alone."""
    keys = [zlib.crc32(str(name).encode()) for name in names]
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=keys))


def draw_dataset(
    root: Path,
    *,
    category: str = "plate",
    train: int = 60,
    good: int = 20,
    bad_per_kind: int = 8,
    size: int = 320,
    seed: int = 0,
) -> Path:
    """Draw `root/category` in MVTec AD layout and return its path.

    `train/good` and `test/good` hold good pictures, `test/<type>` defective ones of every type from easy
    (000) to hard, `ground_truth/<type>/NNN_mask.png` their masks (0 and 255). Existing files of the same
    names are overwritten.
    """
    defects = CATEGORIES[category].defects
    folder = Path(root) / category
    jobs: list[tuple[str, str | None, int]]
    jobs = [(split, None, index) for split, n in (("train", train), ("test", good)) for index in range(n)]
    jobs += [("test", defect, index) for defect in defects for index in range(bad_per_kind)]

    def draw(job: tuple[str, str | None, int]) -> None:
        split, defect, index = job
        kind = defect or "good"
        difficulty = index / max(1, bad_per_kind - 1) if defect else 0.5
        rng = _seeded_generator(seed, category, split, kind, index)
        picture, mask = draw_picture(category, rng, defect, difficulty, size=size)
        _save(picture, folder / split / kind / f"{index:03d}.png")
        if defect:
            marked = mask.astype(np.uint8) * np.uint8(255)
            _save(marked, folder / "ground_truth" / kind / f"{index:03d}_mask.png")

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy and Pillow work beside Python
        list(pool.map(draw, jobs))
    return folder


def _save(pixels: Picture, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, compress_level=3)

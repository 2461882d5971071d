"""Generated data set in MVTec AD layout: without network and files, and the same for the same seed.

It has two categories, which look the same at any size: "plate", an object, and "fabric", a texture. A picture
depends only on (seed, category, split, type, index), and not on the number of other pictures.
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
    """Category of generated pictures.

    Attributes:
        defects: Names of its types of defect.
        render: Draws a part at a size, by a generator; with a flaw, or with None a good part.
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
        difficulty: 0 (a large, strong defect) to 1 (a small, faint one).
        size: Side of the picture in pixels.

    Raises:
        InputError: The defect cannot be seen at this size.
    """
    render = CATEGORIES[category].render
    part_seed, light_seed, flaw_seed = (int(seed) for seed in rng.integers(2**63, size=3))

    def take_picture(canvas: Floats) -> Picture:
        return scene.simulate_sensor(canvas, np.random.default_rng(light_seed))

    canvas = render(size, np.random.default_rng(part_seed), None)
    good = take_picture(canvas)
    if defect is None:
        return good, np.zeros((size, size), np.bool_)
    for attempt in range(_TRIES):
        # A defect that is not visible (off the edge, in the dark) is drawn again at another place. From the
        # fifth attempt on it also becomes easier to see: the last one has difficulty 0
        easing = max(0, attempt - 3) / (_TRIES - 4)
        attempt_difficulty = difficulty * (1 - easing)
        flaw = scene.Flaw(defect, attempt_difficulty, np.random.default_rng([flaw_seed, attempt]))
        defective_canvas = render(size, np.random.default_rng(part_seed), flaw)
        intended = np.abs(defective_canvas - canvas).max(-1) > 0.5
        if not intended.any():
            continue
        changed = take_picture(defective_canvas)
        difference = largest_change(good, changed)
        mask = visible_part(intended, difference)
        if mask.sum() >= min(4, size // 16) and difference[mask].mean() >= _MIN_CHANGE:
            return np.where(mask[..., None], changed, good), mask
    raise InputError(f"A {defect} cannot be seen at {size} pixels a side: draw it larger.")


def _seeded_generator(seed: int, *names: str | int) -> np.random.Generator:
    """Return a generator that depends only on the seed and the names."""
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
    """Draw a data set into the folder `root/category` in MVTec AD layout, and return its path.

    `train/good` and `test/good` hold good pictures, `test/<type>` defective ones of every type from easy
    (000) to hard, `ground_truth/<type>/NNN_mask.png` their masks (0 and 255). Existing files of the same
    names are overwritten.

    Args:
        root: Folder in which the category's folder is made.
        category: Name of the category.
        train: Number of good pictures to learn from.
        good: Number of good test pictures.
        bad_per_kind: Number of defective test pictures of each type.
        size: Side of the pictures in pixels.
        seed: Seed of all pictures.
    """
    defects = CATEGORIES[category].defects
    folder = Path(root) / category
    jobs: list[tuple[str, str | None, int]] = []  # split, defect or None, and index of each picture
    jobs += [("train", None, index) for index in range(train)]
    jobs += [("test", None, index) for index in range(good)]
    jobs += [("test", defect, index) for defect in defects for index in range(bad_per_kind)]

    def draw(job: tuple[str, str | None, int]) -> None:
        """Draw a picture, and save it with its mask if it has a defect."""
        split, defect, index = job
        kind = defect or "good"
        # from 0 for the first defect of a kind to 1 for the last
        difficulty = index / max(1, bad_per_kind - 1) if defect else 0.5
        rng = _seeded_generator(seed, category, split, kind, index)
        picture, mask = draw_picture(category, rng, defect, difficulty, size=size)
        _save(picture, folder / split / kind / f"{index:03d}.png")
        if defect:
            mask_pixels = mask.astype(np.uint8) * np.uint8(255)
            _save(mask_pixels, folder / "ground_truth" / kind / f"{index:03d}_mask.png")

    # threads suffice: numpy and Pillow compute without Python's lock
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(draw, jobs))
    return folder


def _save(pixels: Picture, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, compress_level=3)

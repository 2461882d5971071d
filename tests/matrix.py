"""Which options of a fit go with which, and why some do not.

    $ python tests/matrix.py            # list the pairs, and why some are left out
    $ python tests/matrix.py align tile # try a pair

Each option stands with its flags; `LEFT_OUT` has the pairs that cannot be, each with the reason.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PARTS, VIEWS = ["--part", r"p\d+"], ["--view", "top|side"]
# option: flags of `fit`
OPTIONS: dict[str, list[str]] = {
    "align": ["--align", "turn"],
    "several": ["--align", "turn", "--several"],
    "channels": ["--channels", "1-3,2"],
    "region": ["--roi", "0.05,0.05,0.95,0.95"],
    "light": ["--light", "10%"],
    "tile": ["--tile", "32"],
    # in tiles: of a larger one whole pictures at 512 px show enough, which take a minute
    "min-defect": ["--min-defect", "1px", "--set", "cap=200"],
    "part": [*PARTS, "--no-each-view"],
    "each-view": [*PARTS, *VIEWS, "--each-view"],
    "group": ["--group", r"^p\d+"],
    "joint": ["--joint"],
    "sizes": ["--size", "48+64"],
    "crop": ["--set", "crop=56"],
    "keep-aspect": ["--set", "keep_aspect=true"],
    "drop-suspects": ["--drop-suspects"],
    "augment": ["--augment", "turn"],
    "method": ["--method", "efficientad"],
    "rate": ["--false-alarm-rate", "20%"],
}
PATCHCORE_ALONE = "an option of PatchCore alone"
TILES_ONLY = "both say how tiles are made"
# pair: the reason that it cannot be
LEFT_OUT: dict[frozenset[str], str] = {
    frozenset(pair): reason
    for reason, pairs in {
        "a name tells the part that a picture shows, and this one shows many": [("several", "part")],
        "parts are left out whole already": [("part", "group"), ("each-view", "group")],
        "a crop shows the middle of a picture, tiles all of it": [
            ("crop", "tile"),
            ("crop", "min-defect"),
        ],
        "a crop is of one size": [("crop", "sizes")],
        TILES_ONLY: [("min-defect", "tile"), ("min-defect", "sizes")],
        "a file is a router of products or of views": [("joint", "each-view")],
        "views of one place have the same part": [("channels", "several")],
        "every channel has a light of its own": [("channels", "light")],
        "products are told apart by one view": [("channels", "joint")],
        PATCHCORE_ALONE: [
            ("method", name) for name in ("sizes", "drop-suspects", "augment", "min-defect", "tile")
        ],
    }.items()
    for pair in pairs
}
SIDE = 80


def pairs() -> list[tuple[str, str]]:
    """All pairs of options that can be."""
    every = itertools.combinations(OPTIONS, 2)
    return [pair for pair in every if frozenset(pair) not in LEFT_OUT and pair != ("part", "each-view")]


def covering(most: int = 7) -> list[tuple[str, ...]]:
    """Sets of at most so many options in which every pair that can be is together at least once: each set
    takes the option that brings the most pairs anew, the first of several."""
    can_be, chosen = {*map(frozenset, pairs())}, list[tuple[str, ...]]()
    missing = dict.fromkeys(map(frozenset, pairs()))
    while missing:
        names = sorted(next(iter(missing)), key=[*OPTIONS].index)
        while len(names) < most:
            further = [one for one in OPTIONS if all(frozenset((one, name)) in can_be for name in names)]
            gain = {one: sum(frozenset((one, name)) in missing for name in names) for one in further}
            best = max(further, key=gain.__getitem__, default=None)
            if best is None or not gain[best]:
                break
            names.append(best)
        for pair in itertools.combinations(names, 2):
            missing.pop(frozenset(pair), None)
        chosen.append(tuple(names))
    return chosen


def draw(
    seed: int, view: str = "top", several: bool = False, product: str = "one", spot: bool = False
) -> NDArray[np.uint8]:
    """An L-shaped part on a noisy ground, [80, 80, 3]; darker from the side, thinner of another product.
    several: two parts beside each other. spot: with a dark defect on the first part."""
    rng = np.random.default_rng([seed, view == "side"])
    ground, bar = ((60, 80, 120), 6) if product == "one" else ((120, 60, 60), 4)
    cells = []
    for k in range(1 + several):
        rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5 - SIDE / 2
        turn, cell = rng.uniform(-0.2, 0.2), np.full((SIDE, SIDE, 3), ground, np.float64)
        u = np.cos(turn) * columns + np.sin(turn) * rows
        v = np.cos(turn) * rows - np.sin(turn) * columns
        part = ((abs(u) < 20) & (abs(v - 10) < bar)) | ((abs(u + 14) < bar) & (abs(v) < 20))
        cell[part] = 150 if view == "side" else 190
        if spot and k == 0:
            cell[np.hypot(u - 8, v - 10) < 4] = 10
        cells.append(cell)
    picture = np.hstack(cells)
    return (picture + rng.normal(0, 3, picture.shape)).clip(0, 255).astype(np.uint8)


def draw_data(root: Path) -> None:
    """A data set of the products one and two, and of pictures of two parts of each: many-one, many-two. In
    `more` are further good ones."""
    for product, several in itertools.product(("one", "two"), (False, True)):
        name = f"many-{product}" if several else product
        for place, seeds, spot in (
            (f"{name}/train/good", range(8), False),
            (f"{name}/test/good", range(100, 102), False),
            (f"{name}/test/spot", range(110, 112), True),
            (f"more/{name}/train/good", range(20, 22), False),
        ):
            (root / place).mkdir(parents=True)
            for seed, view in itertools.product(seeds, ("top", "side")):
                picture = draw(seed, view, several, product, spot)
                Image.fromarray(picture).save(root / place / f"p{seed:02d}_{view}.png")


def fit_arguments(names: tuple[str, ...], root: Path, out: Path, *more: str) -> list[str]:
    """Arguments of `fit` for options that are given together."""
    flags = [flag.format(data=root) for name in names for flag in OPTIONS.get(name, [])]
    product = "many-one" if "several" in names else "one"
    products = f"{product},{product.replace('one', 'two')}" if "joint" in names else product
    size = [] if {"sizes", "min-defect", "method"} & {*names} else ["--size", "64"]
    if {"method", "crop"} <= {*names}:  # EfficientAD's least is 256
        size, flags = ["--size", "288"], ["crop=256" if flag == "crop=56" else flag for flag in flags]
    return [
        *("fit", "--data", str(root), "--category", products, "--out", str(out), *size, *flags),
        *("--device", "cpu", "--no-check", "--quiet", "--force", *more),
    ]


def fitted(option: str, shared: Callable[..., Path], settings: dict[str, object]) -> Path:
    """The model of one option, which is made once in a run. Read only."""
    from flawscope.cli import main as flawscope

    more = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]

    def fill(folder: Path) -> None:
        data, out = shared("matrix", draw_data), folder / "model.safetensors"
        assert flawscope(fit_arguments((option,), data, out, *more)) == 0

    return shared(f"matrix-{option}", fill) / "model.safetensors"


def main() -> int:
    asked = tuple(sys.argv[1:])
    if asked:
        from flawscope.cli import main as flawscope

        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder, "data")
            draw_data(root)
            return flawscope(fit_arguments(asked, root, Path(folder, "model.safetensors")))
    for first, second in pairs():
        print(f"{first} + {second}")
    for pair, reason in LEFT_OUT.items():
        print(f"{' + '.join(sorted(pair))}: {reason}")
    print(f"{len(pairs())} pairs in {len(covering())} sets, {len(LEFT_OUT)} left out")
    return 0


if __name__ == "__main__":
    sys.exit(main())

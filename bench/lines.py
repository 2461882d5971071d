"""Lines for `corrections.py`: a model, and pictures that come one after the other, also where the world is
no longer what it was when the model learnt.

A change meets good parts and bad ones alike. One in two has a label that is news (`label`): a yellow one near
the top left, as large as on the drawn plates. Or all pictures change: another lamp (less red), more light,
parts that lie turned. How much follows from good *training* pictures alone: a model learns from two thirds of
them, and the largest change is taken at which it flags at most half of the others (24 of them, where there
are so many). `good-label`: half of the good parts have the label, and no other part, as on the drawn line.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import common
from common import Args, Cell

DRAWN = "drawn"  # plates, half of the good ones with a label that is news
PLATES = "plates"  # plates without, their defects less faint
LABEL, GOOD_LABEL = "label", "good-label"  # on all parts, on good ones alone as on the drawn line
OFTEN = 0.5  # share of these parts that have one
CHANGES: dict[str, tuple[float, ...]] = {  # from small to large
    "colour": (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5),  # red, times this
    "light": (1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.4, 1.5),  # all colours, times this
    "turn": (1, 2, 3, 4, 5, 6, 8, 10),  # degrees
}
MOST = 0.5  # of the held-out good pictures are flagged
CHOSEN_AT = "256"
HELD_OUT = 24  # good pictures that are looked at, at most
LABEL_SIZE, LABEL_COLOUR = (24, 50), (215, 205, 60)  # rows and columns of a plate of 256 pixels; yellow

Line = list[tuple[str, bool]]  # files, and whether they have a defect


def product(args: Args, name: str, work: Path) -> tuple[Path, Line]:
    """A model, and test pictures with whether they have a defect."""
    from flawscope import fit

    less = f"-without-{args.join}" if args.join else ""
    model = work / f"{name}-{common.slug(str(args.size))}{less}.safetensors"
    train, line = _pictures(args, name, work)
    if args.join:
        files = _files(train)
        joined = set(common.spread_over(files, args.join))
        train = [file for file in files if file not in joined]
        line = [*line, *((file, False) for file in sorted(joined))]
    if not model.is_file():
        fit(train, size=args.size, device="cpu", check=False).save(model)
    return model, line


def _pictures(args: Args, name: str, work: Path) -> tuple[Any, Line]:
    from flawscope.datasets import open_dataset

    if name in (DRAWN, PLATES):
        return _drawn(work / name, labels=name == DRAWN)
    data = open_dataset(str(dict(common.roots(args))[name]))
    return data, [(str(item.path), item.anomalous) for item in data.test]


def _files(train: Any) -> list[str]:
    return train if isinstance(train, list) else [str(item.path) for item in train.train]


def _drawn(home: Path, labels: bool) -> tuple[list[str], Line]:
    """Plates: good ones to learn from; a line where half of the good parts have a label and defects are
    faint, or nothing is new and they are clearer."""
    import numpy as np
    from PIL import Image

    from flawscope.demo.dataset import CATEGORIES, draw_picture

    kinds = CATEGORIES["plate"].defects
    train, test = home / "train", home / "test"
    line = []
    for path in (train, test):
        path.mkdir(parents=True, exist_ok=True)
    for k in range(48):
        Image.fromarray(draw_picture("plate", np.random.default_rng([1, k]), size=256)[0]).save(
            train / f"{k:03d}.png"
        )
    for k in range(96):
        rng = np.random.default_rng([2, k])
        defect = kinds[k // 4 % len(kinds)] if k % 4 == 0 else None
        faint = float(rng.uniform(0.3, 0.9) if labels else rng.uniform(0.0, 0.6))
        picture = draw_picture("plate", rng, defect, faint, size=256)[0].copy()
        if labels and defect is None and k % 2:
            y, x = rng.integers(90, 110, 2)
            picture[y : y + LABEL_SIZE[0], x : x + LABEL_SIZE[1]] = LABEL_COLOUR
        Image.fromarray(picture).save(test / f"{k:03d}.png")
        line.append((str(test / f"{k:03d}.png"), defect is not None))
    return [str(path) for path in common.pictures_below(train)], line


def changed(line: Line, kind: str, how_much: float, folder: Path) -> Line:
    """The same line after the change; its pictures lie in the folder."""
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for k, (source, defective) in enumerate(line):
        rng = np.random.default_rng([3, k])
        labels = kind in (LABEL, GOOD_LABEL)
        if labels and (rng.random() >= how_much or (defective and kind == GOOD_LABEL)):
            found.append((source, defective))
            continue
        file = folder / f"{k:03d}.png"
        if not file.is_file():
            picture = _labelled(source, rng) if labels else _change(source, kind, how_much)
            picture.save(draft := folder / f"draft-{os.getpid()}.png")
            draft.replace(file)
        found.append((str(file), defective))
    return found


def _labelled(source: str, rng: Any) -> Any:
    """With the label of the drawn plates; where it sits differs a little."""
    import numpy as np
    from PIL import Image

    with Image.open(source) as opened:
        picture = np.array(opened.convert("RGB"))
    unit = picture.shape[0] / 256
    top, left = rng.integers(12, 32, 2)
    rows = slice(round(top * unit), round((top + LABEL_SIZE[0]) * unit))
    columns = slice(round(left * unit), round((left + LABEL_SIZE[1]) * unit))
    picture[rows, columns] = LABEL_COLOUR
    return Image.fromarray(picture)


def _change(source: str, kind: str, how_much: float) -> Any:
    import numpy as np
    from PIL import Image

    with Image.open(source) as opened:
        picture = opened.convert("RGB")
    values = np.asarray(picture)
    if kind == "turn":
        corners = np.median(values[[0, 0, -1, -1], [0, -1, 0, -1]], axis=0)
        fill = tuple(int(value) for value in corners)
        return picture.rotate(how_much, Image.Resampling.BICUBIC, fillcolor=fill)
    times = np.array([how_much, 1, 1] if kind == "colour" else [how_much] * 3)
    return Image.fromarray(np.clip(np.rint(values * times), 0, 255).astype(np.uint8))


def shares(args: Args, name: str, kind: str, work: Path) -> Cell:
    """Share of held-out good training pictures that a model of the others flags at 256 px, for each size of a
    change up to the first one that is too large; and the one before."""
    from flawscope import fit
    from flawscope.predictor import load

    train, _ = _pictures(args, name, work)
    files = _files(train)
    held_out = files[::3]
    size = args.size if args.quick else CHOSEN_AT
    model = work / f"{name}-{size}-two-thirds.safetensors"
    if not model.is_file():
        fit(sorted(set(files) - set(held_out)), size=size, device="cpu", check=False).save(model)
    predictor = load(model, device="cpu")
    good = [(file, False) for file in held_out[:HELD_OUT]]

    def share(pictures: Line) -> list[int]:
        flagged = [bool(predictor.predict(file).is_anomalous) for file, _ in pictures]
        return [sum(flagged), len(flagged)]

    found: dict[str, list[int]] = {"as they are": share(good)}
    chosen = None
    for how_much in CHANGES[kind]:
        folder = work / f"{name}-held-out-{kind}-{how_much:g}"
        flagged, count = found[f"{how_much:g}"] = share(changed(good, kind, how_much, folder))
        if flagged > MOST * count:
            break
        chosen = how_much
    return {"flagged": found, "chosen": chosen}

"""Real-IAD as published: CATEGORY/OK/S0001/*.jpg and CATEGORY/NG/KIND/S0001/*.jpg, masks beside the pictures.

The authors' split lies in realiad_jsons/, beside the folder of categories.
"""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

from flawscope.datasets.dataset import Dataset, Item, split_off
from flawscope.datasets.files import known_formats, pictures_in, subfolders
from flawscope.errors import InputError

SPECIMEN = re.compile(r"S\d+")  # five views of one part lie in one folder
TABLES = "realiad_jsons"


def is_realiad(folder: Path) -> bool:
    if not ((folder / "OK").is_dir() and (folder / "NG").is_dir()):
        return False
    return any(SPECIMEN.fullmatch(name) for name in subfolders(folder / "OK"))


def split_file(root: Path) -> Path | None:
    """The authors' split of a category, all five views; None where it does not lie there."""
    name = f"{root.absolute().name}.json"
    near = (root.absolute().parent, root.absolute().parent.parent)
    places = [base / TABLES / inner / name for base in near for inner in (TABLES, "")]
    return next((place for place in places if place.is_file()), None)


def open_realiad(root: Path, category: str, seed: int, test_share: float, group: str | None) -> Dataset:
    """With the authors' split where it is there; else with a seeded split of the good parts, whole parts
    together, and all defective pictures for testing."""
    table = split_file(root)
    if table is not None:
        return _by_table(root, category, table)
    every = pictures_in(root / "OK")
    if not every:
        raise InputError(f"{root / 'OK'}: no pictures to train on; known formats: {known_formats()}")
    out = split_off(every, root / "OK", test_share, seed, group or SPECIMEN.pattern)
    good = [Item(path, "OK", False) for path in every]
    test = [good[k] for k in sorted(out)]
    for path in pictures_in(root / "NG"):
        mask = path.with_suffix(".png")
        if path != mask:  # masks are the PNG files
            kind = path.relative_to(root / "NG").parts[0]
            test.append(Item(path, kind, True, (mask,) if mask.is_file() else ()))
    kept = tuple(item for k, item in enumerate(good) if k not in out)
    return Dataset(root, category, "realiad", kept, tuple(test))


def _by_table(root: Path, category: str, table: Path) -> Dataset:
    remedy = "use the file as published, or remove it for a seeded split"
    try:
        document = json.loads(table.read_bytes())
        normal = document["meta"]["normal_class"]
        train, test = ([_item(root, row, normal) for row in document[split]] for split in ("train", "test"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{table}: not a split of Real-IAD ({error!r}); {remedy}") from None
    if any(item.anomalous for item in train):
        raise InputError(f"{table}: an anomalous picture to train on; {remedy}")
    if not train:
        raise InputError(f"{table}: lists no training pictures; {remedy}")
    absent = next((item.path for item in (*train, *test) if not item.path.is_file()), None)
    if absent is not None:
        raise InputError(f"{table}: there is no {absent}; complete the data set, or {remedy}")
    return Dataset(root, category, "realiad", tuple(train), tuple(test))


def _item(root: Path, row: dict[str, Any], normal: str) -> Item:
    anomalous = row["anomaly_class"] != normal
    masks = (_inside(root, row["mask_path"]),) if anomalous and row.get("mask_path") else ()
    return Item(_inside(root, row["image_path"]), row["anomaly_class"], anomalous, masks)


def _inside(root: Path, name: str) -> Path:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name} does not lie in the category's folder")
    return root.joinpath(*path.parts)

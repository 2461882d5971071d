"""Opens layouts as their authors published them, with the authors' split where its file is there.

VisA: CATEGORY/Data/Images/{Normal,Anomaly}, Data/Masks/Anomaly; the split in split_csv/1cls.csv beside or in
the category. VisA converted to MVTec's layout is not read here.

Real-IAD: CATEGORY/OK/S0001/*.jpg and CATEGORY/NG/KIND/S0001/*.jpg, masks beside the pictures; the split in
realiad_jsons/, beside the folder of categories.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from flawscope.datasets.dataset import Dataset, Item, split
from flawscope.datasets.masks import Masks, stem
from flawscope.errors import InputError
from flawscope.pictures.listing import child, natural_key, pictures_in, subfolders

SATURATION_FILE = "defects_config.json"  # of MVTec LOCO, in a category's folder
VISA_TABLE = Path("split_csv", "1cls.csv")
VISA_COLUMNS = ("object", "split", "label", "image", "mask")
REALIAD_TABLES = "realiad_jsons"
SPECIMEN = re.compile(r"S\d+")  # Real-IAD: five views of one part lie in one folder
REMEDY = "use the file as published, or remove it for a seeded split"


def is_visa(folder: Path) -> bool:
    return _descend(folder, "Data", "Images", "Normal") is not None


def is_realiad(folder: Path) -> bool:
    if not ((folder / "OK").is_dir() and (folder / "NG").is_dir()):
        return False
    return any(SPECIMEN.fullmatch(name) for name in subfolders(folder / "OK"))


def visa_table(root: Path) -> Path | None:
    """The authors' split of VisA; None where it does not lie beside or in the category."""
    bases = (root.absolute().parent, root.absolute())
    return next((base / VISA_TABLE for base in bases if (base / VISA_TABLE).is_file()), None)


def realiad_table(root: Path) -> Path | None:
    """The authors' split of a category of Real-IAD, all five views; None where it does not lie there."""
    name = f"{root.absolute().name}.json"
    near = (root.absolute().parent, root.absolute().parent.parent)
    places = [base / REALIAD_TABLES / inner / name for base in near for inner in (REALIAD_TABLES, "")]
    return next((place for place in places if place.is_file()), None)


def open_visa(root: Path, category: str, seed: int, test_share: float, group: str | None) -> Dataset:
    """Opens VisA with the authors' split where it is there; else with a seeded split of the normal pictures,
    and all anomalous ones for testing."""
    table = visa_table(root)
    if table is not None:
        train, test = _visa_by_table(root, category, table)
        return Dataset(root, category, "visa", train, test)
    normal = _descend(root, "Data", "Images", "Normal")
    anomaly = _descend(root, "Data", "Images", "Anomaly")
    assert normal is not None  # is_visa has seen it
    masks = Masks(_descend(root, "Data", "Masks", "Anomaly"))
    found = pictures_in(anomaly) if anomaly else ()
    bad = [Item(path, path.parent.name, True, masks.of([stem(path, path.parent)])) for path in found]
    return split(root, category, "visa", normal, bad, seed, test_share, group)


def open_realiad(root: Path, category: str, seed: int, test_share: float, group: str | None) -> Dataset:
    """Opens Real-IAD with the authors' split where it is there; else with a seeded split of the good parts,
    whole parts together, and all defective pictures for testing."""
    table = realiad_table(root)
    if table is not None:
        train, test = _realiad_by_table(root, table)
        return Dataset(root, category, "realiad", train, test)
    bad = []
    for path in pictures_in(root / "NG"):
        mask = path.with_suffix(".png")
        if path != mask:  # masks are the PNG files
            kind = path.relative_to(root / "NG").parts[0]
            bad.append(Item(path, kind, True, (mask,) if mask.is_file() else ()))
    return split(root, category, "realiad", root / "OK", bad, seed, test_share, group or SPECIMEN.pattern)


def _visa_by_table(root: Path, category: str, table: Path) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    found: dict[str, list[Item]] = {"train": [], "test": []}
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.DictReader(stream)
            absent = [name for name in VISA_COLUMNS if name not in (rows.fieldnames or ())]
            if absent:
                raise InputError(f"{table}: column {absent[0]!r} is missing; {REMEDY}")
            for row in rows:
                if row["object"] == category:
                    name, item = _visa_row(root, category, row, f"{table}, line {rows.line_num}")
                    found[name].append(item)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table}: cannot be read ({error}); {REMEDY}") from error
    if not found["train"]:
        raise InputError(f"{table}: lists no training pictures for {category!r}; {REMEDY}")

    def ordered(items: Iterable[Item]) -> tuple[Item, ...]:
        return tuple(sorted(items, key=lambda i: (i.anomalous, natural_key(i.path.relative_to(root)))))

    return ordered(found["train"]), ordered(found["test"])


def _visa_row(root: Path, category: str, row: dict[str, Any], place: str) -> tuple[str, Item]:
    """Split and picture that a row names; its paths begin with the category."""

    def inside(text: str | None) -> Path:
        parts = PurePosixPath((text or "").strip().replace("\\", "/")).parts
        if len(parts) < 2 or parts[0] != category or ".." in parts:
            raise InputError(f"{place}: {text!r} does not lie in {category}/; use the file as published")
        return root.joinpath(*parts[1:])

    label, name = (row["label"] or "").strip(), (row["split"] or "").strip()
    if label not in ("normal", "anomaly") or name not in ("train", "test"):
        raise InputError(f"{place}: {name!r}/{label!r} is not a known split and label; {REMEDY}")
    if name == "train" and label == "anomaly":
        raise InputError(f"{place}: an anomalous picture to train on; {REMEDY}")
    path = inside(row["image"])
    if not path.is_file():
        raise InputError(f"{place}: there is no {path}; complete the data set, or {REMEDY}")
    masks = (inside(row["mask"]),) if row["mask"] else ()
    return name, Item(path, path.parent.name, label == "anomaly", masks if label == "anomaly" else ())


def _realiad_by_table(root: Path, table: Path) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    def item(row: dict[str, Any]) -> Item:
        anomalous = row["anomaly_class"] != normal
        masks = (inside(row["mask_path"]),) if anomalous and row.get("mask_path") else ()
        return Item(inside(row["image_path"]), row["anomaly_class"], anomalous, masks)

    def inside(name: str) -> Path:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{name} does not lie in the category's folder")
        return root.joinpath(*path.parts)

    try:
        document = json.loads(table.read_bytes())
        normal = document["meta"]["normal_class"]
        train, test = (tuple(map(item, document[split])) for split in ("train", "test"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{table}: not a split of Real-IAD ({error!r}); {REMEDY}") from None
    if any(one.anomalous for one in train):
        raise InputError(f"{table}: an anomalous picture to train on; {REMEDY}")
    if not train:
        raise InputError(f"{table}: lists no training pictures; {REMEDY}")
    absent = next((one.path for one in (*train, *test) if not one.path.is_file()), None)
    if absent is not None:
        raise InputError(f"{table}: there is no {absent}; complete the data set, or {REMEDY}")
    return train, test


def _descend(folder: Path, *names: str) -> Path | None:
    here: Path | None = folder
    for name in names:
        here = child(here, name) if here is not None else None
    return here

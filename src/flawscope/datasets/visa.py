"""VisA as published: CATEGORY/Data/Images/{Normal,Anomaly}, Data/Masks/Anomaly and split_csv/1cls.csv.

VisA converted to MVTec's layout needs nothing of this.
"""

from __future__ import annotations

import csv
from pathlib import Path, PurePosixPath

from flawscope.datasets.dataset import Dataset, Item, split_off
from flawscope.datasets.files import child, known_formats, natural_key, pictures_in
from flawscope.datasets.masks import Masks, stem
from flawscope.errors import InputError

SPLIT_FILE = Path("split_csv", "1cls.csv")
COLUMNS = ("object", "split", "label", "image", "mask")


def is_visa(folder: Path) -> bool:
    return _descend(folder, "Data", "Images", "Normal") is not None


def open_visa(root: Path, category: str, seed: int, test_share: float, group: str | None = None) -> Dataset:
    """With the authors' split where `split_csv/1cls.csv` lies beside (or in) the category, else with a seeded
    split of the normal pictures; all anomalous ones are for testing."""
    for base in (root.absolute().parent, root.absolute()):
        table = base / SPLIT_FILE
        if table.is_file():
            return _by_table(root, category, table)
    return _by_folder(root, category, seed, test_share, group)


def _by_folder(root: Path, category: str, seed: int, test_share: float, group: str | None) -> Dataset:
    normal = _descend(root, "Data", "Images", "Normal")
    anomaly = _descend(root, "Data", "Images", "Anomaly")
    assert normal is not None  # is_visa has seen it
    masks = Masks(_descend(root, "Data", "Masks", "Anomaly"))
    good = [Item(path, normal.name, False) for path in pictures_in(normal)]
    if not good:
        raise InputError(f"{normal}: no pictures to train on; known formats: {known_formats()}")
    out = split_off([item.path for item in good], normal, test_share, seed, group)
    train = tuple(item for k, item in enumerate(good) if k not in out)
    test = [good[k] for k in sorted(out)]
    for path in pictures_in(anomaly) if anomaly else ():
        test.append(Item(path, path.parent.name, True, masks.of([stem(path, path.parent)])))
    return Dataset(root, category, "visa", train, tuple(test))


def _by_table(root: Path, category: str, table: Path) -> Dataset:
    remedy = "use the file as published, or remove it for a seeded split"
    splits: dict[str, list[Item]] = {"train": [], "test": []}
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.DictReader(stream)
            absent = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
            if absent:
                raise InputError(f"{table}: column {absent[0]!r} is missing; {remedy}")
            for row in rows:
                if row["object"] != category:
                    continue
                place = f"{table}, line {rows.line_num}"
                label, split = (row["label"] or "").strip(), (row["split"] or "").strip()
                if label not in ("normal", "anomaly") or split not in splits:
                    raise InputError(f"{place}: {split!r}/{label!r} is not a known split and label; {remedy}")
                if split == "train" and label == "anomaly":
                    raise InputError(f"{place}: an anomalous picture to train on; {remedy}")
                path = _inside(root, category, row["image"], place)
                if not path.is_file():
                    raise InputError(f"{place}: there is no {path}; complete the data set, or {remedy}")
                masks = (_inside(root, category, row["mask"], place),) if row["mask"] else ()
                item = Item(path, path.parent.name, label == "anomaly", masks if label == "anomaly" else ())
                splits[split].append(item)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table}: cannot be read ({error}); {remedy}") from error
    if not splits["train"]:
        raise InputError(f"{table}: lists no training pictures for {category!r}; {remedy}")
    ordered = {
        name: tuple(sorted(items, key=lambda i: (i.anomalous, natural_key(i.path.relative_to(root)))))
        for name, items in splits.items()
    }
    return Dataset(root, category, "visa", ordered["train"], ordered["test"])


def _inside(root: Path, category: str, text: str | None, place: str) -> Path:
    """A path of the table, which begins with the category, as one below the category's folder."""
    parts = PurePosixPath((text or "").strip().replace("\\", "/")).parts
    if len(parts) < 2 or parts[0] != category or ".." in parts:
        raise InputError(f"{place}: {text!r} does not lie in {category}/; use the file as published")
    return root.joinpath(*parts[1:])


def _descend(folder: Path, *names: str) -> Path | None:
    here: Path | None = folder
    for name in names:
        here = child(here, name) if here is not None else None
    return here

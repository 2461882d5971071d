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
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from flawscope.datasets.dataset import Dataset, Item, SplitSettings, category_of, defect_item, split_dataset
from flawscope.datasets.masks import GroundTruth
from flawscope.errors import InputError, message_with_type
from flawscope.pictures.listing import natural_key, picture_files_in, pictures_in, subfolder, subfolders
from flawscope.pictures.units import group_reader

SATURATION_FILE = "defects_config.json"  # of MVTec LOCO, in a category's folder
VISA_TABLE = Path("split_csv", "1cls.csv")
REALIAD_TABLES = "realiad_jsons"
SPECIMEN_FOLDER = re.compile(r"S\d+")  # Real-IAD: five views of one part lie in one folder
REMEDY = "use the file as published, or remove it for a seeded split"


def is_visa(folder: Path) -> bool:
    """Whether a folder is a category of VisA as published: it has Data/Images/Normal."""
    return _find_descendant(folder, "Data", "Images", "Normal") is not None


def is_realiad(folder: Path) -> bool:
    """Whether a folder is a category of Real-IAD as published: OK and NG, with folders of specimens in OK."""
    if not ((folder / "OK").is_dir() and (folder / "NG").is_dir()):
        return False
    return any(SPECIMEN_FOLDER.fullmatch(name) for name in subfolders(folder / "OK"))


def visa_table(root: Path) -> Path | None:
    """Return the file of the authors' split of VisA; None where it is neither beside nor in the category."""
    folder = root.absolute()
    paths = (folder.parent / VISA_TABLE, folder / VISA_TABLE)
    return next((path for path in paths if path.is_file()), None)


def realiad_table(root: Path) -> Path | None:
    """Return the file of the authors' split of a category of Real-IAD; None where there is none.

    The folder `REALIAD_TABLES` with this file is beside the category or one level above. The split of all
    five views of a part is meant, not the other published splits.
    """
    folder = root.absolute()
    name = f"{folder.name}.json"
    for parent in (folder.parent, folder.parent.parent):
        folder_of_tables = parent / REALIAD_TABLES
        for path in (folder_of_tables / REALIAD_TABLES / name, folder_of_tables / name):
            if path.is_file():
                return path
    return None


def open_visa(root: Path, settings: SplitSettings) -> Dataset:
    """Open VisA with the authors' split if its file is there, else with a seeded split.

    The seeded split holds out some of the normal pictures. All anomalous pictures are for testing.
    """
    table = visa_table(root)
    if table is not None:
        return _open_by_table(root, "visa", table, _visa_rows)
    normal = _find_descendant(root, "Data", "Images", "Normal")
    anomaly = _find_descendant(root, "Data", "Images", "Anomaly")
    assert normal is not None  # `is_visa` requires it
    truth = GroundTruth(root)
    bad = [defect_item(path, path.parent.name, truth) for path in truth.pictures_in(anomaly)]
    return split_dataset(root, "visa", normal, truth.pictures_in(normal), bad, settings)


def open_realiad(root: Path, settings: SplitSettings) -> Dataset:
    """Open Real-IAD with the authors' split if its file is there, else with a seeded split.

    The seeded split holds out all pictures of some good parts. All defective pictures are for testing.
    """
    table = realiad_table(root)
    if table is not None:
        return _open_by_table(root, "realiad", table, _realiad_rows)
    bad = []
    for path in picture_files_in(root / "NG"):
        mask = path.with_suffix(".png")
        is_mask = path == mask  # Real-IAD's masks are PNG files, its pictures JPEG files
        if not is_mask:
            kind = path.relative_to(root / "NG").parts[0]
            masks = (mask,) if mask.is_file() else ()
            bad.append(Item(path, kind, anomalous=True, masks=masks))
    specimen_settings = settings._replace(part_of=settings.part_of or group_reader(SPECIMEN_FOLDER.pattern))
    good = root / "OK"
    return split_dataset(root, "realiad", good, pictures_in(good), bad, specimen_settings)


class SplitRow(NamedTuple):
    """Picture of the authors' split; its paths are relative to the category's folder."""

    split: str
    kind: str
    anomalous: bool
    picture: str
    mask: str | None


def _open_by_table(
    root: Path, layout: str, table: Path, read_rows: Callable[[Path, str], Iterable[SplitRow]]
) -> Dataset:
    """Open a category with the authors' split.

    Args:
        root: Folder of the category.
        layout: Name of the layout.
        table: File of the split.
        read_rows: Function that reads the rows of a category, called as `read_rows(table, category)`.

    Raises:
        InputError: The file is not such a split, or does not fit the category.
    """
    category = category_of(root)
    items: dict[str, list[Item]] = {"train": [], "test": []}
    try:
        for row in read_rows(table, category):
            if row.anomalous and row.split == "train":
                raise ValueError(f"{row.picture}: an anomalous picture to train on")
            path = _path_within(root, row.picture)
            masks = (_path_within(root, row.mask),) if row.anomalous and row.mask else ()
            items[row.split].append(Item(path, row.kind, row.anomalous, masks))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise InputError(f"{table}: not a split of {layout} ({message_with_type(error)}); {REMEDY}") from None
    if not items["train"]:
        raise InputError(f"{table}: lists no training pictures for {category!r}; {REMEDY}")
    for item in items["train"] + items["test"]:
        if not item.path.is_file():
            raise InputError(f"{table}: there is no {item.path}; complete the data set, or {REMEDY}")
    return Dataset(root, category, layout, tuple(items["train"]), tuple(items["test"]))


def _path_within(root: Path, name: str) -> Path:
    """Return the full path of a file in a category, from its path in the table.

    Raises:
        ValueError: The name leads out of the category.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name} does not lie in {category_of(root)}/")
    return root.joinpath(*path.parts)


def _visa_rows(table: Path, category: str) -> Iterable[SplitRow]:
    """Return the rows of a category of VisA, good pictures first.

    Raises:
        ValueError, KeyError, AttributeError, csv.Error: The file is no split of VisA.
        OSError: The file cannot be read.
    """
    with table.open(newline="", encoding="utf-8-sig") as stream:
        rows = [_visa_row(row, category) for row in csv.DictReader(stream) if row["object"] == category]
    return sorted(rows, key=lambda row: (row.anomalous, natural_key(row.picture)))


def _visa_row(values: dict[str, str], category: str) -> SplitRow:
    """Return a row of VisA's table, with paths relative to the category's folder."""
    anomalous = {"normal": False, "anomaly": True}[values["label"].strip()]
    picture = _without_category(values["image"], category)
    # empty: the picture has no mask
    mask = values["mask"] and _without_category(values["mask"], category)
    kind = PurePosixPath(picture).parent.name
    return SplitRow(values["split"].strip(), kind, anomalous, picture, mask)


def _without_category(text: str, category: str) -> str:
    """Return a path of VisA's table without its first part, the category.

    Raises:
        ValueError: The path does not begin with the category.
    """
    first, _, rest = text.strip().replace("\\", "/").partition("/")
    if first != category:
        raise ValueError(f"{text} does not lie in {category}/")
    return rest


def _realiad_rows(table: Path, category: str) -> Iterable[SplitRow]:
    """Yield the rows of a category of Real-IAD; its table holds only this category.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: The file is no split of Real-IAD.
        OSError: The file cannot be read.
    """
    document = json.loads(table.read_bytes())
    normal_class = document["meta"]["normal_class"]
    for split in ("train", "test"):
        for row in document[split]:
            kind = row["anomaly_class"]
            picture = row["image_path"].replace("\\", "/")
            mask = row.get("mask_path")
            if mask:
                mask = mask.replace("\\", "/")
            yield SplitRow(split, kind, anomalous=kind != normal_class, picture=picture, mask=mask)


def _find_descendant(folder: Path, *names: str) -> Path | None:
    """Return the folder at the path `names` below `folder`; None where it does not exist."""
    descendant: Path | None = folder
    for name in names:
        descendant = subfolder(descendant, name) if descendant is not None else None
    return descendant

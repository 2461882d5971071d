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
    """The authors' split of VisA; None where it does not lie beside or in the category."""
    bases = (root.absolute().parent, root.absolute())
    return next((base / VISA_TABLE for base in bases if (base / VISA_TABLE).is_file()), None)


def realiad_table(root: Path) -> Path | None:
    """The authors' split of a category of Real-IAD, all five views; None where it does not lie there."""
    name = f"{root.absolute().name}.json"
    near = (root.absolute().parent, root.absolute().parent.parent)
    places = [base / REALIAD_TABLES / inner / name for base in near for inner in (REALIAD_TABLES, "")]
    return next((place for place in places if place.is_file()), None)


def open_visa(root: Path, settings: SplitSettings) -> Dataset:
    """Open VisA with the authors' split where its file is there, else with a seeded split.

    The seeded split holds out some of the normal pictures; all anomalous ones are for testing.
    """
    table = visa_table(root)
    if table is not None:
        return _open_by_table(root, "visa", table, _visa_rows)
    normal = _find_descendant(root, "Data", "Images", "Normal")
    anomaly = _find_descendant(root, "Data", "Images", "Anomaly")
    assert normal is not None  # is_visa has seen it
    truth = GroundTruth(root)
    bad = [defect_item(path, path.parent.name, truth) for path in truth.pictures_in(anomaly)]
    return split_dataset(root, "visa", normal, truth.pictures_in(normal), bad, settings)


def open_realiad(root: Path, settings: SplitSettings) -> Dataset:
    """Open Real-IAD with the authors' split where its file is there, else with a seeded split.

    The seeded split holds out whole good parts; all defective pictures are for testing.
    """
    table = realiad_table(root)
    if table is not None:
        return _open_by_table(root, "realiad", table, _realiad_rows)
    bad = []
    for path in picture_files_in(root / "NG"):
        mask = path.with_suffix(".png")
        if path != mask:  # masks are the PNG files
            kind = path.relative_to(root / "NG").parts[0]
            bad.append(Item(path, kind, anomalous=True, masks=(mask,) if mask.is_file() else ()))
    whole_parts = settings._replace(part_of=settings.part_of or group_reader(SPECIMEN_FOLDER.pattern))
    good = root / "OK"
    return split_dataset(root, "realiad", good, pictures_in(good), bad, whole_parts)


class SplitRow(NamedTuple):
    """Picture of the authors' split; paths from the category's folder."""

    split: str
    kind: str
    anomalous: bool
    picture: str
    mask: str | None


def _open_by_table(
    root: Path, layout: str, table: Path, rows: Callable[[Path, str], Iterable[SplitRow]]
) -> Dataset:
    """Open a category with the authors' split.

    Raises:
        InputError: The file is no such split, or does not fit the category.
    """
    category = category_of(root)

    def inside(name: str) -> Path:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{name} does not lie in {category}/")
        return root.joinpath(*path.parts)

    items: dict[str, list[Item]] = {"train": [], "test": []}
    try:
        for row in rows(table, category):
            if row.anomalous and row.split == "train":
                raise ValueError(f"{row.picture}: an anomalous picture to train on")
            masks = (inside(row.mask),) if row.anomalous and row.mask else ()
            items[row.split].append(Item(inside(row.picture), row.kind, row.anomalous, masks))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise InputError(f"{table}: not a split of {layout} ({message_with_type(error)}); {REMEDY}") from None
    if not items["train"]:
        raise InputError(f"{table}: lists no training pictures for {category!r}; {REMEDY}")
    for item in items["train"] + items["test"]:
        if not item.path.is_file():
            raise InputError(f"{table}: there is no {item.path}; complete the data set, or {REMEDY}")
    return Dataset(root, category, layout, tuple(items["train"]), tuple(items["test"]))


def _visa_rows(table: Path, category: str) -> Iterable[SplitRow]:
    """Rows of the category, good pictures first; paths in the file begin with the category."""

    def inside(text: str) -> str:
        first, _, rest = text.strip().replace("\\", "/").partition("/")
        if first != category:
            raise ValueError(f"{text} does not lie in {category}/")
        return rest

    def row(values: dict[str, str]) -> SplitRow:
        anomalous = {"normal": False, "anomaly": True}[values["label"].strip()]
        picture = inside(values["image"])
        mask = values["mask"] and inside(values["mask"])
        return SplitRow(values["split"].strip(), PurePosixPath(picture).parent.name, anomalous, picture, mask)

    with table.open(newline="", encoding="utf-8-sig") as stream:
        rows = [row(values) for values in csv.DictReader(stream) if values["object"] == category]
    return sorted(rows, key=lambda row: (row.anomalous, natural_key(row.picture)))


def _realiad_rows(table: Path, category: str) -> Iterable[SplitRow]:
    document = json.loads(table.read_bytes())
    normal = document["meta"]["normal_class"]
    for name in ("train", "test"):
        for row in document[name]:
            kind = row["anomaly_class"]
            picture = row["image_path"].replace("\\", "/")
            mask = row.get("mask_path")
            yield SplitRow(name, kind, kind != normal, picture, mask and mask.replace("\\", "/"))


def _find_descendant(folder: Path, *names: str) -> Path | None:
    here: Path | None = folder
    for name in names:
        here = subfolder(here, name) if here is not None else None
    return here

"""Opens a data set: finds the categories that are meant, the layout of a folder, and the good pictures.

The kind of a picture follows from the *name of its folder* inside the data set (`pictures.folder_words`),
never from letters somewhere in its path: /home/tester/goods/test/part.png is not good because "good" occurs
in it. Folders without a split are opened by `own_folders`.
"""

from __future__ import annotations

import csv
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from flawscope.datasets.class_labels import ClassLabels, read_class_labels
from flawscope.datasets.dataset import Dataset, Item, SplitSettings, category_of, defect_item
from flawscope.datasets.good_and_bad_folders import FolderTree
from flawscope.datasets.masks import GroundTruth
from flawscope.datasets.own_folders import (
    defects_in,
    good_folders,
    good_pictures,
    kinds_in,
    open_bare,
    open_folder,
    open_named,
    split_names,
    split_question,
)
from flawscope.datasets.published import is_realiad, is_visa, open_realiad, open_visa
from flawscope.errors import InputError, check_arguments, join_names, suggest_name
from flawscope.pictures.decoding import is_picture
from flawscope.pictures.folder_words import GOOD, Said, read_side_by_side, split_said
from flawscope.pictures.listing import known_formats, list_entries, subfolder, subfolders, walk_files
from flawscope.pictures.mask_files import is_mask_folder
from flawscope.pictures.units import PartReader, group_reader

# MVTec AD's categories in the usual order
TEXTURES = ("carpet", "grid", "leather", "tile", "wood")
OBJECTS = (
    *("bottle", "cable", "capsule", "hazelnut", "metal_nut"),
    *("pill", "screw", "toothbrush", "transistor", "zipper"),
)
MVTEC = TEXTURES + OBJECTS
CATEGORY_GROUPS = {"textures": TEXTURES, "objects": OBJECTS}
ALL_CATEGORIES = "all"
REVIEW_FILE = "review.csv"  # the file of decisions, beside the folders good and defect
DEFECT_FOLDER = "defect"


def find_categories(root: str | os.PathLike[str]) -> list[str]:
    """Return the names of the categories in `root`, in natural order.

    These are its subfolders that are data sets of a known layout, or its own name where it is one category
    itself. Empty for any other folder, such as a bare folder of pictures.

    Raises:
        InputError: The folder is missing or cannot be read.
    """
    folder = _require_entries(root)
    if _layout_of(folder):
        return [category_of(folder)]
    return list(_categories(folder))


@check_arguments()
def open_dataset(
    root: str | os.PathLike[str],
    category: str | None = None,
    *,
    seed: int = 0,
    test_share: float = 0.2,
    group: str | PartReader | None = None,
    good: str | None = None,
) -> Dataset:
    """Open the data set in `root`, or its one `category`.

    `root` holds categories or is one, in the layout of MVTec AD (also MPDD, and VisA converted to it), MVTec
    AD 2, MVTec LOCO, BTAD, VisA or Real-IAD. Or it has a folder of good and perhaps one of bad pictures. Or
    it is a bare folder of good pictures, and then no pictures are left to test. Or it is a folder that
    `review` wrote, or the good pictures in such a folder (`Dataset.reviewed`). Defective pictures without a
    mask get theirs from label files below the category's folder (`labels.LabelFiles`).

    Names that have no known meaning lead to a question: folders by their names, and pictures by their own
    names, by lists and by labels of whole pictures. `good` answers it.

    Args:
        root: Folder of the data set.
        category: Name of the category; None where there is one.
        seed: Seed of a drawn split.
        test_share: Share of the good pictures held out for testing where the layout fixes no split. They are
            chosen by a seeded hash of their names (`dataset.held_out`).
        group: Regular expression on names: pictures for which it matches the same text show one part and stay
            together. Or a function that returns the part for a name.
        good: Names of the folders of good pictures, with commas; `.` for pictures directly in the folder; or
            words of names and lists. The other pictures are defective. `all`: all pictures are good.

    Raises:
        InputError: The folder is missing, empty or cannot be read; it holds several categories and `category`
            names none; there is no such category; or a name has no known meaning. The message is one line.
    """
    if not 0 <= test_share < 1:
        raise InputError(f"test share {test_share}: must be at least 0 and below 1; 0.2 is usual")
    # a bad pattern is reported whatever the layout
    part_of = group_reader(group) if group is None or isinstance(group, str) else group
    folder = _choose_category(_review_folder(_require_entries(root)), category, good)
    found = _layout_of(folder) or "bare"
    settings = SplitSettings(seed, test_share, part_of)
    if good is not None:
        if found not in ("folder", "bare", *_MVTEC_LIKE):
            raise InputError(f"{folder}: the {found} layout says which pictures are good; leave --good out")
        return open_named(folder, good, settings)
    if found in _MVTEC_LIKE:
        return _open_split(folder, found)
    if found == "review":
        return _open_review(folder)
    return _OPEN[found](folder, settings)


# of layouts without a split of their own, where one is drawn
_OPEN: Mapping[str, Callable[[Path, SplitSettings], Dataset]] = {
    "visa": open_visa,
    "realiad": open_realiad,
    "folder": open_folder,
    "bare": open_bare,
}


def open_defects(
    root: str | os.PathLike[str], category: str | None = None, *, good: str | None = None
) -> list[Item]:
    """Return the defective pictures of a data set, as `open_dataset` finds them.

    In people's own folders each folder whose name does not say good is a kind of defect: nothing is learnt as
    good, so that nobody need say which folders are good.

    Raises:
        InputError: As in `open_dataset`.
    """
    folder = _choose_category(_review_folder(_require_entries(root)), category, good)
    if good is None and _layout_of(folder) in (None, "folder"):
        truth = GroundTruth(folder)
        tree = FolderTree(folder, truth.pictures)
        if Said.UNCLEAR in tree.found:
            raise tree.question()
        items = kinds_in(folder, truth)
        if items and all(item.kind for item in items):
            return items
    return [item for item in open_dataset(root, category, good=good).test if item.anomalous]


def select_categories(
    root: str | os.PathLike[str], text: str, option: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the requested categories in the order of the tables, and those of them that are not in `root`.

    Args:
        root: Folder of the categories.
        text: `all`, or names with commas; `textures` and `objects` stand for MVTec AD's.
        option: Name of the command's option, for the error.

    Raises:
        InputError: There are no categories, or none of the requested ones.
    """
    words = split_names(text, option, "name some, or leave it out for all")
    found = find_categories(root)
    if not found:
        raise InputError(
            f"{root}: no category to work with: give a folder of categories with train/good and test/KIND, "
            "or one such category"
        )
    asked: set[str] = set()
    for word in words:
        if word == ALL_CATEGORIES:
            asked |= {*found}
        else:
            asked |= {*CATEGORY_GROUPS.get(word, (word,))}
    known = dict.fromkeys([*MVTEC, *found])
    order = {name: place for place, name in enumerate(known)}
    rows = tuple(sorted(asked, key=lambda name: order.get(name, len(order))))
    missing = tuple(row for row in rows if row not in found)
    if len(missing) == len(rows):
        raise _unknown_category(root, words[0], f"none of {option} {text} is there", found)
    return rows, missing


def present_categories(root: str | os.PathLike[str], text: str, option: str) -> tuple[str, ...]:
    """Return the categories that `text` names, as `select_categories`; every one must be there.

    Raises:
        InputError: As in `select_categories`, or a named category is not there.
    """
    rows, missing = select_categories(root, text, option)
    for word in split_names(text, option, "name some"):
        if word in missing:
            raise _unknown_category(root, word, f"no category {word}", find_categories(root))
    return tuple(row for row in rows if row not in missing)


def names_several(root: str | os.PathLike[str], text: str) -> bool:
    """Whether a requested category means more than the one of that name."""
    if "," not in text and text != ALL_CATEGORIES and text not in CATEGORY_GROUPS:
        return False
    return text not in find_categories(root)


def _unknown_category(root: str | os.PathLike[str], word: str, what: str, found: list[str]) -> InputError:
    return InputError(f"{root}: {what}; {suggest_name(word, found)}")


# ---------------------------------------------------------------------------- which folder, which layout

# train/good, test/KIND, ground_truth/KIND; read by the same code
_MVTEC_LIKE = ("mvtec", "mvtec2", "btad", "loco")


def _layout_of(folder: Path) -> str | None:
    """Layout of one category by its subfolders' names; None for any other folder."""
    if is_visa(folder):
        return "visa"
    if is_realiad(folder):
        return "realiad"
    if (folder / REVIEW_FILE).is_file():
        return "review"
    train = _split_folder(folder, "train")
    good = good_folders(train) if train else ()
    if good:
        return _layout_of_split(folder, good[0])
    if subfolder(folder, *GOOD) is not None:
        return "folder"
    # such as screw_ok beside screw_nok
    said = read_side_by_side([name for name in subfolders(folder) if not is_mask_folder(name)])
    return "folder" if {Said.GOOD, Said.BAD} <= {*said.values()} else None


def _layout_of_split(folder: Path, good: Path) -> str:
    """Layout of a category with a folder train, by the splits beside it and the folder of good pictures."""
    if subfolder(folder, "test_public") is not None:
        return "mvtec2"
    if subfolder(folder, "validation") is not None:
        return "loco"
    return "btad" if good.name.casefold() == "ok" else "mvtec"


def _split_folder(folder: Path, split: str) -> Path | None:
    """The subfolder of a split: of its name, else the first whose name says it."""
    named = subfolder(folder, split)
    every = subfolders(folder).items() if named is None else ()
    return next((path for name, path in every if split_said(name) == split), named)


def _categories(root: Path) -> dict[str, Path]:
    found = {}
    for name, path in subfolders(root).items():
        try:
            if _layout_of(path):
                found[name] = path
        except InputError:  # lost+found and the like; asked for by name it is an error
            continue
    return found


def _choose_category(root: Path, category: str | None, good: str | None) -> Path:
    """Return the folder of the one category, or of the named one.

    It is `root` where that holds no category, or where `good` says which of its pictures are good.

    Raises:
        InputError: The named category is not there, or several are there and none is named.
    """
    if _layout_of(root) is not None:
        if category is None or category == category_of(root):
            return root
        raise InputError(f"{root}: is itself one category, so it has no {category!r}; leave --category out")
    categories = _categories(root)
    if category is not None:
        return _named_category(root, category, categories)
    if len(categories) > 1:
        are_sorted = {*map(_layout_of, categories.values())} == {"folder"}
        if good is not None and are_sorted:
            return root
        raise _several_categories(root, categories, are_sorted)
    if not categories:
        return root
    ((name, folder),) = categories.items()
    beside = _pictures_beside(root, name)
    if not beside:
        return folder
    if good is not None:
        return root
    raise InputError(
        f"{root}: {name} is a data set by its folders, beside pictures in {join_names(beside)}: choose "
        f"it alone with --category {name}, or name the folders of good pictures with --good"
    )


def _pictures_beside(root: Path, category: str) -> list[str]:
    """Return the names of the other folders beside a category's that hold pictures."""
    folders = subfolders(root).items()
    return [name for name, path in folders if name != category and _has_pictures(path)]


def _named_category(root: Path, category: str, categories: Mapping[str, Path]) -> Path:
    if category in categories:
        return categories[category]
    if category in subfolders(root):
        _layout_of(root / category)  # raises if the folder cannot be read
    if not categories:
        raise InputError(f"{root}: no category {category!r} here, nor any other; leave --category out")
    raise InputError(f"{root}: no category {category!r}; {suggest_name(category, categories)}")


def _several_categories(root: Path, categories: Mapping[str, Path], are_sorted: bool) -> InputError:
    """Return the error that asks to choose a category.

    Args:
        root: Folder of the categories.
        categories: Folders of the categories by name.
        are_sorted: Whether each is a folder of good and perhaps of bad pictures; all may show one product.
    """
    message = f"several categories in {root}: {', '.join(categories)}; choose one with --category"
    if are_sorted:
        known = dict.fromkeys(path.name for folder in categories.values() for path in good_folders(folder))
        answer = f"--good {shlex.quote(','.join(known))}"
        message += f" or, where all show one product, name the folders of good pictures: {answer}"
    return InputError(message)


def _has_pictures(folder: Path) -> bool:
    try:
        return not is_mask_folder(folder.name) and any(map(is_picture, walk_files(folder)))
    except InputError:  # lost+found and the like
        return False


def _require_entries(root: str | os.PathLike[str]) -> Path:
    folder = Path(root)
    if not list_entries(folder):
        raise InputError(f"{folder}: the folder is empty; give a folder with pictures")
    return folder


# ---------------------------------------------------------------------------------------- the layouts


def _open_split(root: Path, layout: str) -> Dataset:
    """Open MVTec AD, BTAD, MVTec LOCO and data sets of their shape: ROOT/{train,validation,test}/KIND.

    Defects are for the test, in whichever split they lie. Of MVTec AD 2 the public test set is opened; the
    private ones have no ground truth.
    """
    train = _split_folder(root, "train")
    test = subfolder(root, "test_public") if layout == "mvtec2" else _split_folder(root, "test")
    assert train is not None  # _layout_of has seen it
    validation = _split_folder(root, "validation")
    truth = GroundTruth(root)
    labels = read_class_labels(root, truth.pictures, truth.labels)
    splits = [split for split in (train, validation, test) if split is not None]
    trees = {split: FolderTree(split, truth.pictures_in(split)) for split in splits}
    # in an export for classification each split has the same kinds; else it is not known which are good
    known = {name for split in splits if split != train for name in subfolders(split)}
    has_unknown = trees[train].has_unknown(known)
    if has_unknown or any(Said.UNCLEAR in tree.found for tree in trees.values()):
        raise split_question(root, truth.pictures)
    learnt = _good_items(trees[train], labels)
    if not learnt:
        raise InputError(
            f"{good_folders(train)[0]}: no pictures to train on; known formats: {known_formats()}"
        )
    items: list[Item] = []
    for split, tree in trees.items():
        items += _test_items(tree, truth, split == test)
    held = _good_items(trees[validation], labels) if validation else ()
    return Dataset(root, category_of(root), layout, learnt, tuple(items), held)


def _test_items(tree: FolderTree, truth: GroundTruth, is_test: bool) -> Iterator[Item]:
    """Yield the defective pictures of a split; of the test split also the good ones."""
    good = {*tree.pictures(Said.GOOD)}
    for kind, folder in subfolders(tree.root).items():
        for path in truth.pictures_in(folder):
            if path not in good:
                yield defect_item(path, kind, truth)
            elif is_test:
                yield Item(path, kind, anomalous=False)


def _good_items(tree: FolderTree, labels: ClassLabels) -> tuple[Item, ...]:
    good = good_pictures(tree.root, tree.pictures(Said.GOOD), labels, "move it to test, or rename it")
    return tuple(Item(path, path.relative_to(tree.root).parts[0], anomalous=False) for path in good)


def is_review(root: str | os.PathLike[str]) -> bool:
    """Whether a folder holds pictures that a review chose: they were flagged before."""
    folder = Path(os.path.abspath(root))
    return any((place / REVIEW_FILE).is_file() for place in (folder, folder.parent))


def confirmed_good(root: Path) -> set[Path]:
    """Return the good pictures of a review whose last two decisions are both "good"."""
    said: dict[str, list[str]] = {}
    with open(root / REVIEW_FILE, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        for row in csv.DictReader(file):
            said.setdefault(row.get("copy") or "", []).append(row.get("decision") or "")
    return {root / "good" / copy for copy, words in said.items() if words[-2:] == ["good", "good"]}


def _review_folder(folder: Path) -> Path:
    """Return the folder of the whole review, which holds the decisions, also for its folder of good pictures.

    Raises:
        InputError: `folder` holds the review's defects, which would be taken for good pictures.
    """
    whole = Path(os.path.abspath(folder)).parent
    if (folder / REVIEW_FILE).is_file() or not (whole / REVIEW_FILE).is_file():
        return folder
    name = category_of(folder).casefold()
    if name == DEFECT_FOLDER:
        raise InputError(f"{folder}: a review called these pictures defects; give {folder.parent}")
    return whole if name in GOOD else folder


def _open_review(root: Path) -> Dataset:
    """Open a review: pictures that were flagged, and since then decided to be good or defective.

    The good pictures are for learning and for testing: evaluation leaves out those that a model knows.
    """
    good = subfolder(root, *GOOD)
    bad = subfolder(root, DEFECT_FOLDER)
    truth = GroundTruth(root)
    items = [Item(path, "good", anomalous=False) for path in truth.pictures_in(good)]
    defects = defects_in(bad, truth) if bad else []
    if not items and not defects:
        raise InputError(f"{root}: nothing is decided yet; review first")
    return Dataset(root, category_of(root), "review", tuple(items), (*items, *defects))

"""Opens a data set: finds the categories that are meant, the layout of a folder, and the good pictures.

The kind of a picture follows from the *name of its folder* inside the data set (`pictures.folder_words`),
never from letters somewhere in its path: /home/tester/goods/test/part.png is not good because "good" occurs
in it. Folders without a split are opened by `own_folders`.

Each layout is a row of `_LAYOUTS`, with its test and the function that opens it.
"""

from __future__ import annotations

import csv
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

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

    A category is a subfolder that has a known layout. If `root` itself is a category, its name is returned.
    The list is empty if there is no category, as in a bare folder of pictures.

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

    `root` may be:

    - a category, or a folder of categories, in the layout of MVTec AD (also MPDD, and VisA converted to it),
      MVTec AD 2, MVTec LOCO, BTAD, VisA or Real-IAD;
    - a folder that holds a folder of good pictures, and perhaps a folder of bad pictures;
    - a bare folder of good pictures: then there are no test pictures;
    - a folder that `review` wrote, or the folder of good pictures in it (`Dataset.reviewed`).

    Defective pictures without a mask are marked by label files below the category's folder
    (`labels.LabelFiles`).

    If the meaning of a word is not known, an error asks which pictures are good, and `good` answers it. Such
    words may be in the names of folders and pictures, in lists, and in labels of whole pictures.

    Args:
        root: Folder of the data set.
        category: Name of the category; None if there is only one.
        seed: Seed of the split if the layout has none of its own.
        test_share: Share of the good pictures held out for testing if the layout has no split of its own.
            They are chosen by a seeded hash of their names (`dataset.held_out`).
        group: Regular expression on names, or a function that returns the part for a name. Pictures for which
            the expression matches the same text show one part, and stay together.
        good: Names of the folders of good pictures, with commas; `.` means pictures directly in `root`. Words
            of names and lists can be given, too. The other pictures are defective. `all`: all are good.

    Raises:
        InputError: The folder is missing, empty or cannot be read; it holds several categories and `category`
            is None; there is no such category; or a name has no known meaning. The message is one line.
    """
    if not 0 <= test_share < 1:
        raise InputError(f"test share {test_share}: must be at least 0 and below 1; 0.2 is usual")
    # before the layout is known, because a bad pattern is an error in every layout
    part_of = group_reader(group) if group is None or isinstance(group, str) else group
    folder = _choose_category(_review_folder(_require_entries(root)), category, good)
    layout = _layout_of(folder)
    settings = SplitSettings(seed, test_share, part_of)
    if good is not None:
        if layout is not None and not layout.takes_good:
            raise InputError(
                f"{folder}: the {layout.name} layout says which pictures are good; leave --good out"
            )
        return open_named(folder, good, settings)
    return open_bare(folder, settings) if layout is None else layout.open(folder, settings)


def open_defects(
    root: str | os.PathLike[str], category: str | None = None, *, good: str | None = None
) -> list[Item]:
    """Return the defective pictures of a data set, as `open_dataset` finds them.

    In a user's own folders, each folder whose name does not say good is a kind of defect. The user is not
    asked which folders are good, because the caller does not use good pictures.

    Raises:
        InputError: As in `open_dataset`.
    """
    folder = _choose_category(_review_folder(_require_entries(root)), category, good)
    if good is None and _has_own_folders(folder):
        truth = GroundTruth(folder)
        tree = FolderTree(folder, truth.pictures)
        if Said.UNCLEAR in tree.meanings:
            raise tree.question()
        items = kinds_in(folder, truth)
        has_kinds = all(item.kind for item in items)
        if items and has_kinds:
            return items
    return [item for item in open_dataset(root, category, good=good).test if item.anomalous]


def select_categories(
    root: str | os.PathLike[str], text: str, option: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return all requested categories in the order of MVTec AD's list, and those of them that are missing.

    Args:
        root: Folder of the categories.
        text: `all`, or names with commas; `textures` and `objects` mean those of MVTec AD.
        option: Name of the command's option, for the error.

    Raises:
        InputError: There are no categories, or none of the requested ones.
    """
    words = split_names(text, option, "name some, or leave it out for all")
    categories = find_categories(root)
    if not categories:
        raise InputError(
            f"{root}: no category to work with: give a folder of categories with train/good and test/KIND, "
            "or one such category"
        )
    requested: set[str] = set()
    for word in words:
        if word == ALL_CATEGORIES:
            requested |= {*categories}
        else:
            # the categories of a group, or the category of this name
            requested |= {*CATEGORY_GROUPS.get(word, (word,))}
    names_in_order = dict.fromkeys([*MVTEC, *categories])
    position_of = {name: position for position, name in enumerate(names_in_order)}
    last = len(position_of)  # unknown names come last
    ordered = tuple(sorted(requested, key=lambda name: position_of.get(name, last)))
    missing = tuple(name for name in ordered if name not in categories)
    if len(missing) == len(ordered):
        # categories with names like the first word are suggested
        raise _unknown_category(root, words[0], f"none of {option} {text} is there", categories)
    return ordered, missing


def present_categories(root: str | os.PathLike[str], text: str, option: str) -> tuple[str, ...]:
    """Return the requested categories that are in `root`, in the order of MVTec AD's list.

    The arguments are those of `select_categories`.

    Raises:
        InputError: As in `select_categories`; or a missing category is in `text` by its own name.
    """
    requested, missing = select_categories(root, text, option)
    for word in split_names(text, option, "name some"):
        if word in missing:
            raise _unknown_category(root, word, f"no category {word}", find_categories(root))
    return tuple(category for category in requested if category not in missing)


def names_several(root: str | os.PathLike[str], text: str) -> bool:
    """Whether a value of `--category` means several categories, as `all` or `textures` do."""
    if "," not in text and text != ALL_CATEGORIES and text not in CATEGORY_GROUPS:
        return False
    return text not in find_categories(root)


def _unknown_category(
    root: str | os.PathLike[str], word: str, reason: str, categories: list[str]
) -> InputError:
    """Return the error for a missing category `word`, with the categories that it may mean."""
    return InputError(f"{root}: {reason}; {suggest_name(word, categories)}")


# ---------------------------------------------------------------------------- which folder, which layout


def _layout_of(folder: Path) -> _Layout | None:
    """Return the layout of a category; None for a folder that is not a category."""

    @cache
    def has_train() -> bool:
        return _train_good(folder) is not None

    for layout in _LAYOUTS:
        if layout.needs_train and not has_train():
            continue
        if layout.fits(folder):
            return layout
    return None


def _has_own_folders(folder: Path) -> bool:
    """Whether a folder has no published layout, and `review` did not write it."""
    layout = _layout_of(folder)
    return layout is None or layout.name == "folder"


def _train_good(folder: Path) -> Path | None:
    """Return the folder of good pictures in a category's folder train; None where there is none."""
    train = _split_folder(folder, "train")
    return next(iter(good_folders(train)), None) if train else None


def _is_mvtec2(folder: Path) -> bool:
    """Whether a folder with `_train_good` is a category of MVTec AD 2."""
    return subfolder(folder, "test_public") is not None


def _is_loco(folder: Path) -> bool:
    """Whether a folder with `_train_good` is a category of MVTec LOCO."""
    return subfolder(folder, "validation") is not None


def _is_btad(folder: Path) -> bool:
    """Whether a folder with `_train_good` is a category of BTAD."""
    good = _train_good(folder)
    return good is not None and good.name.casefold() == "ok"


def _is_mvtec(_folder: Path) -> bool:
    """Whether a folder with `_train_good` has the layout of MVTec AD: always, if no row above it fits."""
    return True


def _has_review(folder: Path) -> bool:
    """Whether `review` wrote a folder."""
    return (folder / REVIEW_FILE).is_file()


def _has_good_folder(folder: Path) -> bool:
    """Whether the names of a folder's subfolders say which is good."""
    if subfolder(folder, *GOOD) is not None:
        return True
    # names such as screw_ok say good or bad only beside others such as screw_nok
    meaning_of = read_side_by_side([name for name in subfolders(folder) if not is_mask_folder(name)])
    return {Said.GOOD, Said.BAD} <= {*meaning_of.values()}


def _split_folder(folder: Path, split: str) -> Path | None:
    """Return the subfolder named `split`, else the first whose name means this split; None without any."""
    same_name = subfolder(folder, split)
    if same_name is not None:
        return same_name
    return next((path for name, path in subfolders(folder).items() if split_said(name) == split), None)


def _categories(root: Path) -> dict[str, Path]:
    """Return the folders of the categories in `root` by name.

    Folders that cannot be read, such as lost+found, are left out.
    """
    categories = {}
    for name, path in subfolders(root).items():
        try:
            if _layout_of(path):
                categories[name] = path
        except InputError:
            continue
    return categories


def _choose_category(root: Path, category: str | None, good: str | None) -> Path:
    """Return the folder of the named category, or of the only one.

    The folder is `root` itself if `root` is a category or holds no category, or if `good` says which of its
    pictures are good.

    Args:
        root: Folder of the data set.
        category: Name of the category; None: none is named.
        good: Value of `--good`; None: it is not given.

    Raises:
        InputError: There is no such category; or there are several, and none is named; or there is one next
            to folders of other pictures, and neither `category` nor `good` is given.
    """
    if _layout_of(root) is not None:
        if category is None or category == category_of(root):
            return root
        raise InputError(f"{root}: is itself one category, so it has no {category!r}; leave --category out")
    categories = _categories(root)
    if category is not None:
        return _named_category(root, category, categories)
    if len(categories) > 1:
        have_good_folders = all(map(_has_own_folders, categories.values()))
        if good is not None and have_good_folders:
            return root
        raise _several_categories(root, categories, have_good_folders)
    if not categories:
        return root
    ((name, folder),) = categories.items()
    other_folders = _pictures_beside(root, name)
    if not other_folders:
        return folder
    if good is not None:
        return root
    raise InputError(
        f"{root}: {name} is a data set by its folders, beside pictures in {join_names(other_folders)}: "
        f"choose it alone with --category {name}, or name the folders of good pictures with --good"
    )


def _pictures_beside(root: Path, category: str) -> list[str]:
    """Return the names of folders in `root` that hold pictures, without the category's own folder."""
    folders = subfolders(root).items()
    return [name for name, path in folders if name != category and _has_pictures(path)]


def _named_category(root: Path, category: str, categories: Mapping[str, Path]) -> Path:
    """Return the folder of the category named `category`.

    Raises:
        InputError: There is no such category, or its folder cannot be read.
    """
    if category in categories:
        return categories[category]
    if category in subfolders(root):
        _layout_of(root / category)  # raises InputError if the folder cannot be read
    if not categories:
        raise InputError(f"{root}: no category {category!r} here, nor any other; leave --category out")
    raise InputError(f"{root}: no category {category!r}; {suggest_name(category, categories)}")


def _several_categories(root: Path, categories: Mapping[str, Path], have_good_folders: bool) -> InputError:
    """Return the error that asks to choose a category.

    Args:
        root: Folder of the categories.
        categories: Folders of the categories by name.
        have_good_folders: Whether each category has folders of good and perhaps of bad pictures, so that all
            of them may show the same product.
    """
    message = f"several categories in {root}: {', '.join(categories)}; choose one with --category"
    if have_good_folders:
        folders = [path.name for folder in categories.values() for path in good_folders(folder)]
        answer = f"--good {shlex.quote(','.join(dict.fromkeys(folders)))}"
        message += f" or, where all show one product, name the folders of good pictures: {answer}"
    return InputError(message)


def _has_pictures(folder: Path) -> bool:
    """Whether a folder holds pictures other than masks; False if it cannot be read, such as lost+found."""
    try:
        return not is_mask_folder(folder.name) and any(map(is_picture, walk_files(folder)))
    except InputError:
        return False


def _require_entries(root: str | os.PathLike[str]) -> Path:
    """Return `root` as a path.

    Raises:
        InputError: The folder is empty, is missing or cannot be read.
    """
    folder = Path(root)
    if not list_entries(folder):
        raise InputError(f"{folder}: the folder is empty; give a folder with pictures")
    return folder


# ---------------------------------------------------------------------------------------- the layouts


def _open_split(root: Path, _settings: SplitSettings, layout: str) -> Dataset:
    """Open MVTec AD, BTAD, MVTec LOCO and data sets of their shape: ROOT/{train,validation,test}/KIND.

    Defective pictures of all splits are for testing. For MVTec AD 2, the public test set is opened, because
    the private ones have no ground truth.

    Args:
        root: Folder of the category.
        layout: Name of the layout.
    """
    train = _split_folder(root, "train")
    test = subfolder(root, "test_public") if layout == "mvtec2" else _split_folder(root, "test")
    assert train is not None  # `_Layout.needs_train`
    validation = _split_folder(root, "validation")
    truth = GroundTruth(root)
    labels = read_class_labels(root, truth.pictures, truth.labels)
    split_folders = [folder for folder in (train, validation, test) if folder is not None]
    trees = {folder: FolderTree(folder, truth.pictures_in(folder)) for folder in split_folders}
    # Exports for classification have kinds of unknown meaning in train and in the other splits. These are
    # accepted; if only train has such a kind, it is not known which kinds are good.
    other_kinds = {name for folder in split_folders if folder != train for name in subfolders(folder)}
    has_unknown = trees[train].has_unknown(other_kinds)
    if has_unknown or any(Said.UNCLEAR in tree.meanings for tree in trees.values()):
        raise split_question(root, truth.pictures)
    train_items = _good_items(trees[train], labels)
    if not train_items:
        raise InputError(
            f"{good_folders(train)[0]}: no pictures to train on; known formats: {known_formats()}"
        )
    test_items: list[Item] = []
    for folder, tree in trees.items():
        test_items += _test_items(tree, truth, is_test=folder == test)
    validation_items = _good_items(trees[validation], labels) if validation else ()
    return Dataset(root, category_of(root), layout, train_items, tuple(test_items), validation_items)


def _test_items(tree: FolderTree, truth: GroundTruth, is_test: bool) -> Iterator[Item]:
    """Yield the defective pictures of a split; with `is_test`, its good pictures, too."""
    good = {*tree.pictures(Said.GOOD)}
    for kind, folder in subfolders(tree.root).items():
        for path in truth.pictures_in(folder):
            if path not in good:
                yield defect_item(path, kind, truth)
            elif is_test:
                yield Item(path, kind, anomalous=False)


def _good_items(tree: FolderTree, labels: ClassLabels) -> tuple[Item, ...]:
    """Return the good pictures of a split.

    Raises:
        InputError: As `good_pictures`.
    """
    remedy = "move it to test, or rename it"
    paths = good_pictures(tree.root, tree.pictures(Said.GOOD), labels, remedy)
    items = []
    for path in paths:
        kind = path.relative_to(tree.root).parts[0]
        items.append(Item(path, kind, anomalous=False))
    return tuple(items)


def is_review(root: str | os.PathLike[str]) -> bool:
    """Whether a folder, or the folder that holds it, is one that `review` wrote."""
    folder = Path(os.path.abspath(root))
    return _has_review(folder) or _has_review(folder.parent)


def confirmed_good(root: Path) -> set[Path]:
    """Return the good pictures of a review whose last two decisions are both "good"."""
    decisions_of: dict[str, list[str]] = {}
    with open(root / REVIEW_FILE, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        for row in csv.DictReader(file):
            decisions_of.setdefault(row.get("copy") or "", []).append(row.get("decision") or "")
    confirmed = set()
    for name, decisions in decisions_of.items():
        if decisions[-2:] == ["good", "good"]:
            confirmed.add(root / "good" / name)
    return confirmed


def _review_folder(folder: Path) -> Path:
    """Return the folder of the review if `folder` is its folder of good pictures; else `folder`.

    Raises:
        InputError: `folder` holds the review's defects, which would be taken for good pictures.
    """
    parent = Path(os.path.abspath(folder)).parent
    is_in_review = not _has_review(folder) and _has_review(parent)
    if not is_in_review:
        return folder
    name = category_of(folder).casefold()
    if name == DEFECT_FOLDER:
        raise InputError(f"{folder}: a review called these pictures defects; give {folder.parent}")
    return parent if name in GOOD else folder


def _open_review(root: Path, _settings: SplitSettings) -> Dataset:
    """Open a review: pictures that a model called anomalous, and that a person then called good or defective.

    The good pictures are in both splits: an evaluation leaves out those that the model learnt from.
    """
    good = subfolder(root, *GOOD)
    bad = subfolder(root, DEFECT_FOLDER)
    truth = GroundTruth(root)
    items = [Item(path, "good", anomalous=False) for path in truth.pictures_in(good)]
    defects = defects_in(bad, truth) if bad else []
    if not items and not defects:
        raise InputError(f"{root}: nothing is decided yet; review first")
    return Dataset(root, category_of(root), "review", tuple(items), (*items, *defects))


class _Layout(NamedTuple):
    """Layout of a category.

    Attributes:
        name: Name of the layout, as in `Dataset.layout`.
        fits: Returns whether a folder has the layout, by the names of files and folders.
        open: Opens such a folder.
        needs_train: Whether the layout has good pictures in a folder train; if so, `fits` is asked only where
            there are some.
        takes_good: Whether `--good` may say which pictures are good.
    """

    name: str
    fits: Callable[[Path], bool]
    open: Callable[[Path, SplitSettings], Dataset]
    needs_train: bool = False
    takes_good: bool = False


def _split_layout(name: str, fits: Callable[[Path], bool]) -> _Layout:
    """Return a layout with the folders of MVTec AD (`_open_split`), which `fits` tells from the others."""
    return _Layout(name, fits, partial(_open_split, layout=name), needs_train=True, takes_good=True)


# The first that fits is taken. A folder that has none of them is a bare folder of pictures
_LAYOUTS = (
    _Layout("visa", is_visa, open_visa),
    _Layout("realiad", is_realiad, open_realiad),
    _Layout("review", _has_review, _open_review),
    _split_layout("mvtec2", _is_mvtec2),
    _split_layout("loco", _is_loco),
    _split_layout("btad", _is_btad),
    _split_layout("mvtec", _is_mvtec),
    _Layout("folder", _has_good_folder, open_folder, takes_good=True),
)

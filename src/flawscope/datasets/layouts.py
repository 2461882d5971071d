"""Opens a data set: finds the categories that are meant, the layout of a folder, and the good pictures.

The kind of a picture follows from the *name of its folder* inside the data set (`pictures.folder_words`),
never from letters somewhere in its path: /home/tester/goods/test/part.png is not good because "good" occurs
in it.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from flawscope.datasets.dataset import Dataset, Item, SplitSettings, category_of, split_dataset
from flawscope.datasets.masks import GroundTruth
from flawscope.datasets.published import is_realiad, is_visa, open_realiad, open_visa
from flawscope.errors import InputError, check_arguments, join_names, suggest_name
from flawscope.pictures.folder_words import (
    GOOD,
    one_may_negate,
    other_words,
    says_good,
    says_only_bad,
    sorts_good,
)
from flawscope.pictures.listing import (
    known_formats,
    list_entries,
    natural_key,
    pictures_in,
    subfolder,
    subfolders,
)
from flawscope.pictures.mask_files import MASK_FOLDERS, fold, is_mask_folder, is_picture_folder
from flawscope.pictures.units import compile_group

# MVTec AD's categories in the usual order
TEXTURES = ("carpet", "grid", "leather", "tile", "wood")
OBJECTS = (
    *("bottle", "cable", "capsule", "hazelnut", "metal_nut"),
    *("pill", "screw", "toothbrush", "transistor", "zipper"),
)
MVTEC = TEXTURES + OBJECTS
CATEGORY_GROUPS = {"textures": TEXTURES, "objects": OBJECTS}
ALL_CATEGORIES = "all"
ALL_GOOD = "all"  # names of folders of good pictures: every one
REVIEW_FILE = "review.csv"  # the file of decisions, beside the folders good and defect
DEFECT_FOLDER = "defect"
NAME_GOOD = "name them with --good NAME[,NAME], the others are defects; --good all: all are good"


def find_categories(root: str | os.PathLike[str]) -> list[str]:
    """Names of the categories in `root`, in natural order: of its subfolders that are data sets of a known
    layout, or its own name where it is one category itself. Empty for any other folder, such as a bare one of
    pictures. InputError if the folder is missing or cannot be read."""
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
    group: str | None = None,
    good: str | None = None,
) -> Dataset:
    """Opens the data set in `root`, or its one `category`.

    `root` holds categories or is one, in the layout of MVTec AD (also MPDD, and VisA converted to it), MVTec
    AD 2, MVTec LOCO, BTAD, VisA or Real-IAD; or it has a folder of good and perhaps one of bad pictures; or
    it is a bare folder of good pictures, and then no pictures are left to test; or it is a folder that
    `review` wrote, or the good pictures therein (`Dataset.reviewed`). Defective pictures without a mask get
    theirs from label files below the category's folder (`labels.LabelFiles`).

    Where the layout fixes no split, `test_share` of the good pictures are held out for testing by a seeded
    hash of their names (`dataset.held_out`). `group` is a regular expression on names: pictures for which it
    matches the same text show one part and stay together.

    Folders that nobody knows by their names are a question. `good` answers it: the names of the folders of
    good pictures, with commas, `.` for pictures directly in the folder; the others are defective. `all`: all
    pictures are good.

    InputError, in one line, if the folder is missing, empty or cannot be read, if it holds several
    categories and none is named, if there is no such category, or if it is not known which folders hold good
    pictures.
    """
    if not 0 <= test_share < 1:
        raise InputError(f"test share {test_share}: must be at least 0 and below 1; 0.2 is usual")
    compile_group(group)  # a bad pattern is reported whatever the layout
    folder = _choose_category(_review_folder(_require_entries(root)), category, good)
    found = _layout_of(folder) or "bare"
    settings = SplitSettings(seed, test_share, group)
    if good is not None:
        if found not in ("folder", "bare"):
            raise InputError(f"{folder}: the {found} layout says which pictures are good; leave --good out")
        return _open_named(folder, good, settings)
    if found == "visa":
        return open_visa(folder, settings)
    if found == "realiad":
        return open_realiad(folder, settings)
    if found in _MVTEC_LIKE:
        return _open_split(folder, found)
    if found == "review":
        return _open_review(folder)
    if found == "folder":
        return _open_folder(folder, settings)
    return _open_bare(folder)


def select_categories(
    root: str | os.PathLike[str], text: str, option: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the requested categories in the order of the tables, and those of them that are not in `root`.
    text: `all`, or names with commas, among which `textures` and `objects` mean MVTec AD's. option: its
    name, for the error. InputError: there are no categories, or none of the requested ones."""
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
    order = {name: k for k, name in enumerate(dict.fromkeys([*MVTEC, *found]))}
    rows = tuple(sorted(asked, key=lambda name: order.get(name, len(order))))
    missing = tuple(row for row in rows if row not in found)
    if len(missing) == len(rows):
        raise _unknown_category(root, words[0], f"none of {option} {text} is there", found)
    return rows, missing


def present_categories(root: str | os.PathLike[str], text: str, option: str) -> tuple[str, ...]:
    """Categories that `text` names; every one must be there. InputError: as `select_categories`, or one
    that is named is not there."""
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


def split_names(text: str, option: str, remedy: str) -> tuple[str, ...]:
    """Words between commas, each once. InputError, with the remedy, where there is none."""
    words = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not words:
        raise InputError(f"{option} is empty: {remedy}")
    return words


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
    train = subfolder(folder, "train")
    good = _good_folders(train) if train else ()
    if good:
        if subfolder(folder, "test_public") is not None:
            return "mvtec2"
        if subfolder(folder, "validation") is not None:
            return "loco"
        return "btad" if good[0].name.casefold() == "ok" else "mvtec"
    if subfolder(folder, *GOOD) is not None:
        return "folder"
    about: dict[bool | None, set[frozenset[str]]] = {True: set(), False: set(), None: set()}
    for name in subfolders(folder):
        if not is_mask_folder(name):
            about[says_good(name)].add(other_words(name))
    return "folder" if about[True] & about[False] else None  # such as screw_ok beside screw_nok


def _good_folders(folder: Path) -> list[Path]:
    """Subfolders of good pictures; first of all the one that published data sets have."""
    first = subfolder(folder, *GOOD)
    named = (
        path for name, path in subfolders(folder).items() if says_good(name) and not is_mask_folder(name)
    )
    return [*dict.fromkeys([*([] if first is None else [first]), *named])]


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
    single = _layout_of(root)
    if single is not None:
        if category is None or category == category_of(root):
            return root
        raise InputError(f"{root}: is itself one category, so it has no {category!r}; leave --category out")
    categories = _categories(root)
    if category is not None:
        if category in categories:
            return categories[category]
        if category in subfolders(root):
            _layout_of(root / category)  # raises if the folder cannot be read
        if not categories:
            raise InputError(f"{root}: no category {category!r} here, nor any other; leave --category out")
        raise InputError(f"{root}: no category {category!r}; {suggest_name(category, categories)}")
    if len(categories) > 1:
        names, are_sorted = ", ".join(categories), {*map(_layout_of, categories.values())} == {"folder"}
        if good is not None and are_sorted:
            return root
        one = " or, where all show one product, name the folders of good pictures with --good"
        raise InputError(
            f"several categories in {root}: {names}; choose one with --category{one if are_sorted else ''}"
        )
    return next(iter(categories.values()), root)


def _require_entries(root: str | os.PathLike[str]) -> Path:
    folder = Path(root)
    if not list_entries(folder):
        raise InputError(f"{folder}: the folder is empty; give a folder with pictures")
    return folder


# ---------------------------------------------------------------------------------------- the layouts


def _open_split(root: Path, layout: str) -> Dataset:
    """Opens MVTec AD, BTAD, MVTec LOCO and data sets of their shape: ROOT/{train,validation,test}/KIND. Of
    MVTec AD 2 the public test set; the private ones have no ground truth."""
    train, test = subfolder(root, "train"), subfolder(root, "test_public" if layout == "mvtec2" else "test")
    assert train is not None  # _layout_of has seen it
    truth = GroundTruth(root)
    good = _good_folders(train)
    extra = [path for path in subfolders(train).values() if path not in good and not truth.is_masks(path)]
    if extra:
        raise InputError(f"{extra[0]}: only good pictures can be trained on; move it to {root / 'test'}")
    learnt = _good_items(train, truth)
    if not learnt:
        raise InputError(f"{good[0]}: no pictures to train on; known formats: {known_formats()}")
    items: list[Item] = []
    for kind, folder in subfolders(test).items() if test else ():
        anomalous = not says_good(kind)
        for path in truth.pictures_in(folder):
            marks = (truth.find(path), truth.left_out(path)) if anomalous else ()
            items.append(Item(path, kind, anomalous, *marks))
    validation = subfolder(root, "validation")
    held = _good_items(validation, truth) if validation else ()
    return Dataset(root, category_of(root), layout, learnt, tuple(items), held)


def _good_items(split: Path, truth: GroundTruth) -> tuple[Item, ...]:
    return tuple(
        Item(path, folder.name, False)
        for folder in _good_folders(split)
        for path in _good_pictures(folder, truth.pictures_in(folder))
    )


def _good_pictures(folder: Path, paths: Sequence[Path]) -> Sequence[Path]:
    """The pictures of a folder of good ones. InputError where a folder in it says that its are defective."""
    for path in paths:
        below = path.relative_to(folder).parts[:-1]
        if any(says_good(name) is False and not is_mask_folder(name) for name in below):
            raise InputError(
                f"{path.parent}: not good by its name, within {folder.name}; move it, or name {folder.name} "
                "with --good where its pictures are good"
            )
    return paths


def _open_folder(root: Path, settings: SplitSettings) -> Dataset:
    """Opens good/ and bad/ (or ok and nok, ...); subfolders of bad/ are kinds; masks beside or inside. Other
    folders are not looked at beside one that says "bad" and no more, else they are a question."""
    truth, good = GroundTruth(root), _good_folders(root)
    full = {path: found for path in subfolders(root).values() if (found := truth.pictures_in(path))}
    bad = [path for path in full if says_good(path.name) is False]
    is_unknown = full.keys() - {*good, *bad} and not any(says_only_bad(path.name) for path in bad)
    if is_unknown or one_may_negate([path.name for path in good if path in full]):
        raise _question(root, Counter({(path.name,): len(found) for path, found in full.items()}))
    test = [item for folder in bad for item in defects_in(folder, truth)]
    paths = [path for folder in good for path in _good_pictures(folder, truth.pictures_in(folder))]
    # without defects there is no test: every good picture is for training
    share = settings if test else settings._replace(share=0)
    return split_dataset(root, "folder", good[0] if len(good) == 1 else root, paths, test, share)


def _open_named(root: Path, names: str, settings: SplitSettings) -> Dataset:
    """Opens a folder whose folders of good pictures somebody named. InputError where one of them has none."""
    asked = split_names(names, "--good", "name folders of good pictures, or all")
    truth = GroundTruth(root)
    folders = {path: path.relative_to(root).parent for path in truth.pictures}
    if asked == (ALL_GOOD,):
        return _all_good(root, truth.pictures)
    wanted, there = {fold(name) for name in asked}, set[str]()
    good, test = list[Path](), list[Item]()
    for path, folder in folders.items():
        own = {"."} if folder == Path() else {*folder.parts, folder.as_posix()}
        there |= own
        if wanted & {fold(name) for name in own}:
            good.append(path)
        else:
            kind = _kind_of(folder.parts) or category_of(root)
            test.append(Item(path, kind, True, truth.find(path), truth.left_out(path)))
    known = {*map(fold, there)}
    if missing := [name for name in asked if fold(name) not in known]:
        suggested = suggest_name(missing[0], sorted(there, key=natural_key))
        raise InputError(f"{root}: --good {missing[0]}: no pictures there; {suggested}")
    own_folder = root / asked[0]
    alone = own_folder if len(asked) == 1 and own_folder.is_dir() and asked != (".",) else root
    share = settings if test else settings._replace(share=0)
    return split_dataset(root, "folder", alone, good, test, share)


def _kind_of(folders: Sequence[str]) -> str:
    """Kind of a defect by its folders: a folder that says which, else one that says that it is one."""
    telling = [name for name in folders if not is_picture_folder(name) and not sorts_good([name])]
    return next((name for name in telling if not says_only_bad(name)), telling[-1] if telling else "")


def defects_in(folder: Path, truth: GroundTruth) -> list[Item]:
    """Defective pictures in a folder and its subfolders, which are their kinds. Folders of good pictures are
    left out."""
    items = []
    for path in truth.pictures_in(folder):
        parts = path.relative_to(folder).parts[:-1]
        if not any(map(says_good, parts)):
            kind = next((part for part in parts if not is_picture_folder(part)), folder.name)
            items.append(Item(path, kind, True, truth.find(path), truth.left_out(path)))
    return items


def is_review(root: str | os.PathLike[str]) -> bool:
    """Whether a folder holds pictures that a review chose: they were flagged before."""
    folder = Path(os.path.abspath(root))
    return any((one / REVIEW_FILE).is_file() for one in (folder, folder.parent))


def confirmed_good(root: Path) -> set[Path]:
    """Good pictures of a review that somebody reviewed again: the last two decisions on each are "good"."""
    said: dict[str, list[str]] = {}
    with open(root / REVIEW_FILE, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        for row in csv.DictReader(file):
            said.setdefault(row.get("copy") or "", []).append(row.get("decision") or "")
    return {root / "good" / copy for copy, words in said.items() if words[-2:] == ["good", "good"]}


def _review_folder(folder: Path) -> Path:
    """Folder of the whole review, where the given one is its good pictures: the decisions lie there.
    InputError for its defects, which would be taken for good pictures."""
    whole = Path(os.path.abspath(folder)).parent
    if (folder / REVIEW_FILE).is_file() or not (whole / REVIEW_FILE).is_file():
        return folder
    name = category_of(folder).casefold()
    if name == DEFECT_FOLDER:
        raise InputError(f"{folder}: a review called these pictures defects; give {folder.parent}")
    return whole if name in GOOD else folder


def _open_review(root: Path) -> Dataset:
    """Opens a review, pictures that were flagged and decided on since: good pictures to learn from and to
    test on, and defects. All good ones can be learnt from: evaluation leaves out those that a model knows."""
    good, bad = subfolder(root, *GOOD), subfolder(root, DEFECT_FOLDER)
    truth = GroundTruth(root)
    items = [Item(path, "good", False) for path in truth.pictures_in(good)]
    defects = defects_in(bad, truth) if bad else []
    if not items and not defects:
        raise InputError(f"{root}: nothing is decided yet; review first")
    return Dataset(root, category_of(root), "review", tuple(items), (*items, *defects))


def _open_bare(root: Path) -> Dataset:
    """Opens good pictures alone. A folder with signs of a split or of defects is refused, not trained on."""
    paths = pictures_in(root)
    if not paths:
        raise InputError(f"{root}: no pictures and no known layout; known formats: {known_formats()}")
    if category_of(root).casefold() in MASK_FOLDERS:
        raise InputError(f"{root}: a folder of masks, by its name; give the folder that holds it")
    hints = _split_hint(path.relative_to(root).parent.parts for path in paths)
    if hints is not None:
        reason = "the name hints at a split, but the folders around it follow no known layout"
        raise InputError(f"{root / hints}: {reason}; make it train/good and test/KIND, or good beside bad")
    refuse_unknown(root, paths)
    return _all_good(root, paths)


def _all_good(root: Path, paths: Iterable[Path]) -> Dataset:
    items = tuple(Item(path, "good", False) for path in paths)
    return Dataset(root, category_of(root), "folder", items, (), drawn_split=True)


def refuse_unknown(root: Path, paths: Iterable[Path], remedy: str = NAME_GOOD) -> None:
    """Raises InputError, with a question, where pictures below `root` are not known to be good by the names
    of their folders: one says that they are not, or several lie side by side that say nothing, and are not
    such as people sort good pictures by (`folder_words.sorts_good`), or one may say "not good" in an unknown
    language (`folder_words.one_may_negate`). remedy: ends the error."""
    counts = Counter(path.relative_to(root).parent.parts for path in paths)
    if says_only_bad(category_of(root)):
        raise _question(root.parent, Counter({(category_of(root),): counts.total()}), remedy)
    inside: dict[tuple[str, ...], set[str]] = {}  # folders by the one that holds them
    for parts in counts:
        for depth, name in enumerate(parts):
            inside.setdefault(parts[:depth], set()).add(name)
    for above, names in sorted(inside.items(), key=lambda entry: (len(entry[0]), entry[0])):
        said, unknown = {says_good(name) for name in names}, [n for n in names if says_good(n) is None]
        beside = len(names) > 1 or counts[above] > 0
        is_mixed = True in said and (unknown or counts[above] > 0)
        if (
            one_may_negate(names)
            or False in said
            or is_mixed
            or (beside and unknown and not sorts_good(unknown))
        ):
            here = Counter[tuple[str, ...]]()
            for parts, number in counts.items():
                if parts[: len(above)] == above:
                    here[parts[: len(above) + 1]] += number
            raise _question(root, here, remedy)


def _question(root: Path, counts: Mapping[tuple[str, ...], int], remedy: str = NAME_GOOD) -> InputError:
    """The question which folders hold good pictures. counts: of the pictures, by the folder below `root`."""
    words = {True: ", good by its name", False: ", not good by its name", None: ""}
    listed = []
    for parts in sorted(counts, key=lambda parts: natural_key("/".join(parts))):
        said = words[says_good(parts[-1])] if parts else ""
        listed.append(f"{'/'.join(parts) or '.'} ({counts[parts]}{said})")
    return InputError(f"{root}: which folders hold good pictures? {join_names(listed, 12)}: {remedy}")


def _split_hint(folders: Iterable[tuple[str, ...]]) -> Path | None:
    telling = ("train", "test")
    for parts in dict.fromkeys(folders):
        for depth, name in enumerate(parts):
            if name.casefold() in telling:
                return Path(*parts[: depth + 1])
    return None

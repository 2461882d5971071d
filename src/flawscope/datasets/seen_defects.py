"""Chooses seen defects: defective pictures that a method may learn from beside the good ones."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from flawscope.calibration.streams import Stream
from flawscope.datasets.class_labels import read_class_labels
from flawscope.datasets.dataset import Dataset, Item, count_reasons
from flawscope.datasets.good_and_bad_folders import FolderTree
from flawscope.datasets.labels import LabelFiles
from flawscope.datasets.layouts import find_categories, open_dataset
from flawscope.datasets.masks import GroundTruth
from flawscope.datasets.own_folders import defects_in
from flawscope.errors import InputError, pluralize
from flawscope.pictures.decoding import is_picture
from flawscope.pictures.folder_words import Said
from flawscope.pictures.listing import list_entries, natural_key, subfolders, walk_files
from flawscope.pictures.mask_files import fold, masked_folder
from flawscope.pictures.name_words import PictureClass
from flawscope.pictures.other_files import TABLE_SUFFIXES
from flawscope.pictures.text_files import read_text, unquoted
from flawscope.progress import Say, discard


def choose_seen(
    seen: int | str | os.PathLike[str],
    dataset: Dataset | None = None,
    seed: int = 0,
    say: Say = discard,
    *,
    masked: bool = True,
) -> list[Item]:
    """Return the defective pictures that `--seen` names.

    Args:
        seen: A number, drawn from the test pictures with `seed`; a folder, as `list_seen` reads it; or a text
            file with one picture a line, in the data set's test pictures or in such a folder.
        dataset: Data set of a number or of listed pictures; None where there is none.
        seed: Seed of the draw.
        say: Gets a line on defective pictures without a usable mask.
        masked: Whether masks are used: then only pictures with masks are taken.

    Raises:
        InputError: There are too few to draw from, or a listed picture has no mask although masks are used.
    """
    text = str(seen).strip()
    if text.isdecimal():
        return draw_seen(dataset, int(text), seed, say, masked=masked)
    path = Path(text if isinstance(seen, int) else seen)
    if os.path.isfile(path):  # also of names that no file can have
        return _read_list(path, dataset, masked)
    if not text or not os.path.isdir(path):  # an empty text would be the folder one is in
        raise InputError(f"setting seen: {text:.200} is neither a number, a folder nor a list of pictures")
    return list_seen(path, dataset.category if dataset else None, say, masked=masked)


def _usable(items: Iterable[Item], say: Say, masked: bool) -> list[Item]:
    """Return the defective pictures; where masks are used, those with a mask alone.

    `say` gets a line on the defective pictures without a mask.
    """
    defective = [item for item in items if item.anomalous]
    usable = [item for item in defective if item.masks or not masked]
    if usable and (others := len(defective) - len(usable)):
        of = pluralize(len(defective), "defective picture")
        reasons = count_reasons(item.unmarked for item in defective)
        say(f"note: {others} of {of} cannot be learnt from: {reasons}")
    return usable


def draw_seen(
    dataset: Dataset | None,
    count: int,
    seed: int,
    say: Say = discard,
    *,
    masked: bool = True,
) -> list[Item]:
    """Draw `count` defective test pictures, as evenly over the kinds as their numbers allow.

    Args:
        dataset: Data set to draw from; None has no pictures.
        count: Number of pictures.
        seed: Seed of the draw.
        say: Gets a line on defective pictures without a usable mask.
        masked: Whether masks are used: then only pictures with masks are drawn.

    Raises:
        InputError: There are too few defective test pictures.
    """
    items = _usable(dataset.test, say if count else discard, masked) if dataset else []
    if count > len(items):
        where = dataset.root if dataset else "a list of pictures"
        raise InputError(
            f"cannot draw {pluralize(count, 'seen defect')}: {where} has "
            f"{pluralize(len(items), 'defective test picture')}{' with a mask' * masked}; give a smaller "
            "number, or a folder"
        )
    rng = Stream.SEEN_DEFECTS.rng(seed)
    of_kind = _sorted_by_kind(items)
    kinds = [*of_kind]
    waiting = {}
    for kind, pictures_of_kind in of_kind.items():
        waiting[kind] = [pictures_of_kind[int(k)] for k in rng.permutation(len(pictures_of_kind))]
    order = [kinds[int(k)] for k in rng.permutation(len(kinds))]  # the first kinds give one more
    drawn: list[Item] = []
    while len(drawn) < count:
        drawn += [waiting[kind].pop() for kind in order if waiting[kind]]
    return sorted(drawn[:count], key=lambda item: natural_key(item.path))


def _sorted_by_kind(items: Iterable[Item]) -> dict[str, list[Item]]:
    """Items of each kind, kinds and items in natural order."""
    found: dict[str, list[Item]] = {}
    for item in sorted(items, key=lambda item: natural_key(item.path)):
        found.setdefault(item.kind, []).append(item)
    return {kind: found[kind] for kind in sorted(found, key=natural_key)}


def _read_list(path: Path, dataset: Dataset | None, masked: bool) -> list[Item]:
    """Return the defective pictures that a text file lists.

    Paths start from the working folder, from the file's folder, or from the data set.
    """
    known = {item.path.resolve(): item for item in dataset.test} if dataset else {}
    roots = [Path(), path.parent]
    if dataset:
        roots.append(dataset.root)
    items: dict[Path, Item] = {}
    for line in _read_lines(path):
        found = next((root / line for root in roots if os.path.isfile(root / line)), None)
        if found is None:
            raise InputError(f"{path} names {line:.200}, which is not there: mend the line")
        full = found.resolve()
        item = known.get(full) or _defective_picture(found)
        if item is None or not item.anomalous:
            raise InputError(f"{path} names {line}, which is not among the defective pictures: drop the line")
        if masked:
            _require_mask(path, line, item)
        items[full] = item
    if not items:
        raise InputError(f"{path} names no picture: write one path a line")
    return list(items.values())


def _require_mask(path: Path, line: str, item: Item) -> None:
    """Raise InputError where a picture that a line of a list names has no mask."""
    if item.masks:
        return
    why = f" ({', '.join(item.left_out)})" if item.left_out else ""
    raise InputError(f"{path} names {line}, which has no mask{why}: put one beside it, or drop the line")


def _read_lines(path: Path) -> list[str]:
    """Return the paths in a text file, without quotes and remarks.

    Raises:
        InputError: It cannot be read, or is no text.
    """
    try:
        lines = read_text(path).splitlines()
    except (OSError, ValueError) as error:
        reason = str(error)
        if isinstance(error, OSError):
            reason += "; give a text file of paths"
        elif path.suffix.lower() in TABLE_SUFFIXES or is_picture(path):  # not to be saved as UTF-8
            reason = "it is no text; give a text file of paths, or a folder of pictures"
        raise InputError(f"cannot read the list {path}: {reason}") from None
    unquoted_lines = [unquoted(line.strip()) for line in lines]
    return [line for line in unquoted_lines if line and not line.startswith("#")]


def _defective_picture(path: Path) -> Item | None:
    """A picture among the defective ones of its folder, or None."""
    full = path.resolve()
    return next((item for item in _defective_pictures(path.parent) if item.path.resolve() == full), None)


def list_seen(
    folder: str | os.PathLike[str],
    category: str | None = None,
    say: Say = discard,
    *,
    masked: bool = True,
) -> list[Item]:
    """Return the defective pictures of a data set's test, or of any folder of pictures.

    Masks lie in the folder, or in a folder `masks` or the like beside it or above it (`pictures.mask_files`),
    or in label files below the folder or the data set that holds it.

    Args:
        folder: Folder of the pictures.
        category: Category of the data set; None where there is one.
        say: Gets a line on defective pictures without a usable mask.
        masked: Whether masks are used: then only pictures with masks are returned.

    Raises:
        InputError: There is no picture that can be used.
    """
    root = Path(folder)
    items: Iterable[Item] = ()
    reason = f"{folder}: no defective picture with a mask; put masks of the same names into {root / 'masks'}"
    if categories := find_categories(root):
        try:
            items = open_dataset(root, category).test
        except InputError as error:
            if len(categories) > 1:
                raise
            reason = str(error)  # the folder "test" of a data set looks like half a data set
    if not _usable(items, discard, masked):
        items = _defective_pictures(root)
    usable = _usable(items, say, masked)
    if not usable and not masked:
        raise InputError(f"{folder}: no picture of a defect: put some into it")
    if not usable:
        left_out = count_reasons(item.unmarked for item in items if item.left_out)
        raise InputError(f"{reason} ({left_out})" if left_out else reason)
    return usable


def _defective_pictures(root: Path) -> list[Item]:
    """Return the pictures below a folder that holds defects alone, with their masks and labels.

    Masks and labels lie below the folder, in folders of masks beside it and above, and, where it is part of a
    data set (such as its folder bad/), in label files there. Nothing else beside it is searched.
    """
    full = root.resolve()
    beside = _masks_beside(full)
    truth = GroundTruth(full, beside)
    if find_categories(full.parent) == [full.parent.name]:
        files = [path for folder in (full, *beside) for path in walk_files(folder)]
        files += [full.parent / entry.name for entry in list_entries(full.parent) if entry.is_file()]
        below = [path for path in files if path.is_relative_to(full.parent)]
        truth.labels = LabelFiles(full.parent, truth.pictures, below)
    items = defects_in(full, truth)
    paths = [item.path for item in items]
    tree = FolderTree(full, paths, Said.BAD)
    if Said.UNCLEAR in tree.found:  # such as false alarms
        raise tree.question("leave out what is not defective")
    labels = read_class_labels(full, paths, truth.labels)
    defective = [item for item in items if labels.class_of(item.path) is not PictureClass.GOOD]
    return [replace(item, kind=item.path.parent.name) for item in defective]


def _masks_beside(folder: Path) -> list[Path]:
    """Folders of masks that may belong to a folder's pictures: beside it, and beside its parent."""
    found = []
    for above in (folder.parent, folder.parent.parent):
        for name, path in subfolders(above).items():
            if masked_folder(name) in ("", fold(folder.name)) and not folder.is_relative_to(path):
                found.append(path)
    return found

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
        seen: One of three: a number of pictures, which are chosen at random from the test pictures; a folder,
            as `list_seen` reads it; or a text file with one path a line. Listed pictures are among the test
            pictures, or in folders of defects.
        dataset: Data set that has the test pictures; None if there is none.
        seed: Seed of the random choice.
        say: Function that prints a line on defective pictures without a usable mask.
        masked: Whether masks are used, so that only pictures with masks are taken.

    Raises:
        InputError: There are too few pictures to choose from; or masks are used, and a listed picture has
            none.
    """
    text = str(seen).strip()
    if text.isdecimal():
        return draw_seen(dataset, int(text), seed, say, masked=masked)
    path = Path(text if isinstance(seen, int) else seen)  # a path keeps spaces at its ends
    # `Path.is_file` would raise OSError for a name that no file can have
    if os.path.isfile(path):
        return _read_list(path, dataset, masked)
    if not text or not os.path.isdir(path):  # an empty text would mean the working folder
        raise InputError(f"setting seen: {text:.200} is neither a number, a folder nor a list of pictures")
    return list_seen(path, dataset.category if dataset else None, say, masked=masked)


def _usable(items: Iterable[Item], say: Say, masked: bool) -> list[Item]:
    """Return the defective pictures; with `masked`, only those with a mask.

    `say` is called with a line on the defective pictures without a mask.
    """
    defective = [item for item in items if item.anomalous]
    if not masked:
        return defective
    usable = [item for item in defective if item.masks]
    unusable_count = len(defective) - len(usable)
    if usable and unusable_count:
        pictures = pluralize(len(defective), "defective picture")
        reasons = count_reasons(item.unmarked for item in defective)
        say(f"note: {unusable_count} of {pictures} cannot be learnt from: {reasons}")
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
        dataset: Data set to choose from; None: there are no pictures.
        count: Number of pictures.
        seed: Seed of the random choice.
        say: Function that prints a line on defective pictures without a usable mask.
        masked: Whether masks are used, so that only pictures with masks are chosen.

    Raises:
        InputError: There are too few defective test pictures.
    """
    items: list[Item] = []
    if dataset:
        say_unusable = say if count else discard  # unusable pictures do not matter to a choice of none
        items = _usable(dataset.test, say_unusable, masked)
    if count > len(items):
        source = dataset.root if dataset else "a list of pictures"
        with_mask = " with a mask" if masked else ""
        raise InputError(
            f"cannot draw {pluralize(count, 'seen defect')}: {source} has "
            f"{pluralize(len(items), 'defective test picture')}{with_mask}; "
            "give a smaller number, or a folder"
        )
    rng = Stream.SEEN_DEFECTS.rng(seed)
    items_by_kind = _sort_by_kind(items)
    kinds = [*items_by_kind]
    shuffled_by_kind = {}
    for kind, kind_items in items_by_kind.items():
        shuffled_by_kind[kind] = [kind_items[int(k)] for k in rng.permutation(len(kind_items))]
    kind_order = [kinds[int(k)] for k in rng.permutation(len(kinds))]
    # each round takes one picture of each kind; the last round may take too many, which are cut off
    chosen: list[Item] = []
    while len(chosen) < count:
        chosen += [shuffled_by_kind[kind].pop() for kind in kind_order if shuffled_by_kind[kind]]
    return sorted(chosen[:count], key=lambda item: natural_key(item.path))


def _sort_by_kind(items: Iterable[Item]) -> dict[str, list[Item]]:
    """Return the items of each kind; kinds and items are in natural order."""
    items_by_kind: dict[str, list[Item]] = {}
    for item in sorted(items, key=lambda item: natural_key(item.path)):
        items_by_kind.setdefault(item.kind, []).append(item)
    return {kind: items_by_kind[kind] for kind in sorted(items_by_kind, key=natural_key)}


def _read_list(path: Path, dataset: Dataset | None, masked: bool) -> list[Item]:
    """Return the defective pictures that a text file lists.

    Paths are relative to the working folder, to the file's folder, or to the data set.

    Args:
        path: The file.
        dataset: Data set that may have the pictures; None if there is none.
        masked: Whether each picture must have a mask.

    Raises:
        InputError: The file cannot be read or lists no picture; or a listed picture is missing, is not
            defective, or has no mask although it must.
    """
    test_items = {item.path.resolve(): item for item in dataset.test} if dataset else {}
    roots = [Path(), path.parent]
    if dataset:
        roots.append(dataset.root)
    items: dict[Path, Item] = {}
    for line in _read_lines(path):
        picture = next((root / line for root in roots if os.path.isfile(root / line)), None)
        if picture is None:
            raise InputError(f"{path} names {line:.200}, which is not there: mend the line")
        resolved = picture.resolve()
        item = test_items.get(resolved) or _find_defective_picture(picture)
        if item is None or not item.anomalous:
            raise InputError(f"{path} names {line}, which is not among the defective pictures: drop the line")
        if masked:
            _require_mask(path, line, item)
        items[resolved] = item
    if not items:
        raise InputError(f"{path} names no picture: write one path a line")
    return list(items.values())


def _require_mask(path: Path, line: str, item: Item) -> None:
    """Raise InputError if a listed picture has no mask.

    Args:
        path: The list, for the error.
        line: Line of the list that names the picture, for the error.
        item: The picture.
    """
    if item.masks:
        return
    reason = f" ({', '.join(item.left_out)})" if item.left_out else ""
    raise InputError(f"{path} names {line}, which has no mask{reason}: put one beside it, or drop the line")


def _read_lines(path: Path) -> list[str]:
    """Return the paths in a text file, without quotes around them and without comment lines (#).

    Raises:
        InputError: The file cannot be read, or is not a text.
    """
    try:
        lines = read_text(path).splitlines()
    except (OSError, ValueError) as error:
        reason = str(error)
        if isinstance(error, OSError):
            reason += "; give a text file of paths"
        # the error's own remedy, to save the file as UTF-8, fits neither a table nor a picture
        elif path.suffix.lower() in TABLE_SUFFIXES or is_picture(path):
            reason = "it is no text; give a text file of paths, or a folder of pictures"
        raise InputError(f"cannot read the list {path}: {reason}") from None
    unquoted_lines = [unquoted(line.strip()) for line in lines]
    return [line for line in unquoted_lines if line and not line.startswith("#")]


def _find_defective_picture(path: Path) -> Item | None:
    """Return the picture at `path` if it counts as defective in its folder, else None."""
    resolved = path.resolve()
    items = _defective_pictures(path.parent)
    return next((item for item in items if item.path.resolve() == resolved), None)


def list_seen(
    folder: str | os.PathLike[str],
    category: str | None = None,
    say: Say = discard,
    *,
    masked: bool = True,
) -> list[Item]:
    """Return the defective test pictures of a data set, or the pictures of a folder of defects.

    Masks lie in the folder itself, or in a folder like `masks` beside it or one level above
    (`pictures.mask_files`). Marks may also be in label files below the folder, or in those of its data set.

    Args:
        folder: Folder of the pictures.
        category: Category of the data set; None if it has only one.
        say: Function that prints a line on defective pictures without a usable mask.
        masked: Whether masks are used, so that only pictures with masks are returned.

    Raises:
        InputError: There is no picture that can be used.
    """
    root = Path(folder)
    items: Iterable[Item] = ()
    # the message of the error if no picture can be used
    message = f"{folder}: no defective picture with a mask; put masks of the same names into {root / 'masks'}"
    if categories := find_categories(root):
        try:
            items = open_dataset(root, category).test
        except InputError as error:
            if len(categories) > 1:
                raise
            # The folder may still hold defects: a data set's folder "test" looks like a data set, too.
            message = str(error)
    if not _usable(items, discard, masked):
        items = _defective_pictures(root)
    usable = _usable(items, say, masked)
    if not usable and not masked:
        raise InputError(f"{folder}: no picture of a defect: put some into it")
    if not usable:
        left_out = count_reasons(item.unmarked for item in items if item.left_out)
        raise InputError(f"{message} ({left_out})" if left_out else message)
    return usable


def _defective_pictures(root: Path) -> list[Item]:
    """Return the pictures below a folder that holds only defects, with their masks and labels.

    Masks and labels lie below the folder, and in folders of masks beside the folder and beside its parent. If
    the folder is part of a data set, as bad/ is, label files directly in the data set are used, too.

    Raises:
        InputError: The name of a folder below does not say whether its pictures are defective.
    """
    folder = root.resolve()
    parent = folder.parent
    mask_folders = _masks_beside(folder)
    truth = GroundTruth(folder, mask_folders)
    is_in_dataset = find_categories(parent) == [parent.name]  # the parent itself is a category
    if is_in_dataset:
        files = [path for searched in (folder, *mask_folders) for path in walk_files(searched)]
        files += [parent / entry.name for entry in list_entries(parent) if entry.is_file()]
        files_below = [path for path in files if path.is_relative_to(parent)]
        truth.labels = LabelFiles(parent, truth.pictures, files_below)
    items = defects_in(folder, truth)
    paths = [item.path for item in items]
    tree = FolderTree(folder, paths, Said.BAD)
    if Said.UNCLEAR in tree.meanings:  # such as a folder named "false alarms"
        raise tree.question("leave out what is not defective")
    labels = read_class_labels(folder, paths, truth.labels)
    defective = [item for item in items if labels.class_of(item.path) is not PictureClass.GOOD]
    return [replace(item, kind=item.path.parent.name) for item in defective]


def _masks_beside(folder: Path) -> list[Path]:
    """Return folders of masks that may belong to a folder's pictures: beside it, and beside its parent."""
    mask_folders = []
    for parent in (folder.parent, folder.parent.parent):
        for name, path in subfolders(parent).items():
            # "masks", or "bad_masks" for the folder bad
            fits_name = masked_folder(name) in ("", fold(folder.name))
            if fits_name and not folder.is_relative_to(path):
                mask_folders.append(path)
    return mask_folders

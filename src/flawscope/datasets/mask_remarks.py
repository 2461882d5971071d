"""Finds unusual masks of a data set, such as inverted ones, which no reader of a single mask can see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Set
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from flawscope.datasets.dataset import Dataset, Item
from flawscope.datasets.labels import PictureLabels
from flawscope.datasets.masks import GroundTruth, Mask, read_any_mask
from flawscope.errors import InputError, data_checks, join_names
from flawscope.pictures.files import TRANSPOSING, stored_turn
from flawscope.pictures.listing import natural_key, pictures_in
from flawscope.pictures.mask_files import find_photographs, seem_masks
from flawscope.pictures.masks import marks_most


def marked_good(dataset: Dataset) -> Iterator[tuple[Path, Mask]]:
    """Yield good pictures in which something is marked, each with its mask or labels."""
    if dataset.truth is None:
        return
    all_items = [item for items in dataset.splits.values() for item in items]
    yield from dataset.truth.marked(item.path for item in all_items if not item.anomalous)


def turn_doubt(picture: Path, masks: Iterable[Mask], size: tuple[int, int]) -> str:
    """Return why a mask may fit the picture as it is stored, not as it is shown; empty without a doubt.

    There is a doubt if the picture is stored turned, the mask is not, and the mask has the size of the
    picture as it is shown and as it is stored.

    Args:
        picture: The picture's file.
        masks: Masks of the picture.
        size: Height and width of the masks.
    """
    turn = stored_turn(picture)
    if turn == 1:  # stored upright
        return ""
    height, width = size
    # turned by 180 degrees or mirrored, or square: the picture has the same size as stored and as shown
    fits_both = turn not in TRANSPOSING or height == width
    for mask in masks:
        if isinstance(mask, PictureLabels):
            is_doubtful = mask.is_doubtful
        else:
            is_doubtful = fits_both and stored_turn(mask) == 1
        if is_doubtful:
            return (
                f"is stored turned (EXIF orientation {turn}): its mask fits upright and as stored, "
                "upright is taken"
            )
    return ""


def mask_remarks(dataset: Dataset) -> Iterator[str]:
    """Yield remarks on masks of test pictures that may be inverted or turned, then those of `good_remarks`.

    Files that cannot be read are left out: the code that uses them reports it.
    """
    inverted = list[str]()
    turned = list[str]()
    marked_items = [item for item in dataset.test if item.anomalous and item.masks]
    for item in marked_items:
        with suppress(InputError, OSError, MemoryError):
            mask = np.any([read_any_mask(source) for source in item.masks], axis=0)
            if marks_most(mask):
                inverted.append(dataset.relative(item.path))
            if turn_doubt(item.path, item.masks, mask.shape):
                turned.append(dataset.relative(item.path))
    if inverted:
        yield data_checks.INVERTED_MASK.coded(
            f"more than half is marked as defect in {join_names(inverted)}: is the mask inverted? "
            "It should be black where the part is good"
        )
    if turned:
        yield data_checks.TURNED_MASK.coded(
            f"stored turned (EXIF), with a mask that fits upright and as stored: {join_names(turned)}; "
            "upright is taken, store the pictures upright to be sure"
        )
    yield from good_remarks(dataset)


def good_remarks(dataset: Dataset) -> Iterator[str]:
    """Yield the remarks of `picture_remarks`, and a remark on good pictures in which something is marked."""
    yield from picture_remarks(dataset)
    if marked := _marked_names(dataset, marked_good(dataset)):
        line = f"counted as good, but something is marked: {marked}; move it, or remove the mark"
        yield data_checks.GOOD_BUT_MARKED.coded(line)


def picture_remarks(dataset: Dataset) -> Iterator[str]:
    """Yield remarks on unusable label files, on pictures that seem to be masks, and on unused pictures.

    Unused pictures are those in folders of neither good nor defective pictures.
    """
    if dataset.truth:
        yield from _label_remarks(dataset, dataset.truth)
    pictures = [item.path for items in dataset.splits.values() for item in items]
    mask_like = [dataset.relative(path) for path in seem_masks(pictures)]
    if mask_like:
        names = join_names(mask_like)
        line = f"count as pictures, but look like masks: {names}; the mask of a.png is a_mask.png"
        yield data_checks.LOOK_LIKE_MASKS.coded(line)
    photographs = [dataset.relative(path) for path in find_photographs(pictures)]
    if photographs:
        line = f"named like masks, but photographs, which count as pictures: {join_names(photographs)}"
        yield data_checks.NAMED_LIKE_MASKS.coded(line)
    if dataset.layout == "folder" and dataset.truth is not None:
        yield from _unused_remarks(dataset, {*pictures})


def _label_remarks(dataset: Dataset, truth: GroundTruth) -> Iterator[str]:
    """Yield remarks on label files that cannot be used, and on overlays."""
    for path, reason in truth.labels.unreadable.items():
        line = f"{path} could not be read ({reason}), nothing in it counts: export it again"
        yield data_checks.UNREADABLE_LABELS.coded(line)
    for source, reason in truth.labels.scale_doubts():
        line = f"{source} {reason}: if it was made on smaller pictures, mark these"
        yield data_checks.LABELS_OF_OTHER_SIZE.coded(line)
    overlays = [dataset.relative(path) for path in truth.overlays]
    if overlays:
        line = f"passed over, since they are others with something drawn in: {join_names(overlays)}"
        yield data_checks.OVERLAYS.coded(line)


def _unused_remarks(dataset: Dataset, used: Set[Path]) -> Iterator[str]:
    """Yield the remark on folders with pictures that are not in `used`."""
    unused = [path for path in pictures_in(dataset.root) if path not in used]
    counts = Counter(dataset.relative(path.parent) for path in unused)
    if counts:
        folders = join_names([f"{name} ({count})" for name, count in counts.items()])
        line = (
            f"not used, beside the folders of good and defective pictures: {folders}; --good names good ones"
        )
        yield data_checks.NOT_USED.coded(line)


def refuse_marked_good(dataset: Dataset, force: bool) -> Iterator[str]:
    """Refuse to learn from good pictures in which something is marked; with `force` yield a remark instead.

    Pictures of a review are always accepted.

    Args:
        dataset: Data set whose good pictures are looked at.
        force: Whether the user confirms that they are good.

    Raises:
        InputError: Something is marked in good pictures, and `force` is False.
    """
    if dataset.reviewed or dataset.truth is None:
        return
    paths = [item.path for item in (*dataset.train, *dataset.validation)]
    pairs = [*dataset.truth.marked(paths)]
    if not pairs:
        return
    text = f"counted as good, but something is marked: {_marked_names(dataset, pairs)}"
    if not force:
        line = f"{dataset.root}: {text}; are they good? Move them, remove the marks, or go on with --force"
        raise InputError(data_checks.GOOD_BUT_MARKED.coded(line))
    yield data_checks.GOOD_BUT_MARKED.coded(f"--force: {text}")


def _marked_names(dataset: Dataset, pairs: Iterable[tuple[Path, Mask]]) -> str:
    """Return a text with the names of pictures, each once with one mask."""
    # by picture; if a picture has several masks, the last one is named
    mask_of = dict(sorted(pairs, key=lambda pair: natural_key(pair[0])))
    names = []
    for picture, mask in mask_of.items():
        names.append(f"{dataset.relative(picture)} (in {dataset.relative(mask)})")
    return join_names(names)


def describe_marks(item: Item) -> str:
    """Return in words how a picture is marked: the form of labels, or place and storage of the mask."""
    if not item.masks:
        return "no mask" if item.anomalous else "good"
    forms = []
    for mask in item.masks:
        if isinstance(mask, PictureLabels):
            are_all_boxes = mask.boxes == len(mask.shapes)
            shapes = "boxes" if are_all_boxes else "outlines"
            forms.append(f"{mask.form}, {shapes}")
        else:
            forms.append(f"mask {_place(mask, item.path)}: {mask.suffix.lower()}, {_storage(mask)}")
    return " and ".join(dict.fromkeys(forms))


def _place(mask: Path, picture: Path) -> str:
    """Return where a mask lies as seen from its picture, in words."""
    if mask.parent == picture.parent:
        return "beside the picture"
    return "in a folder below" if mask.is_relative_to(picture.parent) else "in another folder"


def _storage(mask: Path) -> str:
    """Describe how a mask is stored, in Pillow's words."""
    try:
        with Image.open(mask) as header:
            return f"mode {header.mode}"
    except (OSError, ValueError, SyntaxError):  # read by another reader, or refused
        return "of many bits"

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
    every = [item for items in dataset.splits.values() for item in items]
    yield from dataset.truth.marked(item.path for item in every if not item.anomalous)


def turn_doubt(picture: Path, masks: Iterable[Mask], size: tuple[int, int]) -> str:
    """Return why a mask may be drawn on the picture as it is stored, not as it is shown; empty without doubt.

    There is a doubt where the picture is stored turned, and has the size of the mask either way.

    Args:
        picture: The picture's file.
        masks: Its masks.
        size: Height and width of the mask.
    """
    turn = stored_turn(picture)
    fits_both = turn not in TRANSPOSING or size[0] == size[1]
    doubtful = (
        mask.is_doubtful if isinstance(mask, PictureLabels) else fits_both and stored_turn(mask) == 1
        for mask in masks
    )
    if turn == 1 or not any(doubtful):  # a mask may be turned like it
        return ""
    return (
        f"is stored turned (EXIF orientation {turn}): its mask fits upright and as stored, upright is taken"
    )


def mask_remarks(dataset: Dataset) -> Iterator[str]:
    """Yield remarks on masks of test pictures that may mark something else than they should.

    Files that cannot be read are left out: the code that reads them reports it.
    """
    most = list[str]()
    turned = list[str]()
    for item in (item for item in dataset.test if item.anomalous and item.masks):
        with suppress(InputError, OSError, MemoryError):
            mask = np.any([read_any_mask(mask) for mask in item.masks], axis=0)
            if marks_most(mask):
                most.append(dataset.relative(item.path))
            if turn_doubt(item.path, item.masks, mask.shape):
                turned.append(dataset.relative(item.path))
    if most:
        yield data_checks.INVERTED_MASK.coded(
            f"more than half is marked as defect in {join_names(most)}: is the mask inverted? It should be "
            "black where the part is good"
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
    """Yield remarks on label files that cannot be used, on unused pictures, and on pictures that seem masks.

    Unused pictures lie beside the folders of good and of defective ones.
    """
    if dataset.truth:
        yield from _label_remarks(dataset, dataset.truth)
    every = [item.path for items in dataset.splits.values() for item in items]
    seeming = [dataset.relative(path) for path in seem_masks(every)]
    if seeming:
        names = join_names(seeming)
        line = f"count as pictures, but look like masks: {names}; the mask of a.png is a_mask.png"
        yield data_checks.LOOK_LIKE_MASKS.coded(line)
    photographs = [dataset.relative(path) for path in find_photographs(every)]
    if photographs:
        line = f"named like masks, but photographs, which count as pictures: {join_names(photographs)}"
        yield data_checks.NAMED_LIKE_MASKS.coded(line)
    if dataset.layout == "folder" and dataset.truth is not None:
        yield from _beside_remarks(dataset, {*every})


def _label_remarks(dataset: Dataset, truth: GroundTruth) -> Iterator[str]:
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


def _beside_remarks(dataset: Dataset, used: Set[Path]) -> Iterator[str]:
    beside = [path for path in pictures_in(dataset.root) if path not in used]
    folders = Counter(dataset.relative(path.parent) for path in beside)
    if folders:
        named = join_names([f"{name} ({number})" for name, number in folders.items()])
        line = f"not used, beside the folders of good and defective pictures: {named}; --good names good ones"
        yield data_checks.NOT_USED.coded(line)


def refuse_marked_good(dataset: Dataset, force: bool) -> Iterator[str]:
    """Ask about good pictures to learn from in which something is marked; with `force` yield a remark.

    Pictures that a review decided on are not asked about.

    Args:
        dataset: Data set whose good pictures are looked at.
        force: Whether the user says that they are good.

    Raises:
        InputError: Something is marked in good pictures, and `force` is not set.
    """
    if dataset.reviewed or dataset.truth is None:
        return
    learnt = [item.path for item in (*dataset.train, *dataset.validation)]
    pairs = [*dataset.truth.marked(learnt)]
    if not pairs:
        return
    text = f"counted as good, but something is marked: {_marked_names(dataset, pairs)}"
    if not force:
        line = f"{dataset.root}: {text}; are they good? Move them, remove the marks, or go on with --force"
        raise InputError(data_checks.GOOD_BUT_MARKED.coded(line))
    yield data_checks.GOOD_BUT_MARKED.coded(f"--force: {text}")


def _marked_names(dataset: Dataset, pairs: Iterable[tuple[Path, Mask]]) -> str:
    """Join the names of pictures with those of their masks, each picture once."""
    first = dict(sorted(pairs, key=lambda pair: natural_key(pair[0])))
    return join_names([f"{dataset.relative(p)} (in {dataset.relative(mask)})" for p, mask in first.items()])


def describe_marks(item: Item) -> str:
    """Return the form of a picture's marks: the tool, or where the mask lies and how it is stored."""
    if not item.masks:
        return "no mask" if item.anomalous else "good"
    forms = []
    for mask in item.masks:
        if isinstance(mask, PictureLabels):
            shapes = "boxes" if mask.boxes == len(mask.shapes) else "outlines"
            forms.append(f"{mask.form}, {shapes}")
        else:
            forms.append(f"mask {_place(mask, item.path)}: {mask.suffix.lower()}, {_storage(mask)}")
    return " and ".join(dict.fromkeys(forms))


def _place(mask: Path, picture: Path) -> str:
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

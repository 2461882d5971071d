"""Finds pictures that a data set has twice, by their pixels or nearly so, for `check`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from flawscope.datasets.dataset import SPLIT_WORDS, Dataset, Item
from flawscope.errors import join_names, pluralize
from flawscope.pictures.listing import relative_names
from flawscope.pictures.near_duplicates import Look, clusters, compare_pictures
from flawscope.pictures.units import Units, check_group, group_reader, named_rows, units_of

MIN_COPIED = 3  # copies in a folder of those in another, from which on they are one finding


@dataclass(frozen=True)
class Finding:
    """Fault of a data set. `code` names it for machines; paths are relative to the category's folder."""

    severity: str  # "error", "warning" or "note"
    code: str
    subject: str
    message: str
    remedy: str
    others: tuple[str, ...] = ()  # the further pictures that take part, such as the copies

    def line(self) -> str:
        """Return severity, subject, message and remedy as one line for people."""
        subject = "" if self.subject == "." else f"{self.subject}: "
        return f"{self.severity}: {subject}{self.message}; {self.remedy}"


@dataclass(frozen=True)
class CheckedPicture:
    """Facts that are kept of a picture."""

    split: str
    item: Item
    size: tuple[int, int] = (0, 0)  # width, height
    mode: str = ""  # empty where a picture without content has no telling mode
    digest: str = ""
    look: Look | None = None
    faults: tuple[Finding, ...] = ()


def exact_copies(dataset: Dataset, seen: list[CheckedPicture]) -> Iterator[Finding]:
    """Yield findings of pictures that are the same pixel for pixel; one for all that folders share."""
    groups: dict[str, list[CheckedPicture]] = {}
    for picture in seen:
        groups.setdefault(picture.digest, []).append(picture)
    by_folders: dict[tuple[str, ...], list[Finding]] = {}
    for group in groups.values():
        if len(group) > 1:
            folders = tuple(dataset.relative(picture.item.path.parent) for picture in group)
            by_folders.setdefault(folders, []).append(_copies_finding(dataset, group, near=False))
    sizes = Counter(dataset.relative(picture.item.path.parent) for picture in seen)
    for folders, found in by_folders.items():
        has_repeats = len({*folders}) < len(folders)
        if len(found) < MIN_COPIED or has_repeats or len({finding.code for finding in found}) > 1:
            yield from found
        else:
            yield _copied_folder(folders, found, sizes)


def _copied_folder(folders: Sequence[str], found: Sequence[Finding], sizes: Mapping[str, int]) -> Finding:
    """Join findings of copies that lie in the same folders; `sizes` counts the pictures of each folder."""
    copy = min(folders[1:], key=lambda name: sizes[name])
    others = join_names([name for name in folders if name != copy])
    if len(found) == sizes[copy]:
        message = f"the folder is a copy of {others}"
    else:
        message = f"{len(found)} of its {sizes[copy]} pictures are in {others}, too"
    first = found[0]
    remedy = first.remedy if first.severity == "error" else "take one of them out"
    names = tuple(name for finding in found for name in (finding.subject, *finding.others))
    return Finding(first.severity, first.code, copy, message, remedy, names)


def near_duplicate_findings(
    dataset: Dataset, seen: list[CheckedPicture], group: str | None = None
) -> tuple[list[Finding], Units]:
    """Find nearly the same pictures among the training pictures, and between splits.

    Args:
        dataset: Data set whose pictures were checked.
        seen: All checked pictures; those that could not be read have no `look` and are left out.
        group: Regular expression that finds a picture's part in its name, as in `open_dataset`.

    Returns:
        The findings, and the training pictures grouped into parts as a fit groups them.
    """
    known = [picture for picture in seen if picture.look is not None]
    learnt = [picture for picture in known if picture.split == "train"]
    names = relative_names([picture.item.path for picture in learnt])
    check_group(names, group)
    units = units_of(named_rows(names, [picture.look for picture in learnt]), part_of=group_reader(group))
    found = []
    for numbers in units.near_duplicates:
        found.append(_copies_finding(dataset, [learnt[k] for k in numbers], near=True))
    for numbers in units.unsure:
        first, *others = (dataset.relative(learnt[k].item.path) for k in numbers)
        message = f"looks the same as {join_names(others, 3)} but for noise: alike parts, or one part again?"
        remedy = "of one part keep one picture, or name the part with --group; alike parts may stay"
        found.append(Finding("note", "nearly-unsure", first, message, remedy, tuple(others)))
    for alike in _near_duplicates_in_splits(dataset, known):
        found.append(_copies_finding(dataset, alike, near=True))
    return found, units


def _near_duplicates_in_splits(
    dataset: Dataset, known: Sequence[CheckedPicture]
) -> Iterator[list[CheckedPicture]]:
    """Yield pictures that are nearly the same and lie in several splits; of exact copies the first."""
    first_of = {picture.digest: picture for picture in reversed(known)}
    once = list(first_of.values())[::-1]
    if not {picture.split for picture in once} - {"train"}:
        return
    bank = np.flatnonzero([picture.split != "test" for picture in once])
    compared = compare_pictures([picture.look for picture in once if picture.look is not None], bank)
    for numbers in clusters(compared.copies):
        alike = [once[k] for k in numbers]
        if _are_apart(dataset, alike):
            yield alike


def _are_apart(dataset: Dataset, group: Sequence[CheckedPicture]) -> bool:
    """Whether pictures lie in several splits.

    A split that the program draws itself is nobody's fault: good pictures that are nearly the same as learnt
    ones are not tested with (`evaluation.unlearnt`).
    """
    if dataset.drawn_split and not any(picture.item.anomalous for picture in group):
        return False
    return len({picture.split for picture in group}) > 1


def _copies_finding(dataset: Dataset, group: Sequence[CheckedPicture], *, near: bool) -> Finding:
    """Finding of pictures that are (nearly) the same: the first is its subject, the others are named."""
    splits = list(dict.fromkeys(picture.split for picture in group))
    among = " and ".join(f"among those {SPLIT_WORDS[split]}" for split in splits)
    # good pictures alone have no splits
    place = among if dataset.test and len(splits) == 1 else "in the folder"
    words = _near_words if near else _exact_words
    severity, code, message, remedy = words(dataset, group, among, place)
    first, *others = (dataset.relative(picture.item.path) for picture in group)
    return Finding(severity, code, first, f"{message} ({join_names(others, 3)})", remedy, tuple(others))


class _Words(NamedTuple):
    """Words of a finding, as `Finding` has them."""

    severity: str
    code: str
    message: str
    remedy: str


def _near_words(dataset: Dataset, group: Sequence[CheckedPicture], among: str, place: str) -> _Words:
    """Return the words for pictures that are nearly the same.

    Args:
        dataset: The data set.
        group: The pictures.
        among: Their splits, in words.
        place: Folder or split in which all of them lie, in words.
    """
    if _are_apart(dataset, group):
        message = f"nearly the same picture is {among}"
        remedy = "keep pictures of one part together"
        return _Words("warning", "nearly-in-two-splits", message, remedy)
    message = f"{pluralize(len(group), 'picture')} {place} are nearly the same"
    remedy = "if they show one part, keep one of them or group them for calibration"
    return _Words("note", "nearly-copy", message, remedy)


def _exact_words(dataset: Dataset, group: Sequence[CheckedPicture], among: str, place: str) -> _Words:
    """Return the words for pictures that are the same pixel for pixel; arguments as in `_near_words`."""
    if _are_apart(dataset, group) and not dataset.drawn_split:
        remedy = "remove it from one of them, or every figure is too good"
        return _Words("error", "in-two-splits", f"the same picture is {among}", remedy)
    if len({picture.item.anomalous for picture in group}) > 1:
        return _Words(
            "error", "good-and-bad", "the same picture is good and defective", "remove the wrong one"
        )
    return _Words("warning", "copy", f"the same picture is {len(group)} times {place}", "keep one")

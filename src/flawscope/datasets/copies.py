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

MIN_COPIED = 3  # if two folders have this many pictures in common or more, the copies are one finding


@dataclass(frozen=True)
class Finding:
    """Fault of a data set; paths are relative to the category's folder."""

    severity: str  # "error", "warning" or "note"
    code: str  # name of the kind of fault, for programs
    subject: str  # picture, file or folder that has the fault; "." for the data set as a whole
    message: str
    remedy: str
    others: tuple[str, ...] = ()  # further pictures that take part, such as the copies

    def line(self) -> str:
        """Return severity, subject, message and remedy as one line for people."""
        subject = "" if self.subject == "." else f"{self.subject}: "
        return f"{self.severity}: {subject}{self.message}; {self.remedy}"


@dataclass(frozen=True)
class CheckedPicture:
    """Facts of a picture; if it cannot be read, only split, item and faults are set."""

    split: str
    item: Item
    size: tuple[int, int] = (0, 0)  # width, height
    mode: str = ""  # kind of pixels; empty where the picture shows nothing
    digest: str = ""  # hash of the pixels
    look: Look | None = None
    faults: tuple[Finding, ...] = ()


def exact_copies(dataset: Dataset, pictures: list[CheckedPicture]) -> Iterator[Finding]:
    """Yield findings of pictures that are the same pixel for pixel.

    If `MIN_COPIED` or more groups of copies lie in the same folders, they are one finding.
    """
    groups: dict[str, list[CheckedPicture]] = {}  # pictures by hash of their pixels
    for picture in pictures:
        groups.setdefault(picture.digest, []).append(picture)
    findings_by_folders: dict[tuple[str, ...], list[Finding]] = {}
    for group in groups.values():
        if len(group) > 1:
            folders = tuple(dataset.relative(picture.item.path.parent) for picture in group)
            finding = _copies_finding(dataset, group, near=False)
            findings_by_folders.setdefault(folders, []).append(finding)
    picture_counts = Counter(dataset.relative(picture.item.path.parent) for picture in pictures)
    for folders, findings in findings_by_folders.items():
        has_copies_within_folder = len({*folders}) < len(folders)
        has_different_codes = len({finding.code for finding in findings}) > 1
        if len(findings) < MIN_COPIED or has_copies_within_folder or has_different_codes:
            yield from findings
        else:
            yield _copied_folder(folders, findings, picture_counts)


def _copied_folder(
    folders: Sequence[str], findings: Sequence[Finding], picture_counts: Mapping[str, int]
) -> Finding:
    """Join several findings, whose pictures lie in the same folders, into one finding.

    Args:
        folders: Folders of the pictures, the same for each finding.
        findings: Findings of one code.
        picture_counts: Number of pictures in each folder.
    """
    # the first folder counts as the original, the smallest of the others as the copy
    copy = min(folders[1:], key=lambda name: picture_counts[name])
    others = join_names([name for name in folders if name != copy])
    if len(findings) == picture_counts[copy]:
        message = f"the folder is a copy of {others}"
    else:
        message = f"{len(findings)} of its {picture_counts[copy]} pictures are in {others}, too"
    first = findings[0]
    remedy = first.remedy if first.severity == "error" else "take one of them out"
    names = tuple(name for finding in findings for name in (finding.subject, *finding.others))
    return Finding(first.severity, first.code, copy, message, remedy, names)


def near_duplicate_findings(
    dataset: Dataset, pictures: list[CheckedPicture], group: str | None = None
) -> tuple[list[Finding], Units]:
    """Find near-duplicates among the training pictures, and between splits.

    Args:
        dataset: Data set whose pictures were checked.
        pictures: All checked pictures; those that could not be read have no `look` and are left out.
        group: Regular expression that finds a picture's part in its name, as in `open_dataset`.

    Returns:
        The findings, and the training pictures with their parts, as a fit groups them.
    """
    readable = [picture for picture in pictures if picture.look is not None]
    training = [picture for picture in readable if picture.split == "train"]
    names = relative_names([picture.item.path for picture in training])
    check_group(names, group)
    rows = named_rows(names, [picture.look for picture in training])
    units = units_of(rows, part_of=group_reader(group))
    findings = []
    for numbers in units.near_duplicates:
        findings.append(_copies_finding(dataset, [training[k] for k in numbers], near=True))
    for numbers in units.unsure:
        first, *others = (dataset.relative(training[k].item.path) for k in numbers)
        message = f"looks the same as {join_names(others, 3)} but for noise: alike parts, or one part again?"
        remedy = "of one part keep one picture, or name the part with --group; alike parts may stay"
        findings.append(Finding("note", "nearly-unsure", first, message, remedy, tuple(others)))
    for near_duplicates in _near_duplicates_in_splits(dataset, readable):
        findings.append(_copies_finding(dataset, near_duplicates, near=True))
    return findings, units


def _near_duplicates_in_splits(
    dataset: Dataset, readable: Sequence[CheckedPicture]
) -> Iterator[list[CheckedPicture]]:
    """Yield groups of pictures that are nearly the same and lie in several splits.

    Of pictures that are the same pixel for pixel, which `exact_copies` reports, only the first is compared.
    """
    # of exact copies the first, at the place of the last: earlier pictures replace later ones
    first_by_digest = {picture.digest: picture for picture in reversed(readable)}
    pictures = [*reversed(first_by_digest.values())]
    if all(picture.split == "train" for picture in pictures):
        return
    # only pairs with a picture outside of the test split are searched for
    bank = np.flatnonzero([picture.split != "test" for picture in pictures])
    # the condition leaves no picture out, since every readable one has a look
    looks = [picture.look for picture in pictures if picture.look is not None]
    compared = compare_pictures(looks, bank)
    for numbers in clusters(compared.copies):
        near_duplicates = [pictures[k] for k in numbers]
        if _are_in_several_splits(dataset, near_duplicates):
            yield near_duplicates


def _are_in_several_splits(dataset: Dataset, group: Sequence[CheckedPicture]) -> bool:
    """Whether pictures lie in several splits, and this is a fault of the data set.

    It is no fault if the program made the split and all of the pictures are good: an evaluation leaves out
    near-duplicates of pictures learnt from (`evaluation.unlearnt`).
    """
    if dataset.drawn_split and not any(picture.item.anomalous for picture in group):
        return False
    return len({picture.split for picture in group}) > 1


def _copies_finding(dataset: Dataset, group: Sequence[CheckedPicture], *, near: bool) -> Finding:
    """Return the finding of pictures that are the same, or nearly so.

    Args:
        dataset: The data set.
        group: The pictures; the first is the subject of the finding.
        near: Whether they are near-duplicates; else they are the same pixel for pixel.
    """
    splits = list(dict.fromkeys(picture.split for picture in group))
    # parts of the message: the splits of the pictures, and the split or folder that all of them lie in
    among = " and ".join(f"among those {SPLIT_WORDS[split]}" for split in splits)
    # a data set without test pictures is one folder of good pictures
    place = among if dataset.test and len(splits) == 1 else "in the folder"
    describe = _near_words if near else _exact_words
    words = describe(dataset, group, among, place)
    first, *others = (dataset.relative(picture.item.path) for picture in group)
    message = f"{words.message} ({join_names(others, 3)})"
    return Finding(words.severity, words.code, first, message, words.remedy, tuple(others))


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
        among: Splits of the pictures in words, such as "among those to learn from".
        place: Split or folder that all of them lie in, in words.
    """
    if _are_in_several_splits(dataset, group):
        message = f"nearly the same picture is {among}"
        remedy = "keep pictures of one part together"
        return _Words("warning", "nearly-in-two-splits", message, remedy)
    message = f"{pluralize(len(group), 'picture')} {place} are nearly the same"
    remedy = "if they show one part, keep one of them or group them for calibration"
    return _Words("note", "nearly-copy", message, remedy)


def _exact_words(dataset: Dataset, group: Sequence[CheckedPicture], among: str, place: str) -> _Words:
    """Return the words for pictures that are the same pixel for pixel; arguments as in `_near_words`."""
    if _are_in_several_splits(dataset, group) and not dataset.drawn_split:
        remedy = "remove it from one of them, or every figure is too good"
        return _Words("error", "in-two-splits", f"the same picture is {among}", remedy)
    if len({picture.item.anomalous for picture in group}) > 1:
        return _Words(
            "error", "good-and-bad", "the same picture is good and defective", "remove the wrong one"
        )
    return _Words("warning", "copy", f"the same picture is {len(group)} times {place}", "keep one")

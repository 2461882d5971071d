"""Defines a data set: labelled pictures, the places of their masks, and which pictures show the same part."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from flawscope.calibration.parts import PartPattern
from flawscope.datasets.masks import GroundTruth, Mask
from flawscope.errors import InputError, join_names
from flawscope.pictures.folder_words import SPLITS, split_said
from flawscope.pictures.listing import known_formats, natural_key
from flawscope.pictures.units import PartKey, PartReader, group_numbers, group_reader, name_parts


@dataclass(frozen=True)
class Item:
    """Picture of a data set.

    Attributes:
        masks: Masks of the defect; if there are several (MVTec LOCO), the defect is their union.
        left_out: Reasons why marks in label files cannot be used.
    """

    path: Path
    kind: str  # the folder's name: "good", "bent_lead", ...
    anomalous: bool
    masks: tuple[Mask, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def unmarked(self) -> str:
        """Why there is no mask; empty where there is one."""
        return "" if self.masks else next(iter(self.left_out), "no mask")


def defect_item(path: Path, kind: str, truth: GroundTruth) -> Item:
    """Return a picture of a defect, with its masks."""
    return Item(path, kind, anomalous=True, masks=truth.find(path), left_out=truth.left_out(path))


@dataclass(frozen=True)
class Dataset:
    """Category of a data set, with its pictures by split.

    Attributes:
        root: Folder of the category, in which all pictures and masks lie.
        category: Name of the category.
        layout: Name of the layout, such as mvtec, visa or folder; `layouts` has all of them.
        train: Good pictures to learn from.
        test: Good and defective pictures.
        validation: Good pictures; MVTec LOCO and MVTec AD 2 have some.
        drawn_split: Whether the program made the split, because the data set has none of its own. A model
            that learnt from other data is tested on all pictures.
        good_kinds: Kinds of marks that the user named as marks of good parts.
    """

    root: Path
    category: str
    layout: str
    train: tuple[Item, ...]
    test: tuple[Item, ...]
    validation: tuple[Item, ...] = ()
    drawn_split: bool = False
    good_kinds: tuple[str, ...] = ()

    @property
    def reviewed(self) -> bool:
        """Whether `review` wrote the data set: a model called its good pictures anomalous before.

        So they are no fair sample of good pictures.
        """
        return self.layout == "review"

    @property
    def has_masks(self) -> bool:
        """Whether any defective test picture has a mask."""
        return any(item.masks for item in self.test if item.anomalous)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds in the test set: good ones first, then in natural order."""
        is_defect = {item.kind: item.anomalous for item in self.test}
        return tuple(sorted(is_defect, key=lambda kind: (is_defect[kind], natural_key(kind))))

    @cached_property
    def truth(self) -> GroundTruth | None:
        """Ground truth below the folder, searched for once; None where the folder does not exist."""
        return GroundTruth(self.root, good_kinds=self.good_kinds) if self.root.is_dir() else None

    @property
    def splits(self) -> dict[str, tuple[Item, ...]]:
        """The pictures of each split, by its name: train, validation, test."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def relative(self, path: Mask) -> str:
        """Return a path as reports show it: relative to the category's folder, with forward slashes.

        A path outside of the folder is returned in full.
        """
        full_path = Path(path)
        if not full_path.is_relative_to(self.root):
            return full_path.as_posix()
        return full_path.relative_to(self.root).as_posix()


def split_by_view(dataset: Dataset, pattern: PartPattern, *splits: str) -> dict[str, Dataset]:
    """Divide a data set by the views of its parts; return a data set for each view, by the view's name.

    Args:
        dataset: The data set.
        pattern: Pattern of names that states the view.
        splits: Names of the splits that are used; the others are empty in the result.

    Raises:
        InputError: A name states no view.
    """
    items_of_view: dict[str, dict[str, list[Item]]] = {}
    for split in splits:
        for item in dataset.splits[split]:
            view = pattern.parse(dataset.relative(item.path)).view
            if view not in items_of_view:
                items_of_view[view] = {name: [] for name in dataset.splits}
            items_of_view[view][split].append(item)
    dataset_of_view = {}
    for view, items in sorted(items_of_view.items()):
        dataset_of_view[view] = replace(
            dataset,
            train=tuple(items["train"]),
            validation=tuple(items["validation"]),
            test=tuple(items["test"]),
        )
    return dataset_of_view


def category_of(root: Path) -> str:
    """Return the name of a category's folder, even if the path is relative, such as "."."""
    return Path(os.path.abspath(root)).name


def count_reasons(reasons: Iterable[str]) -> str:
    """Join reasons with their counts, most frequent first; empty reasons are left out."""
    counts = Counter(filter(None, reasons))
    return ", ".join(f"{reason}: {count}" for reason, count in counts.most_common())


SPLIT_WORDS = {  # purpose of a split's pictures, in words
    "train": "to learn from",
    "validation": "to calibrate by",
    "test": "to test with",
}


def split_of(folders: Iterable[str]) -> str | None:
    """Return the split of the first folder whose name states one; None where no name does."""
    return next(filter(None, map(split_said, folders)), None)


class SplitSettings(NamedTuple):
    """Settings that split a data set without a split of its own.

    Attributes:
        seed: Seed of the hash that chooses the parts for testing.
        share: Share of the good pictures that is held out for testing.
        part_of: Function that returns a picture's part by its name; all pictures of a part go into the same
            split. None where names state no part.
    """

    seed: int
    share: float
    part_of: PartReader | None


def split_dataset(
    root: Path,
    layout: str,
    good: Path,
    paths: Sequence[Path],
    bad: Sequence[Item],
    settings: SplitSettings,
    listed: Mapping[Path, str] = MappingProxyType({}),
) -> Dataset:
    """Make a data set with a split from good and defective pictures.

    If folders or a list state the split of every good picture, these splits are used. Otherwise a share of
    the good pictures is held out for testing (`held_out`). All defective pictures are for testing.

    Args:
        root: Folder of the category.
        layout: Name of the layout, as in `Dataset.layout`.
        good: Folder of the good pictures; `root` where several folders hold them.
        paths: Good pictures.
        bad: Defective pictures.
        settings: Settings of the split where none is stated.
        listed: Split of each good picture as a list states it; empty where there is no list.

    Raises:
        InputError: There is no good picture.
    """
    if not paths:
        raise InputError(f"{good}: no pictures to train on; known formats: {known_formats()}")
    category = category_of(root)
    splits = [listed.get(path) or split_of(path.relative_to(root).parent.parts) for path in paths]
    if "train" in splits and all(splits):  # each picture has a split, and some are to learn from
        items = _items_by_split(paths, splits)
        return Dataset(
            root,
            category,
            layout,
            train=tuple(items["train"]),
            test=(*items["test"], *bad),
            validation=tuple(items["validation"]),
        )
    test_paths = _held_out_paths(good, paths, settings)
    kind = "good" if good == root else good.name
    train = [Item(path, kind, anomalous=False) for path in paths if path not in test_paths]
    good_tests = [Item(path, kind, anomalous=False) for path in paths if path in test_paths]
    test = (*good_tests, *bad)
    return Dataset(root, category, layout, train=tuple(train), test=test, drawn_split=True)


def _items_by_split(paths: Sequence[Path], splits: Sequence[str | None]) -> dict[str, list[Item]]:
    """Return the good pictures by their split; pictures of a split that is not in `SPLITS` are left out."""
    items_by_split: dict[str, list[Item]] = {split: [] for split in SPLITS}
    for path, split in zip(paths, splits, strict=True):
        if split in items_by_split:
            items_by_split[split].append(Item(path, "good", anomalous=False))
    return items_by_split


def _held_out_paths(good: Path, paths: Sequence[Path], settings: SplitSettings) -> set[Path]:
    """Return the good pictures that are held out for testing; the folder `good` holds all of them."""
    names = [path.relative_to(good).as_posix() for path in paths]
    # a fit groups pictures by names that start below their common folder
    common = os.path.commonpath([path.parent for path in paths])
    parts = name_parts([path.relative_to(common).as_posix() for path in paths], settings.part_of)
    return {paths[k] for k in held_out(names, settings.share, settings.seed, parts)}


def held_out(names: Sequence[str], share: float, seed: int, parts: Sequence[PartKey | None] = ()) -> set[int]:
    """Choose about a share of names, part by part, and return their indices.

    The parts with the smallest seeded hash are chosen. So the choice does not depend on the order of the
    list, on the machine, or on where the folder lies, and changes little if pictures are added later. A part
    is passed over if it would bring the number of chosen names far above the share. If there are at least two
    parts and `share` is above 0, at least one part is chosen, and at least one is left.

    Args:
        names: Names of the pictures, relative to their common folder.
        share: Share of the names to choose, 0 to 1.
        seed: Seed of the hash.
        parts: Part of each name; where it is None, the name is a part of its own. Empty: each name is one.
    """
    rounded_count = int(len(names) * share + 0.5)
    min_count = 1 if share > 0 else 0
    count = min(max(rounded_count, min_count), len(names) - 1)
    members: dict[str | PartKey, list[int]] = {}  # indices of the names, by part
    for k, (name, part) in enumerate(zip_longest(names, parts)):  # `parts` may be empty
        members.setdefault(part or name, []).append(k)

    ordered_parts = [members[part] for part in sorted(members, key=partial(_seeded_hash, seed))]
    limit = max(2 * count, len(names) // 3)  # largest number of names to choose
    chosen_parts = _choose_parts(ordered_parts, count, limit)
    if count > 0 and not chosen_parts and len(ordered_parts) > 1:  # each single part is above the limit
        chosen_parts = [min(ordered_parts, key=len)]
    return {k for part_members in chosen_parts for k in part_members}


def _choose_parts(parts: Sequence[list[int]], count: int, limit: int) -> list[list[int]]:
    """Choose parts in their order until these have `count` members together.

    A part is passed over if the chosen members would exceed `limit`. At least one part is not chosen.

    Args:
        parts: Members of each part.
        count: Number of members to choose.
        limit: Largest number of members to choose.
    """
    chosen_parts: list[list[int]] = []
    for members in parts:
        chosen_count = sum(map(len, chosen_parts))
        if chosen_count >= count or len(chosen_parts) == len(parts) - 1:
            break
        if chosen_count + len(members) <= limit:
            chosen_parts.append(members)
    return chosen_parts


def _seeded_hash(seed: int, part: str | PartKey) -> bytes:
    """Return a hash of a part's name that is the same on each machine."""
    name = part if isinstance(part, str) else "\0".join(piece or "" for piece in part)
    composed_name = unicodedata.normalize("NFC", name)  # macOS may store letters and accents apart
    data = f"{seed}:{composed_name}".encode("utf-8", "surrogateescape")
    return hashlib.blake2b(data, digest_size=16).digest()


def group_warning(paths: Sequence[Path], pattern: str | None) -> str:
    """Return a warning if a pattern does not group pictures into parts; else an empty text.

    The pattern does not group them if it matches the same text in all names, a different text in each name,
    or nothing in some names.

    Args:
        paths: Pictures that the pattern is meant for.
        pattern: Regular expression of `--group`; None where there is none.

    Raises:
        InputError: The pattern is not a regular expression, or matches no name.
    """
    part_of = group_reader(pattern)
    if part_of is None or len(paths) < 2:
        return ""
    common = os.path.commonpath([path.parent for path in paths])
    names = [path.relative_to(common).as_posix() for path in paths]
    part_numbers = group_numbers(names, pattern)
    option = f"--group '{pattern}'"
    example = paths[0].name
    unmatched = [name for name in names if part_of(name) is None]
    if unmatched:
        return (
            f"{option} matches {len(names) - len(unmatched)} of {len(names)} names, and nothing in "
            f"{join_names(unmatched, 3)}: each of these counts as a part"
        )
    if len(set(part_numbers)) == 1:
        return f"{option} matches the same text in all names, such as {example}: all count as one part"
    if len(set(part_numbers)) == len(names):
        return f"{option} matches another text in each name, such as {example}: each counts as a part"
    return ""

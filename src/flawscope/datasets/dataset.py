"""Defines a data set: labelled pictures, the places of their masks, and which pictures show the same part."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
        masks: Ground truth; of several masks (MVTec LOCO) the defect is the union.
        left_out: Why marks in label files cannot be used.
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
        root: Its own folder, in which all pictures and masks lie.
        category: Its name.
        layout: mvtec, mvtec2, loco, btad, visa, realiad, folder or review.
        train: Good pictures to learn from.
        test: Good and defective pictures.
        validation: Good pictures; MVTec LOCO and MVTec AD 2 have some.
        drawn_split: Whether the program drew the split, because the data set has none of its own. A model of
            another data set is tested on all of it.
        good_kinds: Kinds of marks that somebody named as marks of good parts.
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
        """Whether `review` wrote it: its good pictures were flagged before, and are no fair sample."""
        return self.layout == "review"

    @property
    def has_masks(self) -> bool:
        """Whether any defective test picture has a mask."""
        return any(item.masks for item in self.test if item.anomalous)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds in the test set: good ones first, then in natural order."""
        kinds = {item.kind: item.anomalous for item in self.test}
        return tuple(sorted(kinds, key=lambda kind: (kinds[kind], natural_key(kind))))

    @cached_property
    def truth(self) -> GroundTruth | None:
        """Ground truth below the folder, searched for once; None where the folder is not there."""
        return GroundTruth(self.root, good_kinds=self.good_kinds) if self.root.is_dir() else None

    @property
    def splits(self) -> dict[str, tuple[Item, ...]]:
        """The pictures of each split, by its name: train, validation, test."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def relative(self, path: Mask) -> str:
        """Path as the reports show it: relative to the category's folder, with forward slashes."""
        path = Path(path)
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.as_posix()


def split_by_view(dataset: Dataset, pattern: PartPattern, *splits: str) -> dict[str, Dataset]:
    """Split a data set by the views of a part; `splits` names the splits that are used.

    Raises:
        InputError: A name states no view.
    """
    found: dict[str, dict[str, list[Item]]] = {}
    for split in splits:
        for item in dataset.splits[split]:
            view = pattern.parse(dataset.relative(item.path)).view
            found.setdefault(view, {name: [] for name in dataset.splits})[split].append(item)
    of_view = {}
    for view in sorted(found):
        train, validation, test = (tuple(items) for items in found[view].values())
        of_view[view] = replace(dataset, train=train, validation=validation, test=test)
    return of_view


def category_of(root: Path) -> str:
    """Return the name of a category's folder, also where the path is relative, such as "."."""
    return Path(os.path.abspath(root)).name  # "." has a name too


def count_reasons(reasons: Iterable[str]) -> str:
    """Join reasons with their counts, most frequent first; empty reasons are left out."""
    return ", ".join(f"{reason}: {n}" for reason, n in Counter(filter(None, reasons)).most_common())


SPLIT_WORDS = {  # purpose of a split's pictures, in words
    "train": "to learn from",
    "validation": "to calibrate by",
    "test": "to test with",
}


def split_of(folders: Iterable[str]) -> str | None:
    """Return the split that the first folder with a split's name states; None where no folder states any."""
    return next(filter(None, map(split_said, folders)), None)


class SplitSettings(NamedTuple):
    """Settings that split a data set without a split of its own.

    Attributes:
        seed: Seed of the hash that chooses the parts for testing.
        share: Share of the good pictures that is held out for testing.
        part_of: Finds a picture's part in its name; parts stay whole. None where names state no part.
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

    Where the folders or a list state a split of each good picture, these splits are used. Else about
    `settings.share` of the good pictures are held out for testing, in whole parts (`held_out`). All defective
    pictures are for testing.

    Args:
        root: Folder of the category.
        layout: Name of the layout, as in `Dataset.layout`.
        good: Folder of the good pictures; `root` where several folders hold them.
        paths: Good pictures.
        bad: Defective pictures.
        settings: Settings of a drawn split.
        listed: Split of each good picture by a list; empty where there is no list.

    Raises:
        InputError: There is no good picture.
    """
    if not paths:
        raise InputError(f"{good}: no pictures to train on; known formats: {known_formats()}")
    splits = [listed.get(path) or split_of(path.relative_to(root).parts[:-1]) for path in paths]
    if "train" in splits and all(splits):
        learnt, apart, tested = _items_by_split(paths, splits)
        return Dataset(root, category_of(root), layout, learnt, (*tested, *bad), apart)
    held = _held_paths(good, paths, settings)
    kind = "good" if good == root else good.name
    train = tuple(Item(path, kind, anomalous=False) for path in paths if path not in held)
    test = [Item(path, kind, anomalous=False) for path in paths if path in held]
    test += bad
    return Dataset(root, category_of(root), layout, train, tuple(test), drawn_split=True)


def _items_by_split(paths: Sequence[Path], splits: Sequence[str | None]) -> Iterator[tuple[Item, ...]]:
    """Yield the good pictures of each of `SPLITS`, in their order."""
    found: dict[str, list[Item]] = {split: [] for split in SPLITS}
    for path, split in zip(paths, splits, strict=True):
        if split in found:
            found[split].append(Item(path, "good", anomalous=False))
    return map(tuple, found.values())


def _held_paths(good: Path, paths: Sequence[Path], settings: SplitSettings) -> set[Path]:
    """Return the pictures held out for testing, in whole parts, from the folder `good` that holds all."""
    common = os.path.commonpath([path.parent for path in paths])  # names as fitting groups them
    names = [path.relative_to(good).as_posix() for path in paths]
    parts = name_parts([path.relative_to(common).as_posix() for path in paths], settings.part_of)
    return {paths[k] for k in held_out(names, settings.share, settings.seed, parts)}


def held_out(names: Sequence[str], share: float, seed: int, parts: Sequence[PartKey | None] = ()) -> set[int]:
    """Choose indices of about the `share` of names: the parts with the smallest seeded hash.

    The choice depends on each part alone, not on its place in the list, on the machine or on where the
    folder lies; pictures added later move only as many others as the share grows by. At least one part is
    held out where there are two and `share` is above 0, and at least one is left. A part that would bring
    the number far above the share is passed over.

    Args:
        names: Names of the pictures, relative to their common folder.
        share: Share of the names to choose, 0 to 1.
        seed: Seed of the hash.
        parts: Part of each name; None: the name is a part of its own. Empty: every name is a part of its own.
    """
    least = 1 if share > 0 else 0
    count = min(max(int(len(names) * share + 0.5), least), len(names) - 1)
    members: dict[str | PartKey, list[int]] = {}
    for k, (name, part) in enumerate(zip_longest(names, parts)):
        members.setdefault(part or name, []).append(k)

    ordered = [members[part] for part in sorted(members, key=partial(_seeded_hash, seed))]
    taken = _take_parts(ordered, count, most=max(2 * count, len(names) // 3))
    if count > 0 and not taken and len(ordered) > 1:
        taken = [min(ordered, key=len)]
    return {k for part_members in taken for k in part_members}


def _take_parts(parts: Sequence[list[int]], count: int, most: int) -> list[list[int]]:
    """Take parts in their order until they have `count` members, never more than `most`, and never all."""
    taken: list[list[int]] = []
    for members in parts:
        held = sum(map(len, taken))
        if held >= count or len(taken) == len(parts) - 1:
            break
        if held + len(members) <= most:
            taken.append(members)
    return taken


def _seeded_hash(seed: int, part: str | PartKey) -> bytes:
    text = part if isinstance(part, str) else "\0".join(piece or "" for piece in part)
    text = unicodedata.normalize("NFC", text)  # macOS may spell the same name otherwise
    return hashlib.blake2b(f"{seed}:{text}".encode("utf-8", "surrogateescape"), digest_size=16).digest()


def group_warning(paths: Sequence[Path], pattern: str | None) -> str:
    """Return a warning where a pattern for parts says nothing about the files; else an empty text.

    The pattern says nothing where it matches the same text in all names, a different text in each, or nothing
    in some.

    Args:
        paths: Pictures that the pattern is meant for.
        pattern: Regular expression of `--group`; None for none.

    Raises:
        InputError: The pattern is not a regular expression, or matches no name.
    """
    part_of = group_reader(pattern)
    if part_of is None or len(paths) < 2:
        return ""
    common = os.path.commonpath([path.parent for path in paths])
    names = [path.relative_to(common).as_posix() for path in paths]
    numbers = group_numbers(names, pattern)
    given = f"--group '{pattern}'"
    example = paths[0].name
    without = [name for name in names if part_of(name) is None]
    if without:
        return (
            f"{given} matches {len(names) - len(without)} of {len(names)} names, and nothing in "
            f"{join_names(without, 3)}: each of these counts as a part"
        )
    if len(set(numbers)) == 1:
        return f"{given} matches the same text in all names, such as {example}: all count as one part"
    if len(set(numbers)) == len(numbers):
        return f"{given} matches another text in each name, such as {example}: each counts as a part"
    return ""

"""What a data set is to the rest of the program: pictures with a label, and where their masks lie."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from flawscope.datasets.files import natural_key
from flawscope.datasets.groups import Part, compiled, part_of
from flawscope.datasets.masks import Mask


@dataclass(frozen=True)
class Item:
    """One picture. `masks` is its ground truth; where there are several (LOCO) the defect is their union."""

    path: Path
    kind: str  # the folder's name: "good", "bent_lead", ...
    anomalous: bool
    masks: tuple[Mask, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """One category. `root` is the category's own folder; all pictures and masks lie in it."""

    root: Path
    category: str
    layout: str  # one of `layouts.LAYOUTS` but "auto"
    train: tuple[Item, ...]  # good only
    test: tuple[Item, ...]
    validation: tuple[Item, ...] = ()  # good only; MVTec LOCO and MVTec AD 2 have one

    @property
    def reviewed(self) -> bool:
        """Whether `review` wrote it: then its good pictures were flagged before, and are no fair sample."""
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

    @property
    def splits(self) -> dict[str, tuple[Item, ...]]:
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def relative(self, path: Mask) -> str:
        """A path as the reports show it: relative to the category's folder, with forward slashes."""
        path = Path(path)
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.as_posix()


def split_off(paths: Sequence[Path], folder: Path, share: float, seed: int, group: str | None) -> set[int]:
    """Indices of those pictures below `folder` that are for testing: `held_out` of whole parts.

    group: regular expression on the pictures' names, as `group_numbers` takes it; it need not match here.
    """
    if not paths:
        return set()
    expression = compiled(group)
    common = os.path.commonpath([path.parent for path in paths])  # names as fitting groups them
    names = [path.relative_to(folder).as_posix() for path in paths]
    parts = [part_of(path.relative_to(common).as_posix(), expression) for path in paths]
    return held_out(names, share, seed, parts)


def held_out(names: Sequence[str], share: float, seed: int, parts: Sequence[Part | None] = ()) -> set[int]:
    """Indices of about the `share` of names, the parts with the smallest seeded hash.

    The choice depends on each part alone, not on its place in the list, on the machine or on where the
    folder lies; pictures added later move only as many others as the share grows by. At least one part is
    held out where there are two and a share is asked for, and at least one is left. A part that would bring
    the number far above the share is passed over.

    parts: of each name, which one it belongs to; None: it stands alone. Without any, all do.
    """
    count = min(max(int(len(names) * share + 0.5), 1 if share > 0 else 0), len(names) - 1)
    members: dict[str | Part, list[int]] = {}
    for k, (name, part) in enumerate(zip_longest(names, parts)):
        members.setdefault(part or name, []).append(k)

    def order(part: str | Part) -> bytes:
        text = part if isinstance(part, str) else "\0".join(piece or "" for piece in part)
        text = unicodedata.normalize("NFC", text)  # macOS may spell the same name otherwise
        return hashlib.blake2b(f"{seed}:{text}".encode("utf-8", "surrogateescape"), digest_size=16).digest()

    ordered = [members[part] for part in sorted(members, key=order)]
    most = max(2 * count, len(names) // 3)
    taken: list[list[int]] = []
    for part_members in ordered:
        held = sum(map(len, taken))
        if held >= count or len(taken) == len(ordered) - 1:
            break
        if held + len(part_members) <= most:
            taken.append(part_members)
    if count > 0 and not taken and len(ordered) > 1:
        taken = [min(ordered, key=len)]
    return {k for part_members in taken for k in part_members}

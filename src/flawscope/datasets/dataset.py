"""What a data set is to the rest of the program: pictures with a label, and where their masks lie."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flawscope.datasets.files import natural_key


@dataclass(frozen=True)
class Item:
    """One picture. `masks` is its ground truth; where there are several (LOCO) the defect is their union."""

    path: Path
    kind: str  # the folder's name: "good", "bent_lead", ...
    anomalous: bool
    masks: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """One category. `root` is the category's own folder; all pictures and masks lie in it."""

    root: Path
    category: str
    layout: str  # "mvtec", "visa", "btad", "loco" or "folder"
    train: tuple[Item, ...]  # good only
    test: tuple[Item, ...]
    validation: tuple[Item, ...] = ()  # good only; LOCO has one

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

    def relative(self, path: Path) -> str:
        """A path as the reports show it: relative to the category's folder, with forward slashes."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.as_posix()


def held_out(names: Sequence[str], share: float, seed: int) -> set[int]:
    """Indices of the `share` of names with the smallest seeded hash.

    The choice depends on each name alone, not on its place in the list, on the machine or on where the
    folder lies; pictures added later move only as many others as the share grows by. At least one name is
    held out where there are two and a share is asked for, and at least one is left.
    """
    count = min(max(int(len(names) * share + 0.5), 1 if share > 0 else 0), len(names) - 1)

    def order(k: int) -> bytes:
        name = unicodedata.normalize("NFC", names[k])  # macOS may spell the same name otherwise
        return hashlib.blake2b(f"{seed}:{name}".encode("utf-8", "surrogateescape"), digest_size=16).digest()

    return set(sorted(range(len(names)), key=order)[: max(count, 0)])

"""Reads which of a data set's folders hold good pictures, by their names, and asks where these do not say.

`pictures.folder_words` reads the name of a single folder. Here the neighbours of a folder and the folders
above it decide, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from flawscope.errors import InputError, data_checks, join_names
from flawscope.pictures.folder_words import Said, read_side_by_side
from flawscope.pictures.listing import natural_key
from flawscope.pictures.mask_files import fold

NAME_GOOD = "name them with --good NAME[,NAME], the others are defects; --good all: all are good"


class FolderTree:
    """Meanings of the names of picture folders, which depend on neighbouring folders and on those above.

    Attributes:
        root: Folder that holds the tree.
        counts: Number of pictures directly in each folder, by the names of the folders from `root` to it.
        meaning_of: Meaning of each folder, by the same names. If a folder lies in a folder of good pictures
            but is not known to be good, its meaning is UNCLEAR.
    """

    def __init__(self, root: Path, paths: Iterable[Path], root_meaning: Said = Said.SORTED):
        """Read the folders of `paths` below `root`; `root_meaning` is the meaning of the root's own name."""
        self.root, self._paths = root, list(paths)
        self.counts = Counter(path.relative_to(root).parent.parts for path in self._paths)
        self._subfolders: dict[tuple[str, ...], set[str]] = {}  # names of the subfolders, by folder
        for parts in self.counts:
            for depth, name in enumerate(parts):
                # parts[:depth] is the folder that has the subfolder `name`
                self._subfolders.setdefault(parts[:depth], set()).add(name)
        self.meaning_of: dict[tuple[str, ...], Said] = {(): root_meaning}
        for parent in self._parents_from_top():
            parent_meaning = self.meaning_of[parent]
            meanings = read_side_by_side(
                sorted(self._subfolders[parent]),
                parent,
                beside_pictures=self.counts[parent] > 0,
                are_good=parent_meaning is Said.GOOD,
            )
            for name, meaning in meanings.items():
                self.meaning_of[(*parent, name)] = _meaning_below(parent_meaning, meaning)

    def _parents_from_top(self) -> list[tuple[str, ...]]:
        """Return the folders that have subfolders, those at the top first."""
        return sorted(self._subfolders, key=lambda parts: (len(parts), parts))

    @property
    def meanings(self) -> set[Said]:
        """Meanings of the folders that hold pictures directly."""
        return {self.meaning_of[parts] for parts in self.counts}

    def has_unknown(self, known: Iterable[str]) -> bool:
        """Whether a folder directly in the root says neither good nor bad, and its name is not in `known`."""
        known_names = {fold(name) for name in known}
        for parts, meaning in self.meaning_of.items():
            is_at_top = len(parts) == 1
            is_open = meaning not in (Said.GOOD, Said.BAD)
            if is_at_top and is_open and fold(parts[0]) not in known_names:
                return True
        return False

    def pictures(self, meaning: Said) -> list[Path]:
        """Return the pictures whose folder has this meaning."""
        pictures = []
        for path in self._paths:
            parts = path.relative_to(self.root).parent.parts
            if self.meaning_of[parts] is meaning:
                pictures.append(path)
        return pictures

    def question(self, remedy: str = NAME_GOOD) -> InputError:
        """Return the question which folders hold good pictures, as an error; `remedy` ends its text.

        If the meaning of a folder is unclear, the question lists all folders. Otherwise it lists only the
        subfolders of one folder: the topmost whose subfolders are neither all good, all bad nor all `SORTED`.
        """
        if Said.UNCLEAR in self.meanings:
            return folders_question(self.root, self.counts, remedy, self.meaning_of)
        for parent in self._parents_from_top():
            meanings = {self.meaning_of[(*parent, name)] for name in self._subfolders[parent]}
            if self.counts[parent]:
                meanings.add(self.meaning_of[parent])
            have_one_meaning = meanings in ({Said.SORTED}, {Said.GOOD}, {Said.BAD})
            if not have_one_meaning:
                counts = self._count_by_subfolder(parent)
                return folders_question(self.root, counts, remedy, self.meaning_of)
        return folders_question(self.root, self.counts, remedy, self.meaning_of)

    def _count_by_subfolder(self, parent: tuple[str, ...]) -> Counter[tuple[str, ...]]:
        """Count the pictures below each subfolder of `parent`; those directly in it count under `parent`."""
        counts = Counter[tuple[str, ...]]()
        depth = len(parent)
        for parts, count in self.counts.items():
            if parts[:depth] == parent:
                counts[parts[: depth + 1]] += count
        return counts


def _meaning_below(parent_meaning: Said, meaning: Said) -> Said:
    """Return the meaning of a folder, by the meaning of the folder above it and of its own name."""
    if Said.UNCLEAR in (parent_meaning, meaning):
        return Said.UNCLEAR
    if parent_meaning is Said.GOOD:
        return Said.GOOD if meaning in (Said.GOOD, Said.SORTED) else Said.UNCLEAR
    if parent_meaning is Said.BAD:  # folders below it are kinds of defects
        return Said.UNCLEAR if meaning is Said.GOOD else Said.BAD
    if parent_meaning is Said.UNKNOWN:
        return meaning if meaning in (Said.GOOD, Said.BAD) else Said.UNKNOWN
    return meaning


def folders_question(
    root: Path,
    counts: Mapping[tuple[str, ...], int],
    remedy: str,
    meaning_of: Mapping[tuple[str, ...], Said],
) -> InputError:
    """Return the question which folders hold good pictures, as an error.

    Args:
        root: Folder that holds the folders.
        counts: Number of pictures in each folder, by the names of the folders from `root` to it.
        remedy: End of the question: how to answer it.
        meaning_of: Meaning of each folder, by the same names.
    """
    texts = {
        Said.GOOD: ", good by its name",
        Said.BAD: ", not good by its name",
        Said.UNCLEAR: ", unclear by its name",
    }
    folders = []
    for names in sorted(counts, key=lambda names: natural_key("/".join(names))):
        path = "/".join(names) or "."
        meaning = meaning_of.get(names, Said.UNKNOWN)
        meaning_text = texts.get(meaning, "") if names else ""
        folders.append(f"{path} ({counts[names]}{meaning_text})")
    line = f"{root}: which folders hold good pictures? {join_names(folders, 12)}: {remedy}"
    return InputError(data_checks.WHICH_FOLDERS.coded(line))

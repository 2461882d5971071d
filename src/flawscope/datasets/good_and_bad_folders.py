"""Reads which of a data set's folders hold good pictures, by their names, and asks where these do not say.

What the name of a single folder says is read by `pictures.folder_words`; here each is read beside its
neighbours and below those above it.
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
    """Meaning of the names of picture folders, each read beside its neighbours and below its parents.

    Attributes:
        counts: Number of pictures by the folder's parts below `root`.
        said: Meaning of each folder's name. UNCLEAR also for a folder below a folder of good pictures that is
            not known to be good.
    """

    def __init__(self, root: Path, paths: Iterable[Path], of_root: Said = Said.SORTED):
        """Read the folders of `paths` below `root`; `of_root` is the meaning of the root's own name."""
        self.root, self._paths = root, list(paths)
        self.counts = Counter(path.relative_to(root).parent.parts for path in self._paths)
        self._inside: dict[tuple[str, ...], set[str]] = {}  # names of folders by the one that holds them
        for parts in self.counts:
            for depth, name in enumerate(parts):
                self._inside.setdefault(parts[:depth], set()).add(name)
        self.said: dict[tuple[str, ...], Said] = {(): of_root}
        for above, names in sorted(self._inside.items(), key=lambda entry: (len(entry[0]), entry[0])):
            of_above = self.said[above]
            found = read_side_by_side(
                sorted(names),
                above,
                beside_pictures=self.counts[above] > 0,
                are_good=of_above is Said.GOOD,
            )
            for name, said in found.items():
                self.said[(*above, name)] = _said_below(of_above, said)

    @property
    def found(self) -> set[Said]:
        """Meanings of the folders of pictures."""
        return {self.said[parts] for parts in self.counts}

    def has_unknown(self, known: Iterable[str]) -> bool:
        """Whether a folder at the top says nothing, and has none of the known names."""
        names = {fold(name) for name in known}
        return any(
            len(parts) == 1 and said not in (Said.GOOD, Said.BAD) and fold(parts[0]) not in names
            for parts, said in self.said.items()
        )

    def pictures(self, said: Said) -> list[Path]:
        """Return the pictures whose folder has this meaning."""
        return [path for path in self._paths if self.said[path.relative_to(self.root).parent.parts] is said]

    def question(self, remedy: str = NAME_GOOD) -> InputError:
        """Return the question which folders hold good pictures.

        It lists all folders where one is unclear, else the folders side by side where the meanings differ.
        """
        for above, names in sorted(self._inside.items(), key=lambda entry: (len(entry[0]), entry[0])):
            here = {self.said[(*above, name)] for name in names}
            here |= {self.said[above]} if self.counts[above] else set()
            is_plain = here <= {Said.SORTED} or here in ({Said.GOOD}, {Said.BAD})
            if Said.UNCLEAR not in self.found and not is_plain:
                return folders_question(self.root, self._grouped(above), remedy, self.said)
        return folders_question(self.root, self.counts, remedy, self.said)

    def _grouped(self, above: tuple[str, ...]) -> Counter[tuple[str, ...]]:
        here = Counter[tuple[str, ...]]()
        for parts, number in self.counts.items():
            if parts[: len(above)] == above:
                here[parts[: len(above) + 1]] += number
        return here


def _said_below(above: Said, said: Said) -> Said:
    """Return the meaning of a folder named `said` below one that means `above`."""
    if Said.UNCLEAR in (above, said):
        return Said.UNCLEAR
    if above is Said.GOOD:
        return Said.GOOD if said in (Said.GOOD, Said.SORTED) else Said.UNCLEAR
    if above is Said.BAD:  # folders in it are kinds
        return Said.UNCLEAR if said is Said.GOOD else Said.BAD
    if above is Said.UNKNOWN:
        return said if said in (Said.GOOD, Said.BAD) else Said.UNKNOWN
    return said


def folders_question(
    root: Path,
    counts: Mapping[tuple[str, ...], int],
    remedy: str,
    said: Mapping[tuple[str, ...], Said],
) -> InputError:
    """Return the question which folders hold good pictures, as an error.

    Args:
        root: Folder that holds the folders.
        counts: Number of pictures by the folder's parts below `root`.
        remedy: End of the question: how to answer it.
        said: Meaning of the folders' names.
    """
    words = {
        Said.GOOD: ", good by its name",
        Said.BAD: ", not good by its name",
        Said.UNCLEAR: ", unclear by its name",
    }
    listed = []
    for parts in sorted(counts, key=lambda parts: natural_key("/".join(parts))):
        why = words.get(said.get(parts, Said.UNKNOWN), "") if parts else ""
        listed.append(f"{'/'.join(parts) or '.'} ({counts[parts]}{why})")
    line = f"{root}: which folders hold good pictures? {join_names(listed, 12)}: {remedy}"
    return InputError(data_checks.WHICH_FOLDERS.coded(line))

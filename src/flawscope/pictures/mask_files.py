"""Sorts masks from pictures among files, and finds each mask's picture: the one rule of all listings.

A file is a mask where all of this holds:

- Its name or a folder's says so (`a_mask.png`, `masks/a.png`, `SegmentationClass/a.png`), or it has the name
  of another picture in its folder, in another format (`a.jpg`, `a.png`).
- It pairs with a picture: of the same name in the same folder, or at the same place of a parallel folder.
- It looks like one: `read_mask` reads it without a doubt. Of files that are named alike a few are looked at.
  Where the words leave no doubt, such as `masks`, or `labels` beside `images`, it is enough that it is no
  photograph. Where the pictures look like masks themselves, as those of backlit parts, only such words count.

A name alone says nothing: `mask_7.png` without `7.png` is a picture, perhaps of a mask. But a file that looks
like a mask and is named like masks that have pictures, or lies in a folder `masks` or the like, is a stray
mask.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

from flawscope.errors import InputError
from flawscope.pictures.decoding import PICTURE_SUFFIXES
from flawscope.pictures.folder_words import says_good
from flawscope.pictures.masks import DoubtfulMaskError, is_photograph, read_mask

_T = TypeVar("_T")
Folders = tuple[str, ...]

MASK_FOLDERS = ("ground_truth", "masks", "mask", "groundtruth", "segmentationclass", "segmentationobject")
LOOKED_AT = 4  # of files that are named alike, to see whether they are masks

_WORD = (
    r"(?:masks?|gt(?:fine|coarse)?|ground[ _-]?truth|truth|targets?|labels?|labelids|seg(?:m|mentation)?s?|"
    r"segmentation(?:class|object)(?:png)?|anno?(?:tation|t)?s?|mask(?:e|en)|masques?|maschere?|m[aá]\u0301?scaras?)"
)
_GAP = r"[\W_]*"
_WORD_LAST = re.compile(rf"(.+?){_GAP}({_WORD})(?:ids|{_GAP}\d+{_GAP}|[\W_].*)?")
_WORD_FIRST = re.compile(rf"({_WORD}){_GAP}(?:of[\W_]+)?(.+)")  # ImageJ: Mask of a.tif
_WEAK = ("label", "truth", "target")  # words that kinds of defects or views of a part may have, too
_HAS_WORD = re.compile(_WORD)
_FOLDER_WORD = re.compile(
    rf"(?:^|[\W\d_])({_WORD})(?:$|[\W\d_])|(?:annot|mask(?:s|en)?)$"
)  # CVAT: trainannot
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_PICTURE_WORD = "image|img|picture|photo|rgb|leftimg8bit|original|orig"
_PICTURE_FIRST = re.compile(rf"(?:{_PICTURE_WORD}){_GAP}(.+)")
_PICTURE_LAST = re.compile(rf"(.+?){_GAP}(?:{_PICTURE_WORD})")
_PICTURE_ALONE = re.compile(_PICTURE_WORD)
_PICTURE_FOLDER = re.compile(rf"(?:(?:{_PICTURE_WORD})s?|jpegimages|img_dir)")
_GAPS = re.compile(r"[\W_]+")
_TRIMMED = re.compile(rf"{_GAP}$")
_FURTHER_WORD = re.compile(r"(.+)[\W_]+[a-z]+")
_NUMBERED = re.compile(r"(.+?)[\W_]+(?:\d{1,3}|colou?r)")  # masks/a_1.png and masks/a_2.png of a.png
_LABEL_STUDIO = re.compile(r"task-\d+")  # task-1-annotation-2-by-3-tag-scratch-0.png has no picture's name
_SUFFIXES = "|".join(sorted(suffix[1:] for suffix in PICTURE_SUFFIXES))
# What tools add: the suffix once more, Roboflow's hash, Label Studio's number of an upload
EXPORTED = re.compile(rf"(.+)[._](?:{_SUFFIXES})\.rf\.[\w\-]+")
_DECORATIONS = (EXPORTED, re.compile(rf"(.+)[._](?:{_SUFFIXES})"), re.compile(r"[0-9a-f]{8}-(.+)"))


def fold(name: str) -> str:
    """Return a name for comparison: letters and accents alike however they are written or stored."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def plain_names(stem: str) -> list[str]:
    """Return the folded name of a picture, and then its name before tools added to it."""
    names = [fold(stem)]
    for name in names:  # grows
        for decoration in _DECORATIONS:
            match = decoration.fullmatch(name)
            if match and match[1] not in names:
                names.append(match[1])
    spaceless = [name.replace(" ", filler) for filler in "_-" for name in names]
    return list(dict.fromkeys([*names, *spaceless]))


def is_mask_folder(name: str) -> bool:
    """Whether a folder's name says that it holds masks."""
    return masked_folder(name) is not None


def is_picture_folder(name: str) -> bool:
    """Whether a folder's name says that it holds pictures, and nothing else: `images`."""
    return _PICTURE_FOLDER.fullmatch(fold(name)) is not None


@lru_cache(1 << 12)
def masked_folder(name: str) -> str | None:
    """Return the rest of the name of a folder of masks: `bad` of `bad_masks`; None for other folders."""
    if fold(name) in MASK_FOLDERS:
        return ""
    text = fold(_CAMEL.sub("_", name))
    match = _FOLDER_WORD.search(text)
    return None if match is None else (text[: match.start()] + text[match.end() :]).strip(" ._-")


def seem_masks(pictures: Iterable[Path]) -> list[Path]:
    """Return pictures that look like masks, but are none by the rule.

    They have a word for masks in their name, or the name of another picture that looks like none, in another
    folder or with something added to it.
    """
    paths = list(pictures)
    named: dict[str, list[Path]] = {}
    for path in paths:
        named.setdefault(fold(path.stem), []).append(path)
    groups: dict[tuple[Path, str], list[tuple[Path, Path | None]]] = {}
    for path in paths:
        stem = fold(path.stem)
        if _HAS_WORD.search(stem) and _split_word(stem):
            groups.setdefault((path.parent, "word"), []).append((path, None))
        elif (form := _added_to_name(path, stem, named)) is not None:
            added, other = form
            groups.setdefault((path.parent, added), []).append((path, other))
    return [
        path
        for (_, added), pairs in groups.items()
        if added == "word" or _seems_mask(*pairs[0])
        for path, other in pairs
        if _seems_mask(path, other)
    ]


def _added_to_name(path: Path, stem: str, named: Mapping[str, Sequence[Path]]) -> tuple[str, Path] | None:
    """Return the end that a picture's name adds to that of another picture, and this other picture.

    In the end, 0 stands for each digit. It is empty for a picture of the same name in another folder; else
    both lie in one folder. None where there is no such picture.

    Args:
        path: The picture.
        stem: Its folded name without suffix.
        named: Pictures by folded name.
    """
    for end in (*(gap.start() for gap in _GAPS.finditer(stem)), len(stem)):
        added = stem[end:]
        for other in named.get(stem[:end], ()):
            if (other.parent == path.parent) == bool(added):
                return re.sub(r"\d", "0", added), other
    return None


def _seems_mask(path: Path, other: Path | None) -> bool:
    return _look(path) is True and (other is None or _look(other) is False) and _marks_a_part(path)


def _marks_a_part(path: Path) -> bool:
    share = float(read_mask(path).mean())
    return 0 < share <= 0.5  # printed labels are bright in most places


def find_masks(files: Iterable[Path]) -> dict[Path, Path | None]:
    """Find the masks among picture files, and for each its picture; None where it has none.

    The names of folders above all of the files do not count.
    """
    return _sort_out(list(files))[0]


def find_photographs(files: Iterable[Path]) -> list[Path]:
    """Find the pictures that are named like masks of others, and are photographs: they are no masks."""
    return _sort_out(list(files))[1]


def _sort_out(paths: Sequence[Path]) -> tuple[dict[Path, Path | None], list[Path]]:
    """Return the masks, each with its picture, and the photographs that are named like masks."""
    try:
        root = os.path.commonpath({os.path.dirname(path) for path in paths})
    except ValueError:  # there are none, or they have none in common: on two drives
        root = ""
    named = _named_like_masks(paths, root)
    photographs = _take_photographs(named)
    masks: dict[Path, Path | None] = {}
    like_masks: list[Path] = []
    if named:
        pictures = _Pictures(paths, root, {path for group in named for path in group.paths})
        masks = _with_partners(named, pictures, paths)
        for group, path in photographs:
            if group.folder or pictures.partner(group, path) is not None:
                like_masks.append(path)
    return masks | _twins([path for path in paths if path not in masks]), like_masks


def _take_photographs(named: Sequence[_Group]) -> list[tuple[_Group, Path]]:
    """Take the photographs out of the groups of files that are named like masks.

    Return those of groups whose names are no weak sign, each with its group.
    """
    photographs: list[tuple[_Group, Path]] = []
    for alike in _by_kind(named):
        found = _find_photographs_among([path for group in alike for path in group.paths])
        if not found:
            continue
        for group in alike:
            if not group.weak:
                photographs += [(group, path) for path in group.paths if path in found]
            group.paths = [path for path in group.paths if path not in found]
    return photographs


def _with_partners(
    named: Sequence[_Group], pictures: _Pictures, paths: Sequence[Path]
) -> dict[Path, Path | None]:
    """Return the masks of the groups, each with its picture."""
    masks: dict[Path, Path | None] = {}
    surely = [path for path in paths if path not in pictures.suspects]
    partners = [{path: pictures.partner(group, path) for path in group.paths} for group in named]
    # first those with pictures that are surely none themselves
    for is_sure in (True, False):
        for group, partner_of in zip(named, partners, strict=True):
            if is_sure != _has_sure_partner(partner_of, pictures):
                continue
            left = {path: None if partner in masks else partner for path, partner in partner_of.items()}
            masks |= {path: left[path] for path in group.masks(left, surely)}
    return masks


def _has_sure_partner(partner_of: Mapping[Path, Path | None], pictures: _Pictures) -> bool:
    """Whether a file of a group has a picture that is surely no mask."""
    return any(picture is not None and picture not in pictures.suspects for picture in partner_of.values())


def _by_kind(groups: Iterable[_Group]) -> Iterable[list[_Group]]:
    """Return groups with the same words together, wherever they lie.

    Few files of many folders are looked at.
    """
    kinds: dict[tuple[str, ...], list[_Group]] = {}
    for group in groups:
        kinds.setdefault(group.kind, []).append(group)
    return kinds.values()


def _find_photographs_among(paths: Sequence[Path]) -> set[Path]:
    """Return the photographs among files that are named alike.

    They are larger than masks: the largest files are looked at first, and the search ends where several are
    none.
    """
    sizes = {path: _size(path) for path in paths}
    ordered = sorted(paths, key=lambda path: -sizes[path])
    sample = {*_spread(paths), *ordered[:LOOKED_AT], *ordered[-LOOKED_AT:]}
    found = {path for path in sample if _is_photograph(path)}
    if len(found) == len(sample):
        return {*paths}
    if not found:
        return set()
    have_sizes = sizes[ordered[0]] > sizes[ordered[-1]]
    others = 0
    for path in ordered:
        if _is_photograph(path):
            found.add(path)
            continue
        if have_sizes and others >= 4 * LOOKED_AT:
            break
        others += 1
    return found


@dataclass
class _Group:
    """Files that are named alike: in one folder of masks, or with a word for masks in one folder.

    Attributes:
        folder: Name of the folder of masks; empty where the files' names have the word.
        above: Folders that lead to the group, in the form of the pictures' folders.
        telling: Whether the word means masks and nothing else.
        weak: Whether the word often means something else.
        alone: Whether files without any picture are masks, too, if they look like masks.
        kind: The words.
        paths: The files.
    """

    folder: str
    above: Folders
    telling: bool
    weak: bool
    alone: bool
    kind: tuple[str, ...]
    paths: list[Path] = field(default_factory=list)

    @cached_property
    def _members(self) -> set[Path]:
        return set(self.paths)

    def has(self, path: Path) -> bool:
        return path in self._members

    def masks(self, picture_of: Mapping[Path, Path | None], surely: Sequence[Path]) -> list[Path]:
        """Return the files that are masks.

        Args:
            picture_of: Picture of each file.
            surely: Files that are certainly pictures.
        """
        paired = [path for path in self.paths if picture_of[path] is not None]
        if self._is_telling(picture_of, paired):
            return self._with_picture_or_look(picture_of)
        if not paired and not self.alone:
            return []
        looks = {_look(path) for path in _spread(paired or self.paths)}
        if True not in looks and (False in looks or not paired):
            return []
        if self._others_look_like_masks(picture_of, paired, surely):
            return []
        are_alike = False not in looks
        return [path for path in self.paths if _is_mask(path, picture_of[path] is not None, are_alike)]

    def _with_picture_or_look(self, picture_of: Mapping[Path, Path | None]) -> list[Path]:
        """Return files that have a picture or look like masks; of a folder of masks all files."""
        return [path for path in self.paths if picture_of[path] is not None or self.folder or _look(path)]

    def _is_telling(self, picture_of: Mapping[Path, Path | None], paired: Sequence[Path]) -> bool:
        """Whether files that have pictures are masks by their name alone, or by their pictures' folder."""
        return bool(paired) and (self.telling or any(_in_picture_folder(picture_of[path]) for path in paired))

    def _others_look_like_masks(
        self, picture_of: Mapping[Path, Path | None], paired: Sequence[Path], surely: Sequence[Path]
    ) -> bool:
        """Whether the pictures beside files that are named like masks look like masks, too."""
        others: Sequence[Path | None] = ()
        if self.weak:
            others = [picture_of[path] for path in paired]
        elif not paired and not self.telling:
            others = surely
        return bool(others) and all(path is None or _look(path) is True for path in _spread(others))


def _in_picture_folder(path: Path | None) -> bool:
    return path is not None and is_picture_folder(path.parent.name)


def _named_like_masks(paths: Sequence[Path], root: str) -> list[_Group]:
    """Return the files that are named like masks, grouped.

    Files below a folder of masks make a group, which has the first such folder's name. The other files make a
    group where they lie in one folder and have the same word for masks at the same side of their names.
    """
    groups: dict[tuple[str, ...], _Group] = {}
    for path in paths:
        text = os.fspath(path)[len(root) :].lower()
        if not _HAS_WORD.search(text):
            continue
        folders = _folders(path, root)
        at = next((k for k, name in enumerate(folders) if is_mask_folder(name)), None)
        if at is not None:
            name = fold(folders[at])
            key = folders[: at + 1]
            is_telling = name in MASK_FOLDERS and name != "mask"
            group = _Group(
                folder=folders[at],
                above=_plain_folders(folders[:at]),
                telling=is_telling,
                weak=not is_telling and any(word in name for word in _WEAK),
                alone=name in MASK_FOLDERS,
                kind=(name,),
            )
        elif (named := _split_word(fold(path.stem))) is not None:
            key = (*folders, "", named.word, named.side)
            is_weak = named.word.startswith(_WEAK)  # not "ground truth", which only ends with one
            group = _Group(
                folder="",
                above=_plain_folders(folders),
                telling=not is_weak,
                weak=is_weak,
                alone=_LABEL_STUDIO.fullmatch(named.rest) is not None,
                kind=(named.word, named.side),
            )
        else:
            continue
        groups.setdefault(key, group).paths.append(path)
    return list(groups.values())


class _NameWithWord(NamedTuple):
    """Folded name of a file that has a word for masks.

    Attributes:
        rest: The name without the word.
        word: The word.
        side: Where it stands: "first", "last", or "alone".
    """

    rest: str
    word: str
    side: str


def _split_word(stem: str) -> _NameWithWord | None:
    """Split the word for masks from a folded name; None where it has none, or only within another word."""
    if match := _WORD_LAST.fullmatch(stem):
        return _NameWithWord(rest=match[1], word=match[2], side="last")
    if match := _WORD_FIRST.fullmatch(stem):
        return _NameWithWord(rest=match[2], word=match[1], side="first")
    return _NameWithWord(rest="", word=stem, side="alone") if _HAS_WORD.fullmatch(stem) else None


def _folders(path: Path, root: str) -> Folders:
    return PurePosixPath(path.parent.as_posix()[len(root) :].strip("/")).parts


def _plain_folders(folders: Iterable[str]) -> Folders:
    """Return folders as pictures and masks share them: folded, without `images`, `masks` and the like."""
    plain = (fold(name) for name in folders if not is_mask_folder(name))
    return tuple(name for name in plain if not is_picture_folder(name))


def _is_good(folders: Folders) -> bool:
    return any(says_good(name) for name in folders)


def _picture_names(stem: str) -> list[str]:
    """Return the names by which a mask may mean a picture: its own, and without `image` or the like."""
    names = plain_names(stem)
    names += [name for name in (_TRIMMED.sub("", names[0]),) if name not in names]  # as of "a (1) - mask"
    for name in tuple(names):
        for word in (_PICTURE_FIRST, _PICTURE_LAST):
            if (match := word.fullmatch(name)) and match[1] not in names:
                names.append(match[1])
    return [*names, ""] if _PICTURE_ALONE.fullmatch(names[0]) else names  # image.png beside mask.png


class _Pictures:
    """Files by their names; `suspects` are those that may be masks themselves."""

    def __init__(self, paths: Sequence[Path], root: str, suspects: set[Path]):
        self.root = root
        self.suspects = suspects
        # by name and last folder, and by name alone
        self._places: dict[tuple[str, str | None], dict[Folders, list[Path]]] = {}
        plain: dict[Path, Folders] = {}
        for path in paths:
            folder = path.parent
            if folder not in plain:
                plain[folder] = _plain_folders(_folders(path, root))
            for name in _picture_names(path.stem):
                for last in {None, *plain[folder][-1:]}:
                    places = self._places.setdefault((name, last), {})
                    places.setdefault(plain[folder], []).append(path)

    def partner(self, group: _Group, mask: Path) -> Path | None:
        """Return the picture of a mask; None where there is none, or several might be it."""
        stem = fold(mask.stem)
        if not group.folder:
            named = _split_word(stem)
            names = _picture_names(named.rest if named else stem)
            while match := _FURTHER_WORD.fullmatch(names[-1]):  # a_defect_mask.png of a.png
                names.append(match[1])
            return self._nearest(group, mask, (), names)
        folders = _folders(mask, self.root)
        below = _plain_folders(folders[folders.index(group.folder) + 1 :])
        names = _picture_names(stem)
        for name in tuple(names):
            if named := _split_word(name):
                names += _picture_names(named.rest)
        names += [match[1] for name in names if (match := _NUMBERED.fullmatch(name))]
        if found := self._nearest(group, mask, below, names):
            return found
        # several masks of a picture lie in a folder of its name (MVTec LOCO)
        return self._nearest(group, mask, below[:-1], [below[-1]]) if below else None

    def _nearest(self, group: _Group, mask: Path, below: Folders, names: Iterable[str]) -> Path | None:
        """Return the picture with one of these names that fits best, of the first name that occurs.

        None where there is none, or several fit equally.

        Args:
            group: Group of the mask.
            mask: The mask.
            below: Folders with which the picture's folders end: those of the mask below its folder of masks.
            names: Names that the picture may have.
        """
        here = (*group.above, *below)
        for name in names:
            places = self._places.get((name, below[-1] if below else None), {})
            nearest = places.get(here, [])
            is_best = not masked_folder(group.folder) and not _is_good(here)
            is_best = is_best and any(path not in self.suspects for path in nearest)
            if is_best or not group.folder:  # there may be very many others of the name
                places = {here: nearest}
            ranked = sorted(self._rank(group, mask, below, places), key=lambda entry: entry[0])
            if not ranked:
                continue
            (best_rank, best), *others = ranked
            is_tied = bool(others) and others[0][0] == best_rank
            return None if is_tied else best
        return None

    def _rank(
        self, group: _Group, mask: Path, below: Folders, places: Mapping[Folders, Iterable[Path]]
    ) -> Iterator[tuple[tuple[bool | int, ...], Path]]:
        """Yield the pictures that may be a mask's, each with a rank that is lower the better it fits."""
        hint = masked_folder(group.folder) or ""
        above = group.above
        for folders, paths in places.items():
            # the picture's folders: those above the group, others, and those below it
            others_count = len(folders) - len(above) - len(below)
            starts_above = folders[: len(above)] == above
            ends_below = folders[len(folders) - len(below) :] == below
            if others_count < 0 or not starts_above or not ends_below:
                continue
            is_elsewhere = bool(hint) and hint not in folders[len(above) :]
            for path in paths:
                if group.has(path):
                    continue
                has_other_case = not mask.stem.startswith(path.stem)  # as a.png beside A.png and A_mask.png
                rank = (path in self.suspects, _is_good(folders), is_elsewhere, others_count, has_other_case)
                yield rank, path


def _twins(paths: Sequence[Path]) -> dict[Path, Path | None]:
    """Return masks that have their picture's name, in another format, in the same folder."""
    by_name: dict[str, list[Path]] = {}
    for path in paths:
        by_name.setdefault(os.path.splitext(os.fspath(path))[0].lower(), []).append(path)
    groups: dict[tuple[Path, str], list[tuple[Path, Path]]] = {}
    for alike in by_name.values():
        for path in alike if len(alike) == 2 else ():
            other = alike[alike[0] == path]
            groups.setdefault((path.parent.parent, path.suffix.lower()), []).append((path, other))
    masks: dict[Path, Path | None] = {}
    for pairs in groups.values():
        seen = [_is_twin(*pair) for pair in _spread(pairs)]
        if any(seen):
            masks |= dict(pair for pair in pairs if all(seen) or _is_twin(*pair))
    return masks


def _is_twin(path: Path, other: Path) -> bool:
    return _look(path) is True and _look(other) is False


def _spread(items: Sequence[_T]) -> Sequence[_T]:
    return items[:: max(1, len(items) // LOOKED_AT)][:LOOKED_AT]


def _is_mask(path: Path, has_picture: bool, are_alike: bool) -> bool:
    """Whether a file looks like a mask; where it has a picture, whether nothing speaks against it.

    Args:
        path: The file.
        has_picture: Whether it has a picture.
        are_alike: Whether none of the group's files that were looked at looks like a photograph.
    """
    looks = _look(path)
    return looks is True or (has_picture and (are_alike or looks is None))


def _look(path: Path) -> bool | None:
    """Whether a file looks like a mask; None: it cannot be read."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return _look_at(os.fspath(path), stat.st_mtime_ns, stat.st_size)


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _is_photograph(path: Path) -> bool:
    try:
        stat = os.stat(path)
    except OSError:
        return False
    return _look_at(os.fspath(path), stat.st_mtime_ns, stat.st_size) is False and _is_photograph_at(
        os.fspath(path), stat.st_mtime_ns, stat.st_size
    )


@lru_cache(1 << 14)
def _is_photograph_at(path: str, *_stamp: int) -> bool:
    try:
        return is_photograph(path)
    except (InputError, OSError, MemoryError, ValueError):
        return False


@lru_cache(1 << 14)
def _look_at(path: str, *_stamp: int) -> bool | None:
    try:
        read_mask(path)
    except DoubtfulMaskError:
        return False
    except (InputError, OSError, MemoryError):
        return None
    return True

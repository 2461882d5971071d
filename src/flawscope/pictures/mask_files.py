"""Sorts masks from pictures among files, and finds each mask's picture: the one rule of all listings.

A file is a mask where all three conditions hold:

- Its name or a folder's name is that of masks (`a_mask.png`, `masks/a.png`, `SegmentationClass/a.png`), or it
  has the name of another picture in its folder, in another format (`a.jpg`, `a.png`).
- It has a picture: of the same name in the same folder, or at the same place of a parallel folder.
- It looks like a mask: `read_mask` reads it without a doubt. Of files with similar names a few are read.
  Where the words are certain, such as `masks`, or `labels` beside `images`, it is enough that it is no
  photograph. Where the pictures look like masks themselves, as those of backlit parts, only such words count.

The name alone does not suffice: `mask_7.png` without `7.png` is a picture, perhaps of a mask. But a file that
looks like a mask and is named like masks that have pictures, or lies in a folder `masks` or the like, is a
mask without a picture.
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
LOOKED_AT = 4  # number of files with similar names that are read, to find out whether they are masks

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
# Additions of tools to a name: the suffix once more, Roboflow's hash, Label Studio's number of an upload
EXPORTED = re.compile(rf"(.+)[._](?:{_SUFFIXES})\.rf\.[\w\-]+")
_DECORATIONS = (EXPORTED, re.compile(rf"(.+)[._](?:{_SUFFIXES})"), re.compile(r"[0-9a-f]{8}-(.+)"))


def fold(name: str) -> str:
    """Return a name for comparison, without differences of case and of the encoding of accents."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def plain_names(stem: str) -> list[str]:
    """Return the names by which other files may refer to a picture, the folded name first.

    The others are the name without additions of tools, and all of these with underscores or hyphens in place
    of blanks.
    """
    names = [fold(stem)]
    for name in names:  # the list grows meanwhile: a name may have several additions
        for decoration in _DECORATIONS:
            match = decoration.fullmatch(name)
            if match and match[1] not in names:
                names.append(match[1])
    without_blanks = [name.replace(" ", filler) for filler in "_-" for name in names]
    return list(dict.fromkeys([*names, *without_blanks]))


def is_mask_folder(name: str) -> bool:
    """Whether a folder's name says that it holds masks."""
    return masked_folder(name) is not None


def is_picture_folder(name: str) -> bool:
    """Whether a folder's name says that it holds pictures, and nothing else: `images`."""
    return _PICTURE_FOLDER.fullmatch(fold(name)) is not None


@lru_cache(1 << 12)
def masked_folder(name: str) -> str | None:
    """Return the name of a folder of masks without the word for masks; None for other folders.

    Example: `bad` for `bad_masks`.
    """
    if fold(name) in MASK_FOLDERS:
        return ""
    text = fold(_CAMEL.sub("_", name))
    match = _FOLDER_WORD.search(text)
    if match is None:
        return None
    return (text[: match.start()] + text[match.end() :]).strip(" ._-")


def seem_masks(pictures: Iterable[Path]) -> list[Path]:
    """Return the pictures that look like masks although they are not masks by the rule of this module.

    Such a picture has a word for masks in its name, or belongs to another picture, which does not look like a
    mask. The other picture has the same name in another folder, or lies in the same folder and has a name
    with which this picture's name begins.

    Args:
        pictures: Pictures without the masks that `find_masks` finds.
    """
    paths = list(pictures)
    paths_by_name: dict[str, list[Path]] = {}
    for path in paths:
        paths_by_name.setdefault(fold(path.stem), []).append(path)
    # (folder, addition to the name, or "word") -> pairs of a picture and the other picture
    groups: dict[tuple[Path, str], list[tuple[Path, Path | None]]] = {}
    for path in paths:
        stem = fold(path.stem)
        if _HAS_WORD.search(stem) and _split_word(stem):
            groups.setdefault((path.parent, "word"), []).append((path, None))
            continue
        addition_and_other = _find_shorter_named(path, stem, paths_by_name)
        if addition_and_other is not None:
            addition, other = addition_and_other
            groups.setdefault((path.parent, addition), []).append((path, other))
    masks = []
    for (_, addition), pairs in groups.items():
        first_path, first_other = pairs[0]
        if addition == "word" or _seems_mask(first_path, first_other):
            masks += [path for path, other in pairs if _seems_mask(path, other)]
    return masks


def _find_shorter_named(
    path: Path, stem: str, paths_by_name: Mapping[str, Sequence[Path]]
) -> tuple[str, Path] | None:
    """Find another picture with the same name, or with a beginning of the name that ends before a gap.

    A picture with the same name lies in another folder; one with a beginning of the name in the same folder.

    Args:
        path: The picture.
        stem: Folded name of the picture without suffix.
        paths_by_name: Pictures by folded name.

    Returns:
        What this picture's name has in addition, with 0 in place of each digit, and the other picture. None
        where there is no such picture.
    """
    ends = [*(gap.start() for gap in _GAPS.finditer(stem)), len(stem)]
    for end in ends:
        addition = stem[end:]
        for other in paths_by_name.get(stem[:end], ()):
            is_same_folder = other.parent == path.parent
            has_addition = addition != ""
            if is_same_folder == has_addition:  # in the same folder the names have to differ
                return re.sub(r"\d", "0", addition), other
    return None


def _seems_mask(path: Path, other: Path | None) -> bool:
    """Whether a picture looks like the mask of a part, while the other picture (if any) does not."""
    if _look(path) is not True:
        return False
    return (other is None or _look(other) is False) and _marks_a_part(path)


def _marks_a_part(path: Path) -> bool:
    """Whether a mask marks something, but at most half of the picture.

    A picture of a printed label, read as a mask, would mark more.
    """
    share = float(read_mask(path).mean())
    return 0 < share <= 0.5


def find_masks(files: Iterable[Path]) -> dict[Path, Path | None]:
    """Return the masks among picture files, each with its picture; None where it has no picture.

    The names of folders above all of the files do not count.
    """
    masks, _ = _sort_out(list(files))
    return masks


def find_photographs(files: Iterable[Path]) -> list[Path]:
    """Return the pictures that are named like masks of others, but are photographs and so no masks."""
    _, photographs = _sort_out(list(files))
    return photographs


def _sort_out(paths: Sequence[Path]) -> tuple[dict[Path, Path | None], list[Path]]:
    """Return the masks, each with its picture, and the photographs that are named like masks."""
    try:
        root = os.path.commonpath({os.path.dirname(path) for path in paths})
    except ValueError:  # there are no files, or they lie on two drives
        root = ""
    groups = _named_like_masks(paths, root)
    photographs = _take_photographs(groups)  # removes them from the groups
    picture_by_mask: dict[Path, Path | None] = {}
    photographs_like_masks: list[Path] = []
    if groups:
        pictures = _Pictures(paths, root, {path for group in groups for path in group.paths})
        picture_by_mask = _with_partners(groups, pictures, paths)
        for group, path in photographs:
            if group.folder or pictures.partner(group, path) is not None:
                photographs_like_masks.append(path)
    # masks without a word for masks: one of two files that differ only by the suffix
    picture_by_twin = _twins([path for path in paths if path not in picture_by_mask])
    return picture_by_mask | picture_by_twin, photographs_like_masks


def _take_photographs(groups: Sequence[_Group]) -> list[tuple[_Group, Path]]:
    """Remove the photographs from the `paths` of groups of files that are named like masks.

    Returns:
        The removed photographs, each with its group. Photographs of groups with a weak word are removed, but
        not returned, since such a word often means something else.
    """
    photographs: list[tuple[_Group, Path]] = []
    for groups_of_kind in _by_kind(groups):
        paths = [path for group in groups_of_kind for path in group.paths]
        photographs_of_kind = _find_photographs_among(paths)
        if not photographs_of_kind:
            continue
        for group in groups_of_kind:
            if not group.is_weak:
                photographs += [(group, path) for path in group.paths if path in photographs_of_kind]
            group.paths = [path for path in group.paths if path not in photographs_of_kind]
    return photographs


def _with_partners(
    groups: Sequence[_Group], pictures: _Pictures, paths: Sequence[Path]
) -> dict[Path, Path | None]:
    """Return the masks of the groups, each with its picture.

    Args:
        groups: Groups of files that are named like masks.
        pictures: All files by their names.
        paths: All files.
    """
    picture_by_mask: dict[Path, Path | None] = {}
    sure_pictures = [path for path in paths if path not in pictures.suspects]
    partners = [{path: pictures.partner(group, path) for path in group.paths} for group in groups]
    # first the groups with pictures that are surely no masks themselves, then the others
    for has_sure_partner in (True, False):
        for group, picture_of in zip(groups, partners, strict=True):
            if has_sure_partner != _has_sure_partner(picture_of, pictures):
                continue
            remaining: dict[Path, Path | None] = {}
            for path, picture in picture_of.items():
                # a file that was found to be a mask meanwhile is nobody's picture
                is_mask_itself = picture in picture_by_mask
                remaining[path] = None if is_mask_itself else picture
            for mask in group.masks(remaining, sure_pictures):
                picture_by_mask[mask] = remaining[mask]
    return picture_by_mask


def _has_sure_partner(picture_of: Mapping[Path, Path | None], pictures: _Pictures) -> bool:
    """Whether a file of a group has a picture that is surely no mask."""
    return any(picture is not None and picture not in pictures.suspects for picture in picture_of.values())


def _by_kind(groups: Iterable[_Group]) -> Iterable[list[_Group]]:
    """Return the groups in lists; the groups of a list have the same words, in whatever folders.

    Files of such groups are similar, so that few of them need to be read even if there are many folders.
    """
    groups_by_kind: dict[tuple[str, ...], list[_Group]] = {}
    for group in groups:
        groups_by_kind.setdefault(group.kind, []).append(group)
    return groups_by_kind.values()


def _find_photographs_among(paths: Sequence[Path]) -> set[Path]:
    """Return the photographs among files with similar names, without reading all of them.

    Files of photographs are larger than those of masks. So the files are read from the largest on, and the
    search ends after `4 * LOOKED_AT` files that are no photographs.
    """
    sizes = {path: _size(path) for path in paths}
    largest_first = sorted(paths, key=lambda path: -sizes[path])
    sample = {*_spread(paths), *largest_first[:LOOKED_AT], *largest_first[-LOOKED_AT:]}
    photographs = {path for path in sample if _is_photograph(path)}
    if len(photographs) == len(sample):
        return {*paths}
    if not photographs:
        return set()
    # files of one size say nothing by their order: all of them are read
    sizes_differ = sizes[largest_first[0]] > sizes[largest_first[-1]]
    other_count = 0
    for path in largest_first:
        if _is_photograph(path):
            photographs.add(path)
            continue
        if sizes_differ and other_count >= 4 * LOOKED_AT:
            break
        other_count += 1
    return photographs


@dataclass
class _Group:
    """Files that are named like masks: in a folder of masks, or with the same word for masks in one folder.

    Attributes:
        folder: Name of the folder of masks; empty where the files' names have the word.
        above: Folders that lead to the group, in the form of the pictures' folders (`_plain_folders`).
        is_telling: Whether the word means masks and nothing else.
        is_weak: Whether the word often means something else.
        needs_no_picture: Whether files that look like masks are masks even if no file of the group has a
            picture.
        kind: The words by which the files are named like masks.
        paths: The files.
    """

    folder: str
    above: Folders
    is_telling: bool
    is_weak: bool
    needs_no_picture: bool
    kind: tuple[str, ...]
    paths: list[Path] = field(default_factory=list)

    @cached_property
    def _members(self) -> set[Path]:
        """The files, for `has`."""
        return set(self.paths)

    def has(self, path: Path) -> bool:
        """Whether a file belongs to the group."""
        return path in self._members

    def masks(self, picture_of: Mapping[Path, Path | None], sure_pictures: Sequence[Path]) -> list[Path]:
        """Return the files that are masks.

        Args:
            picture_of: Picture of each file; None: it has none.
            sure_pictures: Files that are certainly pictures.
        """
        paired = [path for path in self.paths if picture_of[path] is not None]
        if self._is_telling(picture_of, paired):
            return self._with_picture_or_look(picture_of)
        if not paired and not self.needs_no_picture:
            return []
        # True: like a mask; False: like a picture; None: not readable
        looks = {_look(path) for path in _spread(paired or self.paths)}
        has_mask = True in looks
        has_non_mask = False in looks
        # no file looks like a mask, and some look like pictures, or none has a picture
        if not has_mask and (has_non_mask or not paired):
            return []
        if self._others_look_like_masks(picture_of, paired, sure_pictures):
            return []
        return [
            path
            for path in self.paths
            if _is_mask(path, has_picture=picture_of[path] is not None, are_alike=not has_non_mask)
        ]

    def _with_picture_or_look(self, picture_of: Mapping[Path, Path | None]) -> list[Path]:
        """Return the files that have a picture or look like masks; of a folder of masks, all files."""
        return [path for path in self.paths if picture_of[path] is not None or self.folder or _look(path)]

    def _is_telling(self, picture_of: Mapping[Path, Path | None], paired: Sequence[Path]) -> bool:
        """Whether the files are masks by names alone: by their word, or by their pictures' folder.

        Args:
            picture_of: Picture of each file; None: it has none.
            paired: Files that have a picture; without any the answer is False.
        """
        if not paired:
            return False
        return self.is_telling or any(_in_picture_folder(picture_of[path]) for path in paired)

    def _others_look_like_masks(
        self, picture_of: Mapping[Path, Path | None], paired: Sequence[Path], sure_pictures: Sequence[Path]
    ) -> bool:
        """Whether pictures that are no masks look like masks, so that the look of the files says nothing.

        Args:
            picture_of: Picture of each file; None: it has none.
            paired: Files that have a picture.
            sure_pictures: Files that are certainly pictures.
        """
        pictures: Sequence[Path | None] = ()
        if self.is_weak:
            pictures = [picture_of[path] for path in paired]
        elif not paired and not self.is_telling:
            pictures = sure_pictures
        if not pictures:
            return False
        return all(path is None or _look(path) is True for path in _spread(pictures))


def _in_picture_folder(path: Path | None) -> bool:
    """Whether a picture lies in a folder whose name says that it holds pictures."""
    return path is not None and is_picture_folder(path.parent.name)


def _named_like_masks(paths: Sequence[Path], root: str) -> list[_Group]:
    """Return the files that are named like masks, in groups.

    - All files below a folder of masks are a group; of several such folders in a path the topmost counts.
    - Other files are a group if they lie in one folder, and their names have the same word for masks on the
      same side (first or last).

    Args:
        paths: The files.
        root: Folder above all of the files.
    """
    group_by_key: dict[tuple[str, ...], _Group] = {}
    for path in paths:
        text = os.fspath(path)[len(root) :].lower()
        if not _HAS_WORD.search(text):
            continue
        folders = _folders(path, root)
        mask_level = next((level for level, name in enumerate(folders) if is_mask_folder(name)), None)
        if mask_level is not None:
            name = fold(folders[mask_level])
            key = folders[: mask_level + 1]
            is_telling = name in MASK_FOLDERS and name != "mask"
            group = _Group(
                folder=folders[mask_level],
                above=_plain_folders(folders[:mask_level]),
                is_telling=is_telling,
                is_weak=not is_telling and any(word in name for word in _WEAK),
                needs_no_picture=name in MASK_FOLDERS,
                kind=(name,),
            )
        else:
            name_with_word = _split_word(fold(path.stem))
            if name_with_word is None:
                continue
            rest, word, side = name_with_word
            # the empty name, which no folder has, keeps this key unlike the keys of folders of masks
            key = (*folders, "", word, side)
            is_weak = word.startswith(_WEAK)  # not "ground truth", which only ends with a weak word
            group = _Group(
                folder="",
                above=_plain_folders(folders),
                is_telling=not is_weak,
                is_weak=is_weak,
                needs_no_picture=_LABEL_STUDIO.fullmatch(rest) is not None,
                kind=(word, side),
            )
        group_by_key.setdefault(key, group).paths.append(path)
    return list(group_by_key.values())


class _NameWithWord(NamedTuple):
    """Folded name of a file that has a word for masks.

    Attributes:
        rest: The name without the word.
        word: The word.
        side: Place of the word: "first", "last", or "alone".
    """

    rest: str
    word: str
    side: str


def _split_word(stem: str) -> _NameWithWord | None:
    """Split the word for masks from a folded name; None where it has no such word, or only inside a word."""
    match = _WORD_LAST.fullmatch(stem)
    if match:
        return _NameWithWord(rest=match[1], word=match[2], side="last")
    match = _WORD_FIRST.fullmatch(stem)
    if match:
        return _NameWithWord(rest=match[2], word=match[1], side="first")
    if _HAS_WORD.fullmatch(stem):
        return _NameWithWord(rest="", word=stem, side="alone")
    return None


def _folders(path: Path, root: str) -> Folders:
    """Return the names of the folders of a file, below a root."""
    return PurePosixPath(path.parent.as_posix()[len(root) :].strip("/")).parts


def _plain_folders(folders: Iterable[str]) -> Folders:
    """Return the folders that a picture and its mask share: folded, without `images`, `masks` and such."""
    plain = (fold(name) for name in folders if not is_mask_folder(name))
    return tuple(name for name in plain if not is_picture_folder(name))


def _is_good(folders: Folders) -> bool:
    """Whether the name of a folder says that its parts are good."""
    return any(says_good(name) for name in folders)


def _picture_names(stem: str) -> list[str]:
    """Return the forms of a picture's name that its mask's name may hold, such as one without `image`."""
    names = plain_names(stem)
    trimmed_name = _TRIMMED.sub("", names[0])  # such as "a (1)" of "a (1) - mask"
    if trimmed_name not in names:
        names.append(trimmed_name)
    for name in tuple(names):
        for expression in (_PICTURE_FIRST, _PICTURE_LAST):
            match = expression.fullmatch(name)
            if match and match[1] not in names:
                names.append(match[1])
    if _PICTURE_ALONE.fullmatch(names[0]):  # image.png beside mask.png
        names.append("")
    return names


class _Pictures:
    """All files, by their names.

    Args:
        paths: The files.
        root: Folder above all of the files.
        suspects: Files that may be masks themselves.
    """

    def __init__(self, paths: Sequence[Path], root: str, suspects: set[Path]):
        self.root = root
        self.suspects = suspects
        # (name, last folder) -> folders -> files; under (name, None) are all files of the name
        self._places: dict[tuple[str, str | None], dict[Folders, list[Path]]] = {}
        plain_folders: dict[Path, Folders] = {}
        for path in paths:
            folder = path.parent
            if folder not in plain_folders:
                plain_folders[folder] = _plain_folders(_folders(path, root))
            folders = plain_folders[folder]
            for name in _picture_names(path.stem):
                last_folders: set[str | None] = {None, folders[-1]} if folders else {None}
                for last_folder in last_folders:
                    places = self._places.setdefault((name, last_folder), {})
                    places.setdefault(folders, []).append(path)

    def partner(self, group: _Group, mask: Path) -> Path | None:
        """Return the picture of a mask; None where there is none, or several pictures fit equally well.

        Args:
            group: Group of the mask.
            mask: The mask.
        """
        stem = fold(mask.stem)
        if not group.folder:  # the names of the files have the word for masks
            name_with_word = _split_word(stem)
            names = _picture_names(name_with_word.rest if name_with_word else stem)
            while match := _FURTHER_WORD.fullmatch(names[-1]):  # a_defect_mask.png of a.png
                names.append(match[1])
            return self._nearest(group, mask, (), names)
        folders = _folders(mask, self.root)
        below = _plain_folders(folders[folders.index(group.folder) + 1 :])
        names = _picture_names(stem)
        for name in tuple(names):
            name_with_word = _split_word(name)
            if name_with_word:
                names += _picture_names(name_with_word.rest)
        names += [match[1] for name in names if (match := _NUMBERED.fullmatch(name))]
        picture = self._nearest(group, mask, below, names)
        if picture or not below:
            return picture
        # several masks of a picture may lie in a folder of its name (MVTec LOCO)
        return self._nearest(group, mask, below[:-1], [below[-1]])

    def _nearest(self, group: _Group, mask: Path, below: Folders, names: Iterable[str]) -> Path | None:
        """Return the picture that fits a mask best; None where no picture fits, or several fit equally well.

        Only the first of the names that a fitting picture has is considered.

        Args:
            group: Group of the mask.
            mask: The mask.
            below: Folders between the mask and its folder of masks. The picture's path ends with them, too.
            names: Names that the picture may have, the most likely first.
        """
        nearest_place = (*group.above, *below)
        last_folder = below[-1] if below else None
        for name in names:
            paths_by_folders = self._places.get((name, last_folder), {})
            nearest = paths_by_folders.get(nearest_place, [])
            has_best_rank = (
                not masked_folder(group.folder)
                and not _is_good(nearest_place)
                and any(path not in self.suspects for path in nearest)
            )
            # no picture elsewhere would fit better; to save time, since very many files may have the name
            if has_best_rank or not group.folder:
                paths_by_folders = {nearest_place: nearest}
            ranked = sorted(self._rank(group, mask, below, paths_by_folders), key=lambda entry: entry[0])
            if not ranked:
                continue
            best_rank, best = ranked[0]
            best_count = [rank for rank, _ in ranked].count(best_rank)
            return best if best_count == 1 else None
        return None

    def _rank(
        self, group: _Group, mask: Path, below: Folders, paths_by_folders: Mapping[Folders, Iterable[Path]]
    ) -> Iterator[tuple[tuple[bool | int, ...], Path]]:
        """Yield the rank and the path of each picture that a mask may belong to; the lowest rank fits best.

        Args:
            group: Group of the mask.
            mask: The mask.
            below: Folders between the mask and its folder of masks. The picture's path ends with them, too.
            paths_by_folders: Files that have the picture's name, by their folders.
        """
        hint = masked_folder(group.folder) or ""  # such as `bad` of `bad_masks`
        above = group.above
        for folders, paths in paths_by_folders.items():
            # the picture's path has to be: folders above the group, any others, folders below the group
            others_count = len(folders) - len(above) - len(below)
            starts_above = folders[: len(above)] == above
            ends_below = folders[len(folders) - len(below) :] == below
            if others_count < 0 or not starts_above or not ends_below:
                continue
            is_elsewhere = bool(hint) and hint not in folders[len(above) :]
            for path in paths:
                if group.has(path):
                    continue
                # a.png fits A_mask.png less than A.png does
                has_other_case = not mask.stem.startswith(path.stem)
                rank = (path in self.suspects, _is_good(folders), is_elsewhere, others_count, has_other_case)
                yield rank, path


def _twins(paths: Sequence[Path]) -> dict[Path, Path | None]:
    """Return the masks that lie beside pictures and differ only by the suffix, each with its picture."""
    paths_by_name: dict[str, list[Path]] = {}
    for path in paths:
        name, _ = os.path.splitext(os.fspath(path))
        paths_by_name.setdefault(name.lower(), []).append(path)
    # a few pairs of files show whether all files of a suffix below a folder are masks
    groups: dict[tuple[Path, str], list[tuple[Path, Path]]] = {}  # (folder above, suffix) -> pairs
    for same_name in paths_by_name.values():
        if len(same_name) != 2:
            continue
        first, second = same_name
        for path, other in ((first, second), (second, first)):
            groups.setdefault((path.parent.parent, path.suffix.lower()), []).append((path, other))
    picture_by_mask: dict[Path, Path | None] = {}
    for pairs in groups.values():
        are_twins = [_is_twin(path, other) for path, other in _spread(pairs)]
        if not any(are_twins):
            continue
        for path, other in pairs:
            if all(are_twins) or _is_twin(path, other):
                picture_by_mask[path] = other
    return picture_by_mask


def _is_twin(path: Path, other: Path) -> bool:
    """Whether a file looks like a mask, and the file of the same name like a picture."""
    return _look(path) is True and _look(other) is False


def _spread(items: Sequence[_T]) -> Sequence[_T]:
    """Return at most `LOOKED_AT` of the items, chosen evenly."""
    return items[:: max(1, len(items) // LOOKED_AT)][:LOOKED_AT]


def _is_mask(path: Path, has_picture: bool, are_alike: bool) -> bool:
    """Whether a file that is named like a mask is one.

    A file that looks like a mask is one. A file with a picture is also one in two other cases: it cannot be
    read, or all files of its group that were read look like masks.

    Args:
        path: The file.
        has_picture: Whether the file has a picture.
        are_alike: Whether all files of its group that were read look like masks.
    """
    looks_like_mask = _look(path)
    return looks_like_mask is True or (has_picture and (are_alike or looks_like_mask is None))


def _look(path: Path) -> bool | None:
    """Whether a file looks like a mask; None: it cannot be read."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return _look_at(os.fspath(path), stat.st_mtime_ns, stat.st_size)


def _size(path: Path) -> int:
    """Return the size of a file in bytes; 0 where it cannot be read."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _is_photograph(path: Path) -> bool:
    """Whether a file looks like a photograph, and not like a mask; False where it cannot be read."""
    try:
        stat = os.stat(path)
    except OSError:
        return False
    version = (os.fspath(path), stat.st_mtime_ns, stat.st_size)
    looks_like_mask = _look_at(*version)  # None where it cannot be read
    return looks_like_mask is False and _is_photograph_at(*version)


@lru_cache(1 << 14)
def _is_photograph_at(path: str, *_stamp: int) -> bool:
    """Whether a file is a photograph; False where it cannot be read.

    Args:
        path: The file.
        _stamp: Time and size of the file, by which the cache distinguishes versions of the file.
    """
    try:
        return is_photograph(path)
    except (InputError, OSError, MemoryError, ValueError):
        return False


@lru_cache(1 << 14)
def _look_at(path: str, *_stamp: int) -> bool | None:
    """Whether a file looks like a mask; None: it cannot be read. The arguments: see `_is_photograph_at`."""
    try:
        read_mask(path)
    except DoubtfulMaskError:
        return False
    except (InputError, OSError, MemoryError):
        return None
    return True

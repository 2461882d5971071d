"""Finds files of labelling tools, and which of the pictures they mean. Each form has a reader in `forms`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope.datasets.labels.forms import LabelDocument, read_label_file
from flawscope.datasets.labels.names import PictureNames, without_zeros
from flawscope.datasets.labels.shapes import Entry as LabelEntry
from flawscope.datasets.labels.shapes import Mark, Shape, Size
from flawscope.datasets.labels.tables import FORM as LIST
from flawscope.datasets.labels.tables import SUFFIXES
from flawscope.datasets.labels.yolo import find_settings
from flawscope.errors import InputError
from flawscope.pictures.decoding import RAW_SUFFIXES, is_picture, open_upright
from flawscope.pictures.files import TRANSPOSING, stored_turn, turn_array, upright_size
from flawscope.pictures.folder_words import says_good
from flawscope.pictures.listing import subfolders, walk_files
from flawscope.pictures.mask_files import fold, is_mask_folder, is_picture_folder, plain_names

Texts = list[tuple[str, str]]  # texts on a picture, each behind the name of its column or tag
# Files beside pictures of the same name that say nothing of the part: of cameras and programs
_HARMLESS = {
    *RAW_SUFFIXES,
    ".xmp",
    ".aae",
    ".thm",
    ".md",
    ".html",
    ".part",
    ".crdownload",
    ".safetensors",
    ".onnx",
    ".bin",
}
# If at least this share of a source's pictures has marks beyond the border, it was made on larger pictures
LARGER_SHARE = 0.1
CORNER = 0.7  # a corner of a picture reaches over less than this share of its width and height
CHANCE = 0.001  # if the probability that all marks lie in a corner is below this, it is not by chance


@dataclass(frozen=True, eq=False)
class PictureLabels(os.PathLike[str]):
    """Marks of the label file at `path` in one picture.

    Every shape is a defect, whatever its name; marks whose name says good are not among the shapes.

    Attributes:
        path: The label file.
        size: Height and width of the picture on which the marks were made; None where unknown.
        shapes: Marks of defects.
        boxes: Number of shapes that are boxes, which mark more than the defect.
        kinds: Name of each shape's label.
        form: Form of the label file, such as "COCO".
        turn: EXIF orientation by which the mask is turned, if the picture was marked as it is stored; else 1.
        is_doubtful: Whether it is not known if the picture was marked as it is shown or as it is stored.
    """

    path: Path
    size: Size | None
    shapes: tuple[Shape, ...]
    boxes: int = 0
    kinds: tuple[str, ...] = ()
    form: str = ""
    turn: int = 1
    is_doubtful: bool = False

    def read(self) -> NDArray[np.bool_]:
        """Return the mask [H, W] bool of all shapes, upright.

        Raises:
            InputError: The marks are damaged, or the picture's size is not known.
        """
        if self.size is None:
            raise InputError(f"{self.path} does not say how large its picture is: export it again")
        mask = np.zeros(self.size, np.bool_)
        try:
            for shape in self.shapes:
                mask |= shape.draw(self.size)
        except InputError as error:
            raise InputError(f"{self.path}: {error}") from None
        except Exception:  # a damaged file may make a library raise anything
            raise InputError(f"{self.path}: a mark cannot be drawn: export it again") from None
        return turn_array(mask, self.turn)

    def hangs_over(self, size: Size) -> bool:
        """Whether a mark reaches beyond a picture of this size."""
        return any(shape.hangs_over(size) for shape in self.shapes)

    def __fspath__(self) -> str:
        return str(self.path)

    __str__ = __fspath__


class _Entry(NamedTuple):
    """Entry of a label file for one picture.

    Attributes:
        folders: Folders of the picture in the form that `fold` returns.
        stem: Name of the picture without its suffix.
        suffix: Suffix of the picture if the file states it, else empty.
        labels: Marks of defects that can be drawn.
        left_out: Kinds of marks that cannot be drawn.
        source: Name of the file; if it is of one picture only, its form.
        about: Texts on the whole picture: pairs of column or tag, and text.
        good: Kinds of marks of good parts.
    """

    folders: tuple[str, ...]
    stem: str
    suffix: str
    labels: PictureLabels
    left_out: tuple[str, ...]
    source: str
    about: tuple[tuple[str, str], ...] = ()
    good: tuple[str, ...] = ()

    @property
    def has_defect(self) -> bool:
        """Whether a mark of a defect can be drawn."""
        return bool(self.labels.shapes)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of the marked defects; without defects, kinds of the marked good parts."""
        kinds = self.labels.kinds if self.has_defect else self.good
        return tuple(dict.fromkeys(filter(None, kinds)))


@dataclass
class _UsableLabels:
    """Labels of a picture, and why others were left out."""

    labels: list[PictureLabels] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


class _Candidate(NamedTuple):
    """Labels of a picture, with the possible readings of them (`_readings`)."""

    picture: Path
    labels: PictureLabels
    readings: list[PictureLabels]


@dataclass
class FormSummary:
    """Counts over the label files of a form.

    Attributes:
        files: The label files.
        pictures: Number of pictures with a mark.
        kinds: Number of marks by kind.
        left_out: Number of marks that are left out, by kind.
        about: Number of texts on whole pictures, by text.
    """

    files: list[Path] = field(default_factory=list)
    pictures: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    about: Counter[str] = field(default_factory=Counter)


class LabelFiles:
    """Label files below a folder, and which pictures they mean.

    A file of many pictures, such as COCO's, names them; a file of one picture has the picture's name. A name
    without folders means the picture of that name in any folder. If no picture has the exact name, names are
    compared without case, encoding of accents, and what tools add.

    Attributes:
        root: Folder below which label files are searched for.
        caller_path: Path of each picture as the caller gave it, by its path below `root`.
    """

    def __init__(
        self,
        root: Path,
        pictures: Iterable[Path],
        files: Iterable[Path] | None = None,
        above: int = 0,
        good_kinds: Iterable[str] = (),
    ):
        """Find label files, which are read when first used.

        Args:
            root: Folder below which label files are searched for.
            pictures: Pictures that the files may mean.
            files: Label files to use; None: all below `root`.
            above: Number of levels that `root` lies above the folder of the pictures; 0 if it is that folder.
            good_kinds: Kinds of marks that are no defects, in addition to kinds whose name says good.
        """
        self.root = root
        self._files = files
        self._above = above
        self._good_kinds = {*map(fold, good_kinds)}
        # paths as the caller wrote them, by paths in the form of `root`
        self.caller_path: dict[Path, Path] = {}
        for path in pictures:
            # `root` is absolute if it lies above the pictures' folder
            path_below_root = Path(os.path.abspath(path)) if above else path
            self.caller_path[path_below_root] = path
        self._pictures = [path for path in self.caller_path if path.is_relative_to(root)]
        self._names = PictureNames(self._pictures)

    def find(self, picture: Path) -> tuple[PictureLabels, ...]:
        """Return the usable labels of a picture."""
        return tuple(self._by_picture[picture].labels) if picture in self._by_picture else ()

    def marked(self) -> dict[Path, tuple[str, tuple[str, ...], bool]]:
        """Return the pictures in which something is marked.

        Returns:
            For each picture the source, the kinds of the marks, and whether the marks are defects. Marks
            around good parts are no defects.
        """
        marks_of: dict[Path, tuple[str, tuple[str, ...], bool]] = {}
        # Entries with defects come last: they replace marks of good parts in the same picture.
        by_has_defect = sorted(self._assigned, key=lambda assigned: assigned[0].has_defect)
        for entry, pictures in by_has_defect:
            has_marks = entry.has_defect or entry.good
            if not has_marks:
                continue
            for path in self._pictures_meant(entry, pictures):
                if path in self.caller_path:
                    picture = self.caller_path[path]
                    marks_of[picture] = (entry.source, entry.kinds, entry.has_defect)
        return marks_of

    def _is_of_good_part(self, kind: str) -> bool:
        """Whether marks of a kind are around good parts."""
        return says_good(kind) is True or fold(kind) in self._good_kinds

    def left_out(self, picture: Path) -> tuple[str, ...]:
        """Return why marks in a picture cannot be used.

        If the picture has no usable labels, each file that could not be read is a reason, too.
        """
        picture_labels = self._by_picture.get(picture, _UsableLabels())
        reasons = [*picture_labels.left_out]
        if not picture_labels.labels:
            reasons += [f"in {path.name}, which could not be read" for path in self.unreadable]
        return tuple(dict.fromkeys(reasons))

    @cached_property
    def unreadable(self) -> dict[Path, str]:
        """Files of labels that could not be read, each with the reason."""
        return {path: document.fault for path, document in self._documents if document.fault}

    def scale_doubts(self) -> Iterator[tuple[str, str]]:
        """Yield sources whose marks may have been made on smaller pictures, each with the reason.

        This is so if all marks lie in the upper left corner of their pictures, and hardly by chance.
        """
        for source, reach in self._reach.items():
            count = len(reach)
            width_share, height_share = reach.max(0)
            # a mark placed at random lies in the corner with a probability of the corner's share of the area
            probability = (width_share * height_share) ** count
            if max(width_share, height_share) < CORNER and probability < CHANCE:
                corner = f"{width_share:.0%} of the width and {height_share:.0%} of the height"
                yield source, f"marks all of {count} pictures within the first {corner}"

    @property
    def without_picture(self) -> dict[Path, list[str]]:
        """Names of pictures that a label file marks but that do not exist, by file."""
        names_of: dict[Path, list[str]] = {}
        for entry, pictures in self._assigned:
            if not pictures and entry.labels.shapes:
                names_of.setdefault(entry.labels.path, []).append(entry.stem)
        return names_of

    @cached_property
    def _by_picture(self) -> dict[Path, _UsableLabels]:
        """Usable labels by picture; pictures that no entry is about are left out."""
        by_picture: dict[Path, _UsableLabels] = {}
        candidates: dict[str, list[_Candidate]] = {}  # by source
        for entry, pictures in self._assigned:
            labels = entry.labels
            for picture in pictures:
                picture_labels = by_picture.setdefault(picture, _UsableLabels())
                picture_labels.left_out += [f"{kind} ({labels.form})" for kind in entry.left_out]
                if len(pictures) > 1 and labels.shapes:
                    reason = f"marked by a name that {len(pictures)} pictures have"
                    picture_labels.left_out.append(reason)
                elif labels.shapes:
                    candidate = _Candidate(picture, labels, _readings(labels, picture))
                    candidates.setdefault(entry.source, []).append(candidate)
        for source_candidates in candidates.values():
            for picture, labels, reason_left_out in _choose_readings(source_candidates):
                if reason_left_out:
                    by_picture[picture].left_out.append(f"{reason_left_out} ({labels.form})")
                else:
                    by_picture[picture].labels.append(labels)
        return by_picture

    @cached_property
    def _reach(self) -> dict[str, NDArray[np.float64]]:
        """Reach of the marks to the right and down, by source: [N, 2], a row for each of N pictures.

        The values are shares of each picture's width and height. Sources that state the size of their
        pictures are left out.
        """
        reach: dict[str, list[NDArray[np.float64]]] = {}
        for entry, pictures in self._assigned:
            if entry.labels.size or entry.labels.form == "YOLO":  # YOLO's marks are shares of any size
                continue
            usable_labels = [labels for picture in pictures for labels in self.find(picture)]
            for labels in usable_labels:
                if labels.path == entry.labels.path and labels.size:
                    reach.setdefault(entry.source, []).append(_reach_of(labels, labels.size))
        return {source: np.array(shares) for source, shares in reach.items()}

    @cached_property
    def _assigned(self) -> list[tuple[_Entry, list[Path]]]:
        """Every entry with the pictures that it may mean.

        An entry means pictures of its exact name. If there are none, it means pictures of its plain name,
        without those that an entry with a defect means by their exact name.
        """
        if not self._documents:
            return []
        pictures_by_exact_name: dict[str, list[Path]] = {}
        pictures_by_plain_name: dict[str, list[Path]] = {}
        for picture in self._pictures:
            names = plain_names(picture.stem)
            exact_name = names[0]
            pictures_by_exact_name.setdefault(exact_name, []).append(picture)
            for name in filter(None, (*names, without_zeros(exact_name))):
                pictures_by_plain_name.setdefault(name, []).append(picture)
        assigned_by_exact_name: list[tuple[_Entry, list[Path]]] = []
        marked: set[Path] = set()
        for entry in self._entries(pictures_by_exact_name):
            pictures = self._closest(entry, pictures_by_exact_name.get(fold(entry.stem), ()))
            assigned_by_exact_name.append((entry, pictures))
            if entry.has_defect:
                marked.update(pictures)
        unmarked_by_plain_name = {}
        for name, paths in pictures_by_plain_name.items():
            unmarked_by_plain_name[name] = [path for path in paths if path not in marked]
        folders = {name for picture in self._pictures for name in self._folders(picture)}
        assigned = []
        for entry, pictures in assigned_by_exact_name:
            meant = pictures or self._closest_by_plain_name(entry, unmarked_by_plain_name, folders)
            assigned.append((entry, meant))
        return assigned

    def _closest_by_plain_name(
        self, entry: _Entry, unmarked: Mapping[str, Sequence[Path]], folders: Set[str]
    ) -> list[Path]:
        """Return the pictures that an entry means by its plain name: without what labelling tools add.

        Args:
            entry: Entry whose exact name no picture has.
            unmarked: Pictures by plain name, without those that another entry marks by their exact name.
            folders: Names of the pictures' folders.
        """
        # folders that are all unknown are the labelling tool's own, and say nothing about the picture
        has_known_folder = bool(folders & {*entry.folders})
        fallback_entry = entry if has_known_folder else entry._replace(folders=())
        for name in plain_names(entry.stem):
            pictures = unmarked.get(name, ())
            closest = self._closest(entry, pictures) or self._closest(fallback_entry, pictures)
            if closest:
                return closest
        return []

    def _folders(self, picture: Path) -> tuple[str, ...]:
        """Return a picture's folders below the root, folded."""
        return _fold_folders(picture.relative_to(self.root).parent.parts)

    def _closest(self, entry: _Entry, pictures: Iterable[Path]) -> list[Path]:
        """Return the pictures whose folders fit an entry best.

        A picture's folders fit if they end with the entry's folders, or the entry's end with them. Pictures
        with the most folders in common are preferred, then pictures outside of folders of good ones, then
        pictures with the entry's suffix.
        """
        by_shared_count: dict[int, list[Path]] = {}
        for picture in pictures:
            folders = self._folders(picture)
            shared_count = min(len(folders), len(entry.folders))
            if shared_count == 0 or folders[-shared_count:] == entry.folders[-shared_count:]:
                by_shared_count.setdefault(shared_count, []).append(picture)
        if not by_shared_count:
            return []
        most_shared = max(by_shared_count)
        closest = by_shared_count[most_shared]
        not_good = [path for path in closest if not any(map(says_good, self._folders(path)))]
        candidates = not_good or closest
        of_same_suffix = [path for path in candidates if fold(path.suffix) == entry.suffix]
        return of_same_suffix or candidates

    def _entries(self, names: Mapping[str, object]) -> Iterator[_Entry]:
        """Yield the entries of all files; `names` holds the folded names of the pictures."""
        for path, document in self._documents:
            # files of a form with one file for each picture are one source, all together
            source = self._name(path) if len(document.entries) > 1 else document.form
            for entry in document.entries:
                if not entry.name or not (entry.marks or entry.about):
                    continue
                picture = PurePosixPath(entry.name.replace("\\", "/"))
                # Unquoted only if the name as it is means no picture: a file's name may contain %20.
                if fold(picture.name) not in names:
                    picture = PurePosixPath(unquote(entry.name).replace("\\", "/"))
                yield self._make_entry(path, document.form, picture, source, entry)

    def _make_entry(
        self, path: Path, form: str, picture: PurePosixPath, source: str, entry: LabelEntry
    ) -> _Entry:
        """Return an entry of a file, with its marks sorted into those of good parts and those of defects.

        Args:
            path: The label file.
            form: Form of the file.
            picture: Path of the picture that the file states, without suffix.
            source: Source of the entry, as in `_Entry`.
            entry: Entry as the form's reader returns it.
        """
        good_marks = [mark for mark in entry.marks if self._is_of_good_part(mark.kind)]
        defect_marks = [mark for mark in entry.marks if mark not in good_marks]
        return _Entry(
            folders=_fold_folders(picture.parent.parts),
            stem=picture.name,
            suffix=fold(entry.suffix),
            labels=_labels_of(path, entry.size, defect_marks, form),
            left_out=tuple(mark.kind for mark in defect_marks if mark.draw is None),
            source=source,
            about=entry.about,
            good=tuple(mark.kind for mark in good_marks),
        )

    def _name(self, path: Path) -> str:
        """Return a file's path below the root, with forward slashes."""
        return path.relative_to(self.root).as_posix()

    def class_texts(self) -> dict[str, dict[Path, Texts]]:
        """Return texts on whole pictures, by source and picture.

        If an entry may mean several pictures, it means those that lie exactly where the file says, relative
        to the file's folder; if there are none, those below the file's folder; else all.
        """
        texts: dict[str, dict[Path, Texts]] = {}
        for entry, assigned_pictures in self._assigned:
            if not entry.about:
                continue
            folder = entry.labels.path.parent
            pictures = self._pictures_meant(entry, assigned_pictures)
            in_stated_folder = [path for path in pictures if path.parent == folder.joinpath(*entry.folders)]
            below_file = [path for path in pictures if path.is_relative_to(folder)]
            for picture in in_stated_folder or below_file or pictures:
                texts.setdefault(entry.source, {}).setdefault(picture, []).extend(entry.about)
        return texts

    @cached_property
    def unsure_sources(self) -> set[str]:
        """Lists in the folder above the pictures' folder that name pictures without their folder.

        They may be about other pictures. Lists in a folder of labels beside the pictures' folder are sure to
        belong to the pictures, and are left out.
        """
        sources: set[str] = set()
        if not self._above:
            return sources
        for entry, pictures in self._assigned:
            is_directly_above = entry.labels.path.parent == self.root
            if is_directly_above and not all(self._lies_in_folders(path, entry) for path in pictures):
                sources.add(entry.source)
        return sources

    def _lies_in_folders(self, picture: Path, entry: _Entry) -> bool:
        """Whether an entry states folders, and the picture's last folders are these."""
        count = len(entry.folders)
        return count > 0 and self._folders(picture)[-count:] == entry.folders

    def _pictures_meant(self, entry: _Entry, pictures: list[Path]) -> list[Path]:
        """Return the pictures that an entry certainly means, among those that it may mean.

        In a file above the pictures' folder, a name without folders may mean a picture of another folder. The
        picture is certain only if the file is one level above, and no folder beside has a picture of this
        name.
        """
        if not self._above or entry.folders:
            return pictures
        if self._above > 1:
            return []
        return [path for path in pictures if not self._is_elsewhere(path, entry)]

    @cached_property
    def _root_folders(self) -> list[Path]:
        """Subfolders of the root if it lies above the pictures' folder; else empty."""
        return [*subfolders(self.root).values()] if self._above else []

    def _is_elsewhere(self, picture: Path, entry: _Entry) -> bool:
        """Whether another folder of the root has a file of the picture's name, or of the entry's name."""
        names = {picture.name, f"{entry.stem}{entry.suffix or picture.suffix}"}
        other_folders = [folder for folder in self._root_folders if not picture.is_relative_to(folder)]
        return any((folder / name).exists() for folder in other_folders for name in names)

    @property
    def unread_lists(self) -> dict[Path, str]:
        """Lists of pictures that could not be read, each with the reason."""
        return {
            path: document.fault
            for path, document in self._documents
            if document.form == LIST and document.fault
        }

    @cached_property
    def _file_list(self) -> list[Path]:
        """All files that may be label files."""
        return [*(walk_files(self.root) if self._files is None else self._files)]

    @cached_property
    def _documents(self) -> list[tuple[Path, LabelDocument]]:
        """The contents of the files that may be label files, each with its path."""
        find_settings_once = cache(partial(find_settings, self.root))
        documents = []
        for path in self._file_list:
            below_root = path.relative_to(self.root)
            folders = [name for name in below_root.parent.parts if not is_mask_folder(name)]
            expected_name = "/".join((*folders, below_root.stem))
            document = read_label_file(path, expected_name, find_settings_once, self._names)
            if document is not None:
                documents.append((path, document))
        return documents

    def summaries(self) -> dict[str, FormSummary]:
        """Return counts over the label files, by form."""
        summaries: dict[str, FormSummary] = {}
        for path, document in self._documents:
            if not document.form:
                continue
            summary = summaries.setdefault(document.form, FormSummary())
            summary.files.append(path)
            for entry in document.entries:
                summary.pictures += any(mark.draw for mark in entry.marks)  # adds 1 for a marked picture
                summary.about.update(text for _, text in entry.about)
                summary.kinds.update(mark.kind for mark in entry.marks if mark.draw)
                summary.left_out.update(mark.kind for mark in entry.marks if not mark.draw)
        return summaries

    @property
    def of_no_form(self) -> list[Path]:
        """Files that might be labels but have no known form: JSON, XML, and texts named like a picture."""
        unread = (path for path, document in self._documents if not document.form and not document.fault)
        return [
            path
            for path in unread
            if path.suffix.lower() in (".json", ".xml") or self._has_picture_name(path)
        ]

    def _has_picture_name(self, path: Path) -> bool:
        """Whether a file has the name of a picture, with or without the picture's suffix."""
        return self._names.is_exact(path.stem)

    def not_understood(self) -> list[str]:
        """Return names of files that seem to describe the pictures, and are not understood.

        These are tables that nearly name the pictures; label files of other pictures, about as many as there
        are here; and files of an unknown form that are named like a picture.
        """
        files = [path for path, document in self._documents if document.seems_list]
        files += [path for path, document in self._documents if self._marks_others(path, document)]
        files += [path for path in self.of_no_form if self._has_picture_name(path)]
        names = [self._name(path) for path in files]
        foreign_files: dict[str, list[Path]] = {}  # by suffix
        for path in self._file_list:
            if self._is_foreign(path) and self._has_picture_name(path):
                foreign_files.setdefault(path.suffix.lower(), []).append(path)
        for suffix, paths in foreign_files.items():
            names.append(self._name(paths[0]) if len(paths) == 1 else f"{len(paths)} files {suffix}")
        return names

    @staticmethod
    def _is_foreign(path: Path) -> bool:
        """Whether a file's suffix is unknown, and not one that cameras or programs leave beside pictures."""
        suffix = path.suffix.lower()
        return suffix not in _HARMLESS and suffix not in SUFFIXES and not is_picture(path)

    def _marks_others(self, path: Path, document: LabelDocument) -> bool:
        """Whether a label file marks other pictures than these, and about as many."""
        if document.form in ("", LIST):
            return False
        picture_count = self._names.count
        has_similar_count = picture_count / 2 <= len(document.entries) <= 2 * picture_count
        has_marks = any(mark.draw for entry in document.entries for mark in entry.marks)
        if not has_similar_count or not has_marks:
            return False
        return not any(pictures for entry, pictures in self._assigned if entry.labels.path == path)


def _fold_folders(parts: Iterable[str]) -> tuple[str, ...]:
    """Return names of folders for comparison: folded, without names such as images/."""
    return tuple(fold(part) for part in parts if not is_picture_folder(part))


def _labels_of(path: Path, size: Size | None, marks: Sequence[Mark], form: str) -> PictureLabels:
    """Return the labels of the marks that can be drawn."""
    drawable = [mark for mark in marks if mark.draw]
    shapes = tuple(mark.draw for mark in drawable if mark.draw)
    box_count = sum(mark.is_box for mark in drawable)
    kinds = tuple(mark.kind for mark in drawable)
    return PictureLabels(path, size, shapes, boxes=box_count, kinds=kinds, form=form)


def _reach_of(labels: PictureLabels, size: Size) -> NDArray[np.float64]:
    """Return how far marks reach to the right and down [2], as shares of the picture's width and height."""
    points = [shape.reach(size) for shape in labels.shapes if shape.reach]
    farthest: NDArray[np.float64] = np.concatenate(points).max(0)
    height, width = size
    return farthest / (width, height)


class Reading(NamedTuple):
    """Labels of a picture, on the picture as it is shown or as it is stored.

    Attributes:
        reason: Why the labels cannot be used; empty if they can.
    """

    picture: Path
    labels: PictureLabels
    reason: str = ""


def _readings(labels: PictureLabels, picture: Path) -> list[PictureLabels]:
    """Return the possible readings of labels: on the picture as it is shown, and as it is stored.

    There are two only if the picture is stored turned. A reading is left out if its marks reach beyond the
    picture, or if it contradicts the size that the labels state. If no reading has the stated size, or the
    picture cannot be read, the labels are returned as they are: whoever draws them reports that fault.
    """
    try:
        height, width = _upright_size(picture)
    except InputError:
        return [labels]
    readings = [replace(labels, size=(height, width))]
    turn = stored_turn(picture)
    if turn != 1:  # 1: it is stored upright
        stored_size = (width, height) if turn in TRANSPOSING else (height, width)
        readings.append(replace(labels, size=stored_size, turn=turn))
    fitting = [reading for reading in readings if labels.size in (None, reading.size)]
    if not fitting:
        return [labels]
    return [reading for reading in fitting if reading.size and not reading.hangs_over(reading.size)]


def _choose_readings(candidates: list[_Candidate]) -> Iterator[Reading]:
    """Yield a reading for each picture of a source.

    If only one reading is possible, it is taken. Of two possible readings, the one is taken that fits the way
    in which the source's other pictures were marked; if that is unknown, the one as the picture is shown.

    A reading with a reason is not used: marks reach beyond the picture, or beyond so many of the source's
    pictures that larger pictures must have been marked.

    Args:
        candidates: Labels of all pictures of the source.
    """
    # True: a turned picture was marked as it is shown, False: as it is stored; from those with one reading
    decided_as_shown: set[bool] = set()
    for picture, labels, readings in candidates:
        # `_readings` returns `labels` as they are if no reading has their size, or the picture is damaged
        has_single_reading = len(readings) == 1 and readings[0] is not labels
        if has_single_reading and stored_turn(picture) != 1:
            decided_as_shown.add(readings[0].turn == 1)
    beyond_count = sum(not candidate.readings for candidate in candidates)
    is_of_larger_pictures = beyond_count >= max(2, LARGER_SHARE * len(candidates))
    for picture, labels, readings in candidates:
        if not readings:
            yield Reading(picture, labels, "marked beyond the picture")
        elif is_of_larger_pictures:
            yield Reading(picture, labels, "marked where others reach beyond their pictures")
        elif len(readings) == 1:
            yield Reading(picture, replace(readings[0], is_doubtful=False))
        # of two readings, the first is as the picture is shown, the second as it is stored
        elif decided_as_shown == {False}:  # the others were marked as they are stored
            yield Reading(picture, readings[1])
        else:  # in doubt, unless all of the others were marked as they are shown
            yield Reading(picture, replace(readings[0], is_doubtful=decided_as_shown != {True}))


def _upright_size(picture: Path) -> Size:
    """Return a picture's height and width, from the header if Pillow knows the format.

    Raises:
        InputError: The picture cannot be read.
    """
    try:
        with Image.open(picture) as header:
            return upright_size(header)
    except Exception:  # Pillow does not know the format; another reader may
        image = open_upright(picture, str(picture))
        return image.height, image.width

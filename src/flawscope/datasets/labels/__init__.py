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
LARGER_SHARE = 0.1  # of a source's pictures with marks beyond the border: then it was made on larger ones
# share of the sides, and of sets whose marks all lie there by chance
CORNER = 0.7
CHANCE = 0.001


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
        turn: EXIF orientation that the mask gets, where the picture was marked as it is stored.
        is_doubtful: Whether the picture may have been marked as it is stored, and nothing decides it.
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
        """Draw the mask [H, W], upright.

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
        except Exception:  # of whatever a damaged file makes a library raise
            raise InputError(f"{self.path}: a mark cannot be drawn: export it again") from None
        return turn_array(mask, self.turn)

    def hangs_over(self, size: Size) -> bool:
        """Whether a mark belongs to a larger picture than one of this size."""
        return any(shape.hangs_over(size) for shape in self.shapes)

    def __fspath__(self) -> str:
        return str(self.path)

    __str__ = __fspath__


class _Entry(NamedTuple):
    """Entry of a label file for one picture.

    Attributes:
        folders: Folders of the picture, folded.
        stem: Name of the picture without its suffix.
        suffix: Suffix of the picture, where the file states it.
        labels: Marks of defects that can be drawn.
        left_out: Kinds of marks that cannot be drawn.
        source: Name of the file, or the form of files of one picture each.
        about: Texts on the whole picture, each under its column or tag.
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
        return bool(self.labels.shapes)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of its defects; of good parts where it marks none."""
        kinds = self.labels.kinds if self.has_defect else self.good
        return tuple(dict.fromkeys(filter(None, kinds)))


@dataclass
class _Found:
    """Labels of a picture, and why others were left out."""

    labels: list[PictureLabels] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


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
    """Label files anywhere below a folder, read when first asked for, and which of the pictures they mean.

    A file of many pictures, such as COCO's, names them; a file of one has its name. A name without folders
    means the picture of that name, wherever it lies; case, the spelling of accents, and what tools add to a
    name make no difference where there is no picture of the exact name.
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
            files: Label files to use instead of those anywhere below `root`.
            above: How many levels the pictures' own folder lies below `root`, where only some of the pictures
                below `root` are meant; else 0.
            good_kinds: Kinds of marks that are no defects, beside kinds whose name says so.

        Attributes:
            given: Pictures as the caller names them, by their paths below `root`.
        """
        self.root = root
        self._files = files
        self._above = above
        self._good_kinds = {*map(fold, good_kinds)}
        self.given = {Path(os.path.abspath(path)) if above else path: path for path in pictures}
        self._pictures = [path for path in self.given if path.is_relative_to(root)]
        self._names = PictureNames(self._pictures)

    def find(self, picture: Path) -> tuple[PictureLabels, ...]:
        """Return the usable labels of a picture."""
        return tuple(self._by_picture[picture].labels) if picture in self._by_picture else ()

    def marked(self) -> dict[Path, tuple[str, tuple[str, ...], bool]]:
        """Return the pictures in which something is marked.

        Returns:
            Of each picture the source, the kinds of the marks, and whether one of them is a defect: boxes
            around good parts are none.
        """
        found: dict[Path, tuple[str, tuple[str, ...], bool]] = {}
        # defects last: they win where a picture has marks of both
        for entry, pictures in sorted(self._assigned, key=lambda assigned: assigned[0].has_defect):
            if not entry.has_defect and not entry.good:
                continue
            for path in self._meant(entry, pictures):
                if path in self.given:
                    found[self.given[path]] = (entry.source, entry.kinds, entry.has_defect)
        return found

    def _is_of_good_part(self, kind: str) -> bool:
        return says_good(kind) is True or fold(kind) in self._good_kinds

    def left_out(self, picture: Path) -> tuple[str, ...]:
        """Return why marks in a picture cannot be used; a file that cannot be read may have marked it."""
        found = self._by_picture.get(picture, _Found())
        reasons = [*found.left_out]
        if not found.labels:
            reasons += [f"in {path.name}, which could not be read" for path in self.unreadable]
        return tuple(dict.fromkeys(reasons))

    @cached_property
    def unreadable(self) -> dict[Path, str]:
        """Files of labels that could not be read, each with the reason."""
        return {path: document.fault for path, document in self._documents if document.fault}

    def scale_doubts(self) -> Iterator[tuple[str, str]]:
        """Yield sources whose marks may have been made on smaller pictures, each with the reason.

        The sign is that all marks lie in a corner of their pictures, which hardly happens by chance.
        """
        for source, reach in self._reach.items():
            share = reach.max(0)
            count = len(reach)
            if share.max() < CORNER and np.prod(share) ** count < CHANCE:
                corner = f"{share[0]:.0%} of the width and {share[1]:.0%} of the height"
                yield source, f"marks all of {count} pictures within the first {corner}"

    @property
    def without_picture(self) -> dict[Path, list[str]]:
        """Names in label files for which there is no picture, by file."""
        lost: dict[Path, list[str]] = {}
        for entry, pictures in self._assigned:
            if not pictures and entry.labels.shapes:
                lost.setdefault(entry.labels.path, []).append(entry.stem)
        return lost

    @cached_property
    def _by_picture(self) -> dict[Path, _Found]:
        found: dict[Path, _Found] = {}
        placed: dict[str, list[tuple[Path, PictureLabels, list[PictureLabels]]]] = {}
        for entry, pictures in self._assigned:
            for picture in pictures:
                of = found.setdefault(picture, _Found())
                of.left_out += [f"{kind} ({entry.labels.form})" for kind in entry.left_out]
                if len(pictures) > 1 and entry.labels.shapes:
                    of.left_out.append(f"marked by a name that {len(pictures)} pictures have")
                elif entry.labels.shapes:
                    readings = _readings(entry.labels, picture)
                    placed.setdefault(entry.source, []).append((picture, entry.labels, readings))
        for of_source in placed.values():
            for picture, labels, reason in _choose_readings(of_source):
                if reason:
                    found[picture].left_out.append(f"{reason} ({labels.form})")
                else:
                    found[picture].labels.append(labels)
        return found

    @cached_property
    def _reach(self) -> dict[str, NDArray[np.float64]]:
        """Reach of the marks to the right and down [N, 2], by source, as shares of each picture's size.

        Sources that state the size of their pictures are left out.
        """
        reach: dict[str, list[NDArray[np.float64]]] = {}
        for entry, pictures in self._assigned:
            if entry.labels.size or entry.labels.form == "YOLO":
                continue
            for labels in (labels for picture in pictures for labels in self.find(picture)):
                if labels.path == entry.labels.path and labels.size:
                    reach.setdefault(entry.source, []).append(_reach_of(labels, labels.size))
        return {source: np.array(shares) for source, shares in reach.items()}

    @cached_property
    def _assigned(self) -> list[tuple[_Entry, list[Path]]]:
        """Every entry with the pictures that it may mean."""
        if not self._documents:
            return []
        exact: dict[str, list[Path]] = {}
        plain: dict[str, list[Path]] = {}
        for picture in self._pictures:
            names = plain_names(picture.stem)
            exact.setdefault(names[0], []).append(picture)
            for name in filter(None, (*names, without_zeros(names[0]))):
                plain.setdefault(name, []).append(picture)
        by_exact_name: list[tuple[_Entry, list[Path]]] = []
        taken: set[Path] = set()
        for entry in self._entries(exact):
            pictures = self._closest(entry, exact.get(fold(entry.stem), ()))
            by_exact_name.append((entry, pictures))
            if entry.has_defect:
                taken.update(pictures)
        free = {name: [path for path in paths if path not in taken] for name, paths in plain.items()}
        folders = {name for picture in self._pictures for name in self._folders(picture)}
        found = []
        for entry, pictures in by_exact_name:
            found.append((entry, pictures or self._closest_by_plain_name(entry, free, folders)))
        return found

    def _closest_by_plain_name(
        self, entry: _Entry, free: Mapping[str, Sequence[Path]], folders: Set[str]
    ) -> list[Path]:
        """Return the pictures that an entry means by its name without what labelling tools add.

        Args:
            entry: Entry whose exact name no picture has.
            free: Pictures by their plain names, without those that another entry marks by the exact name.
            folders: Names of the pictures' folders.
        """
        # folders of the tool say nothing
        without_folders = entry if folders & {*entry.folders} else entry._replace(folders=())
        for name in plain_names(entry.stem):
            pictures = free.get(name, ())
            close = self._closest(entry, pictures) or self._closest(without_folders, pictures)
            if close:
                return close
        return []

    def _folders(self, picture: Path) -> tuple[str, ...]:
        return _fold_folders(picture.relative_to(self.root).parent.parts)

    def _closest(self, entry: _Entry, pictures: Iterable[Path]) -> list[Path]:
        """Return the pictures whose folders fit an entry best; the defective ones among them, if any."""
        fits: dict[int, list[Path]] = {}
        for picture in pictures:
            folders = self._folders(picture)
            short = min(len(folders), len(entry.folders))
            if not short or folders[-short:] == entry.folders[-short:]:
                fits.setdefault(short, []).append(picture)
        best = fits[max(fits)] if fits else []
        best = [path for path in best if not any(map(says_good, self._folders(path)))] or best
        return [path for path in best if fold(path.suffix) == entry.suffix] or best

    def _entries(self, names: Mapping[str, object]) -> Iterator[_Entry]:
        """Yield the entries of all files; `names` holds the folded names of the pictures."""
        for path, document in self._documents:
            source = self._name(path) if len(document.entries) > 1 else document.form
            for entry in document.entries:
                if not entry.name or not (entry.marks or entry.about):
                    continue
                place = PurePosixPath(entry.name.replace("\\", "/"))
                if fold(place.name) not in names:  # a name may hold %20 itself
                    place = PurePosixPath(unquote(entry.name).replace("\\", "/"))
                yield self._entry(path, document.form, place, source, entry)

    def _entry(self, path: Path, form: str, place: PurePosixPath, source: str, entry: LabelEntry) -> _Entry:
        """Make the entry for a picture, which lies at `place` according to the file."""
        good = [mark for mark in entry.marks if self._is_of_good_part(mark.kind)]
        defects = [mark for mark in entry.marks if mark not in good]
        return _Entry(
            _fold_folders(place.parent.parts),
            place.name,
            fold(entry.suffix),
            _labels_of(path, entry.size, defects, form),
            left_out=tuple(mark.kind for mark in defects if mark.draw is None),
            source=source,
            about=entry.about,
            good=tuple(mark.kind for mark in good),
        )

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def class_texts(self) -> dict[str, dict[Path, Texts]]:
        """Return texts on whole pictures, by source and picture.

        A name that several pictures have means those nearest to the file.
        """
        found: dict[str, dict[Path, Texts]] = {}
        for entry, every in self._assigned:
            if not entry.about:
                continue
            folder = entry.labels.path.parent
            pictures = self._meant(entry, every)
            exact = [path for path in pictures if path.parent == folder.joinpath(*entry.folders)]
            near = exact or [path for path in pictures if path.is_relative_to(folder)] or pictures
            for picture in near:
                found.setdefault(entry.source, {}).setdefault(picture, []).extend(entry.about)
        return found

    @cached_property
    def unsure_sources(self) -> set[str]:
        """Lists in the folder above the pictures' folder that name pictures without a folder.

        They may be about other pictures. A folder of labels beside the pictures' folder belongs to these
        pictures.
        """
        found: set[str] = set()
        if not self._above:
            return found
        for entry, pictures in self._assigned:
            if entry.labels.path.parent != self.root:
                continue
            count = len(entry.folders)
            if any(count == 0 or self._folders(picture)[-count:] != entry.folders for picture in pictures):
                found.add(entry.source)
        return found

    def _meant(self, entry: _Entry, pictures: list[Path]) -> list[Path]:
        """Return the pictures that a file above them means; bare names may be those of other pictures."""
        if not self._above or entry.folders:
            return pictures
        return [path for path in pictures if self._above == 1 and not self._is_elsewhere(path, entry)]

    @cached_property
    def _beside(self) -> list[Path]:
        return [*subfolders(self.root).values()] if self._above else []

    def _is_elsewhere(self, picture: Path, entry: _Entry) -> bool:
        """Whether another folder of the root has a picture of this name, or of the name as it is written."""
        names = {picture.name, f"{entry.stem}{entry.suffix or picture.suffix}"}
        others = [folder for folder in self._beside if not picture.is_relative_to(folder)]
        return any((folder / name).exists() for folder in others for name in names)

    @property
    def unread_lists(self) -> dict[Path, str]:
        """Lists of pictures that could not be read, each with the reason."""
        return {
            path: document.fault
            for path, document in self._documents
            if document.form == LIST and document.fault
        }

    @cached_property
    def _walked(self) -> list[Path]:
        return [*(walk_files(self.root) if self._files is None else self._files)]

    @cached_property
    def _documents(self) -> list[tuple[Path, LabelDocument]]:
        settings = cache(partial(find_settings, self.root))
        documents = []
        for path in self._walked:
            parts = path.relative_to(self.root).with_suffix("").parts
            expected_name = "/".join((*(part for part in parts[:-1] if not is_mask_folder(part)), parts[-1]))
            if (document := read_label_file(path, expected_name, settings, self._names)) is not None:
                documents.append((path, document))
        return documents

    def summaries(self) -> dict[str, FormSummary]:
        """Return counts over the label files, by form."""
        found: dict[str, FormSummary] = {}
        for path, document in self._documents:
            if document.form:
                summary = found.setdefault(document.form, FormSummary())
                summary.files.append(path)
                for entry in document.entries:
                    summary.pictures += any(mark.draw for mark in entry.marks)
                    summary.about.update(text for _, text in entry.about)
                    for mark in entry.marks:
                        (summary.kinds if mark.draw else summary.left_out)[mark.kind] += 1
        return found

    @property
    def of_no_form(self) -> list[Path]:
        """Files of no form that might be labels: JSON, XML, and text that is named like a picture."""
        unread = (path for path, document in self._documents if not document.form and not document.fault)
        return [path for path in unread if path.suffix.lower() in (".json", ".xml") or self._is_own(path)]

    def _is_own(self, path: Path) -> bool:
        """Whether a file has the name of a picture, as it is or with its suffix."""
        return self._names.is_exact(path.stem)

    def not_understood(self) -> list[str]:
        """Return names of files that seem to describe the pictures, and are not understood.

        These are tables that nearly name the pictures, files that mark about as many other pictures, and
        files of an unknown form that are named like a picture.
        """
        near = [path for path, document in self._documents if document.seems_list]
        near += [path for path, document in self._documents if self._marks_others(path, document)]
        near += [path for path in self.of_no_form if self._is_own(path)]
        found = [self._name(path) for path in near]
        of_suffix: dict[str, list[Path]] = {}
        for path in self._walked:
            if self._is_foreign(path) and self._is_own(path):
                of_suffix.setdefault(path.suffix.lower(), []).append(path)
        for suffix, paths in of_suffix.items():
            found.append(self._name(paths[0]) if len(paths) == 1 else f"{len(paths)} files {suffix}")
        return found

    @staticmethod
    def _is_foreign(path: Path) -> bool:
        """Whether a file is of an unknown kind, which neither cameras nor programs usually leave there."""
        suffix = path.suffix.lower()
        return suffix not in _HARMLESS and suffix not in SUFFIXES and not is_picture(path)

    def _marks_others(self, path: Path, document: LabelDocument) -> bool:
        """Whether a tool's file marks about as many pictures as there are, but none of them."""
        count = len(document.entries)
        if document.form in ("", LIST) or not self._names.count / 2 <= count <= 2 * self._names.count:
            return False
        has_marks = any(mark.draw for entry in document.entries for mark in entry.marks)
        return has_marks and not any(
            pictures for entry, pictures in self._assigned if entry.labels.path == path
        )


def _fold_folders(parts: Iterable[str]) -> tuple[str, ...]:
    """Folders as they are compared: folded, without those that say `images`, beside which `labels` lie."""
    return tuple(fold(part) for part in parts if not is_picture_folder(part))


def _labels_of(path: Path, size: Size | None, marks: Sequence[Mark], form: str) -> PictureLabels:
    """Labels of the marks that can be drawn."""
    drawn = [mark for mark in marks if mark.draw]
    shapes = tuple(mark.draw for mark in drawn if mark.draw)
    boxes = sum(mark.is_box for mark in drawn)
    return PictureLabels(path, size, shapes, boxes, kinds=tuple(mark.kind for mark in drawn), form=form)


def _reach_of(labels: PictureLabels, size: Size) -> NDArray[np.float64]:
    """Reach of marks to the right and down [2], in shares of a picture's width and height."""
    points = [shape.reach(size) for shape in labels.shapes if shape.reach]
    farthest: NDArray[np.float64] = np.concatenate(points).max(0)
    return farthest / size[::-1]


Reading = tuple[Path, PictureLabels, str]  # of a picture, its labels, and why they cannot be used


def _readings(labels: PictureLabels, picture: Path) -> list[PictureLabels]:
    """Return the possible readings of labels: on the picture as it is shown, and as it is stored.

    They differ where the picture is stored turned. A reading that does not fit the labels' size or whose
    marks reach beyond the picture is left out. Where the picture cannot be read or has another size, the
    labels are returned as they are: the code that reads them reports it.
    """
    try:
        height, width = _upright_size(picture)
    except InputError:
        return [labels]
    readings = [replace(labels, size=(height, width))]
    turn = stored_turn(picture)
    if turn != 1:
        stored = (width, height) if turn in TRANSPOSING else (height, width)
        readings.append(replace(labels, size=stored, turn=turn))
    fitting = [reading for reading in readings if labels.size in (None, reading.size)]
    if not fitting:
        return [labels]
    return [reading for reading in fitting if reading.size and not reading.hangs_over(reading.size)]


def _choose_readings(several: list[tuple[Path, PictureLabels, list[PictureLabels]]]) -> Iterator[Reading]:
    """Yield the reading that holds for each picture of a source.

    It is the only one that fits, else the reading of the source's other pictures, else the one as shown.

    Args:
        several: Each picture with its labels and their possible readings (`_readings`).
    """
    are_shown: set[bool] = set()  # of pictures that one reading fits: whether that is as they are shown
    for picture, labels, readings in several:
        is_only = len(readings) == 1 and readings[0] is not labels
        if is_only and stored_turn(picture) != 1:
            are_shown.add(readings[0].turn == 1)
    beyond = sum(not readings for *_, readings in several)
    is_of_larger = beyond >= max(2, LARGER_SHARE * len(several))
    for picture, labels, readings in several:
        has_two = len(readings) == 2
        if not readings:
            yield picture, labels, "marked beyond the picture"
        elif is_of_larger:
            yield picture, labels, "marked where others reach beyond their pictures"
        elif has_two and are_shown == {False}:
            yield picture, readings[1], ""
        else:
            yield picture, replace(readings[0], is_doubtful=has_two and are_shown != {True}), ""


def _upright_size(picture: Path) -> Size:
    """Return a picture's height and width, from the header if Pillow knows the format.

    Raises:
        InputError: The picture cannot be read.
    """
    try:
        with Image.open(picture) as header:
            return upright_size(header)
    except Exception:  # read by another reader, or refused
        image = open_upright(picture, str(picture))
        return image.height, image.width

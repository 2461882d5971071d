"""Finds files of labelling tools, and which of the pictures they mean. Each form has a reader in `forms`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope.datasets.labels.forms import LabelDocument, read_label_file
from flawscope.datasets.labels.shapes import Shape, Size
from flawscope.datasets.labels.yolo import find_settings
from flawscope.errors import InputError
from flawscope.pictures.decoding import open_upright
from flawscope.pictures.folder_words import says_good
from flawscope.pictures.listing import walk_files
from flawscope.pictures.mask_files import fold, is_mask_folder, is_picture_folder, plain_names


@dataclass(frozen=True, eq=False)
class PictureLabels(os.PathLike[str]):
    """Marks of the label file at `path` in one picture of `size` (H, W). Every shape is a defect, whatever
    its name. `boxes`: number of shapes that are boxes, which mark more than the defect. size: None where the
    file does not say it. kinds: the name of each shape's label. form: of the file."""

    path: Path
    size: Size | None
    shapes: tuple[Shape, ...]
    boxes: int = 0
    kinds: tuple[str, ...] = ()
    form: str = ""

    def read(self) -> NDArray[np.bool_]:
        """Draws the mask [H, W]. InputError: it is damaged, or nobody knows its size."""
        if self.size is None:
            raise InputError(f"{self.path} does not say how large its picture is: export it again")
        mask = np.zeros(self.size, np.bool_)
        for shape in self.shapes:
            mask |= shape(self.size)
        return mask

    def __fspath__(self) -> str:
        return str(self.path)

    __str__ = __fspath__


class _Entry(NamedTuple):
    """Entry of a label file for one picture: its folders, folded, and its name."""

    folders: tuple[str, ...]
    stem: str
    labels: PictureLabels


@dataclass
class FormSummary:
    """Label files of a form: their marks by kind, and what was left out of them."""

    files: list[Path] = field(default_factory=list)
    pictures: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)


class LabelFiles:
    """Label files anywhere below a folder, read when first asked for, and which of the pictures they mean.

    A file of many pictures, such as COCO's, names them; a file of one has its name. A name without folders
    means the picture of that name, wherever it lies; case, the spelling of accents, and what tools add to a
    name make no difference where there is no picture of the exact name.
    """

    def __init__(self, root: Path, pictures: Iterable[Path]):
        self.root = root
        self._pictures = [path for path in pictures if path.is_relative_to(root)]

    def find(self, picture: Path) -> tuple[PictureLabels, ...]:
        """The labels of one of the pictures. InputError: a label file is damaged, or means another picture
        of the same name as well."""
        found = []
        for labels, pictures in self._by_picture.get(picture, ()):
            if len(pictures) > 1:
                one, other = pictures[:2]
                raise InputError(
                    f"{labels.path}: {fold(picture.stem)} may be {one} or {other}: name pictures with their "
                    "folders"
                )
            found.append(labels if labels.size else replace(labels, size=_upright_size(picture)))
        return tuple(found)

    @property
    def without_picture(self) -> dict[Path, list[str]]:
        """Names in label files for which there is no picture, by file."""
        lost: dict[Path, list[str]] = {}
        for entry, pictures in self._assigned:
            if not pictures:
                lost.setdefault(entry.labels.path, []).append(entry.stem)
        return lost

    @cached_property
    def _by_picture(self) -> dict[Path, list[tuple[PictureLabels, list[Path]]]]:
        found: dict[Path, list[tuple[PictureLabels, list[Path]]]] = {}
        for entry, pictures in self._assigned:
            for picture in pictures:
                found.setdefault(picture, []).append((entry.labels, pictures))
        return found

    @cached_property
    def _assigned(self) -> list[tuple[_Entry, list[Path]]]:
        """Every entry with the pictures that it may mean."""
        entries = list(self._entries())
        exact: dict[str, list[Path]] = {}
        plain: dict[str, list[Path]] = {}
        for picture in self._pictures if entries else ():
            names = plain_names(picture.stem)
            exact.setdefault(names[0], []).append(picture)
            for name in names:
                plain.setdefault(name, []).append(picture)
        found = [(entry, self._closest(entry, exact.get(fold(entry.stem), ()))) for entry in entries]
        taken = {picture for _, pictures in found for picture in pictures}
        there = {name for picture in self._pictures for name in self._folders(picture)}
        for number, (entry, pictures) in enumerate(found):
            for name in () if pictures else plain_names(entry.stem):
                free = [picture for picture in plain.get(name, ()) if picture not in taken]
                # folders of the tool say nothing
                foreign = entry._replace(folders=()) if not there & {*entry.folders} else entry
                if close := self._closest(entry, free) or self._closest(foreign, free):
                    found[number] = (entry, close)
                    break
        return found

    def _folders(self, picture: Path) -> tuple[str, ...]:
        return _fold_folders(picture.relative_to(self.root).parent.parts)

    def _closest(self, entry: _Entry, pictures: Iterable[Path]) -> list[Path]:
        """Pictures whose folders fit best; of these the defective ones, if any."""
        fits: dict[int, list[Path]] = {}
        for picture in pictures:
            folders = self._folders(picture)
            short = min(len(folders), len(entry.folders))
            if not short or folders[-short:] == entry.folders[-short:]:
                fits.setdefault(short, []).append(picture)
        best = fits[max(fits)] if fits else []
        bad = [path for path in best if not any(map(says_good, self._folders(path)))]
        return bad or best

    def _entries(self) -> Iterator[_Entry]:
        for path, document in self._documents:
            for name, size, marks in document.entries:
                drawn = [(draw, kind, is_box) for draw, kind, is_box in marks if draw is not None]
                if drawn:
                    shapes, kinds, are_boxes = zip(*drawn, strict=True)
                    labels = PictureLabels(path, size, shapes, sum(are_boxes), kinds, document.form)
                    place = PurePosixPath(name.replace("\\", "/"))
                    yield _Entry(_fold_folders(place.parent.parts), place.name, labels)

    @cached_property
    def _documents(self) -> list[tuple[Path, LabelDocument]]:
        settings = cache(partial(find_settings, self.root))
        documents = []
        for path in walk_files(self.root):
            parts = path.relative_to(self.root).with_suffix("").parts
            own = "/".join((*(part for part in parts[:-1] if not is_mask_folder(part)), parts[-1]))
            if (document := read_label_file(path, own, settings)) is not None:
                documents.append((path, document))
        return documents

    def summaries(self) -> dict[str, FormSummary]:
        """Summaries by the names of the forms."""
        found: dict[str, FormSummary] = {}
        for path, document in self._documents:
            if document.form:
                summary = found.setdefault(document.form, FormSummary())
                summary.files.append(path)
                for entry in document.entries:
                    summary.pictures += any(mark.draw for mark in entry.marks)
                    for mark in entry.marks:
                        (summary.kinds if mark.draw else summary.left_out)[mark.kind] += 1
        return found

    @property
    def of_no_form(self) -> list[Path]:
        """Files of no form that might be labels: JSON, XML, and text that is named like a picture."""
        names = {name for picture in self._pictures for name in plain_names(picture.stem)}
        unread = (path for path, document in self._documents if not document.form)
        return [path for path in unread if path.suffix.lower() != ".txt" or fold(path.stem) in names]


def _fold_folders(parts: Iterable[str]) -> tuple[str, ...]:
    """Folders as they are compared: folded, without those that say `images`, beside which `labels` lie."""
    return tuple(fold(part) for part in parts if not is_picture_folder(part))


def _upright_size(picture: Path) -> Size | None:
    try:
        image = open_upright(picture, str(picture))
    except InputError:  # who reads the picture tells it
        return None
    return image.height, image.width

"""Finds the class of each picture, good or defective, from sources other than its folder.

The sources are the picture's own name, lists beside it or above, and the labels that labelling tools give
whole pictures.

The world of words is closed (`pictures.folder_words`): a column that sorts the pictures into groups is known
to tell good from defective, or known to tell something else, or it is a question. Questions are also two
classes of one picture, pictures without a label beside others that have one, and files that seem to describe
the pictures and are not understood.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from flawscope.datasets.label_columns import (
    Column,
    is_open,
    is_split,
    join_classes,
    read_column,
    sorts_good_ones,
    to_number,
    unknown_column,
)
from flawscope.datasets.labels import LabelFiles, Texts
from flawscope.datasets.labels.tables import LISTED, SUFFIXES
from flawscope.errors import InputError, data_checks, join_names
from flawscope.pictures.folder_words import (
    ColumnSubject,
    Said,
    answer,
    column_subject,
    read_words,
    says_only_bad,
    split_said,
    split_words,
)
from flawscope.pictures.listing import list_entries, natural_key, picture_files_in, subfolders
from flawscope.pictures.mask_files import (
    find_masks,
    fold,
    is_mask_folder,
    is_picture_folder,
    masked_folder,
)
from flawscope.pictures.masks import read_mask
from flawscope.pictures.name_words import PictureClass, read_names

UNMARKED = "unmarked"  # word of pictures without marks beside others with some
NAME = "name"  # source of labels in a picture's own name
MAX_LIST_BYTES = 1 << 24  # larger files above the pictures' folder, or in a zip, are not opened
MAX_WORDS = 40  # characters of a value that a question shows


class ClassLabel(NamedTuple):
    """Class of a picture by one source, and the words that tell it, which `--good` may name."""

    picture_class: PictureClass
    words: str
    source: str

    @property
    def is_open_name(self) -> bool:
        """Whether it is a word in a file's name whose meaning is unknown."""
        return self.source == NAME and self.picture_class is PictureClass.UNKNOWN


@dataclass
class ClassLabels:
    """Labels of pictures, in their order; a picture may have none, or several.

    Attributes:
        by_picture: Labels by picture. A label of class UNKNOWN has words whose meaning is not known.
        unread: Files that seem to describe the pictures, and are not understood.
        split_columns: Split of each picture by the source that states it; empty where no list states splits.
    """

    by_picture: dict[Path, list[ClassLabel]] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    split_columns: dict[str, dict[Path, str]] = field(default_factory=dict)

    def of_good(self, pictures: Iterable[Path]) -> ClassLabels:
        """Return the labels of pictures in a folder of good ones, without unknown words that occur once.

        Such a word stands in a single file's name: its picture counts as good.
        """
        found = {path: self.by_picture.get(path, []) for path in pictures}
        words = Counter(label.words for labels in found.values() for label in labels if label.is_open_name)
        of_good: dict[Path, list[ClassLabel]] = {}
        for path, labels in found.items():
            of_good[path] = [label for label in labels if not label.is_open_name or words[label.words] > 1]
        return ClassLabels(of_good, self.unread)

    @property
    def has_unknown(self) -> bool:
        """Whether a label is there whose meaning is unknown or unclear."""
        unclear = (PictureClass.UNKNOWN, PictureClass.UNCLEAR)
        return any(
            label.picture_class in unclear and label.words != UNMARKED
            for labels in self.by_picture.values()
            for label in labels
        )

    @property
    def is_silent(self) -> bool:
        """Whether the only labels are words in files' names whose meaning is unknown."""
        return not self.unread and all(
            label.is_open_name for labels in self.by_picture.values() for label in labels
        )

    def splits(self, pictures: Sequence[Path], *, asks: bool = True) -> dict[Path, str]:
        """Return the pictures' splits by a list; empty where no list states splits.

        Args:
            pictures: Pictures whose splits are wanted.
            asks: Whether to raise a question where a list states the splits of some pictures alone.

        Raises:
            InputError: A list states the splits of some pictures alone, and `asks` is set.
        """
        for source, column in self.split_columns.items():
            values = [column.get(path, "") for path in pictures]
            splits = [split_said(value) for value in values]
            if all(splits):
                return {path: split for path, split in zip(pictures, splits, strict=True) if split}
            if any(values) and asks:
                raise _split_question(source, values)
        return {}

    def class_of(self, picture: Path) -> PictureClass:
        """Return the class that all labels of a picture agree on.

        It is UNKNOWN without a label of a known class, and UNCLEAR where labels differ.
        """
        found = {label.picture_class for label in self.by_picture.get(picture, ())} - {PictureClass.UNKNOWN}
        return PictureClass.UNCLEAR if len(found) > 1 else next(iter(found), PictureClass.UNKNOWN)

    def defect_source(self, picture: Path) -> str:
        """Return the source that calls a picture defective; empty where none does."""
        labels = self.by_picture.get(picture, ())
        return next((label.source for label in labels if label.picture_class is PictureClass.BAD), "")

    def is_labelled(self, picture: Path) -> bool:
        """Whether a label says something of a picture, whether or not its meaning is known."""
        return any(label.words != UNMARKED for label in self.by_picture.get(picture, ()))

    def is_named(self, picture: Path, wanted: set[str]) -> bool:
        """Whether a label of a picture has one of the `wanted` names, which are folded."""
        for label in self.by_picture.get(picture, ()):
            if fold(label.words) in wanted:
                return True
            label_words = set(split_words(label.words))
            for name in wanted:
                words = set(split_words(name))
                if words and words <= label_words:
                    return True
        return False

    @property
    def words(self) -> set[str]:
        """Words of all labels, each once."""
        return {label.words for labels in self.by_picture.values() for label in labels}

    @property
    def is_complete(self) -> bool:
        """Whether each picture is either good or defective, and some are defective."""
        found = {self.class_of(picture) for picture in self.by_picture}
        is_known = not self.has_unknown and not self.unread
        return is_known and PictureClass.BAD in found and found <= {PictureClass.GOOD, PictureClass.BAD}

    def is_doubtful(self) -> bool:
        """Whether some pictures may be defective.

        They may be where a picture is called defective, or good and defective both; where the meaning of a
        label or of a file is unknown; or where some pictures of a folder are called good and the others have
        no label.
        """
        if self.unread or self.has_unknown:
            return True
        by_folder: dict[Path, set[PictureClass]] = {}
        for picture in self.by_picture:
            by_folder.setdefault(picture.parent, set()).add(self.class_of(picture))
        found = {label for several in by_folder.values() for label in several}
        if found & {PictureClass.BAD, PictureClass.UNCLEAR}:
            return True
        return {PictureClass.GOOD, PictureClass.UNKNOWN} in by_folder.values()

    def doubtful(self) -> list[Path]:
        """Return the pictures that may be defective; empty where `is_doubtful` is false.

        These are the pictures called defective or unclear, or, where there are none, those without a known
        class.
        """
        if not self.is_doubtful():
            return []
        called = [
            path
            for path in self.by_picture
            if self.class_of(path) in (PictureClass.BAD, PictureClass.UNCLEAR)
        ]
        return called or [path for path in self.by_picture if self.class_of(path) is PictureClass.UNKNOWN]

    def kind(self, picture: Path) -> str:
        """Return the kind of a defect, by words of its labels; empty without any.

        Words that state a kind are taken before words that only say "defective"; an answer such as "1" or
        "yes" counts as "defect".
        """
        others = [label for label in self.by_picture[picture] if label.picture_class is not PictureClass.GOOD]
        others.sort(
            key=lambda label: (label.picture_class is not PictureClass.BAD, says_only_bad(label.words))
        )
        words = others[0].words if others else ""
        is_answer = to_number(words) is not None or answer(words) is not None
        return "defect" if words and is_answer else words

    def question(self, root: Path, remedy: str) -> InputError:
        """Return the question which pictures below `root` are good, with the words by which to name them."""
        counts = Counter(self._describe(picture, root) for picture in self.by_picture)
        order = sorted(counts, key=lambda key: natural_key(key[0]))
        listed = [f"{words} ({counts[words, why]}, {why})" for words, why in order]
        if self.unread:
            listed.append(f"{join_names(self.unread)} may tell, and cannot be understood")
        line = f"{root}: which pictures are good? {join_names(listed, 12)}: {remedy}"
        return InputError(data_checks.WHICH_PICTURES.coded(line))

    def _describe(self, picture: Path, root: Path) -> tuple[str, str]:
        """Return words that name a picture, and their meaning with its source."""
        labels = self.by_picture[picture]
        found = self.class_of(picture)
        if not labels:
            folder = picture.parent.relative_to(root)
            said = read_words(folder.name) if folder.name else Said.UNKNOWN
            why = f"{said.value} by its name" if said in (Said.GOOD, Said.BAD) else Said.UNKNOWN.value
            return folder.as_posix(), why
        if found is PictureClass.UNCLEAR:
            sources = " and ".join(sorted({label.source for label in labels}))
            return labels[0].words, f"unclear by {sources}"
        telling = next((label for label in labels if label.picture_class is found), labels[0])
        if telling.words == UNMARKED:
            return UNMARKED, "nothing is said"
        shown = telling.words if len(telling.words) <= MAX_WORDS else f"{telling.words[:MAX_WORDS]}..."
        return shown, f"{found.value} by {telling.source}".strip()


def _split_question(source: str, values: Iterable[str]) -> InputError:
    """Return the question which good pictures are for training, by a column that states some splits alone."""
    counts = Counter(value or "none" for value in values)
    named = join_names([f"{value} ({number})" for value, number in counts.most_common()])
    line = (
        f"{source}: which good pictures are to learn from? Its splits are {named}: write train, "
        "validation or test for each, or remove the column"
    )
    return InputError(data_checks.WHICH_TO_LEARN.coded(line))


def read_class_labels(
    root: Path,
    pictures: Sequence[Path],
    files: LabelFiles | None = None,
    *,
    by_marks: bool = False,
    with_files_above: bool = True,
) -> ClassLabels:
    """Read the labels of pictures below `root`, from names and files.

    Args:
        root: Folder of the data set.
        pictures: Pictures below `root`.
        files: Label files below `root`, where they were found already; else they are searched for.
        by_marks: Whether marks decide, because nothing else says which pictures are good: a picture is
            defective where something is marked whose kind is not good. Pictures without a mark are
            `UNMARKED`.
        with_files_above: Whether lists in the two folders above `root` are read, too.

    Raises:
        InputError: A list cannot be read because a library is missing.
    """
    found = ClassLabels({picture: [] for picture in pictures})
    files = files or LabelFiles(root, pictures)
    every = [files]
    if with_files_above:
        every += _files_above(root, pictures)
    if by_marks:
        _add_marks(found, root, pictures, every)
    for label in every:
        _add_lists(found, label)
    found.unread = files.not_understood()
    for picture, labels in read_name_labels(pictures).by_picture.items():
        found.by_picture[picture] += labels
    return found


def _add_marks(found: ClassLabels, root: Path, pictures: Sequence[Path], files: Iterable[LabelFiles]) -> None:
    """Add the classes that marks give the pictures, where any picture is marked.

    A marked picture is defective, or good where only good parts are marked; the others are `UNMARKED`.
    """
    marked = _marked_by_masks(root, pictures)
    for file in files:
        marked |= {path: marks for path, marks in file.marked().items() if path in found.by_picture}
    if not marked:
        return
    for picture, labels in found.by_picture.items():
        if picture not in marked:
            labels.append(ClassLabel(PictureClass.UNKNOWN, UNMARKED, ""))
            continue
        source, kinds, is_defect = marked[picture]
        picture_class = PictureClass.BAD if is_defect else PictureClass.GOOD
        labels.append(ClassLabel(picture_class, ", ".join(kinds) or "marked", source.rpartition("/")[2]))


def _add_lists(found: ClassLabels, files: LabelFiles) -> None:
    """Add the labels that files give whole pictures.

    Raises:
        InputError: A list cannot be read because a library is missing.
    """
    if files.unread_lists:
        path, reason = next(iter(files.unread_lists.items()))
        raise InputError(f"{path} may say which pictures are good: {reason}, or move it away")
    for source, texts in files.class_texts().items():
        given = {files.given[path]: values for path, values in texts.items()}
        of_pictures = {path: values for path, values in given.items() if path in found.by_picture}
        if source in files.unsure_sources:
            _add_unsure_source(found, source, of_pictures)
        else:
            _add_source(found, source, of_pictures)


def _marked_by_masks(root: Path, pictures: Sequence[Path]) -> dict[Path, tuple[str, tuple[str, ...], bool]]:
    """Return pictures whose masks mark something, in the form that `LabelFiles.marked` returns.

    A mask that cannot be read may mark something.
    """
    files = picture_files_in(root, own=True) if root.is_dir() else []
    if files:
        files += _masks_beside(Path(os.path.abspath(root)))
    if len(files) == len(pictures):  # all are pictures
        return {}
    known = {*pictures}
    found: dict[Path, tuple[str, tuple[str, ...], bool]] = {}
    for mask, picture in find_masks(files).items():
        if picture is not None and picture in known and _marks(mask):
            found[picture] = ("masks", ("marked",), True)
    return found


def _masks_beside(folder: Path) -> list[Path]:
    """Return the files in folders of masks that lie beside a folder called images."""
    files: list[Path] = []
    if is_picture_folder(folder.name):
        for name, path in subfolders(folder.parent).items():
            if masked_folder(name) == "":
                files += picture_files_in(path)
    return files


def _marks(mask: Path) -> bool:
    try:
        return bool(read_mask(mask).any())
    except (InputError, OSError, MemoryError):
        return True


def read_name_labels(pictures: Sequence[Path]) -> ClassLabels:
    """Read the labels in the names of pictures; the files themselves are not read."""
    found = ClassLabels({picture: [] for picture in pictures})
    by_folder: dict[Path, list[Path]] = {}
    for picture in pictures:
        by_folder.setdefault(picture.parent, []).append(picture)
    for beside in by_folder.values():
        for picture, name in zip(beside, read_names([path.stem for path in beside]), strict=True):
            if name.words:
                found.by_picture[picture].append(ClassLabel(name.picture_class, name.words, NAME))
    return found


def _files_above(root: Path, pictures: Sequence[Path]) -> Iterator[LabelFiles]:
    """Yield label files and lists of the two folders above `root`, and of label folders beside it."""
    whole = Path(os.path.abspath(root))
    for levels, folder in enumerate(whole.parents[:2], start=1):
        try:
            inside = [folder]
            if levels == 1:
                others = subfolders(folder)
                inside += [
                    subfolder
                    for name, subfolder in others.items()
                    if is_mask_folder(name) and subfolder != whole
                ]
            paths = [path for subfolder in inside for path in _small_lists(subfolder)]
        except (InputError, OSError):  # others' folders
            continue
        if paths:
            yield LabelFiles(folder, pictures, paths, levels)


def _small_lists(folder: Path) -> list[Path]:
    """Files directly in a folder that may be lists, and are not large."""
    entries = [entry for entry in list_entries(folder) if Path(entry.name).suffix.lower() in SUFFIXES]
    return [folder / e.name for e in entries if e.is_file() and e.stat().st_size <= MAX_LIST_BYTES]


def _add_source(found: ClassLabels, source: str, texts: Mapping[Path, Texts]) -> None:
    """Add the labels of a file, or of a tool's files of one picture each."""
    known: list[Column] = []
    unknown: list[tuple[ColumnSubject, Column]] = []
    for header, values in join_classes(_columns_of(texts), source, texts).items():
        subject = column_subject(header)
        if is_split(subject, values):
            _add_splits(found, "lists of splits" if header == LISTED else source, values)
            continue
        column = None if subject is ColumnSubject.MODEL else read_column(header, values)
        if column is not None:
            known.append(column)
        elif is_open(subject, values, len(found.by_picture)):
            unknown.append((subject, unknown_column(header, values)))
    complete = next((column for column in known if column.is_complete(len(texts))), None)
    if complete is not None:  # it has the classes: others are asked about where they sort its good ones
        unknown = [(subject, column) for subject, column in unknown if _sorts_on(complete, subject, column)]
    known += [column for _, column in unknown]
    for column in known:
        _add_column(found, column, source)


def _sorts_on(complete: Column, subject: ColumnSubject, column: Column) -> bool:
    """Whether a column of unknown meaning divides the pictures that a complete column calls good."""
    return subject is not ColumnSubject.MODEL and sorts_good_ones(complete, column)


def _columns_of(texts: Mapping[Path, Texts]) -> dict[str, dict[Path, list[str]]]:
    """Return the texts by the column's name and the picture."""
    columns: dict[str, dict[Path, list[str]]] = {}
    for picture, values in texts.items():
        for header, text in values:
            columns.setdefault(header, {}).setdefault(picture, []).append(text)
    return columns


def _add_splits(found: ClassLabels, source: str, values: Mapping[Path, Sequence[str]]) -> None:
    splits = found.split_columns.setdefault(source, {})
    for picture, own in values.items():
        if own[0]:
            splits[picture] = own[0]


def _add_unsure_source(found: ClassLabels, source: str, texts: Mapping[Path, Texts]) -> None:
    """Add the labels of a list above the pictures' folder that names pictures without this folder.

    It may be of another lot whose pictures have the same names; where it calls some defective it decides
    nothing.
    """
    unsure = ClassLabels({picture: [] for picture in found.by_picture}, split_columns=found.split_columns)
    _add_source(unsure, source, texts)
    classes = {label.picture_class for labels in unsure.by_picture.values() for label in labels}
    decides = PictureClass.BAD in classes
    for picture, labels in unsure.by_picture.items():
        if decides:
            where = f"{source} one folder above"
            labels = [ClassLabel(PictureClass.UNCLEAR, label.words, where) for label in labels]
        found.by_picture[picture] += labels


def _add_column(found: ClassLabels, column: Column, source: str) -> None:
    for picture, (picture_class, words) in column.by_picture.items():
        if words:
            found.by_picture[picture].append(ClassLabel(picture_class, words, source))

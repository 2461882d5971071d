"""Finds the class of each picture, good or defective, from sources other than its folder.

The sources are the picture's own name, lists beside it or above, and the labels that labelling tools give
whole pictures.

Nothing is guessed. A column that sorts the pictures into groups has known words (`pictures.folder_words`)
that separate good from defective, or that mean something else; otherwise the user is asked. The user is also
asked about a picture with two classes, about pictures without a label beside others that have one, and about
files that seem to describe the pictures and are not understood.
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
    """Class of a picture by one source.

    Attributes:
        picture_class: The class.
        words: Words of the source that state the class; `--good` may name them.
        source: Name of the source.
    """

    picture_class: PictureClass
    words: str
    source: str

    @property
    def is_open_name(self) -> bool:
        """Whether the label is a word in a file's name whose meaning is unknown."""
        return self.source == NAME and self.picture_class is PictureClass.UNKNOWN


@dataclass
class ClassLabels:
    """Labels of pictures, in the pictures' order; a picture may have none, or several.

    Attributes:
        by_picture: Labels by picture. A label of class UNKNOWN has words whose meaning is not known.
        unread: Files that seem to describe the pictures, and are not understood.
        split_columns: For each source that states splits, the split of each picture; empty where no list
            states splits.
    """

    by_picture: dict[Path, list[ClassLabel]] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    split_columns: dict[str, dict[Path, str]] = field(default_factory=dict)

    def of_good(self, pictures: Iterable[Path]) -> ClassLabels:
        """Return the labels of pictures that lie in a folder of good ones.

        A word of unknown meaning that stands in the name of only one file is left out: its picture counts
        as good.
        """
        labels_by_picture = {path: self.by_picture.get(path, []) for path in pictures}
        # how often each word of unknown meaning occurs
        word_counts = Counter(
            label.words for labels in labels_by_picture.values() for label in labels if label.is_open_name
        )
        labels_left: dict[Path, list[ClassLabel]] = {}
        for path, labels in labels_by_picture.items():
            labels_left[path] = []
            for label in labels:
                is_in_one_name = label.is_open_name and word_counts[label.words] == 1
                if not is_in_one_name:
                    labels_left[path].append(label)
        return ClassLabels(labels_left, self.unread)

    @property
    def has_unknown(self) -> bool:
        """Whether there is a label whose meaning is unknown or unclear, apart from `UNMARKED`."""
        unclear = (PictureClass.UNKNOWN, PictureClass.UNCLEAR)
        return any(
            label.picture_class in unclear and label.words != UNMARKED
            for labels in self.by_picture.values()
            for label in labels
        )

    @property
    def is_silent(self) -> bool:
        """Whether only words of unknown meaning in files' names say something about the pictures."""
        return not self.unread and all(
            label.is_open_name for labels in self.by_picture.values() for label in labels
        )

    def splits(self, pictures: Sequence[Path], *, asks: bool = True) -> dict[Path, str]:
        """Return the split of each picture, from the first list that states a split for every picture.

        Empty where no list states one for all.

        Args:
            pictures: Pictures whose splits are returned.
            asks: Whether a list that states the splits of only some pictures raises a question.

        Raises:
            InputError: A list states the splits of only some pictures, and `asks` is True.
        """
        for source, column in self.split_columns.items():
            values = [column.get(path, "") for path in pictures]
            splits = [split_said(value) for value in values]
            if all(splits):
                # `if split` leaves nothing out; it shows the type checker that no split is None
                return {path: split for path, split in zip(pictures, splits, strict=True) if split}
            if any(values) and asks:
                raise _split_question(source, values)
        return {}

    def class_of(self, picture: Path) -> PictureClass:
        """Return the class that the labels of a picture agree on.

        UNCLEAR if they state different classes, UNKNOWN if none states a known class.
        """
        classes = {label.picture_class for label in self.by_picture.get(picture, ())}
        known_classes = classes - {PictureClass.UNKNOWN}
        if len(known_classes) > 1:
            return PictureClass.UNCLEAR
        return next(iter(known_classes), PictureClass.UNKNOWN)

    def defect_source(self, picture: Path) -> str:
        """Return the source that calls a picture defective; empty where none does."""
        labels = self.by_picture.get(picture, ())
        return next((label.source for label in labels if label.picture_class is PictureClass.BAD), "")

    def is_labelled(self, picture: Path) -> bool:
        """Whether a picture has a label other than `UNMARKED`, of known or unknown meaning."""
        return any(label.words != UNMARKED for label in self.by_picture.get(picture, ()))

    def is_named(self, picture: Path, names: set[str]) -> bool:
        """Whether a label of a picture is one of `names`, or has all words of one of them.

        Args:
            picture: The picture.
            names: Names in the form that `fold` returns.
        """
        for label in self.by_picture.get(picture, ()):
            if fold(label.words) in names:
                return True
            label_words = set(split_words(label.words))
            for name in names:
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
        if self.has_unknown or self.unread:
            return False
        classes = {self.class_of(picture) for picture in self.by_picture}
        return classes in ({PictureClass.BAD}, {PictureClass.GOOD, PictureClass.BAD})

    def is_doubtful(self) -> bool:
        """Whether some pictures may be defective.

        This is so in each of these cases: a picture is called defective, or both good and defective; the
        meaning of a label or of a file is unknown; some pictures of a folder are called good, and the others
        have no label.
        """
        if self.unread or self.has_unknown:
            return True
        # from here on, the class UNKNOWN means that nothing is said about a picture
        classes_by_folder: dict[Path, set[PictureClass]] = {}
        for picture in self.by_picture:
            classes_by_folder.setdefault(picture.parent, set()).add(self.class_of(picture))
        classes = set().union(*classes_by_folder.values())
        if classes & {PictureClass.BAD, PictureClass.UNCLEAR}:
            return True
        # some pictures of a folder are called good, and nothing is said of the others
        partly_good = {PictureClass.GOOD, PictureClass.UNKNOWN}
        return any(folder_classes == partly_good for folder_classes in classes_by_folder.values())

    def doubtful(self) -> list[Path]:
        """Return the pictures that may be defective; empty where `is_doubtful` is false.

        These are the pictures whose class is defective or unclear; if there are none, the pictures without a
        known class.
        """
        if not self.is_doubtful():
            return []
        classes = {path: self.class_of(path) for path in self.by_picture}
        maybe_bad = (PictureClass.BAD, PictureClass.UNCLEAR)
        called_bad = [path for path, picture_class in classes.items() if picture_class in maybe_bad]
        if called_bad:
            return called_bad
        return [path for path, picture_class in classes.items() if picture_class is PictureClass.UNKNOWN]

    def kind(self, picture: Path) -> str:
        """Return the kind of a defect, by the words of the picture's labels; empty without labels.

        A label that says "defective" is preferred to one of unknown meaning. Of several such labels, one
        whose words state a kind is preferred. An answer such as "1" or "yes" gives the kind "defect".
        """

        def order(label: ClassLabel) -> tuple[bool, bool]:  # `min` takes False before True
            is_not_bad = label.picture_class is not PictureClass.BAD
            return is_not_bad, says_only_bad(label.words)

        labels = [label for label in self.by_picture[picture] if label.picture_class is not PictureClass.GOOD]
        if not labels:
            return ""
        words = min(labels, key=order).words
        is_answer = to_number(words) is not None or answer(words) is not None
        return "defect" if words and is_answer else words

    def question(self, root: Path, remedy: str) -> InputError:
        """Return the question, as an error, which pictures below `root` are good.

        The question lists the words by which a user can name pictures, and ends with `remedy`.
        """
        # number of pictures by (words, meaning)
        counts = Counter(self._describe(picture, root) for picture in self.by_picture)
        groups = sorted(counts, key=lambda group: natural_key(group[0]))
        choices = [f"{words} ({counts[words, meaning]}, {meaning})" for words, meaning in groups]
        if self.unread:
            choices.append(f"{join_names(self.unread)} may tell, and cannot be understood")
        line = f"{root}: which pictures are good? {join_names(choices, 12)}: {remedy}"
        return InputError(data_checks.WHICH_PICTURES.coded(line))

    def _describe(self, picture: Path, root: Path) -> tuple[str, str]:
        """Return a picture's label or folder name, and what it says, in words such as "good by its name"."""
        labels = self.by_picture[picture]
        if not labels:
            folder = picture.parent.relative_to(root)
            meaning = read_words(folder.name) if folder.name else Said.UNKNOWN
            if meaning in (Said.GOOD, Said.BAD):
                return folder.as_posix(), f"{meaning.value} by its name"
            return folder.as_posix(), Said.UNKNOWN.value
        picture_class = self.class_of(picture)
        if picture_class is PictureClass.UNCLEAR:
            sources = " and ".join(sorted({label.source for label in labels}))
            return labels[0].words, f"unclear by {sources}"
        agreeing = [label for label in labels if label.picture_class is picture_class]
        label = agreeing[0] if agreeing else labels[0]
        if label.words == UNMARKED:
            return UNMARKED, "nothing is said"
        words = label.words if len(label.words) <= MAX_WORDS else f"{label.words[:MAX_WORDS]}..."
        return words, f"{picture_class.value} by {label.source}".strip()


def _split_question(source: str, values: Iterable[str]) -> InputError:
    """Return the question, as an error, which good pictures are for training.

    Args:
        source: List that states the splits of only some pictures.
        values: Value of the list for each picture; empty: it has none.
    """
    counts = Counter(value or "none" for value in values)
    splits = join_names([f"{value} ({count})" for value, count in counts.most_common()])
    line = (
        f"{source}: which good pictures are to learn from? Its splits are {splits}: write train, "
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
        files: Label files below `root`; None: they are searched for.
        by_marks: Whether marks give pictures a class. It is True if nothing else says which pictures are
            good. A picture is then defective if something is marked whose kind is not good. Pictures without
            a mark get the label `UNMARKED`.
        with_files_above: Whether lists in the two folders above `root` are read, too.

    Raises:
        InputError: A list cannot be read because a library is missing.
    """
    class_labels = ClassLabels({picture: [] for picture in pictures})
    files = files or LabelFiles(root, pictures)
    all_files = [files]
    if with_files_above:
        all_files += _files_above(root, pictures)
    if by_marks:
        _add_marks(class_labels, root, pictures, all_files)
    for label_files in all_files:
        _add_lists(class_labels, label_files)
    class_labels.unread = files.not_understood()
    for picture, labels in read_name_labels(pictures).by_picture.items():
        class_labels.by_picture[picture] += labels
    return class_labels


def _add_marks(
    class_labels: ClassLabels, root: Path, pictures: Sequence[Path], all_files: Iterable[LabelFiles]
) -> None:
    """Label all pictures by the marks in them; add no labels if no picture is marked.

    A marked picture is defective, but good if only good parts are marked in it. The other pictures get the
    label `UNMARKED`.

    Args:
        class_labels: Labels of the pictures, to which these labels are added.
        root: Folder of the data set.
        pictures: Pictures below `root`.
        all_files: Label files.
    """
    # by picture: source, kinds of marks, and whether one of them is a defect
    marks_of = _marked_by_masks(root, pictures)
    for label_files in all_files:
        for path, marks in label_files.marked().items():
            if path in class_labels.by_picture:
                marks_of[path] = marks
    if not marks_of:
        return
    for picture, labels in class_labels.by_picture.items():
        if picture not in marks_of:
            labels.append(ClassLabel(PictureClass.UNKNOWN, UNMARKED, source=""))
            continue
        source, kinds, is_defect = marks_of[picture]
        picture_class = PictureClass.BAD if is_defect else PictureClass.GOOD
        _, _, source_name = source.rpartition("/")
        labels.append(ClassLabel(picture_class, ", ".join(kinds) or "marked", source_name))


def _add_lists(class_labels: ClassLabels, files: LabelFiles) -> None:
    """Add the labels of whole pictures that label files state.

    Raises:
        InputError: A list cannot be read because a library is missing.
    """
    if files.unread_lists:
        # the fault of a list names the library to install
        path, fault = next(iter(files.unread_lists.items()))
        raise InputError(f"{path} may say which pictures are good: {fault}, or move it away")
    for source, texts_by_path in files.class_texts().items():
        texts_by_picture = {}
        for path, texts in texts_by_path.items():
            picture = files.caller_path[path]
            if picture in class_labels.by_picture:
                texts_by_picture[picture] = texts
        if source in files.unsure_sources:
            _add_unsure_source(class_labels, source, texts_by_picture)
        else:
            _add_source(class_labels, source, texts_by_picture)


def _marked_by_masks(root: Path, pictures: Sequence[Path]) -> dict[Path, tuple[str, tuple[str, ...], bool]]:
    """Return the pictures whose mask marks something.

    Each has what `LabelFiles.marked` returns: the source, the kinds, and whether the marks are defects. A
    mask that cannot be read counts as marking something.
    """
    # own=True: masks that flawscope wrote count, too
    files = picture_files_in(root, own=True) if root.is_dir() else []
    if files:
        files += _masks_beside(Path(os.path.abspath(root)))
    if len(files) == len(pictures):  # all files are pictures: there are no masks
        return {}
    picture_set = {*pictures}
    marks_of: dict[Path, tuple[str, tuple[str, ...], bool]] = {}
    for mask, picture in find_masks(files).items():
        if picture is not None and picture in picture_set and _is_marked(mask):
            marks_of[picture] = ("masks", ("marked",), True)
    return marks_of


def _masks_beside(folder: Path) -> list[Path]:
    """Return the files in folders of masks beside `folder`; empty unless `folder` has a name like images."""
    files: list[Path] = []
    if is_picture_folder(folder.name):
        for name, path in subfolders(folder.parent).items():
            if masked_folder(name) == "":  # a folder of masks that names no other folder
                files += picture_files_in(path)
    return files


def _is_marked(mask: Path) -> bool:
    """Whether a mask marks something, or cannot be read."""
    try:
        return bool(read_mask(mask).any())
    except (InputError, OSError, MemoryError):
        return True


def read_name_labels(pictures: Sequence[Path]) -> ClassLabels:
    """Read the labels in the names of pictures; the files themselves are not read."""
    class_labels = ClassLabels({picture: [] for picture in pictures})
    by_folder: dict[Path, list[Path]] = {}
    for picture in pictures:
        by_folder.setdefault(picture.parent, []).append(picture)
    for neighbours in by_folder.values():  # a name is read beside the other names of its folder
        names = read_names([path.stem for path in neighbours])
        for picture, name in zip(neighbours, names, strict=True):
            if name.words:
                label = ClassLabel(name.picture_class, name.words, NAME)
                class_labels.by_picture[picture].append(label)
    return class_labels


def _files_above(root: Path, pictures: Sequence[Path]) -> Iterator[LabelFiles]:
    """Yield the lists in each of the two folders above `root`.

    Lists in label folders beside `root` count as lists of its parent. A folder that cannot be read is passed
    over, since it may belong to somebody else.
    """
    absolute_root = Path(os.path.abspath(root))
    for levels_up, folder in enumerate(absolute_root.parents[:2], start=1):
        try:
            folders = [folder]
            if levels_up == 1:
                for name, neighbour in subfolders(folder).items():
                    if is_mask_folder(name) and neighbour != absolute_root:
                        folders.append(neighbour)
            paths = [path for list_folder in folders for path in _small_lists(list_folder)]
        except (InputError, OSError):
            continue
        if paths:
            yield LabelFiles(folder, pictures, paths, above=levels_up)


def _small_lists(folder: Path) -> list[Path]:
    """Return the files directly in a folder that may be lists and have at most `MAX_LIST_BYTES`."""
    paths = []
    for entry in list_entries(folder):
        may_be_list = Path(entry.name).suffix.lower() in SUFFIXES
        if may_be_list and entry.is_file() and entry.stat().st_size <= MAX_LIST_BYTES:
            paths.append(folder / entry.name)
    return paths


def _add_source(class_labels: ClassLabels, source: str, texts: Mapping[Path, Texts]) -> None:
    """Add the labels of a source: a file, or all files of a tool that writes one file for each picture.

    Args:
        class_labels: Labels of the pictures, to which these labels are added.
        source: Name of the source.
        texts: Headers and texts of each picture.
    """
    class_columns: list[Column] = []
    open_columns: list[tuple[ColumnSubject, Column]] = []
    columns = join_classes(_columns_of(texts), source, texts)
    for header, values in columns.items():
        subject = column_subject(header)
        if is_split(subject, values):
            # files that only name pictures, such as train.txt and test.txt, are one source together
            split_source = "lists of splits" if header == LISTED else source
            _add_splits(class_labels, split_source, values)
            continue
        column = None if subject is ColumnSubject.MODEL else read_column(header, values)
        if column is not None:
            class_columns.append(column)
        elif is_open(subject, values, len(class_labels.by_picture)):
            open_columns.append((subject, unknown_column(header, values)))
    complete_column = next((column for column in class_columns if column.is_complete(len(texts))), None)
    for subject, column in open_columns:
        # beside a complete column, a column of unknown meaning matters only if it divides the good pictures
        if complete_column is None or _divides_good(complete_column, subject, column):
            class_columns.append(column)
    for column in class_columns:
        _add_column(class_labels, column, source)


def _divides_good(complete: Column, subject: ColumnSubject, column: Column) -> bool:
    """Whether a column of unknown meaning divides the pictures that a complete column calls good."""
    return subject is not ColumnSubject.MODEL and sorts_good_ones(complete, column)


def _columns_of(texts: Mapping[Path, Texts]) -> dict[str, dict[Path, list[str]]]:
    """Return the texts by column and picture.

    Args:
        texts: Pairs of header and text of each picture.
    """
    columns: dict[str, dict[Path, list[str]]] = {}
    for picture, pairs in texts.items():
        for header, text in pairs:
            columns.setdefault(header, {}).setdefault(picture, []).append(text)
    return columns


def _add_splits(class_labels: ClassLabels, source: str, values: Mapping[Path, Sequence[str]]) -> None:
    """Add the splits that a column states; if a picture has several texts, the first is taken."""
    splits = class_labels.split_columns.setdefault(source, {})
    for picture, texts in values.items():
        split = texts[0]
        if split:
            splits[picture] = split


def _add_unsure_source(class_labels: ClassLabels, source: str, texts: Mapping[Path, Texts]) -> None:
    """Add the labels of a list that lies above the pictures' folder and does not name this folder.

    The list may belong to other pictures with the same names. If it calls any picture defective, all of its
    labels count as unclear.
    """
    pictures = class_labels.by_picture
    # labels of this list alone; its splits go straight into `class_labels`
    list_labels = ClassLabels({path: [] for path in pictures}, split_columns=class_labels.split_columns)
    _add_source(list_labels, source, texts)
    classes = {label.picture_class for labels in list_labels.by_picture.values() for label in labels}
    if PictureClass.BAD not in classes:
        for picture, labels in list_labels.by_picture.items():
            pictures[picture] += labels
        return
    place = f"{source} one folder above"
    for picture, labels in list_labels.by_picture.items():
        pictures[picture] += [ClassLabel(PictureClass.UNCLEAR, label.words, place) for label in labels]


def _add_column(class_labels: ClassLabels, column: Column, source: str) -> None:
    """Add the labels of a column, for those pictures that have words in it."""
    for picture, (picture_class, words) in column.by_picture.items():
        if words:
            class_labels.by_picture[picture].append(ClassLabel(picture_class, words, source))

"""Reads the columns of lists and decides which of them call pictures good or defective.

The meaning of a column is known by its values or by its name (`pictures.folder_words`). A column of unknown
meaning that sorts the pictures into groups is called open.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from flawscope.datasets.labels import Texts
from flawscope.pictures.folder_words import (
    ColumnSubject,
    Said,
    answer,
    are_new_and_old,
    read_words,
    rest_words,
    says_good,
    split_said,
)
from flawscope.pictures.mask_files import fold
from flawscope.pictures.name_words import PictureClass, form_groups

Values = Mapping[Path, list[str]]  # texts of a column by picture
_TICKED = ("1", "true")
_CLASSES = {Said.GOOD: PictureClass.GOOD, Said.BAD: PictureClass.BAD, Said.UNCLEAR: PictureClass.UNCLEAR}


class Column(NamedTuple):
    """Column of a list.

    Attributes:
        by_picture: Class and words of each picture; words of unknown meaning have the class UNKNOWN.
    """

    by_picture: dict[Path, tuple[PictureClass, str]]

    def is_complete(self, count: int) -> bool:
        """Whether the column states good or defective for all `count` pictures."""
        return len(self.by_picture) == count and self.classes <= {PictureClass.GOOD, PictureClass.BAD}

    @property
    def classes(self) -> set[PictureClass]:
        """Classes that occur in the column."""
        return {picture_class for picture_class, _ in self.by_picture.values()}


def sorts_good_ones(complete: Column, other: Column) -> bool:
    """Whether a column of unknown meaning divides the pictures that another column calls good.

    If it does, some of these pictures may be defective. If it only divides the defective pictures, it states
    their kinds.

    Args:
        complete: Column that calls each picture good or defective.
        other: Column of unknown meaning.
    """
    words_of = {picture: words for picture, (_, words) in other.by_picture.items()}
    words_of_good = []
    for picture, (picture_class, _) in complete.by_picture.items():
        if picture_class is PictureClass.GOOD:
            words_of_good.append(words_of.get(picture, ""))
    return form_groups(words_of_good, least=2)


def is_split(subject: ColumnSubject, values: Values) -> bool:
    """Whether a column states splits.

    If its name says so, one value that names a split is enough; otherwise all values must name splits.
    """
    texts = {text for picture_texts in values.values() for text in picture_texts if text}
    if not texts:
        return False
    splits = {split_said(text) for text in texts}  # None: a text names no split
    if subject is ColumnSubject.SPLIT:
        return splits != {None}
    return None not in splits


def is_open(subject: ColumnSubject, values: Values, count: int) -> bool:
    """Whether a column of unknown meaning sorts the pictures into groups.

    Args:
        subject: Subject of the column by its name.
        values: Texts of the column by picture.
        count: Number of all pictures; a picture without a text in the column counts as having an empty one.
    """
    if subject is ColumnSubject.TECHNICAL:
        return False
    texts = [", ".join(words) for words in values.values()]
    texts += [""] * (count - len(texts))
    if subject is not ColumnSubject.OTHER:
        return len({*texts}) > 1
    if not form_groups(texts, least=2):
        return False
    # groups by place or time say nothing about defects, unless they are "new" and "old"
    return are_new_and_old(texts) or not all(map(_is_place_or_time, texts))


def _is_place_or_time(text: str) -> bool:
    """Whether a value is one that people sort good pictures by, such as a place or a day."""
    is_number = to_number(text) is not None
    return not is_number and read_words(text) is Said.SORTED


def unknown_column(header: str, values: Values) -> Column:
    """Return a column of unknown meaning, with its texts as the words.

    If all texts are measurements, the words are the column's name.
    """
    texts = {picture: ", ".join(words) for picture, words in values.items()}
    # numbers with a decimal point
    are_measurements = all("." in text and to_number(text) is not None for text in texts.values())
    if are_measurements:
        texts = dict.fromkeys(texts, header)
    return Column({picture: (PictureClass.UNKNOWN, text) for picture, text in texts.items()})


def join_classes(
    columns: dict[str, dict[Path, list[str]]], source: str, texts: Mapping[Path, Texts]
) -> dict[str, dict[Path, list[str]]]:
    """Join columns of ticks, one for each class, to a single column that names the class.

    Columns of other values are returned as they are. Columns of ticks whose headers say good or bad are only
    joined if there are several, and most pictures have exactly one tick.

    Args:
        columns: Columns by name; a column has the texts of each picture.
        source: Name of the list, or of the labelling tool.
        texts: The same texts by picture, as pairs of column and text.
    """
    min_columns = 1 if source == "LabelMe" else 2  # LabelMe's flags are ticks, even a single one
    if len(columns) < min_columns or not _are_ticks(columns):
        return columns
    joined = {picture: _ticked_headers(values) or [""] for picture, values in texts.items()}
    meanings = {says_good(header) for header in columns}  # None: a header says neither good nor bad
    is_any_known = meanings != {None}
    # [""] means that a picture has no tick
    single_count = sum(len(headers) == 1 and headers != [""] for headers in joined.values())
    have_most_one_tick = 2 * single_count > len(joined)
    if is_any_known and (len(columns) == 1 or not have_most_one_tick):
        return columns
    # if a class is called good, the other classes are defects
    is_any_good = True in meanings
    return {"defect" if is_any_good else "label": joined}


def _ticked_headers(texts: Texts) -> list[str]:
    """Return the names of a picture's columns that are ticked."""
    return [header for header, text in texts if fold(text) in _TICKED]


def _are_ticks(columns: Mapping[str, Values]) -> bool:
    """Whether all values of all columns are ticks: 1 or true, 0 or false."""
    texts = {fold(text) for values in columns.values() for words in values.values() for text in words}
    return texts <= {*_TICKED, "0", "false"}


def read_column(header: str, values: Values) -> Column | None:
    """Read a column of texts; None where it does not call pictures good or defective."""
    header_says_good = says_good(header)
    texts = {text for words in values.values() for text in words if text}
    if header_says_good is False and _is_measured(texts):  # for example positions of defects
        return None
    if header_says_good is not None:
        return _read_answers(header_says_good, values)
    shared_words = rest_words(texts)
    meaning_of = {text: read_words(text, shared_words) for text in texts}
    has_class = not _CLASSES.keys().isdisjoint(meaning_of.values())
    if not has_class:
        return None
    by_picture = {}
    for picture, words in values.items():
        picture_texts = list(filter(None, words))
        classes = [_CLASSES.get(meaning_of[text], PictureClass.UNKNOWN) for text in picture_texts]
        if picture_texts:
            by_picture[picture] = (_join_classes(classes), picture_texts[0])
    return Column(by_picture)


def _is_measured(texts: Collection[str]) -> bool:
    """Whether texts are measurements: several different numbers, none of them 0."""
    if len(texts) < 2:
        return False
    numbers = {to_number(text) for text in texts}  # None for a text that is no number
    # {1.0}: the texts are ticks such as "1" and "1.0"
    return numbers.isdisjoint({None, 0.0}) and numbers != {1.0}


def _read_answers(header_says_good: bool, values: Values) -> Column:
    """Read a column whose name says good or defective.

    Its values are yes and no, 0 and 1, numbers of defects, or kinds of defects.
    """
    by_picture = {}
    for picture, words in values.items():
        picture_texts = list(filter(None, words))
        classes = [_class_of_answer(text, header_says_good) for text in picture_texts]
        first_text = picture_texts[0] if picture_texts else ""
        by_picture[picture] = (_join_classes(classes), first_text)
    return Column(by_picture)


def _class_of_answer(text: str, header_says_good: bool) -> PictureClass:
    """Return the class that a text states in a column whose name says good or defective."""
    is_yes = answer(text)
    number = to_number(text)
    if is_yes is not None:
        # good: yes in a column "good", or no in a column "defective"
        return _class_of(is_good=is_yes == header_says_good)
    if number is not None and not header_says_good:  # a number of defects
        return _class_of(is_good=number <= 0)
    is_good = says_good(text)
    if is_good is not None:
        return _class_of(is_good)
    return PictureClass.UNKNOWN if header_says_good else PictureClass.BAD  # the text names a kind of defect


def _class_of(is_good: bool) -> PictureClass:
    return PictureClass.GOOD if is_good else PictureClass.BAD


def _join_classes(classes: Sequence[PictureClass]) -> PictureClass:
    """Return the class of a picture from the classes of its values.

    The picture is UNCLEAR if known classes differ. It is UNKNOWN if no class is known, or if the only known
    class is not BAD and another is unknown.
    """
    known_classes = {*classes} - {PictureClass.UNKNOWN}
    if len(known_classes) > 1:
        return PictureClass.UNCLEAR
    if PictureClass.UNKNOWN in classes and known_classes != {PictureClass.BAD}:
        return PictureClass.UNKNOWN
    return next(iter(known_classes), PictureClass.UNKNOWN)


def to_number(text: str) -> float | None:
    """Return a text with a decimal point or comma as a number; None where it is not a number."""
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return None

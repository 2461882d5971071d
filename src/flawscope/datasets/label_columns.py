"""Reads the columns of lists and decides which of them call pictures good or defective.

The world is closed (`pictures.folder_words`): a column is known by its values or by its name, or it is open:
it sorts the pictures by something unknown.
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
    """Column of a list: class and words of each picture; words of unknown meaning have class UNKNOWN."""

    by_picture: dict[Path, tuple[PictureClass, str]]

    def is_complete(self, count: int) -> bool:
        """Whether the column states good or defective for all `count` pictures."""
        return len(self.by_picture) == count and self.classes <= {PictureClass.GOOD, PictureClass.BAD}

    @property
    def classes(self) -> set[PictureClass]:
        """Classes that occur in the column."""
        return {found for found, _ in self.by_picture.values()}


def sorts_good_ones(complete: Column, other: Column) -> bool:
    """Whether a column of unknown meaning divides the pictures that another column calls good.

    If it does, it may take back that they are good. Where it differs among defective pictures alone, it
    states their kinds.

    Args:
        complete: Column that calls each picture good or defective.
        other: Column of unknown meaning.
    """
    good = [picture for picture, (said, _) in complete.by_picture.items() if said is PictureClass.GOOD]
    return form_groups(
        [other.by_picture[picture][1] if picture in other.by_picture else "" for picture in good], 2
    )


def is_split(subject: ColumnSubject, values: Values) -> bool:
    """Whether a column states splits: by its name and one of its values, or by all of its values."""
    texts = {text for words in values.values() for text in words if text}
    splits = {split_said(text) for text in texts}
    is_named = subject is ColumnSubject.SPLIT and splits != {None}
    return bool(texts) and (is_named or None not in splits)


def is_open(subject: ColumnSubject, values: Values, count: int) -> bool:
    """Whether a column of unknown meaning sorts the pictures into groups.

    Args:
        subject: Subject of the column by its name.
        values: Texts of the column by picture.
        count: Number of all pictures; a picture without a text counts as an empty one.
    """
    if subject is ColumnSubject.TECHNICAL:
        return False
    each = [", ".join(words) for words in values.values()]
    each += [""] * (count - len(each))
    if subject is ColumnSubject.OTHER:
        return form_groups(each, 2) and (are_new_and_old(each) or not all(map(_is_place_or_time, each)))
    return len({*each}) > 1


def _is_place_or_time(text: str) -> bool:
    """Whether people sort good pictures by such a value, as by a place or a day."""
    is_number = to_number(text) is not None
    return not is_number and read_words(text) is Said.SORTED


def unknown_column(header: str, values: Values) -> Column:
    """Return a column as words for a question; of measurements the words are the column's name."""
    shown = {picture: ", ".join(words) for picture, words in values.items()}
    if all("." in text and to_number(text) is not None for text in shown.values()):
        shown = dict.fromkeys(shown, header)
    return Column({picture: (PictureClass.UNKNOWN, text) for picture, text in shown.items()})


def join_classes(
    columns: dict[str, dict[Path, list[str]]], source: str, texts: Mapping[Path, Texts]
) -> dict[str, dict[Path, list[str]]]:
    """Join columns that are ticked or not, one for each class, to a single column of classes."""
    least = 1 if source == "LabelMe" else 2
    if len(columns) < least or not _are_ticks(columns):
        return columns
    joined = {picture: _ticked_headers(values) or [""] for picture, values in texts.items()}
    good = {says_good(header) for header in columns}
    one_each = sum(len(values) == 1 and values != [""] for values in joined.values())
    if good != {None} and (len(columns) == 1 or 2 * one_each <= len(joined)):
        return columns
    return {"defect" if True in good else "label": joined}  # beside a class of good ones others are defects


def _ticked_headers(texts: Texts) -> list[str]:
    return [header for header, text in texts if fold(text) in _TICKED]


def _are_ticks(columns: Mapping[str, Values]) -> bool:
    """Whether all columns are of boxes that are ticked or not."""
    texts = {fold(text) for values in columns.values() for words in values.values() for text in words}
    return texts <= {*_TICKED, "0", "false"}


def read_column(header: str, values: Values) -> Column | None:
    """Read a column of texts; None where it does not call pictures good or defective."""
    good = says_good(header)
    texts = {text for words in values.values() for text in words if text}
    if good is False and _is_measured(texts):  # such as where defects lie
        return None
    if good is not None:
        return _read_answers(good, values)
    shared = rest_words(texts)
    said = {text: read_words(text, shared) for text in texts}
    if _CLASSES.keys().isdisjoint(said.values()):
        return None
    found = {}
    for picture, words in values.items():
        telling = list(filter(None, words))
        each = [_CLASSES.get(said[text], PictureClass.UNKNOWN) for text in telling]
        if telling:
            found[picture] = _together(each), telling[0]
    return Column(found)


def _is_measured(texts: Collection[str]) -> bool:
    """Whether texts are measurements: several numbers other than 0."""
    numbers = {to_number(text) for text in texts}
    return len(texts) > 1 and None not in numbers and 0.0 not in numbers and not numbers <= {1.0}


def _read_answers(good: bool, values: Values) -> Column:
    """Read a column whose name says good or defective: yes and no, 0 and 1, a number, or a kind of defect."""
    found = {}
    for picture, words in values.items():
        classes = list[PictureClass]()
        for text in filter(None, words):
            said = answer(text)
            number = to_number(text)
            if said is not None:
                classes.append(_class_of(said == good))
            elif number is not None and not good:
                classes.append(_class_of(number <= 0))
            elif (is_good := says_good(text)) is not None:
                classes.append(_class_of(is_good))
            else:
                classes.append(PictureClass.UNKNOWN if good else PictureClass.BAD)
        found[picture] = _together(classes), next(filter(None, words), "")
    return Column(found)


def _class_of(good: bool) -> PictureClass:
    return PictureClass.GOOD if good else PictureClass.BAD


def _together(each: Sequence[PictureClass]) -> PictureClass:
    """Return the class of a picture that several values describe."""
    known = {*each} - {PictureClass.UNKNOWN}
    if len(known) > 1:
        return PictureClass.UNCLEAR
    if PictureClass.UNKNOWN in each and known != {PictureClass.BAD}:
        return PictureClass.UNKNOWN
    return next(iter(known), PictureClass.UNKNOWN)


def to_number(text: str) -> float | None:
    """Return a text as a number, with a decimal point or comma; None where it is no number."""
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return None

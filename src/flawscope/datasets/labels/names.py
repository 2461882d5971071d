"""Finds which texts of a list name pictures of the data set: exactly, or nearly.

Excel changes 0007 to 7, and 739000012 to 7.39E+08. A list may have only a part's number, where the picture's
name has more, or another suffix.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from flawscope.datasets.labels.shapes import picture_path
from flawscope.pictures.decoding import is_picture
from flawscope.pictures.mask_files import fold, plain_names

_NUMBER = re.compile(r"\d{4,}")
_YEAR = re.compile(r"(?:19|20)\d\d(?:[01]\d(?:[0-3]\d)?)?")
_POWER = re.compile(r"(\d)[.,](\d+)E\+?(\d+)", re.I)


def name_of(text: str) -> str:
    """Return the name of a picture from a text with its name or path, without folders and suffix."""
    path = PurePosixPath(picture_path(text.strip()).replace("\\", "/"))
    has_suffix = is_picture(path) or path.suffix[1:].isalpha()
    return path.stem if has_suffix else path.name


def without_zeros(stem: str) -> str:
    """Return a name that is a number as Excel stores it, without leading zeros.

    Empty if the name is not a number, or has no leading zero.
    """
    if not stem.isdecimal() or len(stem) < 2 or stem[0] != "0":
        return ""
    return stem.lstrip("0") or "0"


class PictureNames:
    """Names of pictures, and the forms in which lists may write them."""

    def __init__(self, pictures: Sequence[Path]):
        self._pictures = pictures

    @property
    def count(self) -> int:
        """Number of pictures."""
        return len(self._pictures)

    @cached_property
    def _plain_names(self) -> set[str]:
        """Names of the pictures, folded and without what tools add."""
        return {name for picture in self._pictures for name in plain_names(picture.stem)}

    @cached_property
    def _written_names(self) -> set[str]:
        """The plain names, and those that are numbers also without their leading zeros."""
        excel_numbers = {without_zeros(picture.stem) for picture in self._pictures}
        return self._plain_names | (excel_numbers - {""})

    def is_exact(self, text: str) -> bool:
        """Whether a text is the name or the path of one of the pictures."""
        return self._is_in(self._plain_names, text)

    def is_name(self, text: str) -> bool:
        """Whether a text is the name or the path of a picture, even if its leading zeros are missing."""
        return self._is_in(self._written_names, text)

    def _is_in(self, names: Collection[str], text: str) -> bool:
        """Whether the picture's name in a text is among `names`."""
        stem = name_of(text)
        if not stem:
            return False
        return fold(stem) in names or any(name in names for name in plain_names(unquote(stem)))

    @cached_property
    def _numbers(self) -> list[set[str]]:
        """Long numbers in the name of each picture, without those that may be dates."""
        return [_long_numbers(picture.stem) for picture in self._pictures]

    def are_near(self, texts: Collection[str]) -> bool:
        """Whether texts nearly name at least half of the pictures.

        A text nearly names a picture if both have a long number in common, or if the text is such a number,
        rounded by Excel. False if there is only one picture, because then this cannot be known.
        """
        if self.count < 2:
            return False
        distinct_texts = {*texts}
        numbers = {number for text in distinct_texts for number in _long_numbers(text)}
        named_count = sum(bool(picture_numbers & numbers) for picture_numbers in self._numbers)
        # many distinct texts are required, since a few could be an order's number that is in most names
        if self._is_half(len(distinct_texts)) and self._is_half(named_count):
            return True
        matches = [_POWER.fullmatch(text.strip()) for text in distinct_texts]
        powers = {match.groups() for match in matches if match}  # numbers such as 7.39E+08
        rounded_count = sum(_has_rounded(picture_numbers, powers) for picture_numbers in self._numbers)
        return self._is_half(rounded_count)

    def _is_half(self, count: int) -> bool:
        """Whether a count is at least half of the number of pictures."""
        return 2 * count >= self.count


def _long_numbers(text: str) -> set[str]:
    """Return the numbers of four digits or more in a text, without leading zeros; dates are left out."""
    return {number.lstrip("0") for number in _NUMBER.findall(text) if not _YEAR.fullmatch(number)}


def _has_rounded(numbers: Iterable[str], powers: Iterable[tuple[str, ...]]) -> bool:
    """Whether one of some numbers such as 7.39E+08 may be a picture's number, rounded by Excel.

    Args:
        numbers: Numbers in the picture's name.
        powers: First digit, further digits and exponent of numbers such as 7.39E+08.
    """
    return any(_is_rounded(number, *power) for number in numbers for power in powers)


def _is_rounded(number: str, first: str, others: str, exponent: str) -> bool:
    """Whether Excel may have rounded a number to FIRST.OTHERS x 10^EXPONENT."""
    digits = first + others
    has_length = len(number) == int(exponent) + 1
    first_digits = int(number[: len(digits)] or 0)
    return has_length and abs(first_digits - int(digits)) <= 1

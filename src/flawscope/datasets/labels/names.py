"""Tells which texts of a list name pictures that are there: as they are called, or nearly.

Excel makes 7 of 0007, and 7.39E+08 of 739000012; a list may have a part's number where the picture's name has
more, or another suffix.
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
    """Return the name of a picture in a text, without the suffix of a file."""
    place = PurePosixPath(picture_path(text.strip()).replace("\\", "/"))
    return place.stem if is_picture(place) or place.suffix[1:].isalpha() else place.name


def without_zeros(stem: str) -> str:
    """A number as Excel stores it; empty for other names, and where there is no zero to lose."""
    return stem.lstrip("0") or "0" if stem.isdecimal() and len(stem) > 1 and stem[0] == "0" else ""


class PictureNames:
    """Names of pictures, and what lists may make of them."""

    def __init__(self, pictures: Sequence[Path]):
        self._pictures = pictures

    @property
    def count(self) -> int:
        """Number of pictures."""
        return len(self._pictures)

    @cached_property
    def _exact(self) -> set[str]:
        return {name for picture in self._pictures for name in plain_names(picture.stem)}

    @cached_property
    def _known(self) -> set[str]:
        return self._exact | {short for picture in self._pictures if (short := without_zeros(picture.stem))}

    def is_exact(self, text: str) -> bool:
        """Whether a text is the name or the path of one of the pictures."""
        return self._is_in(self._exact, text)

    def is_name(self, text: str) -> bool:
        """Whether a text is the name or the path of a picture, also where a number in it lost its zeros."""
        return self._is_in(self._known, text)

    def _is_in(self, known: Collection[str], text: str) -> bool:
        stem = name_of(text)
        return bool(stem) and any(name in known for name in (fold(stem), *plain_names(unquote(stem))))

    @cached_property
    def _numbers(self) -> list[set[str]]:
        """Lists the long numbers in the name of each picture, without those that may be dates."""
        return [_long_numbers(picture.stem) for picture in self._pictures]

    def are_near(self, texts: Collection[str]) -> bool:
        """Whether texts nearly name half of the pictures, such as by a part's number within their names.

        For a single picture this is not known: false.
        """
        if self.count < 2:
            return False
        different = {*texts}
        numbers = {number for text in different for number in _long_numbers(text)}
        named = sum(bool(picture_numbers & numbers) for picture_numbers in self._numbers)
        # a few numbers that most names share, such as a date's or an order's, name no picture
        if self._is_half(len(different)) and self._is_half(named):
            return True
        matches = [_POWER.fullmatch(text.strip()) for text in different]
        excel_powers = {match.groups() for match in matches if match}
        rounded = sum(_has_rounded(picture_numbers, excel_powers) for picture_numbers in self._numbers)
        return self._is_half(rounded)

    def _is_half(self, number: int) -> bool:
        """Whether a number is at least half of that of the pictures."""
        return 2 * number >= self.count


def _long_numbers(text: str) -> set[str]:
    return {number.lstrip("0") for number in _NUMBER.findall(text) if not _YEAR.fullmatch(number)}


def _has_rounded(numbers: Iterable[str], powers: Iterable[tuple[str, ...]]) -> bool:
    """Whether one of a picture's numbers was written as one of the powers of ten."""
    return any(_is_rounded(number, *power) for number in numbers for power in powers)


def _is_rounded(number: str, first: str, others: str, power: str) -> bool:
    """Whether a number is one that was written as a power of ten."""
    shown = first + others
    return len(number) == int(power) + 1 and abs(int(number[: len(shown)] or 0) - int(shown)) <= 1

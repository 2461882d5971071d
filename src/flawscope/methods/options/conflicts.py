"""Options of a fit that do not go together. Torch-free: `fit` and the pages of a station ask these rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from flawscope.config import flag_of
from flawscope.errors import InputError
from flawscope.methods.options.table import FIT_OPTIONS

_NEEDS = {option.name: option.needs for option in FIT_OPTIONS if option.needs is not None}
_NO_ALIGNMENT = ("none", "auto")  # auto may choose none


class Conflict(NamedTuple):
    """Two options that do not go together, or, where `is_missing`, a second one that the first needs."""

    first: str
    second: str
    is_missing: bool

    def describe(self, named: Callable[[str], str] | None = None) -> str:
        """Says it in one line. named: names an option as it was given; None: as the command line does."""
        first, second = map(named or flag_of, (self.first, self.second))
        if self.is_missing:
            return f"{first} needs {second}: {_NEEDS[self.first][1]}"
        return f"{first} does not go with {second}: leave one of them out"


class ConflictError(InputError):
    """Options that do not go together. conflicts: all of them; the text is of the first."""

    def __init__(self, conflicts: list[Conflict]):
        super().__init__(conflicts[0].describe())
        self.conflicts = conflicts


def find_conflicts(options: Mapping[str, object]) -> list[Conflict]:
    """Finds the options that do not go together.

    Args:
        options: values by the names of a fit's options; None and False: not given.
    """
    given = {name for name, value in options.items() if value is not None and value is not False}
    if options.get("align") in _NO_ALIGNMENT:
        given.discard("align")
    found = [
        Conflict(option.name, other, is_missing=False)
        for option in FIT_OPTIONS
        for other in option.apart
        if {option.name, other} <= given
    ]
    missing = [(name, other) for name, (other, _) in _NEEDS.items() if name in given and other not in given]
    return found + [Conflict(name, other, is_missing=True) for name, other in missing]


def check_options(options: Mapping[str, object]) -> None:
    """Checks that options go together, as `find_conflicts` takes them. ConflictError."""
    if found := find_conflicts(options):
        raise ConflictError(found)

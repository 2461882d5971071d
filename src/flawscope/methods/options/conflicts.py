"""Options of a fit that do not go together. Torch-free: `fit` and the pages of a station use these rules.

Which options exclude each other stands with each option in `arguments`, as `apart`; `cli.fit_options` refuses
two options of the group `exclusive`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from flawscope.config import flag_of
from flawscope.errors import InputError
from flawscope.methods.options.table import FIT_OPTIONS

# name of an option -> name of the option that it needs, and advice how to give that
_NEEDS = {option.name: option.needs for option in FIT_OPTIONS if option.needs is not None}
_NO_ALIGNMENT = ("none", "auto")  # "auto" may end in "none"


class Conflict(NamedTuple):
    """Two options that do not go together, or a needed option that is missing.

    Attributes:
        first: Name of the first option.
        second: Name of the second option.
        is_missing: Whether the first option needs the second, which is not given.
    """

    first: str
    second: str
    is_missing: bool

    def describe(self, name_of: Callable[[str], str] | None = None) -> str:
        """Describe the conflict in a line.

        Args:
            name_of: Returns an option's name for the text; None: the option has its name on the command line.
        """
        name_of = name_of or flag_of
        first = name_of(self.first)
        second = name_of(self.second)
        if self.is_missing:
            _, advice = _NEEDS[self.first]
            return f"{first} needs {second}: {advice}"
        return f"{first} does not go with {second}: leave one of them out"


class ConflictError(InputError):
    """Error for options that do not go together; its text describes the first conflict.

    Attributes:
        conflicts: All conflicts, at least one.
    """

    def __init__(self, conflicts: list[Conflict]):
        super().__init__(conflicts[0].describe())
        self.conflicts = conflicts


def find_conflicts(options: Mapping[str, object]) -> list[Conflict]:
    """Find the options that do not go together, and the needed options that are missing.

    Args:
        options: Values by the names of a fit's options; None and False: not given.
    """
    used_names = {name for name, value in options.items() if value is not None and value is not False}
    if options.get("align") in _NO_ALIGNMENT:
        used_names.discard("align")
    exclusions = [
        Conflict(option.name, excluded_name, is_missing=False)
        for option in FIT_OPTIONS
        for excluded_name in option.apart
        if {option.name, excluded_name} <= used_names
    ]
    omissions = [
        Conflict(name, needed_name, is_missing=True)
        for name, (needed_name, _) in _NEEDS.items()
        if name in used_names and needed_name not in used_names
    ]
    return exclusions + omissions


def check_options(options: Mapping[str, object]) -> None:
    """Check that options go together.

    Args:
        options: Values by the names of a fit's options; None and False: not given.

    Raises:
        ConflictError: Some do not, or a needed option is missing.
    """
    conflicts = find_conflicts(options)
    if conflicts:
        raise ConflictError(conflicts)

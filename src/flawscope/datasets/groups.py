"""Which pictures show one and the same part, from their names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from flawscope.errors import InputError

Part = tuple[str | None, ...]


def part_of(name: str, expression: re.Pattern[str] | None) -> Part | None:
    """The part that a name names: the text of the pattern's groups if it has any, else of the whole match;
    None without a match."""
    match = None if expression is None else expression.search(name)
    return None if match is None else match.groups() or (match.group(),)


def compiled(pattern: str | None) -> re.Pattern[str] | None:
    """InputError: it is not a regular expression."""
    try:
        return None if pattern is None else re.compile(pattern)
    except re.error as error:
        raise InputError(f"--group {pattern!r} is not a regular expression ({error}): correct it") from None


def group_numbers(names: Sequence[str], pattern: str | None) -> list[int]:
    """A number per name; names in which `pattern` matches the same text share one.

    The text is that of the pattern's groups if it has any, else of the whole match. Names without a match,
    and all names without a pattern, stand alone.

    Raises:
        InputError: the pattern is not a regular expression, or matches no name.
    """
    expression = compiled(pattern)
    parts = [part_of(name, expression) for name in names]
    if pattern is not None and names and not any(parts):
        raise InputError(f"--group {pattern!r} matches no file name such as {names[0]}: correct the pattern")
    numbers: dict[object, int] = {}
    return [numbers.setdefault(i if part is None else part, len(numbers)) for i, part in enumerate(parts)]

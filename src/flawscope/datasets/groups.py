"""Which pictures show one and the same part, from their names."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

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
        raise InputError(f"--group '{pattern}' is not a regular expression ({error}): correct it") from None


def remark(paths: Sequence[Path], pattern: str | None) -> str:
    """One line where a pattern says nothing about these files: it matches the same text in all names, or
    another one in each. Empty where there is nothing to say.

    Raises:
        InputError: as `group_numbers`.
    """
    if pattern is None or len(paths) < 2:
        return ""
    common = os.path.commonpath([path.parent for path in paths])
    numbers = group_numbers([path.relative_to(common).as_posix() for path in paths], pattern)
    given, example = f"--group '{pattern}'", paths[0].name
    if len(set(numbers)) == 1:
        return f"{given} matches the same text in all names, such as {example}: all count as one part"
    if len(set(numbers)) == len(numbers):
        return f"{given} matches another text in each name, such as {example}: each counts as a part"
    return ""


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
        raise InputError(f"--group '{pattern}' matches no file name such as {names[0]}: correct the pattern")
    numbers: dict[object, int] = {}
    return [numbers.setdefault(i if part is None else part, len(numbers)) for i, part in enumerate(parts)]

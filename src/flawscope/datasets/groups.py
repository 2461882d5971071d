"""Which pictures show one and the same part, from their names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from flawscope.errors import InputError


def group_numbers(names: Sequence[str], pattern: str | None) -> list[int]:
    """A number per name; names in which `pattern` matches the same text share one.

    The text is that of the pattern's groups if it has any, else of the whole match. Names without a match,
    and all names without a pattern, stand alone.

    Raises:
        InputError: the pattern is no regular expression, or matches no name.
    """
    if pattern is None:
        return list(range(len(names)))
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise InputError(f"--group {pattern!r} is no regular expression ({error}): mend it") from None
    numbers: dict[object, int] = {}
    found = 0
    result = []
    for i, name in enumerate(names):
        match = expression.search(name)
        found += match is not None
        key: object = i if match is None else (match.groups() or match.group())
        result.append(numbers.setdefault(key, len(numbers)))
    if names and not found:
        raise InputError(f"--group {pattern!r} matches no file name such as {names[0]}: mend the pattern")
    return result

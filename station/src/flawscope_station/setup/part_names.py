"""Parts and views in the names of files: a person marks on one name what tells them, and the patterns follow.

A name is words of letters, numbers, and what separates them. What is marked is found in other names by its
place: in `part07_top.png`, `07` is the number of the first field and `top` is the second field.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from itertools import groupby
from typing import Any

from flawscope.calibration import parts as views_of_parts
from flawscope.errors import InputError

_WORD, _NUMBER, _FIELD, _SEPARATOR = r"[^\W\d_]+", r"\d+", r"[^\W_]+", r"[\W_]+"
_NO_ENDING = r"(?:(?<!\.)|(?=.*\.))"  # a name of fewer fields must not be read into its ending
_PIECE = re.compile(f"{_NUMBER}|{_WORD}|{_SEPARATOR}")
MAX_LISTED = 6  # parts that are shown


def split_name(name: str) -> list[str]:
    """Split a file's name, without its ending, into words, numbers and separators."""
    return _PIECE.findall(_stem(name))


def pattern_of(name: str, marked: Collection[int]) -> str | None:
    """Return the regular expression of `PartPattern` that finds what is marked in this name in names like it;
    None: nothing is marked.

    Args:
        marked: places of the pieces, as `split_name` gives them; separators do not count.
    """
    pieces = split_name(name)
    marks = [k in marked and not _is_separator(piece) for k, piece in enumerate(pieces)]
    if not any(marks):
        return None
    last, found = len(marks) - marks[::-1].index(True), "^"
    separators = [k for k in range(last) if _is_separator(pieces[k])]
    for is_separator, numbers in groupby(range(len(pieces)), lambda k: _is_separator(pieces[k])):
        field = list(numbers)
        if field[0] >= last:
            break
        if is_separator:
            found += _SEPARATOR + (_NO_ENDING if field[0] == separators[-1] else "")
        elif len({marks[k] for k in field}) == 1:  # whatever the field is made of in other names
            found += f"({_FIELD})" if marks[field[0]] else _FIELD
        else:
            for is_marked, run in groupby((k for k in field if k < last), lambda k: marks[k]):
                kinds = "".join(_NUMBER if pieces[k][0].isdecimal() else _WORD for k in run)
                found += f"({kinds})" if is_marked else kinds
    return found


def marked_in(name: str, pattern: str | None) -> list[int]:
    """Return the places of the pieces that the groups of a pattern, or all of it, match in a name."""
    match = None if pattern is None else re.search(pattern, name)
    if match is None:
        return []
    spans = [match.span(k) for k in range(1, (match.re.groups or 0) + 1)] or [match.span()]
    found, at = [], 0
    for k, piece in enumerate(split_name(name)):
        if not _is_separator(piece) and any(begin <= at and at + len(piece) <= end for begin, end in spans):
            found.append(k)
        at += len(piece)
    return found


def check_part_names(names: Iterable[str], part: str, view: str | None) -> None:
    """InputError where patterns do not tell the parts of these pictures."""
    views_of_parts.PartPattern(part, view).part_numbers(names)


def describe_parts(names: Iterable[str], part: str, view: str | None) -> dict[str, Any]:
    """Return the parts that patterns find in the names of pictures: `parts`, the first ones with the pictures
    of each by view; `count`; `views`; `problem`, why one cannot learn from them, or None: `unmatched`,
    `twice`, `one_part` or `all_alone`; and `pictures` that show the problem. InputError: no pattern."""
    pattern, parts = views_of_parts.PartPattern(part, view), dict[str, dict[str, str]]()
    unmatched, twice = list[str](), list[str]()
    for name in names:
        try:
            found: views_of_parts.View = pattern.parse(name)
        except InputError:
            unmatched.append(name)
            continue
        pictures = parts.setdefault(found.part, {})
        if pictures.setdefault(found.view, name) != name:
            twice += [pictures[found.view], name]
    several = max(map(len, parts.values()), default=0) > 1
    wrong: Sequence[tuple[str, Any]] = (
        ("unmatched", unmatched),
        ("twice", twice),
        ("one_part", len(parts) == 1 and several),
        ("all_alone", len(parts) > 1 and not several),
    )
    problem = next((code for code, is_there in wrong if is_there), None)
    return {
        "count": len(parts),
        "views": sorted({view for pictures in parts.values() for view in pictures}),
        "parts": [{"part": one, "pictures": parts[one]} for one in list(parts)[:MAX_LISTED]],
        "problem": problem,
        "pictures": {"unmatched": unmatched, "twice": twice}.get(problem or "", [])[:MAX_LISTED],
    }


def _is_separator(piece: str) -> bool:
    return not piece[0].isalnum()


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name

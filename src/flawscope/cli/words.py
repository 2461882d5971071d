"""Reads the words of a call as their writer meant them, whatever shell they come from."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence

from flawscope.errors import InputError
from flawscope.pictures.text_files import QUOTES, unquoted

_VALUE = re.compile(r"(--[A-Za-z][\w-]*=)(.*)", re.DOTALL)
_HOME = re.compile(r"~(?=$|[/\\])")


def clean_words(words: Iterable[str]) -> list[str]:
    """Return the words of a call without quotes that shells left, and with the home folder for a first `~`.

    Shells replace `~` where a word begins, not behind the = of an option, and cmd nowhere.

    Raises:
        InputError: cmd, which knows no single quotes, cut a text at its spaces.
    """
    given = [*words]
    _refuse_cut(given)
    return [_cleaned(word) for word in given]


def _cleaned(word: str) -> str:
    match = _VALUE.fullmatch(word)
    option, value = match.groups() if match else ("", word)
    value = unquoted(value)
    if _HOME.match(value) and not os.path.lexists(value):
        value = os.path.expanduser(value)
    return f"{option}{value}"


def _refuse_cut(words: Sequence[str]) -> None:
    for place, word in enumerate(words):
        value = word.partition("=")[2] if word.startswith("--") else word
        closing = QUOTES.get(value[:1])
        if closing is None or value[0] == '"' or value[1:].endswith(closing):
            continue
        for last in range(place + 1, len(words)):
            if words[last].endswith(closing):
                whole = " ".join([value, *words[place + 1 : last + 1]])[1:-1]
                raise InputError(f'{value[0]} is no quote of this shell, which cut the text: write "{whole}"')

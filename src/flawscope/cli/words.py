"""Reads the words of a call as their writer meant them, whatever shell they come from."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence

from flawscope.errors import InputError
from flawscope.pictures.text_files import QUOTES, unquoted

_VALUE = re.compile(r"(--[A-Za-z][\w-]*=)(.*)", re.DOTALL)  # an option with its value in one word
_HOME = re.compile(r"~(?=$|[/\\])")  # not ~name, which is another user's folder


def clean_words(words: Iterable[str]) -> list[str]:
    """Return the words of a call without quotes that shells left, and with the home folder for a first `~`.

    Shells replace `~` where a word begins, not behind the = of an option, and cmd nowhere.

    Raises:
        InputError: cmd, which knows no single quotes, cut a text at its spaces.
    """
    all_words = [*words]
    _check_quotes(all_words)
    return [_clean_word(word) for word in all_words]


def _clean_word(word: str) -> str:
    """Return a word without quotes, with the home folder for a first `~`; of an option its value so."""
    match = _VALUE.fullmatch(word)
    option, value = match.groups() if match else ("", word)
    text = unquoted(value)
    if _HOME.match(text) and not os.path.lexists(text):
        text = os.path.expanduser(text)
    return f"{option}{text}"


def _check_quotes(words: Sequence[str]) -> None:
    """Raise an InputError where a word begins with a quote that a later word closes."""
    for first, word in enumerate(words):
        value = word.partition("=")[2] if word.startswith("--") else word
        opening = value[:1]
        closing = QUOTES.get(opening)
        if closing is None or opening == '"' or value[1:].endswith(closing):
            continue
        for last in range(first + 1, len(words)):
            if words[last].endswith(closing):
                quoted_text = " ".join([value, *words[first + 1 : last + 1]])
                text = quoted_text[1:-1]
                raise InputError(f'{opening} is no quote of this shell, which cut the text: write "{text}"')

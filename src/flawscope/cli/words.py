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
    """Return the words of a call, without quotes that shells left in them, and with `~` replaced.

    A `~` at the beginning of a word or of an option's value stands for the home folder. Shells replace it
    only at the beginning of a word, and cmd never does.

    Raises:
        InputError: The shell, such as cmd, does not know single quotes, and cut a quoted text at its spaces.
    """
    all_words = [*words]
    _check_quotes(all_words)
    return [_clean_word(word) for word in all_words]


def _clean_word(word: str) -> str:
    """Return a word without quotes and with `~` replaced; in --option=value, only the value changes."""
    match = _VALUE.fullmatch(word)
    option, value = match.groups() if match else ("", word)
    text = unquoted(value)
    if _HOME.match(text) and not os.path.lexists(text):
        text = os.path.expanduser(text)
    return f"{option}{text}"


def _check_quotes(words: Sequence[str]) -> None:
    """Raise an InputError if a word begins with a quote that only a later word closes."""
    for index, word in enumerate(words):
        value = word.partition("=")[2] if word.startswith("--") else word
        opening = value[:1]
        closing = QUOTES.get(opening)
        # every shell knows double quotes
        if closing is None or opening == '"':
            continue
        is_closed = value[1:].endswith(closing)
        if is_closed:
            continue
        for last_index in range(index + 1, len(words)):
            if words[last_index].endswith(closing):
                quoted_text = " ".join([value, *words[index + 1 : last_index + 1]])
                text = quoted_text[1:-1]
                raise InputError(f'{opening} is no quote of this shell, which cut the text: write "{text}"')

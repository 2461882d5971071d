"""The texts of the pages: one file per language, the same keys in each."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import resources
from typing import Any

import yaml

from flawscope.errors import FlawscopeError

LANGUAGES = {"en": "English", "de": "Deutsch"}
DEFAULT = "en"


class Texts:
    """The texts of one language. Called with a key such as "live.hold" it returns the text, with the values
    put in where the text names them in braces.

    Args:
        flat: key -> text.
    """

    def __init__(self, language: str, flat: Mapping[str, str]):
        self.language = language
        self.flat = dict(flat)

    def __call__(self, key: str, /, **values: object) -> str:
        return self.flat[key].format(**values)

    def either(self, key: str, other: str) -> str:
        """The text of a key that may be unknown, else that of another one."""
        return self.flat.get(key, self.flat[other])

    def count(self, key: str, number: int, /, **values: object) -> str:
        """The text for one thing or for several: the keys end with _one and _many."""
        return self(f"{key}_{'one' if number == 1 else 'many'}", n=number, **values)

    def sections(self, *names: str) -> dict[str, str]:
        """The texts of these sections, for a script."""
        return {key: text for key, text in self.flat.items() if key.split(".")[0] in names}

    def number(self, value: float | None, digits: int = 3) -> str:
        """A number with so many significant digits, in the language's way of writing."""
        if value is None:
            return "–"
        text = f"{value:.{digits}g}"
        return text.replace(".", ",") if self.language == "de" else text


@functools.cache
def texts(language: str) -> Texts:
    """The texts of a language of `LANGUAGES`. Raises FlawscopeError if a language lacks a key."""
    read = {name: _flat(name) for name in LANGUAGES}
    for name, found in read.items():
        if odd := found.keys() ^ read[DEFAULT].keys():
            raise FlawscopeError(
                f"texts/{name}.yaml: {min(odd)} is not in every language; give each file the same keys"
            )
    return Texts(language, read[language])


def chosen(wanted: str | None, accepted: str) -> str:
    """The language to speak: the one that the person chose, else the first known one of the browser's
    Accept-Language."""
    if wanted in LANGUAGES:
        return wanted
    for part in accepted.split(","):
        if (name := part.split(";")[0].strip().lower()[:2]) in LANGUAGES:
            return name
    return DEFAULT


def _flat(language: str) -> dict[str, str]:
    path = resources.files(__package__) / "assets" / "texts" / f"{language}.yaml"
    found: Mapping[str, Mapping[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {f"{section}.{key}": str(text) for section, part in found.items() for key, text in part.items()}

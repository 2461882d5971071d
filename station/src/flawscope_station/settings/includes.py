"""A settings file as it is meant: with the files that it includes, and with values of the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from flawscope.config import read_config
from flawscope.errors import InputError

INCLUDE = "include"  # setting: a file, or several, that what stands beside it wins over
_VARIABLE = re.compile(r"\$\{(\w*)\}")


def read_file(path: str | Path) -> dict[str, object]:
    """Return the settings of a file, names and texts.

    `${NAME}` stands for a variable of the environment. InputError: a file cannot be read or includes itself,
    or there is no such variable.
    """
    given = _with_included(Path(path), ())
    return {name: _with_environment(value) for name, value in given.items()}


def settings_files(path: str | Path) -> list[Path]:
    """Return a settings file and the files that it includes, each once. InputError: one cannot be read."""
    found: dict[Path, None] = {}
    waiting = [Path(path)]
    while waiting:
        place = waiting.pop(0).resolve()
        if place in found:
            continue
        found[place] = None
        waiting += [place.parent / Path(name).expanduser() for name in _included_names(read_config(place))]
    return list(found)


def _included_names(settings: Mapping[str, object]) -> list[str]:
    names = settings.get(INCLUDE) or []
    if isinstance(names, str):
        return [names]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{INCLUDE}: write a file, or a list of files")
    return names


def _with_included(path: Path, above: Sequence[Path]) -> dict[str, object]:
    settings = read_config(path)
    place = path.resolve()
    names = _included_names(settings)
    settings.pop(INCLUDE, None)
    if place in above:
        raise InputError(f"{INCLUDE}: {path} includes itself")
    whole: dict[str, object] = {}
    for name in names:
        included = path.parent / Path(name).expanduser()
        whole = _merged(whole, _with_included(included, (*above, place)))
    return _merged(whole, settings)


def _merged(below: Mapping[str, object], above: Mapping[str, object]) -> dict[str, object]:
    """Return the settings of both; where both have a setting, `above` wins, and sections are merged."""
    found = {**below, **above}
    for key in below.keys() & above.keys():
        lower, upper = below[key], above[key]
        if isinstance(lower, Mapping) and isinstance(upper, Mapping):
            found[key] = _merged(lower, upper)
    return found


def _with_environment(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _with_environment(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_environment(item) for item in value]
    return _VARIABLE.sub(_variable, value) if isinstance(value, str) else value


def _variable(found: re.Match[str]) -> str:
    value = os.environ.get(found[1])
    if value is None:
        raise InputError(f"{found[0]} is no variable of the environment: set it, or write the value")
    return value

"""Read a settings file together with the files that it includes, and with values of the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from flawscope.config import read_config
from flawscope.errors import InputError

INCLUDE = "include"  # setting with one file or a list of files; the including file's settings win over theirs
_VARIABLE = re.compile(r"\$\{(\w*)\}")


def read_file(path: str | Path) -> dict[str, object]:
    """Return the settings of a file and of the files that it includes, by the settings' names.

    `${NAME}` in a value is replaced by the environment variable NAME.

    Raises:
        InputError: A file cannot be read, a file includes itself, or a variable is not set.
    """
    settings = _read_with_included(Path(path), included_by=())
    return {name: _fill_in_variables(value) for name, value in settings.items()}


def settings_files(path: str | Path) -> list[Path]:
    """Return a settings file and all files that it includes, each once. InputError: one cannot be read."""
    files: dict[Path, None] = {}  # a set that keeps the order
    unread_files = [Path(path)]
    while unread_files:
        file = unread_files.pop(0).resolve()
        if file in files:
            continue
        files[file] = None
        for name in _included_names(read_config(file)):
            unread_files.append(file.parent / Path(name).expanduser())
    return list(files)


def _included_names(settings: Mapping[str, object]) -> list[str]:
    """Return the paths in the setting `include`, as they are written.

    Raises:
        InputError: The setting has something else than paths.
    """
    paths = settings.get(INCLUDE) or []
    if isinstance(paths, str):
        return [paths]
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise InputError(f"{INCLUDE}: write a file, or a list of files")
    return paths


def _read_with_included(path: Path, included_by: Sequence[Path]) -> dict[str, object]:
    """Return the settings of a file, merged with those of the files that it includes.

    Args:
        path: File to read.
        included_by: Resolved paths of the files that lead to this one: each includes the next, and the last
            one includes this file. Empty: no file includes this one.

    Raises:
        InputError: A file cannot be read, or includes itself.
    """
    settings = read_config(path)
    resolved_path = path.resolve()
    included_names = _included_names(settings)
    settings.pop(INCLUDE, None)
    if resolved_path in included_by:
        raise InputError(f"{INCLUDE}: {path} includes itself")
    merged: dict[str, object] = {}
    for name in included_names:
        included_path = path.parent / Path(name).expanduser()
        merged = _merge(merged, _read_with_included(included_path, (*included_by, resolved_path)))
    return _merge(merged, settings)


def _merge(base: Mapping[str, object], override: Mapping[str, object]) -> dict[str, object]:
    """Return the settings of both mappings.

    If both have a setting, the value of `override` is used. If both values are sections, they are merged.
    """
    merged = {**base, **override}
    for key in base.keys() & override.keys():
        base_value, override_value = base[key], override[key]
        if isinstance(base_value, Mapping) and isinstance(override_value, Mapping):
            merged[key] = _merge(base_value, override_value)
    return merged


def _fill_in_variables(value: object) -> object:
    """Return a setting's value with each `${NAME}` replaced by its variable. InputError: it is not set."""
    if isinstance(value, Mapping):
        return {key: _fill_in_variables(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill_in_variables(item) for item in value]
    return _VARIABLE.sub(_variable_value, value) if isinstance(value, str) else value


def _variable_value(reference: re.Match[str]) -> str:
    """Return the value of the variable that `${NAME}` stands for. InputError: the variable is not set."""
    name = reference[1]
    value = os.environ.get(name)
    if value is None:
        raise InputError(f"${{{name}}} is no variable of the environment: set it, or write the value")
    return value

"""Builds typed configurations from YAML and `key=value`; an unknown key's error names the nearest key."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, TypeVar

from flawscope.errors import InputError, decimal_point, suggest_name
from flawscope.pictures.text_files import load_yaml, read_yaml

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from flawscope.types import Json

T = TypeVar("T")
Config = TypeVar("Config", bound="DataclassInstance")
UNIONS = (typing.Union, types.UnionType)  # `Optional[X]` is of the first, `X | None` of the second
TYPE_NAMES: Mapping[object, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    NoneType: "nothing",
}
_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def read_config(path: str | Path, category: str | None = None) -> Json:
    """Read the settings in a YAML file, by name; `build_config` converts them to the settings' types.

    Args:
        path: The file.
        category: Name of the category whose values, under `categories: {NAME: ...}`, replace the others;
            None: no values are replaced.

    Raises:
        InputError: The file cannot be read, has another form, or has values for a category of a similar name.
    """
    values = _read_file(path)
    categories = values.pop("categories", None) or {}
    if not isinstance(categories, dict) or not all(isinstance(v, dict) for v in categories.values()):
        raise InputError(f"config {path}: `categories` must map a name to its values")
    if category is not None and category not in categories:
        near = difflib.get_close_matches(category, categories, n=1)
        if near:
            raise InputError(
                f"config {path} has values for {near[0]}, the category is {category}: mend one of them"
            )
    return {**values, **categories.get(category, {})}


def _read_file(path: str | Path) -> Json:
    try:
        values = read_yaml(path) or {}
    except OSError as error:
        raise InputError(f"cannot read config {path}: {error.strerror}; name an existing YAML file") from None
    except ValueError as error:
        remedy = "" if ";" in str(error) else "; mend that line"
        raise InputError(f"config {path} is not YAML: {error}{remedy}") from None
    if not isinstance(values, dict):
        raise InputError(f"config {path} is not a list of `key: value` lines: mend it")
    return values


def parse_assignments(pairs: Iterable[str]) -> Json:
    """Read assignments such as `["ratio=0.05", "size=384"]` as values by name, each like a line of YAML."""
    values: Json = {}
    for pair in pairs:
        key, found, text = pair.partition("=")
        if not found or not key.strip():
            raise InputError(f"--set {pair!r} is not key=value: write for example --set ratio=0.05")
        try:
            values[key.strip().replace("-", "_")] = load_yaml(text)
        except ValueError:
            raise InputError(f"--set {pair!r:.99}: the value cannot be read; quote it") from None
    return values


def merge_settings(
    file: str | None, flags: Mapping[str, object], assignments: Iterable[str], category: str | None = None
) -> Json:
    """Merge the settings of a call: YAML file, flags, `key=value`; later ones win."""
    values = read_config(file, category) if file else {}
    return {**values, **flags, **parse_assignments(assignments)}


def build_config(cls: type[Config], values: Mapping[str, object]) -> Config:
    """Build an instance of the dataclass `cls`; errors name the known keys and the right types."""
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    kwargs: Json = {}
    for key, value in values.items():
        if key not in fields:
            raise InputError(f"unknown setting {redact_value(key)}; {suggest_name(str(key), fields)}")
        try:
            kwargs[key] = convert_value(value, hints[key])
        except InputError as error:  # of settings below it
            raise InputError(f"{key}: {error}") from None
        except (TypeError, ValueError, OverflowError):
            given = "no value" if value is None else redact_value(repr(value))
            raise InputError(f"setting {key}: {given} is not {describe_type(hints[key])}") from None
    # without a default both are MISSING
    if missing := [
        name
        for name, field in fields.items()
        if name not in kwargs and field.default is field.default_factory
    ]:
        raise InputError(f"setting {' and '.join(missing)} is missing: write `{missing[0]}: ...`")
    return cls(**kwargs)


def flag_of(name: str) -> str:
    """Return the command line's flag of a setting or an option: `--min-defect` for `min_defect`."""
    return f"--{name.replace('_', '-')}"


def redact_value(value: object) -> str:
    """Return a wrong value's text for an error; an address is left out: it may contain a password."""
    return "an address" if "://" in str(value) or "@" in str(value) else str(value)


def keep_known_settings(cls: type[DataclassInstance], values: Mapping[str, object]) -> Json:
    """Drop values that are not settings of the dataclass `cls`: a file of another version may have some.

    Values from a person go to `build_config` unfiltered, which reports them.
    """
    return {key: value for key, value in values.items() if key in setting_names(cls)}


def setting_names(cls: type[DataclassInstance]) -> set[str]:
    """Return the names of a dataclass's fields that its constructor takes."""
    return {f.name for f in dataclasses.fields(cls) if f.init}


def convert_value(value: object, hint: type[T]) -> T:
    """Convert `value` to the annotated type `hint`; TypeError or ValueError where it does not fit."""
    return typing.cast(T, _convert(value, hint))


def _convert(value: object, hint: object) -> object:
    origin = typing.get_origin(hint)
    args = typing.get_args(hint)
    if origin in UNIONS:
        return _convert_to_first(value, args)
    if origin is typing.Literal:
        if value not in args:
            raise ValueError
        return value
    if origin is tuple:
        return _convert_tuple(value, args)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _convert_mapping(value, *args)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _build_nested(value, hint)
    if hint not in _READERS:
        raise TypeError
    return _READERS[hint](value)


def _convert_to_first(value: object, hints: Iterable[object]) -> object:
    """Convert a value to the first of several types that it fits."""
    if value is None and NoneType in hints:
        return None
    for hint in hints:
        if hint is NoneType:
            continue
        try:
            return _convert(value, hint)
        except InputError:
            raise
        except (TypeError, ValueError, OverflowError):
            continue
    raise TypeError


def _build_nested(value: object, cls: type[DataclassInstance]) -> object:
    if not isinstance(value, Mapping):
        raise InputError("it is not a list of `key: value` lines")
    return build_config(cls, value)


def _convert_mapping(value: object, key_hint: object, value_hint: object) -> object:
    if not isinstance(value, Mapping):
        raise TypeError
    made = {_convert(key, key_hint): _convert(item, value_hint) for key, item in value.items()}
    if len(made) < len(value):  # 1 and 01
        raise ValueError
    return made


def _convert_tuple(value: object, hints: Sequence[object]) -> object:
    """Convert a list, a single value, or a text such as 2,3 or 64x48, to a tuple."""
    parts: list[object]
    if isinstance(value, str):
        parts = [*(value if hints[0] is str else value.replace("x", ",")).split(",")]
    elif isinstance(value, list | tuple):
        parts = [*value]
    else:
        parts = [value]
    if hints[-1] is Ellipsis:
        return tuple(_convert(part, hints[0]) for part in parts)
    if len(parts) == 1:  # one number serves both sides
        parts = parts * len(hints)
    if len(parts) != len(hints):
        raise ValueError
    return tuple(_convert(part, hint) for part, hint in zip(parts, hints, strict=True))


def _read_truth(value: object) -> bool:
    if isinstance(value, str):
        value = _WORDS.get(value.lower())
    if not isinstance(value, bool):
        raise TypeError
    return value


def _read_whole_number(value: object) -> int:
    if isinstance(value, str):
        value = _number_of_text(value)
    if isinstance(value, bool) or not isinstance(value, typing.SupportsInt):
        raise TypeError
    whole = int(value)
    if isinstance(value, float) and value != whole:
        raise TypeError
    return whole


def _number_of_text(text: str) -> int | float:
    """Return the number in a text: 010 is ten."""
    try:
        return int(text)
    except ValueError:
        return float(text)  # 1.0e3


def _read_number(value: object) -> float:
    if isinstance(value, str):
        value = decimal_point(value)
    if isinstance(value, bool) or not isinstance(value, str | typing.SupportsFloat | typing.SupportsIndex):
        raise TypeError
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _read_text(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | Path):
        raise TypeError
    return str(value)


_READERS: Mapping[object, Callable[[object], object]]
_READERS = {bool: _read_truth, int: _read_whole_number, float: _read_number, str: _read_text}


def describe_type(hint: object) -> str:
    """Return words for a type in an error: a whole number, true or false."""
    origin = typing.get_origin(hint)
    args = typing.get_args(hint)
    if origin in UNIONS:
        return " or ".join(describe_type(a) for a in args)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, args))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "lines of `key: value`"
    if origin is tuple:
        return "numbers like 2,3" if args[-1] is Ellipsis else "a number or HxW"
    return TYPE_NAMES.get(hint, str(hint))

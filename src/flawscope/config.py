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
from typing import TYPE_CHECKING, Any, TypeVar

from flawscope.errors import InputError, decimal_point, suggest_name
from flawscope.pictures.text_files import load_yaml, read_yaml

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from flawscope.types import Json

T = TypeVar("T")
Config = TypeVar("Config", bound="DataclassInstance")
UNIONS = (typing.Union, types.UnionType)  # origins of the annotations `Optional[X]` and `X | None`
TYPE_NAMES: Mapping[object, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    NoneType: "nothing",
}
_TRUTH_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def read_config(path: str | Path, category: str | None = None) -> Json:
    """Read the settings in a YAML file, by name; `build_config` converts them to the settings' types.

    Args:
        path: The file.
        category: Name of a category. Its values in the file, under `categories: {NAME: ...}`, replace the
            general ones. None: nothing is replaced.

    Raises:
        InputError: The file cannot be read or has another form; or it lacks the category, and has one of a
            similar name.
    """
    values = _read_file(path)
    categories = values.pop("categories", None) or {}
    if not isinstance(categories, dict) or not all(
        isinstance(category_values, dict) for category_values in categories.values()
    ):
        raise InputError(f"config {path}: `categories` must map a name to its values")
    if category is not None and category not in categories:
        similar_names = difflib.get_close_matches(category, categories, n=1)
        if similar_names:
            raise InputError(
                f"config {path} has values for {similar_names[0]}, the category is {category}: "
                "mend one of them"
            )
    return {**values, **categories.get(category, {})}


def _read_file(path: str | Path) -> Json:
    """Return the content of a YAML file, by name; empty for an empty file.

    Raises:
        InputError: The file cannot be read, or its content is not names with values.
    """
    try:
        values = read_yaml(path) or {}
    except OSError as error:
        raise InputError(f"cannot read config {path}: {error.strerror}; name an existing YAML file") from None
    except ValueError as error:
        # the text behind a semicolon in the error is its remedy
        remedy = "" if ";" in str(error) else "; mend that line"
        raise InputError(f"config {path} is not YAML: {error}{remedy}") from None
    if not isinstance(values, dict):
        raise InputError(f"config {path} is not a list of `key: value` lines: mend it")
    return values


def parse_assignments(pairs: Iterable[str]) -> Json:
    """Return the values of assignments such as `["ratio=0.05", "size=384"]` by name.

    Each value is read as YAML. If a name is assigned several times, the last value is taken.

    Raises:
        InputError: An assignment has no key, or its value is not YAML.
    """
    values: Json = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        name = key.strip().replace("-", "_")
        if not separator or not name:
            raise InputError(f"--set {pair!r} is not key=value: write for example --set ratio=0.05")
        try:
            values[name] = load_yaml(text)
        except ValueError:
            raise InputError(f"--set {pair!r:.99}: the value cannot be read; quote it") from None
    return values


def merge_settings(
    file: str | None, flags: Mapping[str, object], assignments: Iterable[str], category: str | None = None
) -> Json:
    """Merge the settings of a call; flags override the YAML file, and assignments override both.

    Args:
        file: YAML file of settings; None for no file.
        flags: Values of the command's flags, by name.
        assignments: Texts `key=value`.
        category: Category whose values in the file replace the general ones; None: nothing is replaced.

    Raises:
        InputError: The file or an assignment cannot be read.
    """
    values = read_config(file, category) if file else {}
    return {**values, **flags, **parse_assignments(assignments)}


def build_config(cls: type[Config], values: Mapping[str, object]) -> Config:
    """Return an instance of the dataclass `cls` with values that are converted to the types of the fields.

    Raises:
        InputError: A key is unknown or missing, or a value does not fit; the message names the known keys or
            the right type.
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    arguments: Json = {}
    for key, value in values.items():
        if key not in fields:
            raise InputError(f"unknown setting {redact_value(key)}; {suggest_name(str(key), fields)}")
        try:
            arguments[key] = convert_value(value, hints[key])
        except InputError as error:  # about a nested setting
            raise InputError(f"{key}: {error}") from None
        except (TypeError, ValueError, OverflowError):
            value_text = "no value" if value is None else redact_value(repr(value))
            raise InputError(f"setting {key}: {value_text} is not {describe_type(hints[key])}") from None
    missing = [name for name, field in fields.items() if name not in arguments and _is_required(field)]
    if missing:
        raise InputError(f"setting {' and '.join(missing)} is missing: write `{missing[0]}: ...`")
    return cls(**arguments)


def _is_required(field: dataclasses.Field[Any]) -> bool:
    """Whether a field has no default."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def flag_of(name: str) -> str:
    """Return the command line's flag of a setting or an option: `--min-defect` for `min_defect`."""
    return f"--{name.replace('_', '-')}"


def redact_value(value: object) -> str:
    """Return a wrong value as a text for an error.

    An address is replaced by "an address", because it may contain a password.
    """
    text = str(value)
    is_address = "://" in text or "@" in text
    return "an address" if is_address else text


def keep_known_settings(cls: type[DataclassInstance], values: Mapping[str, object]) -> Json:
    """Return those values that are settings of the dataclass `cls`.

    This is for values from files, because a file of another version may have other settings. Values from a
    person are passed to `build_config` unfiltered, so that it reports unknown ones.
    """
    names = setting_names(cls)
    return {key: value for key, value in values.items() if key in names}


def setting_names(cls: type[DataclassInstance]) -> set[str]:
    """Return the names of a dataclass's fields that its constructor takes."""
    return {field.name for field in dataclasses.fields(cls) if field.init}


def convert_value(value: object, hint: type[T]) -> T:
    """Convert `value` to the annotated type `hint`.

    Raises:
        TypeError, ValueError, OverflowError: The value does not fit.
        InputError: The value holds settings of a dataclass, and these do not fit.
    """
    return typing.cast(T, _convert(value, hint))


def _convert(value: object, hint: object) -> object:
    """Convert a value as `convert_value` does; `hint` may also be a union, a Literal or a generic type."""
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if origin in UNIONS:
        return _convert_to_first(value, arguments)
    if origin is typing.Literal:
        if value not in arguments:
            raise ValueError
        return value
    if origin is tuple:
        return _convert_tuple(value, arguments)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        key_hint, value_hint = arguments
        return _convert_mapping(value, key_hint, value_hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _build_nested(value, hint)
    if hint not in _READERS:
        raise TypeError
    return _READERS[hint](value)


def _convert_to_first(value: object, hints: Iterable[object]) -> object:
    """Convert a value to the first of several types that it fits.

    Raises:
        TypeError: It fits none.
        InputError: It holds settings of a dataclass that do not fit.
    """
    if value is None and NoneType in hints:
        return None
    for hint in hints:
        if hint is NoneType:
            continue
        try:
            return _convert(value, hint)
        except InputError:  # a ValueError that has a message for the user, unlike those below
            raise
        except (TypeError, ValueError, OverflowError):
            continue
    raise TypeError


def _build_nested(value: object, cls: type[DataclassInstance]) -> object:
    """Build an instance of a dataclass that is the value of a setting."""
    if not isinstance(value, Mapping):
        raise InputError("it is not a list of `key: value` lines")
    return build_config(cls, value)


def _convert_mapping(value: object, key_hint: object, value_hint: object) -> object:
    """Convert the keys and values of a mapping.

    Raises:
        ValueError: Two keys become the same, such as 1 and 01.
    """
    if not isinstance(value, Mapping):
        raise TypeError
    converted = {_convert(key, key_hint): _convert(item, value_hint) for key, item in value.items()}
    if len(converted) < len(value):
        raise ValueError
    return converted


def _convert_tuple(value: object, hints: Sequence[object]) -> object:
    """Convert a list, a single value, or a text such as 2,3 or 64x48, to a tuple.

    If the tuple has a fixed length, a single value is repeated, for example for both sides of a size.

    Args:
        value: The value.
        hints: Types of the elements; (X, ...) for any number of X.
    """
    parts: list[object]
    if isinstance(value, str):
        # x separates numbers, but is a letter in a text
        with_commas = value if hints[0] is str else value.replace("x", ",")
        parts = [*with_commas.split(",")]
    elif isinstance(value, list | tuple):
        parts = [*value]
    else:
        parts = [value]
    if hints[-1] is Ellipsis:  # tuple[X, ...]
        return tuple(_convert(part, hints[0]) for part in parts)
    if len(parts) == 1:
        parts = parts * len(hints)
    if len(parts) != len(hints):
        raise ValueError
    return tuple(_convert(part, hint) for part, hint in zip(parts, hints, strict=True))


def _read_truth(value: object) -> bool:
    """Return a bool, or the bool of a word such as "yes"."""
    truth = _TRUTH_WORDS.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(truth, bool):
        raise TypeError
    return truth


def _read_whole_number(value: object) -> int:
    """Return a whole number from a number or a text; a float must have no fraction."""
    number = _number_of_text(value) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, typing.SupportsInt):
        raise TypeError
    whole_number = int(number)
    if isinstance(number, float) and number != whole_number:
        raise TypeError
    return whole_number


def _number_of_text(text: str) -> int | float:
    """Return a text as a number; leading zeros do not matter: 010 is ten."""
    try:
        return int(text)
    except ValueError:
        return float(text)  # such as 1.0e3


def _read_number(value: object) -> float:
    """Return a finite number from a number, or from a text with a decimal point or comma."""
    readable = decimal_point(value) if isinstance(value, str) else value
    if isinstance(readable, bool):
        raise TypeError
    if not isinstance(readable, str | typing.SupportsFloat | typing.SupportsIndex):
        raise TypeError
    number = float(readable)
    if not math.isfinite(number):
        raise ValueError
    return number


def _read_text(value: object) -> str:
    """Return a text, or a whole number or path as a text."""
    if isinstance(value, bool) or not isinstance(value, str | int | Path):
        raise TypeError
    return str(value)


_READERS: Mapping[object, Callable[[object], object]]
_READERS = {bool: _read_truth, int: _read_whole_number, float: _read_number, str: _read_text}


def describe_type(hint: object) -> str:
    """Return words for a type in an error, such as "a whole number" or "true or false"."""
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if origin in UNIONS:
        return " or ".join(map(describe_type, arguments))
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, arguments))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "lines of `key: value`"
    if origin is tuple:
        return "numbers like 2,3" if arguments[-1] is Ellipsis else "a number or HxW"
    return TYPE_NAMES.get(hint, str(hint))

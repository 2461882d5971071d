"""Builds typed configurations from YAML and `key=value`: an unknown key names the nearest known one."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from flawscope.errors import InputError, decimal_point, suggest_name
from flawscope.pictures.text_files import load_yaml, read_yaml

if TYPE_CHECKING:
    from flawscope.types import Json

T = TypeVar("T")
_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def read_config(path: str | Path, category: str | None = None) -> Json:
    """Reads a YAML file as names and texts, which `build_config` reads as the settings' types: the overrides
    under `categories: {NAME: ...}` win over the rest."""
    try:
        values = read_yaml(path) or {}
    except OSError as error:
        raise InputError(f"cannot read config {path}: {error.strerror}; name an existing YAML file") from None
    except ValueError as error:
        remedy = "" if ";" in str(error) else "; mend that line"
        raise InputError(f"config {path} is not YAML: {error}{remedy}") from None
    if not isinstance(values, dict):
        raise InputError(f"config {path} is not a list of `key: value` lines: mend it")
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


def parse_assignments(pairs: Iterable[str]) -> Json:
    """Reads `["ratio=0.05", "size=384"]` as values, as `read_config` reads lines of a file."""
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


def build_config(cls: type[T], values: Mapping[str, object]) -> T:
    """Builds an instance of the dataclass `cls`; errors name the known keys and the right types."""
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
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
        name for name, one in fields.items() if name not in kwargs and one.default is one.default_factory
    ]:
        raise InputError(f"setting {' and '.join(missing)} is missing: write `{missing[0]}: ...`")
    return cls(**kwargs)


def flag_of(name: str) -> str:
    """Flag of a setting or an option on the command line: `--min-defect` of `min_defect`."""
    return f"--{name.replace('_', '-')}"


def redact_value(value: Any) -> str:
    """Text of a wrong value for an error; an address is left out, for it may hold a password."""
    return "an address" if "://" in str(value) or "@" in str(value) else str(value)


def keep_known_settings(cls: type[Any], values: Mapping[str, object]) -> Json:
    """Drops values that are no settings of the dataclass `cls`: a file of another version may hold such.
    Values from a person go to `build_config` unfiltered, which reports them."""
    return {key: value for key, value in values.items() if key in setting_names(cls)}


def setting_names(cls: type[Any]) -> set[str]:
    return {f.name for f in dataclasses.fields(cls) if f.init}


def convert_value(value: Any, hint: Any) -> Any:
    """Converts `value` to the annotated type `hint`; TypeError or ValueError where it does not fit."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        for arg in (a for a in args if a is not type(None)):
            try:
                return convert_value(value, arg)
            except InputError:
                raise
            except (TypeError, ValueError, OverflowError):
                continue
        raise TypeError
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise InputError("it is not a list of `key: value` lines")
        return build_config(hint, value)
    if origin is typing.Literal:
        if value in args:
            return value
        raise ValueError
    if isinstance(origin, type) and issubclass(origin, Mapping):
        made = {convert_value(key, args[0]): convert_value(one, args[1]) for key, one in dict(value).items()}
        if len(made) < len(value):  # 1 and 01
            raise ValueError
        return made
    if origin is tuple:
        if isinstance(value, str):
            value = (value if args[0] is str else value.replace("x", ",")).split(",")
        elif not isinstance(value, list | tuple):
            value = [value]
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(convert_value(v, args[0]) for v in value)
        if len(value) == 1:  # one number serves both sides
            value = list(value) * len(args)
        if len(value) != len(args):
            raise ValueError
        return tuple(convert_value(v, a) for v, a in zip(value, args, strict=True))
    if isinstance(value, str) and hint in (bool, int):
        value = _WORDS.get(value.lower()) if hint is bool else _whole(value)
    if hint not in (bool, int, float, str) or isinstance(value, bool) != (hint is bool):
        raise TypeError
    if hint is str and not isinstance(value, str | int | Path):
        raise TypeError
    if hint is int and isinstance(value, float) and value != int(value):
        raise TypeError
    converted = hint(decimal_point(value) if hint is float and isinstance(value, str) else value)
    if hint is float and not math.isfinite(converted):
        raise ValueError
    return converted


def _whole(text: str) -> int | float:
    """Number of a text: 010 is ten."""
    try:
        return int(text)
    except ValueError:
        return float(text)  # 1.0e3


def describe_type(hint: Any) -> str:
    """Describes a type in an error: a whole number, true or false."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe_type(a) for a in args)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, args))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "lines of `key: value`"
    if origin is tuple:
        return "numbers like 2,3" if args[-1] is Ellipsis else "a number or HxW"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return names.get(hint, "nothing" if hint is type(None) else str(hint))

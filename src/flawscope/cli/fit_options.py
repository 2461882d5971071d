"""Options of `flawscope fit` that stand in its YAML file, for all categories or for each by itself.

A file names an option as the command line does, without dashes in front and with _ inside; the command line
wins. Settings of methods, which stand in the same file, are read by `common.read_settings`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from flawscope.config import parse_assignments, read_config, redact_value, setting_names
from flawscope.errors import InputError, suggest_name
from flawscope.methods import registry

# Of the call, not of what is fitted
OF_THE_CALL = frozenset(
    (
        *("data", "category", "out", "config", "set", "update", "fair", "joint", "each_view", "evaluate"),
        *("json", "cluster", "quiet", "only_view"),
    )
)
# Settings of every method, and the file's own
COMMON = frozenset(("method", "preset", "seen", "scale"))


def with_file(args: argparse.Namespace, category: str | None) -> argparse.Namespace:
    """Returns the call with the options of `--config` for this category; None: those for all.

    Raises:
        InputError: the file or `--set` has an unknown name, or one that stands elsewhere; a wrong value.
    """
    typed = args.typed
    if typed is None:
        typed = frozenset(name for name in _actions() if getattr(args, name) not in (None, False, []))
    for name in parse_assignments(args.set):
        if name in file_options():
            raise InputError(f"--set {name}: it is an option; write {flag(name)} instead")
    values = read_config(args.config, category) if args.config else {}
    _check_names(args.config, values)
    own = argparse.Namespace(**{**vars(args), "typed": typed, "filed": frozenset(values.keys() - typed)})
    for name in file_options() & values.keys():
        if name not in typed and values[name] is not None:
            setattr(own, name, _read(args.config, name, values[name]))
    if own.channels and "{" in own.channels:
        own.part, own.view = _parse_template(own)
        own.channels = None
    return own


@cache
def file_options() -> frozenset[str]:
    """Names of the options that may stand in a file and are no settings of a method."""
    return frozenset(_actions().keys() - OF_THE_CALL - _settings())


def written(args: argparse.Namespace, name: str) -> str:
    """Names a setting or an option as it was given: `--keep-aspect`, or `keep_aspect` of the file."""
    return f"{name} of {args.config}" if name in args.filed else flag(name)


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _check_names(file: str | None, values: Mapping[str, Any]) -> None:
    known = file_options() | _settings()
    for name in values:
        if name in known:
            continue
        if name in OF_THE_CALL and name in _actions():
            raise InputError(f"config {file}: {name} is for the command line: write {flag(str(name))}")
        raise InputError(
            f"config {file}: unknown setting {redact_value(name)}; {suggest_name(str(name), sorted(known))}"
        )


def _settings() -> frozenset[str]:
    own: Iterable[str] = (
        name for method in registry.loadable_methods() for name in setting_names(method.config)
    )
    return frozenset(own) | COMMON


@cache
def _actions() -> dict[str, argparse.Action]:
    from flawscope.cli import fit

    parser = argparse.ArgumentParser(add_help=False)
    fit.add_arguments(parser)
    return {action.dest: action for action in parser._actions}


def _read(file: str, name: str, value: Any) -> Any:
    """Reads a value of the file as the command line reads it."""
    action, where = _actions()[name], f"config {file}: {name}"
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise InputError(f"{where}: {redact_value(value)} is not true or false")
        return value
    parts = value if isinstance(value, list) else [value]
    if any(isinstance(one, bool | dict | list) for one in parts):
        raise InputError(f"{where}: {redact_value(value)} is no value of {flag(name)}: write it as there")
    texts = [str(one) for one in parts]
    if isinstance(action.nargs, int) and len(texts) != action.nargs:
        raise InputError(f"{where} takes {action.nargs} values: write a list of them")
    if not isinstance(action.nargs, int):
        texts = [",".join(texts)]
    read = []
    for text in texts:
        if action.choices is not None and text not in action.choices:
            raise InputError(f"{where}: {text} is none of {', '.join(map(str, action.choices))}")
        try:
            read.append(action.type(text) if callable(action.type) else text)
        except (argparse.ArgumentTypeError, ValueError) as error:
            raise InputError(f"{where}: {error}") from None
    return read if isinstance(action.nargs, int) else read[0]


def _parse_template(args: argparse.Namespace) -> tuple[str, str | None]:
    """Patterns of --part and --view that `--channels {part}_{light}.png` stands for."""
    from flawscope.calibration.parts import PartPattern

    if args.part or args.view or args.group:
        raise InputError("--channels tells part and view by names: leave out --part, --view and --group")
    pattern = PartPattern.from_template(args.channels)
    return pattern.part, pattern.view

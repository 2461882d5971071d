"""Options of `flawscope fit`: on the command line, and in its YAML file, for each category by itself.

The options are declared in `methods.options`. A file names an option as the command line does, without dashes
in front and with _ inside; the command line wins. Settings of methods, which stand in the same file, are read
by `common.read_settings`.
"""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache, partial
from types import MappingProxyType
from typing import TYPE_CHECKING

from flawscope.cli import common
from flawscope.config import (
    convert_value,
    flag_of,
    parse_assignments,
    read_config,
    redact_value,
    setting_names,
)
from flawscope.errors import InputError, suggest_name
from flawscope.methods import registry
from flawscope.methods.options import FIT_OPTIONS, names_of, record

if TYPE_CHECKING:
    from flawscope.types import Json

# Of the call, not of what is fitted; those in `CALL_IN_FILE` may stand in the file, above `categories`
CALL_IN_FILE = names_of(file=record.WHOLE)
OF_THE_CALL = frozenset((*CALL_IN_FILE, *names_of(file=record.NOWHERE), "only_view"))
AUTO_MINUTES = 10  # unless told
# Settings of every method, and the file's own
COMMON_SETTINGS = frozenset(("method", "preset", "seen", "scale"))
# `--help-all` alone shows them
RARE = frozenset(option.name for option in FIT_OPTIONS if option.rare)
# How this command adds the options that it shares with others
SHARED: Mapping[str, Mapping[str, str]]
SHARED = {
    "data": {"several": "; a,b or all"},
    "rate": {"default": "5%%"},
    "settings": {"presets": "Named settings: default, small, accurate, paper; quick."},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `flawscope fit` to its parser."""
    parser.usage = "flawscope fit --data ROOT --out MODEL [OPTION]..."
    groups = {}
    for name in (record.PICTURES, record.VIEWS, record.PROMISE, record.METHOD, record.RUNNING):
        groups[name] = parser.add_argument_group(name)
        add_options(groups[name], [option for option in FIT_OPTIONS if option.group == name], SHARED)
    method_flags = _add_method_flags(groups[record.METHOD])
    # values that no option gives: `router.fit` sets the first, `with_file` the others
    parser.set_defaults(only_view=None, typed=None, filed=())
    texts = {action: action.help for action in parser._actions if action.dest in RARE | method_flags}
    parser.register("action", "help_all", partial(_HelpAll, texts))
    parser.add_argument(
        "--help-all", action="help_all", help="Show all options, and the settings of methods."
    )
    for action in texts:
        action.help = argparse.SUPPRESS


class _HelpAll(argparse.Action):
    """Prints the help with all options, and the settings that `--set` and a file take."""

    def __init__(
        self,
        texts: Mapping[argparse.Action, str | None],
        option_strings: Sequence[str],
        dest: str,
        help: str | None = None,
    ):
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)
        self._texts = texts

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        for action, text in self._texts.items():
            action.help = text
        print(parser.format_help())
        print("settings, for --set KEY=VALUE and --config FILE (configs/ explains them)")
        for method in registry.loadable_methods():
            values = asdict(method.config())
            explanation = (
                f"{name}={'' if values[name] is None else values[name]}"
                for name in sorted(setting_names(method.config))
            )
            print(
                textwrap.fill(
                    f"{method.name}: {' '.join(explanation)}",
                    96,
                    initial_indent="  ",
                    subsequent_indent="    ",
                )
            )
        parser.exit()


def add_options(
    group: common.Options,
    options: Iterable[record.FitOption],
    shared: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> None:
    """Add options of a fit to a command's help; options that several commands share come from `common`.

    Args:
        group: Parser, or group of its options.
        options: Options to add.
        shared: Arguments of `common.add_NAME`, by the name of the shared options.
    """
    added = set[str]()
    words = _help_words()
    exclusive: dict[str, common.Options] = {"": group}
    for option in options:
        if option.shared in added:
            continue
        if option.shared:
            added.add(option.shared)
            getattr(common, f"add_{option.shared}")(group, **shared.get(option.shared, {}))
            continue
        if option.exclusive not in exclusive:
            exclusive[option.exclusive] = group.add_mutually_exclusive_group()
        exclusive[option.exclusive].add_argument(flag_of(option.name), **_argument(option, words))


def _help_words() -> dict[str, object]:
    """Words that the help of options names in braces."""
    names = registry.names()
    methods = registry.loadable_methods()
    return {
        "minutes": AUTO_MINUTES,
        "methods": f"{', '.join(names[:-1])} or {names[-1]}",
        "in_steps": ", ".join(method.name for method in methods if method.learns_in_steps),
    }


def _argument(option: record.FitOption, words: Mapping[str, object]) -> common.ArgumentSettings:
    """Return how argparse reads an option."""
    text = option.help
    for word, value in words.items():
        text = text.replace(f"{{{word}}}", str(value))
    if option.value == record.SWITCH:
        return {"action": "store_true", "help": text}
    if option.value == record.YES_OR_NO:
        return {"action": argparse.BooleanOptionalAction, "help": text}
    how: common.ArgumentSettings = {"metavar": option.metavar, "help": text}
    if option.choices:
        how["choices"] = option.choices
    if option.value == record.NUMBER:
        how["type"] = int
    if option.value in (record.MINUTES, record.OPTIONAL_MINUTES):
        how["type"] = common.parse_minutes
    if option.value == record.OPTIONAL_MINUTES:
        how["nargs"], how["const"] = "?", AUTO_MINUTES
    return how


def _add_method_flags(group: common.Options) -> set[str]:
    """Add the options that single methods have; return their names."""
    flags = _method_flags()
    for flag_, (metavar, text) in flags.items():
        group.add_argument(flag_, metavar=metavar, help=text)
    return {flag_.removeprefix("--").replace("-", "_") for flag_ in flags}


def _method_flags() -> dict[str, tuple[str, str]]:
    """Return metavar and help of the flags of single methods; the help names the methods."""
    found: dict[str, tuple[str, str]] = {}
    for method in registry.loadable_methods():
        for option in method.options:
            text = f"{option.help} ({method.name})."
            metavar, known = found.get(option.flag, (option.metavar, ""))
            found[option.flag] = metavar, f"{known} {text}" if known else text
    return found


# ------------------------------------------------------------------------------------------------ in a file


def with_call_of_file(args: argparse.Namespace) -> argparse.Namespace:
    """Return the call with the options of `CALL_IN_FILE` that `--config` has.

    InputError: there is no output.
    """
    values = read_config(args.config) if args.config else {}
    typed = _typed(args)
    copied = argparse.Namespace(**{**vars(args), "typed": typed})
    for name in CALL_IN_FILE:
        if name not in typed and values.get(name) is not None:
            setattr(copied, name, _read(args.config, name, values[name]))
    if copied.out is None:
        raise InputError("there is no file for the model: give --out MODEL, or `out: MODEL` in --config FILE")
    return copied


def _typed(args: argparse.Namespace) -> frozenset[str]:
    """Names of the options that stand on the command line."""
    if args.typed is not None:
        return frozenset(args.typed)
    return frozenset(name for name in _actions() if getattr(args, name) not in (None, False, []))


def with_file(args: argparse.Namespace, category: str | None) -> argparse.Namespace:
    """Return the call with the options of `--config` for this category; None: those for all.

    Raises:
        InputError: the file or `--set` has an unknown name, or one that stands elsewhere; a wrong value.
    """
    typed = _typed(args)
    for name in parse_assignments(args.set):
        if name in file_options():
            raise InputError(f"--set {name}: it is an option; write {flag_of(name)} instead")
    values = _read_category(args.config, category) if args.config else {}
    copied = argparse.Namespace(**{**vars(args), "typed": typed, "filed": frozenset(values.keys() - typed)})
    for name in file_options() & values.keys():
        if name not in typed and values[name] is not None:
            setattr(copied, name, _read(args.config, name, values[name]))
    if copied.channels and "{" in copied.channels:
        copied.part, copied.view = _parse_template(copied)
        copied.channels = None
    return copied


def _read_category(file: str, category: str | None) -> Json:
    """Options and settings of a file for a category, without those of the whole call."""
    values = read_config(file, category)
    of_all = read_config(file)
    for name in CALL_IN_FILE:
        if values.pop(name, None) != of_all.get(name):
            raise InputError(f"config {file}: {name} is of the whole call: write it above categories")
    _check_names(file, values)
    return values


@cache
def file_options() -> frozenset[str]:
    """Names of the options that may stand in a file and are no settings of a method."""
    return frozenset(_actions().keys() - OF_THE_CALL - _settings())


def written(args: argparse.Namespace, name: str) -> str:
    """Names a setting or an option as it was given: `--min-defect`, or `min_defect` of the file."""
    return f"{name} of {args.config}" if name in args.filed else flag_of(name)


def name_setting_as_flag(args: argparse.Namespace, text: str) -> str:
    """Names the setting that an error begins with as its flag, where that was typed."""
    found = re.match(r"setting (\w+)", text)
    if found is None or getattr(args, found[1], None) is None:
        return text
    return written(args, found[1]) + text[found.end() :]


def _check_names(file: str | None, values: Mapping[str, object]) -> None:
    known = file_options() | _settings()
    for name in values:
        if name in known:
            continue
        if name in OF_THE_CALL and name in _actions():
            raise InputError(f"config {file}: {name} is for the command line: write {flag_of(str(name))}")
        raise InputError(
            f"config {file}: unknown setting {redact_value(name)}; {suggest_name(str(name), sorted(known))}"
        )


def _settings() -> frozenset[str]:
    names: Iterable[str] = (
        name for method in registry.loadable_methods() for name in sorted(setting_names(method.config))
    )
    return frozenset(names) | COMMON_SETTINGS


@cache
def _actions() -> dict[str, argparse.Action]:
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    return {action.dest: action for action in parser._actions if action.default is not argparse.SUPPRESS}


def _read(file: str, name: str, value: object) -> object:
    """Read a value of the file as the command line reads it."""
    action = _actions()[name]
    where = f"config {file}: {name}"
    if action.nargs == 0:
        try:
            return convert_value(value, bool)
        except TypeError:
            raise InputError(f"{where}: {redact_value(value)} is not true or false") from None
    parts = value if isinstance(value, list) else [value]
    if any(isinstance(part, dict | list) for part in parts):
        raise InputError(f"{where}: {redact_value(value)} is no value of {flag_of(name)}: write it as there")
    text = ",".join(map(str, parts))
    if action.choices is not None and text not in action.choices:
        raise InputError(f"{where}: {text} is none of {', '.join(map(str, action.choices))}")
    try:
        return action.type(text) if callable(action.type) else text
    except (argparse.ArgumentTypeError, ValueError) as error:
        raise InputError(f"{where}: {error}") from None


def _parse_template(args: argparse.Namespace) -> tuple[str, str | None]:
    """Patterns of --part and --view that `--channels {part}_{light}.png` stands for."""
    from flawscope.calibration.parts import PartPattern

    if args.part or args.view or args.group:
        raise InputError("--channels tells part and view by names: leave out --part, --view and --group")
    pattern = PartPattern.from_template(args.channels)
    return pattern.part, pattern.view

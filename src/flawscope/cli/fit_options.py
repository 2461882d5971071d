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

# Options for the whole call that may stand in the file, above `categories`
CALL_IN_FILE = names_of(file=record.WHOLE)
# All options for the whole call, which no category can have of its own
CALL_OPTIONS = frozenset((*CALL_IN_FILE, *names_of(file=record.NOWHERE), "only_view"))
AUTO_MINUTES = 10  # of `--auto` without a number
HELP_WIDTH = 96  # characters in a line of the settings of methods
# Settings that a file may have beside those of a single method
COMMON_SETTINGS = frozenset(("method", "preset", "seen", "scale"))
RARE_OPTIONS = frozenset(option.name for option in FIT_OPTIONS if option.rare)  # shown by `--help-all` alone
# Arguments of `common.add_NAME` for the options that this command shares with others
SHARED_OPTIONS: Mapping[str, Mapping[str, str]]
SHARED_OPTIONS = {
    "data": {"more_meanings": "; a,b or all"},
    "rate": {"default": "5%%"},
    "settings": {"preset_help": "Named settings: default, small, accurate, paper; quick."},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `flawscope fit` to its parser."""
    parser.usage = "flawscope fit --data ROOT --out MODEL [OPTION]..."
    group_by_name = {}
    for name in (record.PICTURES, record.VIEWS, record.PROMISE, record.METHOD, record.RUNNING):
        group_by_name[name] = parser.add_argument_group(name)
        options = [option for option in FIT_OPTIONS if option.group == name]
        add_options(group_by_name[name], options, SHARED_OPTIONS)
    method_options = _add_method_flags(group_by_name[record.METHOD])
    # No option sets these. `router.fit` sets `only_view`; `with_file` sets `typed` and `filed`, the names
    # of the options on the command line and of those from the file. None: not known yet.
    parser.set_defaults(only_view=None, typed=None, filed=())
    # kept here, since `--help` hides the help of these options and `--help-all` shows it again
    hidden_help = {
        action: action.help for action in parser._actions if action.dest in RARE_OPTIONS | method_options
    }
    parser.register("action", "help_all", partial(_HelpAll, hidden_help))
    parser.add_argument(
        "--help-all", action="help_all", help="Show all options, and the settings of methods."
    )
    for action in hidden_help:
        action.help = argparse.SUPPRESS


class _HelpAll(argparse.Action):
    """Prints the help with all options, and the settings for `--set` and for a file.

    Args:
        hidden_help: Help of the options that `--help` hides.
        option_strings: Strings of the option, from argparse.
        dest: Name of the option's value, from argparse.
        help: Help of the option, from argparse.
    """

    def __init__(
        self,
        hidden_help: Mapping[argparse.Action, str | None],
        option_strings: Sequence[str],
        dest: str,
        help: str | None = None,
    ):
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)
        self._hidden_help = hidden_help

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print the help, and end the program."""
        for action, text in self._hidden_help.items():
            action.help = text
        print(parser.format_help())
        print("settings, for --set KEY=VALUE and --config FILE (configs/ explains them)")
        for method in registry.loadable_methods():
            defaults = asdict(method.config())
            settings = []
            for name in sorted(setting_names(method.config)):
                default = "" if defaults[name] is None else defaults[name]
                settings.append(f"{name}={default}")
            line = f"{method.name}: {' '.join(settings)}"
            print(textwrap.fill(line, HELP_WIDTH, initial_indent="  ", subsequent_indent="    "))
        parser.exit()


def add_options(
    group: common.Options,
    options: Iterable[record.FitOption],
    shared: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> None:
    """Add options of a fit to a command.

    An option that several commands have is added by the function `common.add_NAME`; NAME is `option.shared`.

    Args:
        group: Parser, or group of its options.
        options: Options to add.
        shared: For each NAME, the keyword arguments of `common.add_NAME`; a NAME that is missing has none.
    """
    added_names = set[str]()
    value_by_word = _help_words()
    subgroups: dict[str, common.Options] = {"": group}  # by `FitOption.exclusive`; "": no subgroup
    for option in options:
        if option.shared in added_names:
            continue
        if option.shared:
            added_names.add(option.shared)
            add_shared = getattr(common, f"add_{option.shared}")
            add_shared(group, **shared.get(option.shared, {}))
            continue
        if option.exclusive not in subgroups:
            subgroups[option.exclusive] = group.add_mutually_exclusive_group()
        subgroups[option.exclusive].add_argument(
            flag_of(option.name), **_argument_settings(option, value_by_word)
        )


def _help_words() -> dict[str, object]:
    """Return the values of the words that stand in braces in the help of options, such as `{minutes}`."""
    names = registry.names()
    methods = registry.loadable_methods()
    return {
        "minutes": AUTO_MINUTES,
        "methods": f"{', '.join(names[:-1])} or {names[-1]}",
        "in_steps": ", ".join(method.name for method in methods if method.learns_in_steps),
    }


def _argument_settings(option: record.FitOption, words: Mapping[str, object]) -> common.ArgumentSettings:
    """Return the arguments of `add_argument` for an option; `words` are those of `_help_words`."""
    text = option.help
    for word, value in words.items():
        placeholder = "{" + word + "}"
        text = text.replace(placeholder, str(value))
    if option.value == record.SWITCH:
        return {"action": "store_true", "help": text}
    if option.value == record.YES_OR_NO:
        return {"action": argparse.BooleanOptionalAction, "help": text}
    settings: common.ArgumentSettings = {"metavar": option.metavar, "help": text}
    if option.choices:
        settings["choices"] = option.choices
    if option.value == record.NUMBER:
        settings["type"] = int
    if option.value in (record.MINUTES, record.OPTIONAL_MINUTES):
        settings["type"] = common.parse_minutes
    if option.value == record.OPTIONAL_MINUTES:
        settings["nargs"] = "?"
        settings["const"] = AUTO_MINUTES
    return settings


def _add_method_flags(group: common.Options) -> set[str]:
    """Add the options that single methods have; return their names."""
    flags = _method_flags()
    for flag, (metavar, text) in flags.items():
        group.add_argument(flag, metavar=metavar, help=text)
    return {flag.removeprefix("--").replace("-", "_") for flag in flags}


def _method_flags() -> dict[str, tuple[str, str]]:
    """Return metavar and help of the flags that only some methods have, by flag.

    The help has a sentence for each of these methods.
    """
    flags: dict[str, tuple[str, str]] = {}  # metavar and help, by flag
    for method in registry.loadable_methods():
        for option in method.options:
            sentence = f"{option.help} ({method.name})."
            if option.flag in flags:  # an earlier method has the flag, too
                metavar, earlier_help = flags[option.flag]
                flags[option.flag] = metavar, f"{earlier_help} {sentence}"
            else:
                flags[option.flag] = option.metavar, sentence
    return flags


# ------------------------------------------------------------------------------------------------ in a file


def with_call_of_file(args: argparse.Namespace) -> argparse.Namespace:
    """Return the call; options of `CALL_IN_FILE` that the command line lacks come from the `--config` file.

    Raises:
        InputError: Neither the command line nor the file names an output.
    """
    values = read_config(args.config) if args.config else {}
    typed_names = _typed_names(args)
    call = argparse.Namespace(**{**vars(args), "typed": typed_names})
    for name in CALL_IN_FILE:
        if name not in typed_names and values.get(name) is not None:
            setattr(call, name, _parse_file_value(args.config, name, values[name]))
    if call.out is None:
        raise InputError("there is no file for the model: give --out MODEL, or `out: MODEL` in --config FILE")
    return call


def _typed_names(args: argparse.Namespace) -> frozenset[str]:
    """Return the names of the options that stand on the command line."""
    if args.typed is not None:  # stored by `with_call_of_file`, before it added options of a file
        return frozenset(args.typed)
    return frozenset(name for name in _actions() if getattr(args, name) not in (None, False, []))


def with_file(args: argparse.Namespace, category: str | None) -> argparse.Namespace:
    """Return the call; options that the command line lacks come from the `--config` file, for a category.

    Args:
        args: Arguments of the call.
        category: The category; None: only the file's options for all categories are read.

    Raises:
        InputError: The file or `--set` has an unknown name, a name that belongs elsewhere, or a wrong value.
    """
    typed_names = _typed_names(args)
    for name in parse_assignments(args.set):
        if name in file_options():
            raise InputError(f"--set {name}: it is an option; write {flag_of(name)} instead")
    values = _read_category(args.config, category) if args.config else {}
    names_from_file = frozenset(values.keys() - typed_names)
    call = argparse.Namespace(**{**vars(args), "typed": typed_names, "filed": names_from_file})
    for name in file_options() & names_from_file:
        if values[name] is not None:
            setattr(call, name, _parse_file_value(args.config, name, values[name]))
    if call.channels and "{" in call.channels:
        call.part, call.view = _parse_template(call)
        call.channels = None
    return call


def _read_category(file: str, category: str | None) -> Json:
    """Read the options and settings of a file for a category; leave out the options of `CALL_IN_FILE`.

    Raises:
        InputError: The category's section has an option of `CALL_IN_FILE`, or the file has an unknown name.
    """
    values = read_config(file, category)
    shared_values = read_config(file)
    for name in CALL_IN_FILE:
        value = values.pop(name, None)
        is_set_by_category = value != shared_values.get(name)
        if is_set_by_category:
            raise InputError(f"config {file}: {name} is of the whole call: write it above categories")
    _check_names(file, values)
    return values


@cache
def file_options() -> frozenset[str]:
    """Return the names of the options that may stand in a file and are no settings of a method."""
    return frozenset(_actions().keys() - CALL_OPTIONS - _settings())


def written_form(args: argparse.Namespace, name: str) -> str:
    """Return a setting or option as the user wrote it: `--min-defect`, or `min_defect of FILE`."""
    return f"{name} of {args.config}" if name in args.filed else flag_of(name)


def name_setting_as_flag(args: argparse.Namespace, text: str) -> str:
    """Return an error's text, where `setting NAME` at its beginning is replaced by the form in the call."""
    match = re.match(r"setting (\w+)", text)
    if match is None:
        return text
    setting = match[1]
    if getattr(args, setting, None) is None:
        return text
    return written_form(args, setting) + text[match.end() :]


def _check_names(file: str | None, values: Mapping[str, object]) -> None:
    """Raise an InputError for a name in a file that is neither a setting nor an option for files."""
    valid_names = file_options() | _settings()
    for name in values:
        if name in valid_names:
            continue
        if name in CALL_OPTIONS and name in _actions():
            raise InputError(f"config {file}: {name} is for the command line: write {flag_of(str(name))}")
        suggestion = suggest_name(str(name), sorted(valid_names))
        raise InputError(f"config {file}: unknown setting {redact_value(name)}; {suggestion}")


def _settings() -> frozenset[str]:
    """Return the names of the settings of all methods."""
    names = COMMON_SETTINGS
    for method in registry.loadable_methods():
        names |= frozenset(setting_names(method.config))
    return names


@cache
def _actions() -> dict[str, argparse.Action]:
    """Return argparse's actions of the command `fit`, by the name of the option."""
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    return {action.dest: action for action in parser._actions if action.default is not argparse.SUPPRESS}


def _parse_file_value(file: str, name: str, value: object) -> object:
    """Parse the value of an option in the file as on the command line; a list is first joined with commas."""
    action = _actions()[name]
    place = f"config {file}: {name}"
    if action.nargs == 0:  # a switch, which has no value on the command line
        try:
            return convert_value(value, bool)
        except TypeError:
            raise InputError(f"{place}: {redact_value(value)} is not true or false") from None
    items = value if isinstance(value, list) else [value]
    if any(isinstance(item, dict | list) for item in items):
        raise InputError(f"{place}: {redact_value(value)} is no value of {flag_of(name)}: write it as there")
    text = ",".join(map(str, items))
    if action.choices is not None and text not in action.choices:
        raise InputError(f"{place}: {text} is none of {', '.join(map(str, action.choices))}")
    try:
        return action.type(text) if callable(action.type) else text
    except (argparse.ArgumentTypeError, ValueError) as error:
        raise InputError(f"{place}: {error}") from None


def _parse_template(args: argparse.Namespace) -> tuple[str, str | None]:
    """Return the patterns of --part and --view for a template of `--channels`, such as {part}_{light}.png."""
    from flawscope.calibration.parts import PartPattern

    if args.part or args.view or args.group:
        raise InputError("--channels tells part and view by names: leave out --part, --view and --group")
    pattern = PartPattern.from_template(args.channels)
    return pattern.part, pattern.view

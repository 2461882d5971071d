"""The program: finds the command that is called, and runs it. Only its module is imported."""

from __future__ import annotations

import argparse
import importlib
import io
import operator
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, NoReturn, TypedDict, Unpack

from flawscope._version import __version__
from flawscope.cli.common import reason_of, stop_progress
from flawscope.cli.questions import tell_questions
from flawscope.cli.words import clean_words
from flawscope.errors import InputError, install_command
from flawscope.progress import write_line

# Commands with their help, by groups in the order of use; each is a module of this package, or a function in
# one of `MODULES`
COMMAND_GROUPS: dict[str, dict[str, str]] = {
    "begin": {
        "demo": "draw a data set, fit, evaluate and show it",
        "data": "check a folder of pictures",
    },
    "learn": {
        "fit": "learn what good parts look like",
        "kinds": "name kinds of defects, by labelled pictures",
    },
    "measure": {
        "evaluate": "measure a model on test pictures",
        "compare": "two models on the same test pictures",
        "agreement": "how far a model and people agree with known parts",
        "benchmark": "fit and evaluate a grid, with the literature's tables",
    },
    "inspect": {
        "predict": "score pictures and show what is wrong",
        "review": "sort flagged pictures into good and defective",
        "calibrate": "new thresholds from new good pictures",
    },
    "models": {
        "info": "what a model is and where it came from",
        "export": "a copy that needs no torch, .onnx",
        "backbones": "feature extractors at hand",
    },
}
OTHER_GROUP = "station and line"  # title of the commands of other packages
COMMANDS = {name: text for group in COMMAND_GROUPS.values() for name, text in group.items()}
COMMAND_GROUP = "flawscope.commands"  # of entry points: dicts of other packages, help and module by name
# commands of packages that may be missing
PACKAGES = {"serve": "flawscope-station", "station": "flawscope-station", "plc-table": "flawscope-line"}
# words that people type for a command
OTHER_WORDS = {
    "train": "fit",
    "learn": "fit",
    "test": "evaluate",
    "validate": "evaluate",
    "check": "data check",
    "detect": "predict",
    "infer": "predict",
    "inspect": "predict",
    "label": "review",
    "threshold": "calibrate",
    "convert": "export",
    "show": "info",
    "web": "serve",
    "start": "serve",
}
MODULES = {"calibrate": "models", "export": "models", "info": "models", "backbones": "models", "demo": "data"}


class Command(NamedTuple):
    """A command of the program, with the module that has its functions.

    The module has `add_arguments(parser)` and `run(args) -> exit code`; a module of several commands has
    `NAME_arguments` and `NAME` of each.

    Attributes:
        name: Word that calls it.
        help: Its line in the overview.
        module: Name of the module to import.
    """

    name: str
    help: str
    module: str


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, and return the exit code: 0 done, 2 wrong call or input, 1 anything else."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(arguments)
        _flush()  # a full disk or a closed pipe shows here, not after the exit code
        return code
    except KeyboardInterrupt as error:  # its text may say what was kept
        return _report_error(str(error) or "interrupted; nothing was left half-written", 130)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        return 1
    except Exception as error:
        if "--debug" in arguments[1:]:
            import traceback

            traceback.print_exception(error)
        is_input = isinstance(error, InputError | PermissionError)
        return _report_error(reason_of(error), 2 if is_input else 1)
    finally:
        stop_progress()
        _discard_unprinted()


def _run(arguments: list[str]) -> int:
    """Run the command that the arguments name, and return its exit code."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        print(f"flawscope {__version__}")
        return 0
    _escape_unprintable()
    name, *rest = arguments
    parser, run = load_command(_find_command(name))
    args = parser.parse_call(rest)
    tell_questions(args)
    missing = _missing_folders(getattr(args, "out", None))
    try:
        return int(run(args))
    except BaseException:
        for folder in missing:
            with suppress(OSError):  # it holds something, or was not made
                folder.rmdir()
        raise


def _missing_folders(out: str | os.PathLike[str] | None) -> list[Path]:
    """Folders that a call would have to make for its output, the innermost first."""
    if out is None:
        return []
    folders = [Path(out), *Path(out).parents]
    return [folder for folder in folders if not os.path.lexists(folder)]


def _find_command(name: str) -> Command:
    """A command of this package, or of another one. InputError where there is none."""
    if name in COMMANDS:
        return _own_command(name)
    others = _other_commands()
    if name in others:
        return others[name]
    if name in PACKAGES:
        remedy = install_command(package=PACKAGES[name])
        raise InputError(
            f"{name} is a command of {PACKAGES[name]}, which is not installed: install it: {remedy}"
        )
    if name in OTHER_WORDS:
        near = f": did you mean {OTHER_WORDS[name]}?"
    else:
        near = _suggestion(name, [*COMMANDS, *others])
    raise InputError(f"there is no command {name}{near}; see `flawscope --help`")


def _other_commands() -> dict[str, Command]:
    """Commands of other packages, as these register them: help and module by name."""
    from importlib.metadata import entry_points

    commands = {}
    for entry in sorted(entry_points(group=COMMAND_GROUP), key=operator.attrgetter("name")):
        for name, facts in entry.load().items():
            commands[name] = Command(name, *facts)
    return commands


def load_command(command: Command) -> tuple[Parser, Callable[[argparse.Namespace], int]]:
    """A command's parser, and the function that runs it."""
    module = importlib.import_module(command.module)
    if add := getattr(module, f"{command.name}_arguments", None):  # of a module with several
        run = getattr(module, command.name)
        text = run.__doc__
    else:
        add = module.add_arguments
        run = module.run
        text = module.__doc__
    parser = Parser(
        prog=f"flawscope {command.name}",
        description=text,
        formatter_class=HelpFormatter,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="help", help="Show this help.")
    add(parser)
    parser.add_argument("--debug", action="store_true", help="Show where an error came from.")
    return parser, run


def _own_command(name: str) -> Command:
    return Command(name, COMMANDS[name], f"flawscope.cli.{MODULES.get(name, name)}")


def commands() -> dict[str, Command]:
    """Commands by name, those of other packages last."""
    return {name: _own_command(name) for name in COMMANDS} | _other_commands()


def overview() -> str:
    """Text of `flawscope --help`: the commands by groups, those of other packages last."""
    others = {name: command.help for name, command in _other_commands().items()}
    width = max(map(len, (*COMMANDS, *others))) + 2
    lines = [
        "usage: flawscope COMMAND ...",
        "",
        "Learns what good parts look like and shows where a new picture differs.",
    ]
    for title, group in {**COMMAND_GROUPS, OTHER_GROUP: others}.items():
        if not group:
            continue
        lines += ["", f"{title}:"]
        lines += [f"  {name:<{width}}{text}" for name, text in group.items()]
    return "\n".join(
        [
            *lines,
            "",
            "`flawscope COMMAND --help` shows more. Start with:",
            "  flawscope fit --data FOLDER_OF_GOOD_PICTURES --out model.safetensors",
            "  flawscope predict model.safetensors NEW_PICTURES --out results",
        ]
    )


class HelpFormatter(argparse.HelpFormatter):
    """argparse's formatter, with the help of options from column 29 on."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=29)


class ParserSettings(TypedDict, total=False):
    """Settings of `argparse.ArgumentParser` that the commands' parsers have."""

    prog: str
    description: str | None
    formatter_class: type[argparse.HelpFormatter]
    add_help: bool


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors that name the nearest option.

    Options are not abbreviated: a prefix that is unambiguous today need not be tomorrow.
    """

    def __init__(self, **settings: Unpack[ParserSettings]):
        super().__init__(**settings, allow_abbrev=False)

    def parse_call(self, words: Sequence[str]) -> argparse.Namespace:
        """Read the words of a call. InputError: there is no such option, or a word looks like one."""
        known = list(_option_strings(self))
        given = clean_words(words)
        for word in given:
            option = word.partition("=")[0]
            if word == "--":
                break
            if option.startswith("--") and option not in known:
                self.error(f"there is no option {option}{_suggestion(option, known)}")
            if word.startswith("-") and len(word) > 1 and option not in known and os.path.lexists(word):
                self.error(f"{word} would be an option; the file of this name is ./{word}")
        return self.parse_args(given)

    def error(self, message: str) -> NoReturn:
        """Raise InputError with argparse's message and the command whose help shows the options."""
        raise InputError(f"{message}; see `{self.prog} --help`")


def _option_strings(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the option strings of a parser and of its sub-commands."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                yield from _option_strings(verb)


def _suggestion(word: str, known: Iterable[str]) -> str:
    import difflib

    near = difflib.get_close_matches(word, known, n=1)
    return f": did you mean {near[0]}?" if near else ""


def _escape_unprintable() -> None:
    """Make stdout and stderr escape characters that their encoding lacks, such as in file names."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _flush() -> None:
    if sys.stdout is not None:  # it was closed: `>&-`
        sys.stdout.flush()


def _discard_unprinted() -> None:
    """Discard output that cannot be printed: at exit, Python would try again and fail with its own lines."""
    try:
        _flush()
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report_error(text: str, code: int) -> int:
    write_line(f"flawscope: {' '.join(text.split())}")
    return code

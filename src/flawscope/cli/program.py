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
from flawscope.cli.questions import say_open_questions
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
PACKAGE_GROUP_TITLE = "station and line"  # for the commands of other packages in the overview
COMMANDS = {name: text for group in COMMAND_GROUPS.values() for name, text in group.items()}
# Group of entry points by which other packages add commands: dictionaries name -> (help, module)
ENTRY_POINT_GROUP = "flawscope.commands"
# Commands with the packages that add them, which may be missing
PACKAGE_OF_COMMAND = {
    "serve": "flawscope-station",
    "station": "flawscope-station",
    "plc-table": "flawscope-line",
}
# Words that people type for a command
SYNONYMS = {
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
# Modules of commands that have no module of their own name
MODULES = {"calibrate": "models", "export": "models", "info": "models", "backbones": "models", "demo": "data"}
INTERRUPT_EXIT_CODE = 130  # as shells have it: 128, and the number of SIGINT


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
        _flush()  # so that a full disk or a closed pipe raises its error here, not after the exit code
        return code
    except KeyboardInterrupt as error:  # its text, if any, says which results exist
        text = str(error) or "interrupted; nothing was left half-written"
        return _report_error(text, INTERRUPT_EXIT_CODE)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        return 1
    except Exception as error:
        if "--debug" in arguments[1:]:  # the first argument is the command
            import traceback

            traceback.print_exception(error)
        is_input_error = isinstance(error, InputError | PermissionError)
        return _report_error(reason_of(error), 2 if is_input_error else 1)
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
    name, *words = arguments
    parser, run = load_command(_find_command(name))
    args = parser.parse_call(words)
    say_open_questions(args)
    new_folders = _missing_folders(getattr(args, "out", None))
    try:
        return int(run(args))
    except BaseException:
        for folder in new_folders:
            with suppress(OSError):  # the folder holds results, or was not made
                folder.rmdir()
        raise


def _missing_folders(out: str | os.PathLike[str] | None) -> list[Path]:
    """Return the folders of the output path that do not exist yet, the innermost first."""
    if out is None:
        return []
    folders = [Path(out), *Path(out).parents]
    return [folder for folder in folders if not os.path.lexists(folder)]


def _find_command(name: str) -> Command:
    """Return the command of this name, from this package or from another one.

    Raises:
        InputError: There is no such command, or its package is not installed.
    """
    if name in COMMANDS:
        return _library_command(name)
    package_commands = _load_package_commands()
    if name in package_commands:
        return package_commands[name]
    if name in PACKAGE_OF_COMMAND:
        package = PACKAGE_OF_COMMAND[name]
        remedy = install_command(package=package)
        raise InputError(f"{name} is a command of {package}, which is not installed: install it: {remedy}")
    if name in SYNONYMS:
        suggestion = f": did you mean {SYNONYMS[name]}?"
    else:
        suggestion = _suggestion(name, [*COMMANDS, *package_commands])
    raise InputError(f"there is no command {name}{suggestion}; see `flawscope --help`")


def _load_package_commands() -> dict[str, Command]:
    """Return the commands that other packages register, by name."""
    from importlib.metadata import entry_points

    command_by_name = {}
    for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=operator.attrgetter("name")):
        for name, (help_text, module) in entry.load().items():
            command_by_name[name] = Command(name, help_text, module)
    return command_by_name


def load_command(command: Command) -> tuple[Parser, Callable[[argparse.Namespace], int]]:
    """Import a command's module; return the command's parser, and the function that runs it."""
    module = importlib.import_module(command.module)
    add_arguments = getattr(module, f"{command.name}_arguments", None)
    if add_arguments is not None:  # a module of several commands
        run = getattr(module, command.name)
        description = run.__doc__
    else:
        add_arguments = module.add_arguments
        run = module.run
        description = module.__doc__
    parser = Parser(
        prog=f"flawscope {command.name}",
        description=description,
        formatter_class=HelpFormatter,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="help", help="Show this help.")
    add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="Show where an error came from.")
    return parser, run


def _library_command(name: str) -> Command:
    """Return a command of this package."""
    return Command(name, COMMANDS[name], f"flawscope.cli.{MODULES.get(name, name)}")


def commands() -> dict[str, Command]:
    """Return all commands by name, those of other packages last."""
    library_commands = {name: _library_command(name) for name in COMMANDS}
    return library_commands | _load_package_commands()


def overview() -> str:
    """Return the text of `flawscope --help`: the commands by groups, those of other packages last."""
    help_by_package_command = {name: command.help for name, command in _load_package_commands().items()}
    width = max(map(len, (*COMMANDS, *help_by_package_command))) + 2
    lines = [
        "usage: flawscope COMMAND ...",
        "",
        "Learns what good parts look like and shows where a new picture differs.",
    ]
    groups = {**COMMAND_GROUPS, PACKAGE_GROUP_TITLE: help_by_package_command}
    for title, help_by_command in groups.items():
        if not help_by_command:
            continue
        lines += ["", f"{title}:"]
        lines += [f"  {name:<{width}}{text}" for name, text in help_by_command.items()]
    lines += [
        "",
        "`flawscope COMMAND --help` shows more. Start with:",
        "  flawscope fit --data FOLDER_OF_GOOD_PICTURES --out model.safetensors",
        "  flawscope predict model.safetensors NEW_PICTURES --out results",
    ]
    return "\n".join(lines)


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
        """Parse the words of a call.

        Raises:
            InputError: An option is unknown, the name of a file looks like an option, or argparse objects.
        """
        options = list(_option_strings(self))
        cleaned_words = clean_words(words)
        for word in cleaned_words:
            if word == "--":  # all words after it are arguments
                break
            option, _, _ = word.partition("=")
            if option in options:
                continue
            if option.startswith("--"):
                self.error(f"there is no option {option}{_suggestion(option, options)}")
            if word.startswith("-") and word != "-" and os.path.lexists(word):
                self.error(f"{word} would be an option; the file of this name is ./{word}")
        return self.parse_args(cleaned_words)

    def error(self, message: str) -> NoReturn:
        """Raise InputError with argparse's message and the command whose help shows the options."""
        raise InputError(f"{message}; see `{self.prog} --help`")


def _option_strings(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the option strings of a parser and of its sub-commands."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                yield from _option_strings(subparser)


def _suggestion(word: str, names: Iterable[str]) -> str:
    """Return a question with the name that is most similar to a word; empty if none is similar."""
    import difflib

    matches = difflib.get_close_matches(word, names, n=1)
    return f": did you mean {matches[0]}?" if matches else ""


def _escape_unprintable() -> None:
    """Make stdout and stderr write escapes for characters that their encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _flush() -> None:
    """Write out what stdout still holds."""
    if sys.stdout is not None:  # None: the shell closed it, by `>&-`
        sys.stdout.flush()


def _discard_unprinted() -> None:
    """Discard output that cannot be printed: else Python would try again at exit, and print its own error."""
    try:
        _flush()
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report_error(text: str, code: int) -> int:
    """Print an error on one line of stderr; return the exit code `code`."""
    write_line(f"flawscope: {' '.join(text.split())}")
    return code

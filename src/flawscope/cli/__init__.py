"""The command line: a module for each command; only the called one is imported."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from flawscope._version import __version__
from flawscope.cli.common import reason_of, stop_progress
from flawscope.errors import InputError
from flawscope.methods import registry
from flawscope.methods.method import Command
from flawscope.progress import write_line

# command -> its help; each is a module of this package, or a function in one of `MODULES`
COMMANDS: dict[str, str] = {
    "fit": "learn what good parts look like",
    "evaluate": "measure a model on test pictures",
    "compare": "two models on the same test pictures",
    "measure": "time, memory and accuracy of models on this machine",
    "benchmark": "fit and evaluate a grid, with the literature's tables",
    "predict": "score pictures and show what is wrong",
    "watch": "judge pictures as they appear in a folder",
    "serve": "a station: a page and an API that inspect and remember",
    "review": "sort flagged pictures into good and defective",
    "calibrate": "new thresholds from new good pictures",
    "export": "a copy that needs no torch, .onnx",
    "simulate": "put defects on good pictures, to look at them",
    "info": "what a model is and where it came from",
    "backbones": "feature extractors at hand",
    "data": "check a folder of pictures; export results as labels",
    "station": "users and tokens of a station",
    "demo": "draw a data set, fit, evaluate and show it",
}
MODULES = {"calibrate": "models", "export": "models", "info": "models", "backbones": "models", "demo": "data"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command, and returns the exit code: 0 done, 2 wrong call or input, 1 anything else."""
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
        return _report_error(reason_of(error), 2 if isinstance(error, InputError) else 1)
    finally:
        stop_progress()
        _discard_unprinted()


def _run(arguments: list[str]) -> int:
    """Runs the command that the arguments name, and returns its exit code."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        print(f"flawscope {__version__}")
        return 0
    _escape_unprintable()
    name, *rest = arguments
    if name in COMMANDS:  # other packages are not asked: that takes time
        command = _own_command(name)
    elif name in (known := commands()):
        command = known[name]
    else:
        raise InputError(f"there is no command {name}{_suggestion(name, known)}; see `flawscope --help`")
    parser, run = load_command(command)
    return int(run(parser.parse_args(rest)))


def load_command(command: Command) -> tuple[Parser, Callable[[argparse.Namespace], int]]:
    """A command's parser, and the function that runs it."""
    module = importlib.import_module(command.module)
    if add := getattr(module, f"{command.name}_arguments", None):  # of a module with several
        run = getattr(module, command.name)
        text = run.__doc__
    else:
        add, run, text = module.add_arguments, module.run, module.__doc__
    parser = Parser(prog=f"flawscope {command.name}", description=text, formatter_class=HelpFormatter)
    add(parser)
    parser.add_argument("--debug", action="store_true", help="show where an error came from")
    return parser, run


def _own_command(name: str) -> Command:
    return Command(name, COMMANDS[name], f"flawscope.cli.{MODULES.get(name, name)}")


def commands() -> dict[str, Command]:
    """Commands by name: those of every method, then those of single methods."""
    own = {name: _own_command(name) for name in COMMANDS}
    return own | {c.name: c for method in registry.loadable_methods() for c in method.commands}


def overview() -> str:
    known = commands()
    width = max(map(len, known)) + 2
    lines = {name: f"  {name:<{width}}{command.help}" for name, command in known.items()}
    return "\n".join(
        [
            "usage: flawscope COMMAND ...",
            "",
            "Learns what good parts look like and shows where a new picture differs.",
            "",
            *(lines[name] for name in COMMANDS),
            "",
            "Of single methods; `fit` does not need them:",
            "",
            *(line for name, line in lines.items() if name not in COMMANDS),
            "",
            "`flawscope COMMAND --help` shows more. Start with:",
            "  flawscope fit --data FOLDER_OF_GOOD_PICTURES --out model.safetensors",
            "  flawscope predict model.safetensors NEW_PICTURES --out results",
        ]
    )


class HelpFormatter(argparse.HelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=32)


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors that name the nearest option. Options are not abbreviated: a prefix
    that is unambiguous today need not be tomorrow."""

    def __init__(self, **settings: Any):
        super().__init__(**settings, allow_abbrev=False)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        known = list(_option_strings(self))
        for word in args or ():
            option = word.partition("=")[0]
            if word == "--":
                break
            if option.startswith("--") and option not in known:
                self.error(f"there is no option {option}{_suggestion(option, known)}")
            if word.startswith("-") and len(word) > 1 and option not in known and os.path.lexists(word):
                self.error(f"{word} would be an option; the file of this name is ./{word}")
        return super().parse_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see `{self.prog} --help`")


def _option_strings(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yields the option strings of a parser and of its sub-commands."""
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
    """Makes stdout and stderr escape characters that their encoding lacks, such as in file names."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _flush() -> None:
    if sys.stdout is not None:  # it was closed: `>&-`
        sys.stdout.flush()


def _discard_unprinted() -> None:
    """Discards output that cannot be printed: at exit, Python would try again and fail with its own lines."""
    try:
        _flush()
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report_error(text: str, code: int) -> int:
    write_line(f"flawscope: {' '.join(text.split())}")
    return code

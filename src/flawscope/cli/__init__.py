"""The command line. One file a command; only the one that is called is imported."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn

from flawscope._version import __version__
from flawscope.cli.common import stop_progress
from flawscope.errors import FlawscopeError, InputError
from flawscope.methods import registry
from flawscope.methods.method import Command
from flawscope.progress import write_line

# command -> one line of help; each is a module in this package
COMMANDS: dict[str, str] = {
    "fit": "learn what good parts look like",
    "evaluate": "measure a model on test pictures",
    "compare": "two models on the same test pictures",
    "benchmark": "fit and evaluate a grid, with the literature's tables",
    "predict": "score pictures and show what is wrong",
    "watch": "judge pictures as they appear in a folder",
    "serve": "a station: a page and an API that inspect and remember",
    "review": "sort flagged pictures into good and defective",
    "calibrate": "new thresholds from new good pictures",
    "export": "a copy that needs no torch, .onnx or .xml",
    "simulate": "put defects on good pictures, to look at them",
    "info": "what a model is and where it came from",
    "backbones": "feature extractors at hand",
    "data": "check a folder of pictures; export results as labels",
    "station": "users and tokens of a station",
    "demo": "draw a data set, fit, evaluate and show it",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 2 wrong call or input, 1 anything else."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        print(f"flawscope {__version__}")
        return 0
    _never_fail_to_print()
    name, *rest = arguments
    if name in COMMANDS:  # other packages are not asked: that takes time
        path = f"flawscope.cli.{name}"
    elif name in (known := commands()):
        path = known[name].module
    else:
        return _fail(f"there is no command {name}{_nearest(name, known)}; see `flawscope --help`", 2)
    module = importlib.import_module(path)
    parser = Parser(prog=f"flawscope {name}", description=module.__doc__, formatter_class=Help)
    module.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show where an error came from")
    try:
        code = int(module.run(parser.parse_args(rest)))
        sys.stdout.flush()  # a full disk or a closed pipe shows here, not after the exit code
        return code
    except InputError as error:
        return _raise_or_fail("--debug" in rest, error, 2)
    except FlawscopeError as error:
        return _raise_or_fail("--debug" in rest, error, 1)
    except KeyboardInterrupt as error:  # some say what they kept
        return _fail(str(error) or "interrupted; nothing was left half-written", 130)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the rest goes nowhere
        return 1
    except MemoryError as error:
        return _raise_or_fail(
            "--debug" in rest, error, 1, "not enough memory: choose a smaller --size or fewer pictures"
        )
    except Exception as error:
        text = f"unexpected {type(error).__name__}: {' '.join(str(error).split())[:300]}; --debug shows where"
        return _raise_or_fail("--debug" in rest, error, 1, text)
    finally:
        stop_progress()


def commands() -> dict[str, Command]:
    """All commands by name: those of every method, then those that methods bring."""
    known = {name: Command(name, text, f"flawscope.cli.{name}") for name, text in COMMANDS.items()}
    return known | {c.name: c for method in registry.loadable() for c in method.commands}


def overview() -> str:
    known = commands()
    width = max(map(len, known)) + 2
    lines = [f"  {name:<{width}}{command.help}" for name, command in known.items()]
    return "\n".join(
        [
            "usage: flawscope COMMAND ...",
            "",
            "Learns what good parts look like and shows where a new picture differs.",
            "",
            *lines,
            "",
            "`flawscope COMMAND --help` shows more. Start with:",
            "  flawscope fit --data FOLDER_OF_GOOD_PICTURES --out model.safetensors",
            "  flawscope predict model.safetensors NEW_PICTURES --out results",
        ]
    )


class Help(argparse.HelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=32)


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors that name the nearest option. Options are not abbreviated: what is
    unambiguous today need not be tomorrow."""

    def __init__(self, **settings: Any):
        super().__init__(**settings, allow_abbrev=False)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        known = list(_options(self))
        for word in args or ():
            option = word.partition("=")[0]
            if word == "--":
                break
            if option.startswith("--") and option not in known:
                self.error(f"there is no option {option}{_nearest(option, known)}")
        return super().parse_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see `{self.prog} --help`")


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Also those of its sub-commands."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                yield from _options(verb)


def _nearest(word: str, known: Iterable[str]) -> str:
    import difflib

    near = difflib.get_close_matches(word, known, n=1)
    return f": did you mean {near[0]}?" if near else ""


def _never_fail_to_print() -> None:
    """A file name that the terminal cannot show is shown escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _fail(text: str, code: int) -> int:
    write_line(f"flawscope: {' '.join(text.split())}")
    return code


def _raise_or_fail(debug: bool, error: BaseException, code: int, text: str | None = None) -> int:
    if debug:
        import traceback

        traceback.print_exception(error)
    return _fail(text or str(error), code)

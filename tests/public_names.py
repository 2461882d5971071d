"""Prints the names that others rely on (docs/stability.md), a line each.

    python tests/public_names.py > tests/fixtures/public-names.txt

`test_publishing` compares them with that file, so that no public name changes unseen.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterator
from dataclasses import fields

import flawscope
from flawscope.cli.program import COMMANDS, commands, load_command
from flawscope.results.table import ResultRow

OTHER_COMMANDS = ("serve", "station", "plc-table")  # of the packages flawscope-station and -line


def option_names() -> Iterator[str]:
    """Yield each command and its sub-commands, with their positional arguments and options."""
    for name in sorted([*COMMANDS, *OTHER_COMMANDS]):
        parser, _ = load_command(commands()[name])
        yield from parser_names(name, parser)


def parser_names(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield a command, its arguments and options, and the same of each of its sub-commands."""
    yield f"command {name}"
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        if isinstance(action, argparse._SubParsersAction):
            for verb, own in action.choices.items():
                yield from parser_names(f"{name} {verb}", own)
            continue
        words = action.option_strings or [action.dest]
        choices = f" {{{','.join(map(str, action.choices))}}}" if action.choices else ""
        yield f"command {name}: {' '.join(sorted(words))}{choices}"


def python_names() -> Iterator[str]:
    """Yield the names of the package, the parameters of its functions and the members of its classes."""
    for name in sorted(flawscope._LAZY_IMPORTS):
        value = getattr(flawscope, name)
        yield f"flawscope.{name}"
        if inspect.isclass(value):
            yield from (f"flawscope.{name}.{member}" for member in member_names(value))
            continue
        for parameter in inspect.signature(value).parameters:
            yield f"flawscope.{name}({parameter})"


def member_names(kind: type) -> list[str]:
    """Return the public members of a class, those of the package's classes that it stands on among them."""
    members: set[str] = set()
    for base in kind.__mro__:
        if base.__module__.startswith("flawscope"):
            members |= {*vars(base), *inspect.get_annotations(base)}
    return sorted(member for member in members if not member.startswith("_"))


def public_names() -> list[str]:
    """Return all public names, sorted within each kind."""
    columns = [f"results.csv: {field.name}" for field in fields(ResultRow)]
    return [*option_names(), *columns, *python_names()]


if __name__ == "__main__":
    print("\n".join(public_names()))

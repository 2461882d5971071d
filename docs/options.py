"""Prints all options of each command of the library, and the table of those of `flawscope.fit`, in Markdown.

The site has the ones in command-line.md, the other in python.md: site_hook.py puts them there.

python docs/options.py
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator

from flawscope.cli import main
from flawscope.cli.program import COMMANDS
from flawscope.methods.options.arguments import ARGUMENTS
from flawscope.methods.options.record import records_of

COLUMNS = "100"  # of the printed lines
ALL = "--help-all"  # of commands whose --help leaves options out


def help_of(command: str, option: str) -> str:
    """What a command prints for --help or --help-all."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([command, option])
    return printed.getvalue()


def options() -> Iterator[str]:
    """Yields a section for each command."""
    os.environ["COLUMNS"] = COLUMNS
    for command in COMMANDS:
        text = help_of(command, "--help")
        if ALL in text:
            text = help_of(command, ALL)
        yield f"### {command}\n\n``` text\n{text.rstrip()}\n```\n"


def fit_table() -> Iterator[str]:
    """Yields the rows of a table of the options of `flawscope.fit` that are no settings of a method."""
    yield "| argument | default | means |"
    yield "|---|---|---|"
    for arguments in ARGUMENTS:
        for option in records_of(arguments):
            meaning = option.meaning.replace("|", "\\|")
            yield f"| `{option.argument}` | `{option.default!r}` | {meaning} |"


if __name__ == "__main__":
    print("\n".join([*options(), *fit_table()]))

"""Prints all options of each command of the library, in Markdown: they stand in the site's command-line.md.

python docs/options.py
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator

from flawscope.cli import main
from flawscope.cli.program import COMMANDS

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


if __name__ == "__main__":
    print("\n".join(options()))

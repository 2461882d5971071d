"""Prints all options of each command of the library, in Markdown: they stand in the site's command-line.md.

python docs/options.py            prints them
python docs/options.py --write    writes the table of python.md anew, from the records of options
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from flawscope.cli import main
from flawscope.cli.program import COMMANDS
from flawscope.methods.options.arguments import ARGUMENTS
from flawscope.methods.options.record import records_of

COLUMNS = "100"  # of the printed lines
ALL = "--help-all"  # of commands whose --help leaves options out
PYTHON = Path(__file__).with_name("python.md")
TABLE = re.compile(r"(?<=<!-- options of fit -->\n\n).*?(?=\n\n<!-- end -->)", re.DOTALL)  # in a page


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


def fit_table() -> str:
    """Returns the options of `flawscope.fit` that are no settings of a method, as a table."""
    lines = ["| argument | default | means |", "|---|---|---|"]
    for arguments in ARGUMENTS:
        for option in records_of(arguments):
            meaning = option.meaning.replace("|", "\\|")
            lines.append(f"| `{option.argument}` | `{option.default!r}` | {meaning} |")
    return "\n".join(lines)


def with_table(page: str) -> str:
    """Returns the page with its table as the records are."""
    return TABLE.sub(lambda _: fit_table(), page)


if __name__ == "__main__":
    if "--write" in sys.argv:
        PYTHON.write_text(with_table(PYTHON.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print("\n".join(options()))

"""The pages of the documentation, and what they hold."""

import re
import runpy
import shlex
from pathlib import Path
from types import SimpleNamespace

from flawscope.cli.program import commands, load_command
from flawscope.errors.data_checks import CHECKS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
NOTES = ROOT / "bench" / "NOTES.md"  # the laboratory notebook
PAGES = sorted(DOCS.rglob("*.md"))


def parser_of(command):
    return load_command(commands()[command])[0]


def command_lines(text):
    """What stands in backquotes, after a prompt, or in a line of an indented block or a block of code."""
    text = text.replace("\\\n", " ")
    inline = re.findall(r"`([^`\n]+)`", text)
    return inline + re.findall(r"^ *\$ (.*)$", text, re.M) + re.findall(r"^ {4,}(?![ $|`])(.+)$", text, re.M)


def calls(text):
    """The words after `flawscope`, or after the image's name, of every call in a text: in backquotes, after a
    prompt, or in an indented block."""
    for line in command_lines(text):
        if not line.startswith(("flawscope ", "docker ")):
            continue
        words = shlex.split(line)
        if words[:2] == ["docker", "run"]:
            images = [k for k, word in enumerate(words) if word.split(":")[0] == "flawscope"]
            if images:
                yield words[images[0] + 1 :]
        elif words[0] == "flawscope" and len(words) > 2 and not words[1].isupper():  # flawscope COMMAND ...
            yield words[1:]


def error_lines():
    """The first column of the tables below "Errors", and the lines of the data checks."""
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.+?`) \| ", page[page.index("## Errors") :], re.M)
    written = [line for row in rows for line in re.findall(r"`([^`]+)`", row)]
    return [*written, *(line for check in CHECKS.values() for line in check.line)]


def drawing(name="draw_packages"):
    """docs/draw_packages.py, or another, as a module."""
    return SimpleNamespace(**runpy.run_path(str(DOCS / f"{name}.py")))

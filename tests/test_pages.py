"""Pages of docs/ whose commands need what a test has not, such as a Docker daemon: the calls are right."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import flawscope
from flawscope import config, registry
from flawscope.cli import COMMANDS, Parser
from flawscope.predictor import Predictor

DOCS = Path(__file__).parents[1] / "docs"
PAGES = [DOCS / name for name in ("coming-from.md", "docker.md")]


def parser_of(command: str) -> argparse.ArgumentParser:
    parser = Parser(prog=command)
    importlib.import_module(f"flawscope.cli.{COMMANDS[command][0]}").add_arguments(parser)
    return parser


def calls(text: str) -> Iterator[list[str]]:
    """The words after `flawscope`, or after the image's name, of every call in a text."""
    for line in re.findall(r"`([^`\n]+)`", text) + re.findall(r"^\$ (.*)$", text, re.M):
        words = shlex.split(line)
        if words[:2] == ["docker", "run"]:
            images = [k for k, word in enumerate(words) if word.split(":")[0] == "flawscope"]
            if images:
                yield words[images[0] + 1 :]
        elif words and words[0] == "flawscope" and len(words) > 2:
            yield words[1:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_call_is_understood(page: Path) -> None:
    found = list(calls(page.read_text(encoding="utf-8")))
    assert len(found) > 3
    for command, *words in found:
        parser_of(command).parse_args(words)  # raises InputError


def test_a_call_with_a_wrong_option_would_be_noticed() -> None:
    (words,) = calls("`flawscope fit --data x --outt y`")
    with pytest.raises(flawscope.InputError, match="--out"):
        parser_of(words[0]).parse_args(words[1:])


def here() -> Iterator[str]:
    """What stands in backquotes in the last column of the tables of "Coming from another tool"."""
    for line in (DOCS / "coming-from.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| "):
            yield from re.findall(r"`([^`]+)`", line.rstrip("| ").rsplit(" | ", 1)[1])


def test_every_option_of_the_right_column_exists() -> None:
    known = {o for name in COMMANDS for action in parser_of(name)._actions for o in action.option_strings}
    options = {word for code in here() for word in code.split() if word.startswith("--")}
    assert len(options) > 20
    assert options <= known, options - known


def test_every_setting_and_choice_of_the_right_column_exists() -> None:
    checked = 0
    classes = {name: registry.config_class(name) for name in registry.METHODS}
    for code in here():
        words = shlex.split(code)
        for option, value in pairwise(words):
            if option == "--set":
                key, _, text = value.partition("=")
                if key == "key":
                    continue
                owners = [cls for cls in classes.values() if key in cls.__dataclass_fields__]
                assert owners, value
                for cls in owners:
                    config.build(cls, config.parse_assignments([f"{key}={text}"]))
                checked += 1
            elif option == "--method":
                assert value in registry.METHODS
            elif option == "--preset":
                assert all(value in registry.presets(name) for name in registry.METHODS)
    assert checked > 8


def test_names_of_python_exist() -> None:
    names = {code for code in here() if re.fullmatch(r"[a-z_]+", code)}
    fields = set(flawscope.Prediction.__dataclass_fields__) | set(dir(flawscope.Prediction))
    assert {"score", "is_anomalous", "map", "mask", "p_value", "regions"} <= names & fields
    methods = {found for code in here() for found in re.findall(r"^model\.(\w+)\(", code)}
    assert methods
    for method in methods:
        assert hasattr(Predictor, method)
    for name in {found for code in here() for found in re.findall(r"^flawscope\.(\w+)\(", code)}:
        assert hasattr(flawscope, name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link

"""Digest of a call: what it reads decides, and nothing that only looks like a path."""

import argparse
import os

import pytest

from flawscope.cli import questions
from flawscope.cli.program import commands, load_command

READ = ("FILE", "FOLDER", "ROOT", "MODEL", "MASK")  # in a metavar: an argument that names what is read


@pytest.fixture
def call(tmp_path, monkeypatch):
    """`call(**changed)`: digest of a fit in a folder with pictures, and files of others."""
    monkeypatch.chdir(tmp_path)
    for name in ("good/a.png", ".cache/pip/1", "cpu/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    given = {"data": "good", "out": "m.safetensors", "force": False, "device": "cpu", "group": ".*"}
    return lambda **changed: questions.digest_call(argparse.Namespace(**given | changed))


def test_other_files_of_the_folder_are_not_looked_at(call, tmp_path, monkeypatch):
    before, looked = call(), list[str]()
    (tmp_path / ".cache/pip/2").write_bytes(b"y")
    (tmp_path / "cpu/y").write_bytes(b"y")
    walk = os.walk
    monkeypatch.setattr(os, "walk", lambda path: looked.append(path) or walk(path))
    assert call() == before
    assert looked == ["good"]


def test_what_is_read_and_every_option_decides(call, tmp_path):
    before = call()
    assert call(group="x") != before
    (tmp_path / "good/b.png").write_bytes(b"y")
    assert call() != before


@pytest.mark.parametrize("command", ["fit", "calibrate", "export"])
def test_every_argument_that_names_what_is_read_is_among_the_paths(command):
    parser, _ = load_command(commands()[command])
    named = {
        action.dest
        for action in parser._actions
        if isinstance(action.metavar, str) and any(word in action.metavar for word in READ)
    }
    assert named - {*questions.INPUT_ARGUMENTS, *questions.OUTPUT_ARGUMENTS} == set()

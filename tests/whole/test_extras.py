"""Each command and preset of the README where only some of its extras are installed: it works, or says in one
line which words to type. Packages that the extras bring are hidden, not removed. Commands run one after the
other in one process, which loads torch once."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from test_readme import README, blocks, commands, draw_pictures

from flawscope.methods import registry

ROOT = Path(__file__).parents[2]
HIDE = """
import sys

class Hidden:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {hidden!r} else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Hidden(finder) for finder in sys.meta_path]
"""
# reads commands from stdin, and prints the exit code of each and what it said
CALLS = """
import contextlib, io, json, sys
from flawscope.cli import main

over = []
for words in json.load(sys.stdin):
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        over.append((main(words), said.getvalue()))
print(json.dumps(over))
"""


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def brought(extras):
    """Names of the distributions that the core and these extras bring, with all that they need in turn."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found, left = set(), [(line, frozenset()) for line in project["dependencies"]]
    left += [(f"flawscope[{','.join(extras)}]", frozenset())] if extras else []
    while left:
        line, of = left.pop()
        one = Requirement(line)
        if one.marker and not any(one.marker.evaluate({"extra": extra}) for extra in {"", *of}):
            continue
        if plain(one.name) == "flawscope":
            each = [line for extra in one.extras for line in project["optional-dependencies"][extra]]
            left += [(line, frozenset()) for line in each]
            continue
        if (plain(one.name), frozenset(one.extras)) in found:
            continue
        found.add((plain(one.name), frozenset(one.extras)))
        try:
            left += [(each, frozenset(one.extras)) for each in metadata.requires(one.name) or []]
        except metadata.PackageNotFoundError:
            continue
    return frozenset(name for name, _ in found)


def hidden_modules(extras):
    """Modules of what is installed beyond the core and these extras."""
    kept = brought(extras) | {"flawscope", "pip", "setuptools"}
    return {
        module
        for module, of in metadata.packages_distributions().items()
        if not kept & {plain(name) for name in of} and not module.startswith("_")
    }


def environment(extras, folder):
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HIDE.format(hidden=hidden_modules(extras)), encoding="utf-8")
    return {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture
def installed(tmp_path):
    """The environment of who typed what the README types, with its pictures at hand."""
    draw_pictures(tmp_path)
    env = environment(("train", "export"), tmp_path / "site")
    return env | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}


def run(calls, folder, env):
    """(words, exit code, stderr) of each."""
    typed, given = [sys.executable, "-c", CALLS], json.dumps(calls)
    done = subprocess.run(
        typed, cwd=folder, env=env, input=given, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    return [(words, *over) for words, over in zip(calls, json.loads(done.stdout), strict=True)]


def readme_commands():
    """Those of the README, without the name of the program."""
    texts = [text for language, text in blocks(README) if language == "console"]
    return [words[1:] for text in texts for words in commands(text) if words[0] == "flawscope"]


def presets():
    known = {name for method in registry.loadable_methods() for name in method.presets}
    assert {"default", "accurate"} <= known
    return sorted(known)


def test_what_is_hidden_is_what_an_extra_brings():
    core, whole = hidden_modules(()), hidden_modules(("train", "export"))
    assert {"torch", "timm", "matplotlib", "onnx"} <= core
    assert not {"numpy", "PIL", "scipy", "yaml", "onnxruntime", "safetensors", "jinja2", "openpyxl"} & core
    assert not {"torch", "timm", "matplotlib", "onnx", "flawscope_weights"} & whole
    assert {"openvino", "ray"} & core == {"openvino", "ray"} & whole


def test_in_the_core_each_command_works_or_says_which_words_to_type(tmp_path, onnx_path, model_path):
    draw_pictures(tmp_path)
    (tmp_path / "part.safetensors").write_bytes(model_path.read_bytes())
    (tmp_path / "part.onnx").write_bytes(onnx_path.read_bytes())
    env = environment((), tmp_path / "site")
    needing = {"demo": "train", "fit": "train", "evaluate": "train", "export": "train,export"}
    told = set()
    joint, page = (
        "fit --data products --out m.safetensors --joint",
        "predict part.onnx new_pictures --out found",
    )
    over = run([*readme_commands(), shlex.split(joint), shlex.split(page)], tmp_path, env)
    for words, code, said in over:
        extra = needing.get(words[0]) or ("train" if "part.safetensors" in words else None)
        if extra is None:
            assert code == 0, said
            continue
        told.add(words[0])
        assert code == 2
        assert said.count("\n") == 1, said
        assert f'pip install ./weights ".[{extra}]"' in said, shlex.join(words)
    assert told >= {*needing, "predict"}
    assert not (tmp_path / "demo").exists()
    assert {"report.html", "results.csv", "results.xlsx"} <= {
        one.name for one in (tmp_path / "found").iterdir()
    }


def test_after_the_install_of_the_readme_each_command_works(installed, tmp_path):
    # what the demo does then is what the others do
    more = {"demo": ("--only-draw", "--train", "2"), "fit": ("--size", "64", "--no-check")}
    calls = [[*words, *more.get(words[0], ())] for words in readme_commands()]
    for words, code, said in run(calls, tmp_path, installed):
        assert code == 0, f"{shlex.join(words)}\n{said}"


def test_after_the_install_of_the_readme_each_preset_has_its_weights(installed, tmp_path):
    calls = []
    for preset in presets():
        in_steps = registry.method(registry.default_method_name(None, preset)).learns_in_steps
        quick = "--steps 2" if in_steps else "--size 64 --set crop=null"
        given = f"fit --data pictures --out {preset}.safetensors --preset {preset} --no-check {quick}"
        calls.append(given.split())
    for preset, (_, code, said) in zip(presets(), run(calls, tmp_path, installed), strict=True):
        if code:
            assert said.splitlines()[-1].startswith("flawscope: no weights for backbone"), said
            assert preset not in ("default", "small")
            remedy = "pip install ./weights/dinov2" if preset == "accurate" else "--set weights=FILE"
            assert remedy in said

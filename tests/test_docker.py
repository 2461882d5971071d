"""The Dockerfile: what an image must and must not be, and that its steps work, without a Docker daemon."""

import importlib
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TARGETS = ("runtime", "train", "station")


@pytest.fixture(scope="module")
def check():
    """docker/check.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "docker")
        return importlib.import_module("check")


def of(check, target, word):
    """What follows `word` in a target and all that it starts from."""
    return [rest for name, rest in check.lineage(check.parse()[1], target) if name == word]


def installed(check, target):
    """The pip commands whose result the target copies."""
    source = next(rest for rest in of(check, target, "COPY") if "--from=" in rest)
    stage = re.search(r"--from=(\S+)", source)[1]
    return [rest for rest in of(check, stage, "RUN") if rest.startswith("pip")]


def test_the_base_image_is_pinned_and_has_a_python_that_the_package_takes(check):
    arguments, stages = check.parse()
    for base in {stage.base for stage in stages.values()} - set(stages):
        name = re.sub(r"\$\{(\w+)\}", lambda found: arguments[found[1]], base)
        assert re.fullmatch(r"[\w/.-]+:\d+\.\d+\.\d+-[\w-]+(@sha256:[0-9a-f]{64})?", name), name
    version = re.search(r"python:(\d+)\.(\d+)", arguments["PYTHON_IMAGE"])
    assert version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"Programming Language :: Python :: {version[1]}.{version[2]}" in project["classifiers"]
    assert list(stages)[-1] == "runtime"  # without a target it is the small one


def test_extras_exist_and_only_one_image_has_torch(check):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = {
        target: {e for command in installed(check, target) for e in extras_of(command)} for target in TARGETS
    }
    for target in TARGETS:
        assert asked[target] <= set(extras), target
    packages = {target: " ".join(p for e in asked[target] for p in extras[e]) for target in TARGETS}
    assert "openvino" in packages["runtime"]
    assert "torch" not in packages["runtime"] + packages["station"]
    assert {"./station", "./line[plc]"} <= {
        word.strip('"') for command in installed(check, "station") for word in command.split()
    }
    assert "torch>=" in packages["train"]
    assert asked["runtime"] < asked["train"]


def extras_of(command):
    return [e for group in re.findall(r"\.\[([\w,]+)\]", command) for e in group.split(",")]


def test_what_is_copied_exists_and_reaches_the_daemon(check):
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    let_through = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    copied = set()
    for stage in check.parse()[1].values():
        for word, rest in stage.steps:
            if word == "COPY" and "--from=" not in rest:
                copied |= set(rest.split()[:-1])
    assert copied == let_through
    for name in copied:
        assert (ROOT / name).exists(), name

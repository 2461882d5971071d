"""Calls of predict on drawn pictures."""

import json
from pathlib import Path

import pytest

PLAIN = ["--maps", "none"]


def names_of(printed):
    return [Path(json.loads(line)["path"]).name for line in printed.splitlines()]


def written(out):
    """Whether a folder of results is complete, and what is missing."""
    facts = json.loads((out / "results.json").read_text())
    return facts["complete"], facts["unwritten"]


@pytest.fixture(name="batch")
def batch_fixture(mixed):
    """A folder with a good picture, a defective one, and one that is none."""
    for path in mixed.iterdir():
        if path.name not in ("a.png", "b.png"):
            path.unlink()
    (mixed / "broken.png").write_bytes((mixed / "a.png").read_bytes()[:200])
    return mixed

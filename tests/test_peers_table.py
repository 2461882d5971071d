"""The README's comparison with anomalib is what the results give, losses too."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results" / "peers.json"
JOBS = ROOT / "bench" / "peers"


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("peers_table", JOBS / "table.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return dict(json.loads(RESULTS.read_text(encoding="utf-8")))


def shown(header: str) -> str:
    """The README's table that begins so."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    start = lines.index(header)
    end = next(k for k in range(start, len(lines)) if not lines[k].startswith("|"))
    return "\n".join(lines[start:end])


def test_the_readme_shows_what_was_measured(tables: ModuleType, results: dict[str, Any]) -> None:
    header = f"| {' | '.join(tables.HEADER)} |"
    expected = tables.table(results)
    assert expected.count("\n") > 20
    assert shown(header) == expected


def test_another_result_gives_another_table(tables: ModuleType, results: dict[str, Any]) -> None:
    other = copy.deepcopy(results)
    cell = other["cells"]["patchcore/toothbrush/test"]
    cell["flawscope"], cell["anomalib"] = cell["anomalib"], cell["flawscope"]
    before, after = tables.table(results), tables.table(other)
    assert before != after
    assert before.count("**behind**") + after.count("**behind**") > 0


def test_losses_are_told(tables: ModuleType) -> None:
    assert tables.less(1.0, 2.0) == "ahead by 2 times"
    assert tables.less(3.0, 2.0) == "**behind** by 1.5 times"
    assert tables.less(1.02, 1.0) == "**behind** by 1.020 times"
    assert tables.less(0.0, 1.0) == "ahead"
    assert tables.less(2.0, 2.0) == "equal"
    assert tables.more(0.95, 0.96, 3) == "**behind** by 0.010"
    assert tables.more(0.96, 0.95, 3) == "ahead by 0.010"
    assert tables.more(29, 30, 0) == "**behind** by 1"
    assert tables.more(0.95001, 0.95, 3) == "equal"


def test_the_lines_counted_are_those_of_the_scripts(results: dict[str, Any]) -> None:
    for name in ("shell", "Python", "anomalib"):
        cell = results["cells"][f"job/{name}"]
        text = (ROOT / cell["script"]).read_text(encoding="utf-8")
        text = re.sub(r'\A""".*?"""', "", text, flags=re.S)
        lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        assert cell["lines"] == len(lines)

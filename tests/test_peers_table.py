"""The comparison with anomalib in docs/measurements.md is what the results give, losses too."""

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


def test_the_page_shows_what_was_measured(tables: ModuleType, results: dict[str, Any]) -> None:
    expected = tables.table(results)
    assert expected.count("\n") > 8
    assert tables.shown((ROOT / "docs" / "measurements.md").read_text(encoding="utf-8")) == expected


def test_another_result_gives_another_table(tables: ModuleType, results: dict[str, Any]) -> None:
    other = copy.deepcopy(results)
    cells = other["cells"]
    a, b = "install/flawscope", "install/anomalib"
    cells[a], cells[b] = cells[b], cells[a]
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
    cells = [cell for name, cell in results["cells"].items() if name.startswith("job/")]
    if not cells:
        pytest.skip("the main job has not been measured")
    for cell in cells:
        text = (ROOT / cell["script"]).read_text(encoding="utf-8")
        text = re.sub(r'\A""".*?"""', "", text, flags=re.S)
        lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        assert cell["lines"] == len(lines)

"""SimpleNet, a method from outside: found by its entry point, true to the contract."""

import sys
from pathlib import Path
from typing import Any

import pytest

from flawscope.cli import main
from flawscope.predictor import read_manifest
from flawscope.testing import Case, Check, checks_for

pytest.importorskip("torch")
sys.path.append(str(Path(__file__).parents[2] / "examples/simplenet"))  # as an editable installation does
from flawscope_simplenet import METHOD

pytestmark = pytest.mark.usefixtures("installed")


@pytest.fixture(scope="module")
def case(drawn: Path, small_backbone: dict[str, str]) -> Case:
    return Case(METHOD, {"size": "64", "steps": 3, "batch": 2, **small_backbone}, drawn)


@pytest.mark.parametrize("check", checks_for(METHOD), ids=str)
@pytest.mark.slow
def test_contract(check: Check, case: Case, trace_once: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flawscope.export.onnx_graph.trace", trace_once)
        check(case)


def test_it_fits_from_the_command_line(drawn: Path, tmp_path: Path) -> None:
    out = tmp_path / "plate.safetensors"
    assert main(f"fit --method simplenet --size 64 --steps 20 --data {drawn} --out {out}".split()) == 0
    assert read_manifest(out).method == "simplenet"

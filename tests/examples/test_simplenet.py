"""SimpleNet, a method from outside: found by its entry point, true to the contract."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flawscope.cli import main
from flawscope.methods import registry
from flawscope.predictor import read_manifest
from flawscope.testing import Case, Check, checks_for

pytest.importorskip("torch")
PACKAGE = Path(__file__).parents[2] / "examples/simplenet"
sys.path.append(str(PACKAGE))  # as an editable installation does
from flawscope_simplenet import METHOD  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def _installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What pip writes down about the package lies on the path."""
    _, entries = (PACKAGE / "pyproject.toml").read_text().split("[project.entry-points.", 1)
    folder = tmp_path_factory.mktemp("site") / "flawscope_simplenet-0.1.0.dist-info"
    folder.mkdir()
    (folder / "entry_points.txt").write_text("[" + entries.replace('"', ""))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder.parent)
        registry._installed.cache_clear()
        yield
    registry._installed.cache_clear()
    registry.method.cache_clear()


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

"""PaDiM, a method from outside: found by its entry point, true to the contract, its leave-one-out exact."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flawscope.cli import main
from flawscope.predictor import read_manifest
from flawscope.testing import Case, Check, checks_for

torch = pytest.importorskip("torch")
sys.path.append(str(Path(__file__).parents[2] / "examples/padim"))  # as an editable installation does
from flawscope_padim import METHOD, Config  # noqa: E402

pytestmark = pytest.mark.usefixtures("installed")


@pytest.fixture(scope="module")
def case(drawn: Path, small_backbone: dict[str, str]) -> Case:
    return Case(METHOD, {"size": "64", "dimensions": 20, **small_backbone}, drawn)


@pytest.mark.parametrize("check", checks_for(METHOD), ids=str)
@pytest.mark.slow
def test_contract(check: Check, case: Case, trace_once: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flawscope.export.onnx_graph.trace", trace_once)
        check(case)


@pytest.mark.parametrize("groups", [range(9), [0, 0, 1, 1, 1, 2, 3, 4, 4]])
def test_leaving_out_is_fitting_without(groups: Any) -> None:
    """Against numpy's mean and covariance of the others, also where some pictures do not count."""
    from flawscope_padim.fit import gaussians

    rng = np.random.default_rng(0)
    features = rng.normal(size=(9, 5, 12)) @ rng.normal(size=(12, 12)) + 3
    counted = np.ones((9, 5), bool)
    counted[:3, 1] = counted[7, 2] = False
    shapes = {"mean": (5, 12), "whitening": (5, 12, 12), "count": (5,)}
    model: Any = SimpleNamespace(config=Config(), **{k: torch.zeros(s) for k, s in shapes.items()})
    given = torch.from_numpy(features), torch.from_numpy(counted).float(), torch.tensor(list(groups))
    found = gaussians(model, *given).numpy()
    for i, p in np.ndindex(9, 5):
        others = features[counted[:, p] & (np.array(groups) != groups[i]), p]
        away, covariance = features[i, p] - others.mean(0), np.cov(others.T) + 0.01 * np.eye(12)
        wanted = np.sqrt(away @ np.linalg.solve(covariance, away)) * counted[i, p]
        assert found[i, p] == pytest.approx(wanted, rel=1e-4)
    whole = np.linalg.inv(np.cov(features[:, 0].T) + 0.01 * np.eye(12))
    np.testing.assert_allclose(model.whitening[0].mT @ model.whitening[0], whole, rtol=1e-4, atol=1e-4)


def test_it_fits_from_the_command_line(drawn: Path, tmp_path: Path) -> None:
    out = tmp_path / "plate.safetensors"
    assert main(f"fit --method padim --size 64 --data {drawn} --out {out}".split()) == 0
    assert read_manifest(out).method == "padim"

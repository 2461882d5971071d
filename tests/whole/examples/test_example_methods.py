"""Methods from outside, the packages in examples/: found by their entry points, true to the contract; and
PaDiM's leave-one-out is exact."""

import functools
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from flawscope.cli import main
from flawscope.methods import registry
from flawscope.predictor import read_manifest
from flawscope.testing import Case, checks_for

EXAMPLES = Path(__file__).parents[3] / "examples"
sys.path += [str(EXAMPLES / name) for name in ("padim", "simplenet")]  # as an editable installation does
import flawscope_padim  # noqa: E402
import flawscope_simplenet  # noqa: E402

METHODS = {"padim": flawscope_padim.METHOD, "simplenet": flawscope_simplenet.METHOD}
SMALL = {"padim": {"dimensions": 20}, "simplenet": {"steps": 3, "batch": 2}}


@pytest.fixture(scope="module", autouse=True)
def _installed(tmp_path_factory):
    """What pip writes down about the packages lies on the path."""
    site = tmp_path_factory.mktemp("site")
    for name in METHODS:
        _, entries = (EXAMPLES / name / "pyproject.toml").read_text().split("[project.entry-points.", 1)
        folder = site / f"flawscope_{name}-0.1.0.dist-info"
        folder.mkdir()
        (folder / "entry_points.txt").write_text("[" + entries.replace('"', ""))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        registry._installed.cache_clear()
        yield
    registry._installed.cache_clear()
    registry.method.cache_clear()


@pytest.fixture(scope="module")
def case_of(drawn, small_backbone):
    return functools.cache(
        lambda name: Case(METHODS[name], {"size": "64", **SMALL[name], **small_backbone}, drawn)
    )


@pytest.mark.parametrize(
    ("name", "check"), [(name, check) for name, one in METHODS.items() for check in checks_for(one)], ids=str
)
def test_contract(name, check, case_of):
    check(case_of(name))


@pytest.mark.parametrize("options", ["padim", "simplenet --steps 20"])
def test_it_fits_from_the_command_line(options, drawn, tmp_path):
    out = tmp_path / "plate.safetensors"
    assert main(f"fit --method {options} --size 64 --data {drawn} --out {out}".split()) == 0
    assert read_manifest(out).method == options.split()[0]


@pytest.mark.parametrize("groups", [range(9), [0, 0, 1, 1, 1, 2, 3, 4, 4]])
def test_leaving_out_is_fitting_without(groups):
    """Against numpy's mean and covariance of the others, also where some pictures do not count."""
    from flawscope_padim.fit import gaussians

    rng = np.random.default_rng(0)
    features = rng.normal(size=(9, 5, 12)) @ rng.normal(size=(12, 12)) + 3
    counted = np.ones((9, 5), bool)
    counted[:3, 1] = counted[7, 2] = False
    shapes = {"mean": (5, 12), "whitening": (5, 12, 12), "count": (5,)}
    model = SimpleNamespace(config=flawscope_padim.Config(), **{k: torch.zeros(s) for k, s in shapes.items()})
    given = torch.from_numpy(features), torch.from_numpy(counted).float(), torch.tensor(list(groups))
    found = gaussians(model, *given).numpy()
    for i, p in np.ndindex(9, 5):
        others = features[counted[:, p] & (np.array(groups) != groups[i]), p]
        away, covariance = features[i, p] - others.mean(0), np.cov(others.T) + 0.01 * np.eye(12)
        wanted = np.sqrt(away @ np.linalg.solve(covariance, away)) * counted[i, p]
        assert found[i, p] == pytest.approx(wanted, rel=1e-4)
    whole = np.linalg.inv(np.cov(features[:, 0].T) + 0.01 * np.eye(12))
    np.testing.assert_allclose(model.whitening[0].mT @ model.whitening[0], whole, rtol=1e-4, atol=1e-4)

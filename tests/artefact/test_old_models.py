"""Models that an older version, commit 97f7321, wrote stay readable, and score as it said then. In commit
99816ebc the script that made them stands beside them."""

import json
import lzma
from pathlib import Path

import numpy as np
import pytest
import torch

import flawscope
from flawscope.runtime import ENGINES

OLD = Path(__file__).parents[1] / "fixtures/models-97f7321"
EXPECTED = json.loads((OLD / "expected.json").read_text())


@pytest.fixture(scope="module")
def efficientad(shared):
    """Its 13 MB are packed."""

    def fill(folder):
        packed = (OLD / "efficientad.safetensors.xz").read_bytes()
        (folder / "efficientad.safetensors").write_bytes(lzma.decompress(packed))

    return shared("old-efficientad", fill) / "efficientad.safetensors"


@pytest.mark.parametrize(
    ("name", "engine"),
    [(name, engine) for name in EXPECTED["models"] for engine in (ENGINES if ".onnx" in name else [None])],
)
def test_an_old_model_scores_as_it_did(name, engine, request):
    path = request.getfixturevalue("efficientad") if name == "efficientad.safetensors" else OLD / name
    model = flawscope.load(path, engine=engine, device="cpu")
    some = slice(None, None, 3 if "efficientad" in name else 1)  # it is slow
    found = model.predict([str(OLD / "pictures" / picture) for picture in EXPECTED["pictures"][some]])
    expected = {key: values[some] for key, values in EXPECTED["models"][name].items()}
    # another processor or engine adds in another order, and scores of several sizes are brought to one scale
    same = torch.backends.cpu.get_cpu_capability() == EXPECTED["processor"] and engine != "openvino"
    near = 1e-6 if same else 1e-4
    np.testing.assert_allclose([p.score for p in found], expected["scores"], rtol=near, atol=near)
    maxima = [np.nanmax(p.map) for p in found]
    np.testing.assert_allclose(maxima, expected["map_maxima"], rtol=near, atol=near)
    assert [p.is_anomalous for p in found] == expected["anomalous"]
    np.testing.assert_allclose([p.p_value for p in found], expected["p_values"])
    assert "efficientad" in name or model.self_test().passed


@pytest.mark.parametrize("kind", ["line", "views"])
def test_a_joint_model_opens_as_a_router_and_scores_as_it_did(kind, tmp_path):
    """Commit 7ff3e569 wrote them: of products, one of them with a range of light, and of views."""
    folder = OLD.parent / "joint-7ff3e569"
    expected = json.loads((folder / "expected.json").read_text())
    # makers of processors round differently, too
    near = 1e-5 if torch.backends.cpu.get_cpu_capability() == expected["processor"] else 1e-4
    flawscope.load(folder / f"{kind}.safetensors", device="cpu").save(tmp_path / "new.safetensors")
    for path in (folder / f"{kind}.safetensors", tmp_path / "new.safetensors"):
        model = flawscope.load(path, device="cpu")
        assert isinstance(model, flawscope.Router)
        for name, one in expected[kind].items():
            product = {"product": name.split("-")[0]} if kind == "views" else {}
            found = model.predict(folder / "pictures" / name, **product)
            assert found.score == pytest.approx(one["score"], rel=near)
            others = {key: value for key, value in one.items() if key != "score"}
            nearest = {} if found.recognition is None else {"nearest": found.recognition.nearest}
            assert {key: nearest[key] if key in nearest else getattr(found, key) for key in others} == others
        assert all(found.passed for found in model.self_test().values())


def test_a_setting_that_has_gone_is_ignored():
    """The file's settings hold two that were never there."""
    path = OLD / "patchcore-gone-setting.safetensors"
    assert {"gone", "gone_too"} <= flawscope.load(path, device="cpu").manifest.config.keys()


@pytest.mark.parametrize("engine", ENGINES)
def test_patchcore_in_int8_scores_as_it_did(engine):
    """Commit 7ff3e569 was the last that made such files. Engines, and processors, round apart."""
    model = flawscope.load(OLD.parent / "models-7ff3e569/patchcore-int8.onnx", engine=engine)
    assert (model.calibration.precision, model.calibration.count) == ("int8", 12)
    assert model.self_test().passed
    found = model.predict([str(OLD / "pictures" / picture) for picture in EXPECTED["pictures"]])
    expected = [18.0043, 17.7163, 18.0170, 18.6948, 22.6434, 19.4018]
    np.testing.assert_allclose([one.score for one in found], expected, rtol=0.01)

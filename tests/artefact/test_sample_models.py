"""Files from format 5 on open forever: one of each method, of several products, of views and exported ones
score as they did when they were written."""

import json
import lzma
from pathlib import Path

import numpy as np
import pytest
import torch

import flawscope
from flawscope.artefact.model_file import FORMAT, OLDEST_FORMAT
from flawscope.errors import InputError
from flawscope.fitting.stored_options import refit_options
from flawscope.pictures.near_duplicates import Look
from flawscope.pictures.units import named_rows, units_of
from flawscope.runtime import ENGINES

SAMPLES = Path(__file__).parents[1] / "fixtures/models"
EXPECTED = json.loads((SAMPLES / "expected.json").read_text())


@pytest.fixture(scope="module")
def efficientad(shared):
    """Its 13 MB are packed."""

    def fill(folder):
        packed = (SAMPLES / "efficientad.safetensors.xz").read_bytes()
        (folder / "efficientad.safetensors").write_bytes(lzma.decompress(packed))

    return shared("sample-efficientad", fill) / "efficientad.safetensors"


def test_a_new_format_has_samples_of_its_own():
    assert [*EXPECTED["made by"]] == [f"format {number}" for number in range(OLDEST_FORMAT, FORMAT + 1)]


@pytest.mark.parametrize("name", ["patchcore.safetensors", "patchcore-two-sizes.onnx"])
def test_a_sample_of_format_5_is_written_in_the_newest_and_says_what_it_does_not_know(name, tmp_path):
    model = flawscope.load(SAMPLES / name, device="cpu")
    rows = model.manifest.pictures
    assert all(row.look is None and row.size is None and row.origin == "" for row in rows)
    model.save(tmp_path / name)
    assert flawscope.load(tmp_path / name, device="cpu").manifest == model.manifest
    new = named_rows(["x.png"], [Look(np.zeros((64, 64), np.float16), 1.0)])
    assert "keeps no looks" in units_of(new, rows).remarks[0]


@pytest.mark.parametrize("name", ["patchcore-looks.safetensors", "patchcore-looks.onnx"])
def test_a_sample_of_format_6_holds_what_later_work_compares_by(name):
    rows = flawscope.load(SAMPLES / name, device="cpu").manifest.pictures
    assert {row.origin for row in rows} == {"fit", "update"}
    assert all(row.look is not None and row.size == (96, 96) and row.measured for row in rows)


@pytest.mark.parametrize(
    ("name", "engine"),
    [(name, engine) for name in EXPECTED["models"] for engine in (ENGINES if ".onnx" in name else [None])],
)
def test_a_sample_scores_as_it_did(name, engine, request):
    path = request.getfixturevalue("efficientad") if name == "efficientad.safetensors" else SAMPLES / name
    model = flawscope.load(path, engine=engine, device="cpu")
    some = slice(None, None, 3 if "efficientad" in name else 1)  # it is slow
    found = model.predict([str(SAMPLES / "pictures" / picture) for picture in EXPECTED["pictures"][some]])
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


@pytest.mark.parametrize("name", ["line.safetensors", "line.zip", "views.safetensors"])
def test_a_sample_of_several_products_or_of_views_scores_as_it_did(name, tmp_path):
    kind = name.split(".")[0]
    # makers of processors round differently, too
    same = torch.backends.cpu.get_cpu_capability() == EXPECTED["processors"][kind] and "zip" not in name
    near = 1e-5 if same else 1e-4
    model = flawscope.load(SAMPLES / name, device="cpu")
    assert isinstance(model, flawscope.Router)
    for picture, one in EXPECTED[kind].items():
        product = {"product": picture.split("-")[0]} if kind == "views" else {}
        found = model.predict(SAMPLES / "pictures" / picture, **product)
        assert found.score == pytest.approx(one["score"], rel=near)
        others = {key: value for key, value in one.items() if key != "score"}
        nearest = {} if found.recognition is None else {"nearest": found.recognition.nearest}
        assert {key: nearest[key] if key in nearest else getattr(found, key) for key in others} == others
    assert all(found.passed for found in model.self_test().values())


def test_a_sample_that_undistorts_its_pictures_scores_as_it_did():
    """No fit makes such a model any more; it goes on judging, and cannot be fitted anew."""
    model = flawscope.load(SAMPLES / "lens.safetensors", device="cpu")
    assert model.manifest.preprocess.undistort is not None
    for picture, one in EXPECTED["lens"].items():
        found = model.predict(SAMPLES / "pictures" / picture)
        assert found.score == pytest.approx(one["score"], rel=1e-4)
        assert np.nanmean(found.map) == pytest.approx(one["map_mean"], rel=1e-4)
    with pytest.raises(InputError, match="fit anew on pictures that the camera's SDK or OpenCV"):
        refit_options(model.artefact)

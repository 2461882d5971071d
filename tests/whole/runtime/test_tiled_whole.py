"""A model with tiles gives the same answer in every engine, from what its file says."""

import base64
import zlib

import numpy as np
import pytest

import flawscope
from flawscope.artefact import model_file
from flawscope.cli import main
from flawscope.errors import FlawscopeError
from flawscope.export import export as exports
from flawscope.export.export import export
from flawscope.runtime.torch import TorchSession
from tiled_helpers import rewritten

ROI = "0.4,0.2,0.95,0.9"


@pytest.fixture
def pictures(tiled_pictures):
    """Good ones, defective ones, and one of exactly one tile."""
    return [path for kind in ("good", "odd", "tile") for path in sorted((tiled_pictures / kind).iterdir())]


def test_every_engine_gives_the_same_answer(engine, tiled, pictures):
    trained = flawscope.load(tiled(roi=ROI), device="cpu")
    exported = flawscope.load(tiled(".onnx", roi=ROI), engine=engine)
    expected, found = trained.predict([*pictures]), exported.predict([*pictures])
    for one, other in zip(expected, found, strict=True):
        assert other.score == pytest.approx(one.score, rel=1e-4)
        np.testing.assert_allclose(other.map, one.map, rtol=1e-3, atol=1e-3)
        assert (other.p_value, other.is_anomalous) == (one.p_value, one.is_anomalous)
        assert other.geometry == one.geometry
        assert len(other.regions) == len(one.regions)
    assert {one.is_anomalous for one in expected} == {True, False}
    assert expected[0].map.shape == (107, 149)  # 160x224 at 2/3
    assert expected[-1].map.shape == (64, 64)
    assert exported.self_test().passed


def test_batches_of_tiles_change_nothing(tiled, pictures):
    model = flawscope.load(tiled(".onnx", roi=ROI))
    for path in pictures[:3]:
        views = model.manifest.preprocess.views(path).with_roi(model.artefact.tensors["region"])
        score, drawn = views.predict(model.session.run, model.manifest.fusion, 1)
        for batch in (3, 8, 100):
            other, also = views.predict(model.session.run, model.manifest.fusion, batch)
            assert other == pytest.approx(score, rel=1e-5)
            np.testing.assert_allclose(also, drawn, rtol=1e-4, atol=1e-4)


def test_a_tiled_model_is_calibrated_anew_by_pictures(engine, tiled, tiled_pictures, tmp_path):
    good = sorted((tiled_pictures / "good").iterdir())
    model = flawscope.load(tiled(".onnx", roi=ROI), engine=engine)
    again = model.calibrate([*good], force=True)
    assert list(again.calibration.scores) == [found.score for found in model.predict([*good])]
    again.save(tmp_path / "m.onnx")
    found = flawscope.load(tmp_path / "m.onnx", engine=engine)
    assert found.manifest.fusion == model.manifest.fusion
    assert found.predict(good[0]).score == pytest.approx(again.calibration.scores[0], rel=1e-6)


def region(mask):
    return lambda entries: entries.update(
        {"flawscope.region": base64.b64encode(zlib.compress(np.asarray(mask).tobytes())).decode()}
    )


DAMAGED = "its region of interest or the looks of its good pictures are damaged"
BAD = {
    "region of another size": (
        region(np.ones((32, 32), bool)),
        DAMAGED,
    ),
    "region of numbers": (
        region(np.ones((64, 64), np.float32)),
        DAMAGED,
    ),
    "region of gigabytes": (
        region(np.zeros((1 << 14, 1 << 14), bool)),
        DAMAGED,
    ),
    "region of nothing": (region(np.zeros((64, 64), bool)), "does not fit its tiles"),
    "region that is not packed": (lambda e: e.update({"flawscope.region": "AAAA"}), "are damaged"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_line(name, tiled, tmp_path, capsys):
    change, reason = BAD[name]
    path = rewritten(tiled(".onnx"), tmp_path / "bad.onnx", change)
    assert main(["predict", str(path), str(path)]) == 2
    err = capsys.readouterr().err
    assert reason in err
    assert err.count("\n") == 1
    assert len(err) < 300 + len(str(path))


def test_a_network_with_another_bank_is_no_copy(tiled, tmp_path, monkeypatch):
    artefact = model_file.read(tiled())
    traced = exports.onnx_graph.trace

    def spoilt(_):
        model = TorchSession.open(artefact, "cpu").model  # not the one that it is compared with
        view = model.views[0]
        view.bank = view.bank.clone()  # the trained model's shares the artefact's memory
        view.bank[3:] *= 1.01
        return traced(model)

    monkeypatch.setattr(exports.onnx_graph, "trace", spoilt)
    with pytest.raises(FlawscopeError, match="nothing written"):
        export(artefact, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()

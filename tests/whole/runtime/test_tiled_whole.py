"""A model with tiles gives the same answer in every engine, from what its file says, and is told where tiles
lie if it tells places apart."""

import base64
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch

import flawscope
from flawscope.artefact import model_file
from flawscope.artefact.model_file import Artefact
from flawscope.cli import main
from flawscope.datasets import list_pictures
from flawscope.errors import FlawscopeError, InputError
from flawscope.export import export as exports
from flawscope.export.export import export
from flawscope.runtime.torch import TorchSession
from tiled_helpers import manifest, rewritten

ROI = "0.4,0.2,0.95,0.9"


@pytest.fixture
def pictures(tiled_pictures):
    """Good ones, defective ones, and one of exactly one tile."""
    return [path for kind in ("good", "odd", "tile") for path in sorted((tiled_pictures / kind).iterdir())]


@pytest.mark.parametrize(("roi", "positions"), [(ROI, "shared"), (None, "each")], ids=["region", "each"])
def test_every_engine_gives_the_same_answer(engine, roi, positions, tiled, pictures):
    if positions == "each":  # a picture of one tile has other places
        pictures = pictures[:-1]
    trained = flawscope.load(tiled(roi=roi, positions=positions), device="cpu")
    exported = flawscope.load(tiled(".onnx", roi=roi, positions=positions), engine=engine)
    expected, found = trained.predict([*pictures]), exported.predict([*pictures])
    for one, other in zip(expected, found, strict=True):
        assert other.score == pytest.approx(one.score, rel=1e-4)
        np.testing.assert_allclose(other.map, one.map, rtol=1e-3, atol=1e-3)
        assert (other.p_value, other.is_anomalous) == (one.p_value, one.is_anomalous)
        assert other.geometry == one.geometry
        assert len(other.regions) == len(one.regions)
    assert {one.is_anomalous for one in expected} == {True, False}
    assert expected[0].map.shape == (107, 149)  # 160x224 at 2/3
    assert positions == "each" or expected[-1].map.shape == (64, 64)
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


BAD = {
    "region of another size": (region(np.ones((32, 32), bool)), "region of interest are damaged"),
    "region of numbers": (region(np.ones((64, 64), np.float32)), "region of interest are damaged"),
    "region of gigabytes": (region(np.zeros((1 << 14, 1 << 14), bool)), "region of interest are damaged"),
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


def test_a_tile_is_compared_with_its_own_place_alone(engine, tiled, tiled_pictures):
    """Both engines, each tile by the bank of every place: its own is the one that was used."""
    model = flawscope.load(tiled(".onnx", positions="each"), engine=engine)
    views = model.manifest.preprocess.views(tiled_pictures / "good/0.png")
    count = len(views)
    images = views.images(range(count))
    trained = TorchSession.open(model_file.read(tiled(positions="each")), "cpu")
    assert trained.model.positions == count == 7
    for place in range(count):
        where = np.full(count, place)
        scores, _ = model.session.run(images, where)
        np.testing.assert_allclose(scores, trained.run(images, where)[0], rtol=1e-4)
        alone = [
            float(trained.model.at_position(place)(trained_image)[0])
            for trained_image in torch.from_numpy(images).split(1)
        ]
        np.testing.assert_allclose(scores, alone, rtol=1e-4)
    own, _ = model.session.run(images, np.arange(count))
    other, _ = model.session.run(images, (np.arange(count) + 1) % count)
    assert (own[1:] < other[1:]).mean() > 0.5  # what lies there was seen there
    np.testing.assert_array_equal(model.session.run(images)[0], model.session.run(images, 0 * where)[0])


def test_what_the_manifest_says_must_be_what_the_network_does(tiled, tmp_path):
    each, shared = (model_file.read(tiled(positions=p)) for p in ("each", "shared"))
    for artefact, other in ((each, shared), (shared, each)):
        wrong = replace(artefact.manifest, preprocess=other.manifest.preprocess)
        with pytest.raises(InputError, match="memory banks do not fit its tiles"):
            TorchSession.open(Artefact(wrong, artefact.tensors), "cpu")
    for name, positions in (("each", None), ("shared", [2, 3])):
        source, changed = tiled(".onnx", positions=name), tmp_path / f"{name}.onnx"
        rewritten(source, changed, manifest(positions=positions))
        with pytest.raises(InputError, match="its tiles are not its manifest's"):
            flawscope.load(changed)
    how = replace(each.manifest.preprocess, positions=(3, 3))
    with pytest.raises(InputError, match="memory banks do not fit its tiles"):
        TorchSession.open(Artefact(replace(each.manifest, preprocess=how), each.tensors), "cpu")


def test_reduced_precisions_leave_a_picture_out_at_its_places(bf16_in_name, tiled, tiled_pictures, tmp_path):
    good = list_pictures(tiled_pictures / "train")
    trained = flawscope.load(tiled(positions="each"), device="cpu")
    export(tiled(positions="each"), tmp_path / "m.onnx", precision="bf16", pictures=good)
    model = flawscope.load(tmp_path / "m.onnx")
    np.testing.assert_allclose(model.calibration.scores, trained.calibration.scores, rtol=0.01)
    assert model.calibration.count == len(good)


def test_a_network_with_another_bank_at_one_place_is_no_copy(tiled, tmp_path, monkeypatch):
    artefact = model_file.read(tiled(positions="each"))
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

"""A model that knows where its tiles lie: every engine is told, and pictures with other tiles are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import flawscope
from flawscope.artefact.model_file import Artefact
from flawscope.cli import main
from flawscope.errors import InputError
from flawscope.pictures.preprocess import Preprocess
from flawscope.runtime import onnx_file

pytest.importorskip("torch")
for needed in ("onnx", "onnxscript"):
    pytest.importorskip(needed)

from flawscope.artefact import model_file  # noqa: E402
from flawscope.export.export import export  # noqa: E402
from flawscope.runtime.torch import TorchSession  # noqa: E402

Tiled = Callable[..., Path]
ROI = "0.4,0.2,0.95,0.9"


@pytest.fixture
def pictures(tiled_pictures: Path) -> list[Path]:
    return [path for kind in ("good", "odd") for path in sorted((tiled_pictures / kind).iterdir())]


@pytest.mark.parametrize("roi", [None, ROI], ids=["everywhere", "region"])
def test_every_engine_gives_the_same_answer(
    engine: str, roi: str | None, tiled: Tiled, pictures: list[Path]
) -> None:
    trained = flawscope.load(tiled(roi=roi, positions="each"), device="cpu")
    exported = flawscope.load(tiled(".onnx", roi=roi, positions="each"), engine=engine)
    for one, other in zip(trained.predict([*pictures]), exported.predict([*pictures]), strict=True):
        assert other.score == pytest.approx(one.score, rel=1e-4)
        np.testing.assert_allclose(other.map, one.map, rtol=1e-3, atol=1e-3)
        assert (other.p_value, other.is_anomalous) == (one.p_value, one.is_anomalous)
    assert exported.self_test().passed


def test_a_tile_is_compared_with_its_own_place_alone(engine: str, tiled: Tiled, tiled_pictures: Path) -> None:
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
        alone = [float(trained.model.at(place)(trained_image)[0]) for trained_image in _split(images)]
        np.testing.assert_allclose(scores, alone, rtol=1e-4)
    own, _ = model.session.run(images, np.arange(count))
    other, _ = model.session.run(images, (np.arange(count) + 1) % count)
    assert (own[1:] < other[1:]).mean() > 0.5  # what lies there was seen there
    np.testing.assert_array_equal(model.session.run(images)[0], model.session.run(images, 0 * where)[0])


def _split(images: np.ndarray) -> list:
    import torch

    return list(torch.from_numpy(images).split(1))


def test_the_file_says_which_tiles_it_knows(engine: str, tiled: Tiled, tiled_pictures: Path) -> None:
    model = flawscope.load(tiled(".onnx", positions="each"), engine=engine)
    how = model.manifest.preprocess
    assert how.to_dict()["positions"] == [2, 3]
    assert "told apart by where they lie (2 rows of 3)" in how.described()
    assert Preprocess.from_dict(how.to_dict()) == how
    shared = flawscope.load(tiled(".onnx"), engine=engine).manifest.preprocess
    assert "positions" not in shared.to_dict()
    for name in ("tile", "small"):
        with pytest.raises(InputError, match=r"0\.png: "):
            model.predict(tiled_pictures / name / "0.png")


def test_a_picture_with_other_tiles_is_one_line(
    tiled: Tiled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (160, 224), "grey").save(tmp_path / "tall.png")
    path = tiled(".onnx", positions="each")
    assert main(["predict", str(path), str(tmp_path / "tall.png"), "--out", str(tmp_path / "out")]) != 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "tall.png" in line]
    assert "160 x 224 pixels, 3 rows of 2 tiles" in line
    assert "2 rows of 3" in line
    assert "--positions" in line


def test_what_the_manifest_says_must_be_what_the_network_does(tiled: Tiled, tmp_path: Path) -> None:
    each, shared = (model_file.read(tiled(positions=p)) for p in ("each", "shared"))
    for artefact, other in ((each, shared), (shared, each)):
        manifest = replace(artefact.manifest, preprocess=other.manifest.preprocess)
        with pytest.raises(InputError, match="memory banks do not fit its tiles"):
            TorchSession.open(Artefact(manifest, artefact.tensors), "cpu")
    for name, positions in (("each", None), ("shared", [2, 3])):
        source, changed = tiled(".onnx", positions=name), tmp_path / f"{name}.onnx"
        data = source.read_bytes()
        entries = onnx_file.entries_of(data)
        said = json.loads(entries["flawscope"])
        said["preprocess"] = {k: v for k, v in said["preprocess"].items() if k != "positions"}
        said["preprocess"] |= {} if positions is None else {"positions": positions}
        entries["flawscope"] = json.dumps(said)
        entries[onnx_file.METADATA_SHA256] = onnx_file.metadata_hash(entries)
        with changed.open("wb") as file:
            onnx_file.write_entries(file, onnx_file.body(data), entries)
        with pytest.raises(InputError, match="its tiles are not its manifest's"):
            flawscope.load(changed)
    how = replace(each.manifest.preprocess, positions=(3, 3))
    with pytest.raises(InputError, match="memory banks do not fit its tiles"):
        TorchSession.open(Artefact(replace(each.manifest, preprocess=how), each.tensors), "cpu")


@pytest.mark.parametrize("value", [[2], [0, 3], "2x3", [2.5, 3], [2, 3, 4]])
def test_positions_that_make_no_sense_are_one_line(value: object) -> None:
    data = {**Preprocess((64, 64), tile=(96, 96), positions=(2, 3)).to_dict(), "positions": value}
    with pytest.raises(InputError, match="positions is"):
        Preprocess.from_dict(data)
    with pytest.raises(InputError, match="there are none"):
        Preprocess((64, 64), positions=(2, 3))


def test_reduced_precisions_leave_a_picture_out_at_its_places(
    int8_in_name: None, tiled: Tiled, tiled_pictures: Path, tmp_path: Path
) -> None:
    from flawscope.datasets import list_pictures

    good = list_pictures(tiled_pictures / "train")
    trained = flawscope.load(tiled(positions="each"), device="cpu")
    export(tiled(positions="each"), tmp_path / "m.onnx", precision="int8", pictures=good)
    model = flawscope.load(tmp_path / "m.onnx")
    np.testing.assert_allclose(model.calibration.scores, trained.calibration.scores, rtol=0.01)
    assert model.calibration.count == len(good)


def test_an_export_is_compared_at_several_places(tiled: Tiled, tiled_pictures: Path) -> None:
    from flawscope.datasets import list_pictures
    from flawscope.export.pictures import PLACES, Pictures

    artefact = model_file.read(tiled(positions="each"))
    samples = len(artefact.tensors["samples"])
    images, where = Pictures(artefact).compared()
    assert where is not None
    assert len(images) == len(where) == PLACES * samples
    assert (where.min(), where.max()) == (0, 6)
    images, where = Pictures(artefact, list_pictures(tiled_pictures / "train")).compared()
    assert where is not None
    assert len(images) == len(where)
    assert len(set(where.tolist())) > 3


def test_a_network_with_another_bank_at_one_place_is_no_copy(
    tiled: Tiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flawscope.errors import FlawscopeError
    from flawscope.export import export as exports

    artefact = model_file.read(tiled(positions="each"))
    traced = exports.traced

    def spoilt(method: str, _: object) -> object:
        model = TorchSession.open(artefact, "cpu").model  # not the one that it is compared with
        view = model.views[0]
        view.bank = view.bank.clone()  # the trained model's shares the artefact's memory
        view.bank[3:] *= 1.01
        return traced(method, model)

    monkeypatch.setattr(exports, "traced", spoilt)
    with pytest.raises(FlawscopeError, match="nothing written"):
        export(artefact, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()

"""A model with tiles gives the same answer for a picture in every engine, from what its file says."""

from __future__ import annotations

import base64
import io
import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import flawscope
from flawscope import predictor
from flawscope.artefact.model_file import Artefact
from flawscope.cli import main
from flawscope.errors import InputError
from flawscope.pictures import preprocess
from flawscope.pictures.preprocess import Preprocess
from flawscope.predictor import Predictor
from flawscope.runtime import onnx_file

pytest.importorskip("torch")
for needed in ("onnx", "onnxscript"):
    pytest.importorskip(needed)

Tiled = Callable[..., Path]
ROI = "0.4,0.2,0.95,0.9"


@pytest.fixture
def pictures(tiled_pictures: Path) -> list[Path]:
    """Good ones, defective ones, and one of exactly one tile."""
    return [path for kind in ("good", "odd", "tile") for path in sorted((tiled_pictures / kind).iterdir())]


@pytest.mark.parametrize("roi", [None, ROI], ids=["everywhere", "region"])
def test_every_engine_gives_the_same_answer(
    engine: str, roi: str | None, tiled: Tiled, pictures: list[Path]
) -> None:
    trained, exported = (
        flawscope.load(tiled(roi=roi), device="cpu"),
        flawscope.load(tiled(".onnx", roi=roi), engine=engine),
    )
    expected, found = trained.predict([*pictures]), exported.predict([*pictures])
    worst = 0.0
    for one, other in zip(expected, found, strict=True):
        assert other.score == pytest.approx(one.score, rel=1e-4)
        np.testing.assert_allclose(other.map, one.map, rtol=1e-3, atol=1e-3)
        assert other.p_value == one.p_value
        assert other.is_anomalous == one.is_anomalous
        assert other.geometry == one.geometry
        assert len(other.regions) == len(one.regions)
        worst = max(worst, abs(other.score / one.score - 1))
    print(f"largest relative difference of a score: {worst:.1e}")
    assert {one.is_anomalous for one in expected} == {True, False}
    assert expected[-1].map.shape == (64, 64)
    assert expected[0].map.shape == (107, 149)  # 160x224 at 2/3


def test_the_file_says_how_to_tile(engine: str, tiled: Tiled) -> None:
    trained, exported = (
        flawscope.load(tiled(kind, roi=ROI), engine=by, device="cpu")
        for kind, by in ((".safetensors", None), (".onnx", engine))
    )
    found, origin = exported.manifest, trained.manifest
    assert found.preprocess == origin.preprocess
    assert found.preprocess.to_dict()["tile"] == [96, 96]
    assert found.preprocess.to_dict()["overlap"] == 0.25
    assert found.fusion == origin.fusion is not None
    assert found.to_dict()["fusion"] == origin.fusion.to_dict()
    np.testing.assert_array_equal(
        exported.artefact.tensors["region"], trained.artefact.tensors["region"], strict=True
    )
    assert exported.artefact.tensors["roi"].all()  # the graph's own
    assert exported.self_test().passed


def test_without_tiles_a_file_says_nothing_of_them(onnx_path: Path) -> None:
    model = flawscope.load(onnx_path)
    assert "fusion" not in model.manifest.to_dict()
    assert not {"tile", "overlap"} & set(model.manifest.preprocess.to_dict())
    assert "region" not in model.artefact.tensors


@pytest.mark.parametrize("roi", [None, ROI], ids=["everywhere", "region"])
def test_a_picture_of_exactly_one_tile_is_seen_as_without_tiles(
    roi: str | None, tiled: Tiled, tiled_pictures: Path
) -> None:
    model = flawscope.load(tiled(".onnx", roi=roi))
    manifest = replace(model.manifest, preprocess=model.manifest.preprocess.whole, fusion=None)
    found = model.predict(tiled_pictures / "tile/0.png")
    if roi is None:
        plain = Predictor(Artefact(manifest, model.artefact.tensors), model.session)
        expected = plain.predict(tiled_pictures / "tile/0.png")
        assert (found.score, found.geometry) == (expected.score, expected.geometry)
        np.testing.assert_array_equal(found.map, expected.map)
    else:
        assert found.map[~model.artefact.tensors["region"]].max() <= found.map.min() + 1e-6


def test_a_picture_of_one_tile_that_is_fitted_in_lies_where_it_is_shown() -> None:
    """Tile and size of different shapes, with keep_aspect: there is a border beside it."""
    how = Preprocess((64, 64), keep_aspect=True, tile=(96, 48))
    picture = np.full((96, 48, 3), 100, np.uint8)
    views = how.views(picture)
    assert len(views) == 1
    assert views.geometry == how.geometry((96, 48)) == how.whole.geometry((96, 48))
    np.testing.assert_array_equal(views.images([0])[0, 0] >= 0, views.geometry.inside())
    assert views.geometry.inside().mean() == 0.5


def test_batches_of_tiles_change_nothing(tiled: Tiled, pictures: list[Path]) -> None:
    model = flawscope.load(tiled(".onnx", roi=ROI))
    for path in pictures[:3]:
        views = model.manifest.preprocess.views(path).within(model.artefact.tensors["region"])
        score, drawn = views.answer(model.session.run, model.manifest.fusion, 1)
        for batch in (3, 8, 100):
            other, also = views.answer(model.session.run, model.manifest.fusion, batch)
            assert other == pytest.approx(score, rel=1e-5)
            np.testing.assert_allclose(also, drawn, rtol=1e-4, atol=1e-4)


def test_outside_of_the_region_nothing_is_computed_and_nothing_found(
    tiled: Tiled, tiled_pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = flawscope.load(tiled(".onnx", roi="0.78,0,1,0.47"))  # the upper right corner
    run, counts = narrow.session.run, []
    monkeypatch.setattr(
        narrow.session, "run", lambda images, where: counts.append(len(images)) or run(images)
    )
    noise = tiled_pictures / "odd/noise.png"  # in the lower right corner
    found = narrow.predict(noise)
    assert sum(counts) == 3  # the whole picture, and of three columns of two tiles the right one
    inside = narrow.counted(found.geometry)
    assert (found.map[~inside] == found.map.min()).all()
    assert found.score == found.map[inside].max()
    assert not found.is_anomalous
    assert flawscope.load(tiled(".onnx", roi=ROI)).predict(noise).is_anomalous


@pytest.mark.parametrize("score", ["map", "views"])
@pytest.mark.parametrize("which", [0, 3], ids=["whole picture", "tile"])
def test_a_view_without_a_number_makes_the_picture_have_none(
    score: str, which: int, tiled: Tiled, tiled_pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = flawscope.load(tiled(".onnx"))
    assert model.manifest.fusion is not None
    manifest = replace(model.manifest, fusion=replace(model.manifest.fusion, score=score))
    run, asked = model.session.run, []

    def spoilt(images: Any, where: Any) -> Any:
        asked.append(images)
        return tuple(np.full_like(part, np.nan) if len(asked) == which + 1 else part for part in run(images))

    monkeypatch.setattr(model.session, "run", spoilt)
    with pytest.raises(InputError, match="its score is not a number"):
        Predictor(replace(model.artefact, manifest=manifest), model.session).predict(
            tiled_pictures / "good/0.png"
        )


def test_a_picture_smaller_than_a_tile_is_one_line_and_the_others_are_done(
    engine: str, tiled: Tiled, tiled_pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small, good = str(tiled_pictures / "small/0.png"), str(tiled_pictures / "good/0.png")
    model = flawscope.load(tiled(".onnx"), engine=engine)
    with pytest.raises(InputError) as caught:
        model.predict(small)
    assert str(caught.value) == (
        f"cannot read picture {small}: it has 224 x 95 pixels, less than a tile of 96 x 96; "
        "fit with a smaller --tile"
    )
    assert [isinstance(found, InputError) for _, found in model.stream([good, small, good])] == [
        False,
        True,
        False,
    ]
    assert main(["predict", str(tiled(".onnx")), small, good, "--json", "--engine", engine]) == 1
    printed, said = capsys.readouterr()
    assert [json.loads(line)["path"] for line in printed.splitlines()][-1] == good
    assert said.count("less than a tile") == 1


def test_a_tiled_model_is_calibrated_anew_by_pictures(
    engine: str, tiled: Tiled, tiled_pictures: Path, tmp_path: Path
) -> None:
    good = sorted((tiled_pictures / "good").iterdir())
    model = flawscope.load(tiled(".onnx", roi=ROI), engine=engine)
    again = model.calibrate([*good])
    assert list(again.calibration.scores) == [found.score for found in model.predict([*good])]
    again.save(tmp_path / "m.onnx")
    found = flawscope.load(tmp_path / "m.onnx", engine=engine)
    assert found.manifest.fusion == model.manifest.fusion
    assert found.predict(good[0]).score == pytest.approx(again.calibration.scores[0], rel=1e-6)


# ------------------------------------------------------------------------------------------------- bad files


def rewritten(source: Path, path: Path, change: Callable[[dict[str, str]], None]) -> Path:
    """An .onnx model whose entries are changed and whose hashes are right."""
    data, file = source.read_bytes(), io.BytesIO()
    entries = onnx_file.entries_of(data)
    change(entries)
    entries[onnx_file.METADATA_SHA256] = onnx_file.metadata_hash(entries)
    onnx_file.write_entries(file, onnx_file.body(data), entries)
    path.write_bytes(file.getvalue())
    return path


def manifest(**changes: Any) -> Callable[[dict[str, str]], None]:
    """None removes an entry; those of the preprocessing and the fusion are found by their names."""

    def change(entries: dict[str, str]) -> None:
        data = json.loads(entries["flawscope"])
        for key, value in changes.items():
            where = next((d for d in (data["preprocess"], data["fusion"]) if key in d), data)
            if value is None:
                del where[key]
            else:
                where[key] = value
        entries["flawscope"] = json.dumps(data)

    return change


def region(mask: Any) -> Callable[[dict[str, str]], None]:
    return lambda entries: entries.update(
        {"flawscope.region": base64.b64encode(zlib.compress(np.asarray(mask).tobytes())).decode()}
    )


BAD: dict[str, tuple[Callable[[dict[str, str]], None], str]] = {
    "fusion without tiles": (manifest(tile=None), "a model with tiles has a fusion, and no other one"),
    "tiles without fusion": (manifest(fusion=None), "a model with tiles has a fusion, and no other one"),
    "tile as text": (manifest(tile=["96", "96"]), "two whole numbers"),
    "tile of one pixel": (manifest(tile=[1, 1]), "choose 1/8 to 1024 times the size"),
    "tile of a million": (manifest(tile=[64 * 10**6] * 2), "choose 1/8 to 1024 times the size"),
    "overlap of two": (manifest(overlap=2), "share of a tile"),
    "factor of zero": (manifest(factor=0), "factor above 0"),
    "region of another size": (region(np.ones((32, 32), bool)), "region of interest are damaged"),
    "region of numbers": (region(np.ones((64, 64), np.float32)), "region of interest are damaged"),
    "region of gigabytes": (region(np.zeros((1 << 14, 1 << 14), bool)), "region of interest are damaged"),
    "region of nothing": (region(np.zeros((64, 64), bool)), "does not fit its tiles"),
    "region that is not packed": (lambda e: e.update({"flawscope.region": "AAAA"}), "are damaged"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_line(
    name: str, tiled: Tiled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, reason = BAD[name]
    path = rewritten(tiled(".onnx"), tmp_path / "bad.onnx", change)
    assert main(["predict", str(path), str(path)]) == 2
    err = capsys.readouterr().err
    assert reason in err
    assert err.count("\n") == 1
    assert len(err) < 300 + len(str(path))


def test_a_region_for_tiles_in_a_model_without_them_is_one_line(onnx_path: Path, tmp_path: Path) -> None:
    bad = rewritten(onnx_path, tmp_path / "bad.onnx", region(np.ones((64, 64), bool)))
    with pytest.raises(InputError, match="does not fit its tiles"):
        flawscope.load(bad)
    assert predictor.read_manifest(bad).fusion is None


def test_a_canvas_far_larger_than_its_picture_is_refused_before_there_is_one(
    tiled: Tiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiles may be enlarged, within what memory holds."""
    path = rewritten(tiled(".onnx"), tmp_path / "m.onnx", manifest(tile=[8, 8]))
    model, sizes, resized = flawscope.load(path), [], preprocess._resized

    def counted(picture: Any, size: tuple[int, int], box: Any) -> Any:
        sizes.append(size)
        return resized(picture, size, box)

    monkeypatch.setattr(preprocess, "_resized", counted)
    with pytest.raises(
        InputError, match="would be enlarged to 16400 x 16400 pixels; fit with a larger --tile"
    ):
        model.predict(np.zeros((2050, 2050, 3), np.uint8))
    assert sizes == [(64, 64)]
    assert model.predict(Image.new("RGB", (9, 8))).map.shape == (64, 72)

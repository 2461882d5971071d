"""What is written to disk: where, and what is in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flawscope.datasets import Item
from flawscope.errors import FlawscopeError
from flawscope.imaging import Preprocess, read_mask
from flawscope.prediction import Prediction
from flawscope.results import Pictures

SIZE = (16, 16)


def predict(path: Path, values: np.ndarray, picture: tuple[int, int] = (40, 60)) -> Prediction:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", picture[::-1], (90, 90, 90)).save(path)
    return Prediction(
        score=float(values.max()),
        p_value=0.5,
        is_anomalous=bool(values.max() > 0.5),
        map=values.astype(np.float32),
        geometry=Preprocess(SIZE).geometry(picture),
        threshold=0.5,
        mask_threshold=0.5,
        colour_range=(0.0, 1.0),
        path=str(path),
    )


@pytest.fixture
def spot() -> np.ndarray:
    values = np.zeros(SIZE)
    values[4:8, 4:8] = 0.9
    return values


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_an_evaluated_picture_is_written_under_its_kind_and_name(tmp_path: Path, spot: np.ndarray) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    path = root / "test/dent/000.png"
    pictures = Pictures(out, root)
    pictures.take(Item(path, "dent", True), predict(path, spot))
    assert files(out) == {f"{folder}/dent/000.png" for folder in ("overlays", "maps", "masks")}
    sheet = pictures.finish("title")
    assert sheet == out / "contact_sheet.png"
    Image.open(sheet).verify()


def test_the_files_hold_the_map_the_mask_and_an_overlay_of_the_pictures_size(
    tmp_path: Path, spot: np.ndarray
) -> None:
    path = tmp_path / "data/test/dent/000.png"
    Pictures(tmp_path / "out", tmp_path / "data").take(Item(path, "dent", True), predict(path, spot))
    out = tmp_path / "out"
    np.testing.assert_array_equal(read_mask(out / "masks/dent/000.png"), spot > 0.5)
    map16 = np.array(Image.open(out / "maps/dent/000.png"))
    np.testing.assert_allclose(map16 / 65535, spot, atol=1e-4)  # 0..1 is the fixed colour range
    assert Image.open(out / "overlays/dent/000.png").size == (60, 40)


def test_large_pictures_give_overlays_of_bearable_size(tmp_path: Path, spot: np.ndarray) -> None:
    path = tmp_path / "data/test/dent/000.png"
    prediction = predict(path, spot, (1000, 5000))
    Pictures(tmp_path / "out", tmp_path / "data").take(Item(path, "dent", True), prediction)
    width, height = Image.open(tmp_path / "out/overlays/dent/000.png").size
    assert max(width, height) == 2048
    assert height == pytest.approx(2048 / 5, abs=1)


def test_nothing_is_written_above_the_output_folder(
    tmp_path: Path, spot: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, out = tmp_path / "a/b/c", tmp_path / "a/out"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    outside = tmp_path / "elsewhere/x.png"
    prediction = predict(outside, spot)
    before = files(tmp_path)
    pictures = Pictures(out)
    pictures.add(outside, prediction)
    pictures.add(Path("../../../elsewhere/x.png"), prediction)
    pictures.finish("")
    new = files(tmp_path) - before
    assert new
    assert all(name.startswith("a/out/") for name in new)


def test_pictures_of_one_name_in_two_folders_do_not_overwrite_each_other(
    tmp_path: Path, spot: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pictures = Pictures(tmp_path / "out")
    for name in ("v1.2/x.png", "v1.3/x.png"):
        pictures.add(Path(name), predict(tmp_path / name, spot))
    assert len([f for f in files(tmp_path / "out") if f.startswith("overlays/")]) == 2


def test_pictures_that_differ_in_their_suffix_only_do_not_overwrite_each_other(
    tmp_path: Path, spot: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pictures = Pictures(tmp_path / "out")
    for name in ("in/a.png", "in/a.jpg", "in/b.jpg"):
        pictures.add(Path(name), predict(tmp_path / name, spot))
    overlays = {f for f in files(tmp_path / "out") if f.startswith("overlays/")}
    assert len(overlays) == 3
    pictures.add(Path("in/a.jpg"), predict(tmp_path / "in/a.jpg", spot))  # the same one again is no other
    assert {f for f in files(tmp_path / "out") if f.startswith("overlays/")} == overlays


def test_evaluated_pictures_of_two_suffixes_are_told_apart(tmp_path: Path, spot: np.ndarray) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    pictures = Pictures(out, root)
    for name in ("test/dent/a.png", "test/dent/a.jpg"):
        pictures.take(Item(root / name, "dent", True), predict(root / name, spot))
    names = ("a.png", "a.jpg.png")
    assert files(out) == {f"{folder}/dent/{n}" for folder in ("overlays", "maps", "masks") for n in names}


def test_a_file_in_the_way_is_one_line(tmp_path: Path, spot: np.ndarray) -> None:
    (tmp_path / "out").write_text("in the way")
    path = tmp_path / "data/test/dent/000.png"
    prediction = predict(path, spot)
    with pytest.raises(FlawscopeError, match="cannot write to"):
        Pictures(tmp_path / "out", tmp_path / "data").take(Item(path, "dent", True), prediction)


def test_without_pictures_there_is_no_sheet(tmp_path: Path) -> None:
    assert Pictures(tmp_path).finish("nothing") is None
    assert files(tmp_path) == set()

"""The examples answer as flawscope does: the same tensor, score and decision."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import flawscope
from flawscope.artefact import model_file
from flawscope.pictures.decoding import decode
from flawscope.runtime import onnx_file as runtime
from flawscope.views.preprocess import Preprocess
from flawscope.views.tiles import Fusion
from import_graph import imported_by

EXAMPLES = Path(__file__).parents[2] / "examples"
SIZE = 64  # of the small model
WAYS = {
    "stretched": Preprocess((SIZE, SIZE)),
    "fitted in": Preprocess((SIZE, SIZE), keep_aspect=True),
    "centre": Preprocess((SIZE + 16, SIZE + 9), crop=(SIZE, SIZE)),
    "centre, covering": Preprocess((SIZE + 16, SIZE + 9), keep_aspect=True, crop=(SIZE, SIZE)),
}
TILES = {
    "tiles": (Preprocess((SIZE, SIZE), tile=(SIZE, SIZE)), Fusion("map", 1.3, -0.1)),
    "reduced, of another shape": (
        Preprocess((SIZE, SIZE), keep_aspect=True, tile=(96, 80), overlap=0.6),
        Fusion("views", 0.4, 0.2),
    ),
    "enlarged, side by side": (Preprocess((SIZE, SIZE), tile=(50, 40), overlap=0.0), Fusion("map", 0.01)),
}
BOTH = ("stretched", "fitted in")  # ways in which some pictures are anomalous and some are not

SIZES = [(SIZE, SIZE), (SIZE, 200), (1, 1), (7, 500), (480, 641), (SIZE - 1, SIZE + 1), (30, 41)]
TALL = [(333, SIZE), (110, 75), (500, 7)]
TILED = [(96, 80), (97, 81), (150, 267), (311, 101)]  # the first is one tile of the second way
ROI = "0.4,0.2,0.95,0.9"


def drawn_picture(height, width, seed=0):
    """Smooth in places, noisy in others, and no two pixels alike."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (height, width, 3))
    ramp = np.add.outer(np.arange(height), np.arange(width))[:, :, None] * [1, 2, 3] % 256
    return Image.fromarray(np.where(rng.random((height, width, 1)) < 0.3, noise, ramp).astype(np.uint8))


@pytest.fixture(scope="module")
def models(onnx_path, tmp_path_factory):
    """One network that gets its pictures in several ways."""
    folder, artefact = tmp_path_factory.mktemp("ways"), runtime.read(onnx_path)
    assert artefact.manifest.preprocess.size == (SIZE, SIZE)
    made = {}
    for name, (how, fusion) in ({name: (how, None) for name, how in WAYS.items()} | TILES).items():
        made[name] = folder / f"{name}.onnx"
        manifest = replace(artefact.manifest, preprocess=how, fusion=fusion)
        runtime.write(replace(artefact, manifest=manifest), onnx_path.read_bytes(), made[name])
    return made


@pytest.fixture(params=[None, ROI], ids=str)
def fitted(request, tiled):
    """A model that was fitted on tiles, without and with a region of interest."""
    return tiled(".onnx", roi=request.param)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, drawn):
    """Of every ordinary kind, and the drawn ones, of which some are anomalous."""
    folder = tmp_path_factory.mktemp("pictures")
    picture = drawn_picture(75, 110)
    sideways = picture.transpose(Image.Transpose.ROTATE_90)
    alpha = drawn_picture(75, 110, 1).convert("L")
    rotated = Image.Exif()
    rotated[0x0112] = 6
    for suffix in ("png", "jpg"):
        picture.save(folder / f"colour.{suffix}")
        sideways.save(folder / f"rotated.{suffix}", exif=rotated)
        picture.convert("L").save(folder / f"grey.{suffix}")
    picture.convert("1").save(folder / "bits.png")
    picture.convert("P").save(folder / "palette.png", transparency=3)
    picture.convert("CMYK").save(folder / "print.jpg")
    picture.save(folder / "one_colour_transparent.png", transparency=picture.getpixel((5, 5)))
    Image.merge("RGBA", [*picture.split(), alpha]).save(folder / "transparent.png")
    Image.merge("LA", [picture.convert("L"), alpha]).save(folder / "grey_transparent.png")
    return [*sorted(folder.iterdir()), *sorted((drawn / "plate/test").rglob("*.png"))]


def run(*words):
    return subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=300)


def lines(*words):
    done = run(*words)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def refusal(*words):
    """What it says of what it cannot do: one line."""
    done = run(*words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    return done.stderr


def same(found, expected):
    assert found["score"] == pytest.approx(expected.score, rel=1e-5)
    assert (found["p_value"], found["is_anomalous"]) == (expected.p_value, expected.is_anomalous)
    # pixels within rounding of the threshold may fall on either side
    above = (expected.map > expected.levels.mask_threshold).mean()
    assert found["share_marked"] == pytest.approx(above, abs=2 / SIZE**2)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """examples/cpp, built here if all that it needs is here."""
    build = tmp_path_factory.mktemp("cpp")
    compiler = next(filter(shutil.which, [os.environ.get("CXX") or "c++", "g++", "clang++"]), None)
    if not (shutil.which("cmake") and compiler):
        pytest.skip("no CMake or no C++ compiler: apt-get install cmake g++")
    options = ["-DCMAKE_BUILD_TYPE=Release", f"-DPython3_EXECUTABLE={sys.executable}"]
    done = run("cmake", "-S", EXAMPLES / "cpp", "-B", build, *options)
    if done.returncode and "ORT_HEADERS" in done.stderr:
        pytest.skip("no headers of ONNX Runtime: unpack its release, and set ONNXRUNTIME_ROOT")
    assert done.returncode == 0, done.stderr
    done = run("cmake", "--build", build)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stdout + done.stderr
    return build / "predict"


@dataclass
class Example:
    """One of the two, called."""

    words: list[Any]
    folder: Path

    def given(self, path):
        """The picture as the example reads it."""
        if len(self.words) > 1:
            return path
        Image.fromarray(decode(path)).save(self.folder / "a.ppm")
        return self.folder / "a.ppm"

    def judges(self, model, paths):
        """The pictures as flawscope judges them."""
        if len(self.words) > 1:
            found = lines(*self.words, model, *paths)
            assert [line["path"] for line in found] == [str(path) for path in paths]
        else:
            found = [line for path in paths for line in lines(*self.words, model, self.given(path))]
        opened = flawscope.load(model)
        for line, path in zip(found, paths, strict=True):
            same(line, opened.predict(path))
        return found


@pytest.fixture(params=["python", "cpp"])
def example(request, tmp_path):
    cpp = request.param == "cpp"
    words = [request.getfixturevalue("program")] if cpp else [sys.executable, EXAMPLES / "predict.py"]
    return Example(words, tmp_path)


def saved(folder, sizes):
    paths = [folder / f"{k}.png" for k in range(len(sizes))]
    for path, (height, width) in zip(paths, sizes, strict=True):
        drawn_picture(height, width).save(path)
    return paths


@pytest.mark.parametrize("way", WAYS)
def test_score_and_decision(way, example, models, pictures, tmp_path):
    found = example.judges(models[way], pictures)
    if way in BOTH:
        assert len({line["is_anomalous"] for line in found}) == 2
    example.judges(models[way], saved(tmp_path, TALL))


@pytest.mark.parametrize("way", TILES)
def test_tiles(way, example, models, tmp_path):
    example.judges(models[way], saved(tmp_path, TILED))


def test_a_model_that_was_fitted_on_tiles(example, fitted, tiled_pictures):
    found = example.judges(fitted, tiled_paths(tiled_pictures))
    assert {line["is_anomalous"] for line in found} == {True, False}
    assert any(0 < line["share_marked"] < 1 for line in found)
    said = refusal(*example.words, fitted, example.given(tiled_pictures / "small/0.png"))
    assert "is smaller than a tile of 96 x 96 pixels" in said


def tiled_paths(folder):
    return [path for kind in ("good", "odd", "tile") for path in sorted((folder / kind).iterdir())]


PYTHON = [sys.executable, EXAMPLES / "predict.py"]


def test_in_python_it_refuses_what_it_does_not_know(onnx_path, tmp_path):
    deep, newer = tmp_path / "deep.png", tmp_path / "newer.onnx"
    Image.fromarray(np.full((9, 9), 4095, np.uint16)).save(deep)
    artefact = runtime.read(onnx_path)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(model_file, "FORMAT", 7)
        runtime.write(artefact, onnx_path.read_bytes(), newer)
    for model in (onnx_path, newer):
        assert "does not know" in refusal(*PYTHON, model, deep)


def test_in_python_it_is_short_and_needs_little():
    path = EXAMPLES / "predict.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 145
    names = {name.partition(".")[0] for name in imported_by(path)}
    assert names == {"base64", "json", "os", "sys", "zlib", "numpy", "onnxruntime", "PIL"}


@pytest.mark.parametrize("way", [*WAYS, *TILES])
def test_in_cpp_the_tensor_is_the_same_bit_by_bit(way, program, models, tmp_path):
    preprocess, sizes = (WAYS[way], [*SIZES, *TALL]) if way in WAYS else (TILES[way][0], TILED)
    for height, width in sizes:
        picture = drawn_picture(height, width)
        picture.save(tmp_path / "a.ppm")
        lines(program, models[way], tmp_path / "a.ppm", "--dump", tmp_path / "a.f32")
        expected, _ = preprocess(picture)
        found = np.fromfile(tmp_path / "a.f32", np.float32).reshape(expected.shape)
        np.testing.assert_array_equal(found, expected, err_msg=f"{picture.size}, {way}")


def test_in_cpp_the_tensors_of_a_model_that_was_fitted_on_tiles(fitted, program, tiled_pictures, tmp_path):
    model = flawscope.load(fitted)
    for path in tiled_paths(tiled_pictures):
        picture = Image.open(path)
        picture.save(tmp_path / "a.ppm")
        lines(program, fitted, tmp_path / "a.ppm", "--dump", tmp_path / "a.f32")
        views = model.manifest.preprocess.views(picture).with_roi(model.artefact.tensors.get("region"))
        expected = views.images(views.view_numbers())
        np.testing.assert_array_equal(np.fromfile(tmp_path / "a.f32", np.float32), expected.ravel())


def test_in_cpp_a_region_of_any_shape(program, tiled, tiled_pictures, tmp_path):
    """It is unpacked in the example itself: of many and of few bits."""
    path, changed = tiled(".onnx", roi=ROI), tmp_path / "m.onnx"
    artefact, rng = runtime.read(path), np.random.default_rng(0)
    Image.open(tiled_pictures / "odd/0.png").save(tmp_path / "a.ppm")
    for share in (1.0, 0.5, 0.01):
        region = rng.random((SIZE, SIZE)) < share
        tensors = {**artefact.tensors, "region": region}
        runtime.write(replace(artefact, tensors=tensors), path.read_bytes(), changed)
        (found,) = lines(program, changed, tmp_path / "a.ppm")
        same(found, flawscope.load(changed).predict(tiled_pictures / "odd/0.png"))


def test_in_cpp_a_canvas_that_is_too_large_is_one_line(program, tiled, tmp_path):
    path, changed = tiled(".onnx"), tmp_path / "m.onnx"
    artefact = runtime.read(path)
    how = replace(artefact.manifest.preprocess, tile=(8, 8))  # enlarged eight times
    manifest = replace(artefact.manifest, preprocess=how)
    runtime.write(replace(artefact, manifest=manifest), path.read_bytes(), changed)
    Image.new("RGB", (3000, 3000)).save(tmp_path / "a.ppm")
    said = refusal(program, changed, tmp_path / "a.ppm")
    assert said == "predict: the picture is too large for such tiles\n"


def test_in_cpp_bad_input_is_one_line(program, onnx_path, tmp_path):
    good, short, deep = (tmp_path / f"{name}.ppm" for name in ("good", "short", "deep"))
    drawn_picture(9, 9).save(good)
    short.write_bytes(good.read_bytes()[:-1])
    deep.write_bytes(b"P6 1 1 65535\n" + bytes(6))
    for words in ([], [onnx_path], [onnx_path, tmp_path / "no.ppm"], [onnx_path, short], [onnx_path, deep],
                  [onnx_path, onnx_path], [good, good], [onnx_path, good, "--dump", tmp_path]):  # fmt: skip
        done = run(program, *words)
        assert (done.returncode, done.stdout, done.stderr[:9]) == (1, "", "predict: ")


def test_the_golden_tensor_of_the_readme(onnx_path, tmp_path, monkeypatch):
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    shutil.copy(onnx_path, tmp_path / "part.onnx")
    drawn_picture(30, 41).save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    expected, _ = WAYS["stretched"](drawn_picture(30, 41))
    np.testing.assert_array_equal(np.fromfile("tensor.f32", np.float32), expected.ravel())

"""The examples answer as flawscope does: the same tensor, score and decision."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import flawscope
from flawscope.pictures.preprocess import Preprocess
from flawscope.runtime import onnx as runtime

EXAMPLES = Path(__file__).parents[1] / "examples"
SIZE = 64  # of the small model
WAYS = {
    "stretched": Preprocess((SIZE, SIZE)),
    "fitted in": Preprocess((SIZE, SIZE), keep_aspect=True),
    "centre": Preprocess((SIZE + 16, SIZE + 9), crop=(SIZE, SIZE)),
    "centre, covering": Preprocess((SIZE + 16, SIZE + 9), keep_aspect=True, crop=(SIZE, SIZE)),
}
BOTH = ("stretched", "fitted in")  # ways in which some pictures are anomalous and some are not

SIZES = [(SIZE, SIZE), (SIZE, 200), (1, 1), (7, 500), (480, 641), (SIZE - 1, SIZE + 1), (30, 41)]
TALL = [(333, SIZE), (110, 75), (500, 7)]


def drawn_picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth in places, noisy in others, and no two pixels alike."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (height, width, 3))
    ramp = np.add.outer(np.arange(height), np.arange(width))[:, :, None] * [1, 2, 3] % 256
    return Image.fromarray(np.where(rng.random((height, width, 1)) < 0.3, noise, ramp).astype(np.uint8))


@pytest.fixture(scope="module")
def models(onnx_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One network that gets its pictures in several ways."""
    folder, artefact = tmp_path_factory.mktemp("ways"), runtime.read(onnx_path)
    assert artefact.manifest.preprocess.size == (SIZE, SIZE)
    made = {}
    for name, how in WAYS.items():
        made[name] = folder / f"{name}.onnx"
        changed = replace(artefact, manifest=replace(artefact.manifest, preprocess=how))
        runtime.write(changed, onnx_path.read_bytes(), made[name])
    return made


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, drawn: Path) -> list[Path]:
    """Of every ordinary kind, and the drawn ones, of which some are anomalous."""
    folder = tmp_path_factory.mktemp("pictures")
    picture = drawn_picture(75, 110)
    sideways = picture.transpose(Image.Transpose.ROTATE_90)
    alpha = drawn_picture(75, 110, 1).convert("L")
    rotated = Image.Exif()
    rotated[0x0112] = 6
    picture.save(folder / "colour.png")
    picture.save(folder / "colour.jpg")
    sideways.save(folder / "rotated.jpg", exif=rotated)
    sideways.save(folder / "rotated.png", exif=rotated)
    picture.convert("L").save(folder / "grey.png")
    picture.convert("L").save(folder / "grey.jpg")
    picture.convert("1").save(folder / "bits.png")
    picture.convert("P").save(folder / "palette.png", transparency=3)
    picture.convert("CMYK").save(folder / "print.jpg")
    picture.save(folder / "one_colour_transparent.png", transparency=picture.getpixel((5, 5)))
    Image.merge("RGBA", [*picture.split(), alpha]).save(folder / "transparent.png")
    Image.merge("LA", [picture.convert("L"), alpha]).save(folder / "grey_transparent.png")
    return [*sorted(folder.iterdir()), *sorted((drawn / "plate/test").rglob("*.png"))]


def lines(*words: Any) -> list[dict[str, Any]]:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def same(found: dict[str, Any], expected: flawscope.Prediction) -> None:
    assert found["score"] == pytest.approx(expected.score, rel=1e-5)
    assert found["p_value"] == expected.p_value
    assert found["is_anomalous"] == expected.is_anomalous
    # pixels within rounding of the threshold may fall on either side
    above = (expected.map > expected.mask_threshold).mean()
    assert found["share_marked"] == pytest.approx(above, abs=2 / SIZE**2)


# ------------------------------------------------------------------------------------------------ Python


@pytest.mark.parametrize("way", WAYS)
def test_in_python(way: str, models: dict[str, Path], pictures: list[Path]) -> None:
    model = flawscope.load(models[way])
    found = lines(sys.executable, EXAMPLES / "predict.py", models[way], *pictures)
    assert [line["path"] for line in found] == [str(path) for path in pictures]
    for line, path in zip(found, pictures, strict=True):
        same(line, model.predict(path))
    if way in BOTH:
        assert len({line["is_anomalous"] for line in found}) == 2


def test_in_python_tall_pictures(models: dict[str, Path], tmp_path: Path) -> None:
    model = flawscope.load(models["stretched"])
    for height, width in TALL:
        drawn_picture(height, width).save(tmp_path / "a.png")
        (found,) = lines(sys.executable, EXAMPLES / "predict.py", models["stretched"], tmp_path / "a.png")
        same(found, model.predict(tmp_path / "a.png"))


def test_in_python_it_refuses_what_it_does_not_know(
    models: dict[str, Path], onnx_path: Path, tmp_path: Path
) -> None:
    deep = tmp_path / "deep.png"
    Image.fromarray(np.full((9, 9), 4095, np.uint16)).save(deep)
    artefact = runtime.read(onnx_path)
    newer = tmp_path / "newer.onnx"
    manifest = replace(artefact.manifest, format=3)
    runtime.write(replace(artefact, manifest=manifest), onnx_path.read_bytes(), newer)
    for model in (onnx_path, newer):
        words = [sys.executable, EXAMPLES / "predict.py", model, deep]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
        assert done.returncode == 1
        assert "does not know" in done.stderr
        assert done.stderr.count("\n") == 1
        assert not done.stdout


def test_in_python_it_is_short_and_needs_little() -> None:
    text = (EXAMPLES / "predict.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 40
    names = set()
    for part in ast.walk(ast.parse(text)):
        if isinstance(part, ast.Import):
            names |= {alias.name for alias in part.names}
        elif isinstance(part, ast.ImportFrom):
            names.add(part.module)
    assert names == {"json", "sys", "numpy", "onnxruntime", "PIL"}


# --------------------------------------------------------------------------------------------------- C++


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """examples/cpp, built here if all that it needs is here."""
    build = tmp_path_factory.mktemp("cpp")
    compiler = next(filter(shutil.which, [os.environ.get("CXX") or "c++", "g++", "clang++"]), None)
    missing = [
        name for name, there in (("CMake", shutil.which("cmake")), ("a C++ compiler", compiler)) if not there
    ]
    if missing:
        pytest.skip(f"no {' and no '.join(missing)}")
    options = ["-DCMAKE_BUILD_TYPE=Release", f"-DPython3_EXECUTABLE={sys.executable}"]
    words = ["cmake", "-S", EXAMPLES / "cpp", "-B", build, *options]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    if done.returncode and "ORT_HEADERS" in done.stderr:
        pytest.skip("no headers of ONNX Runtime: set ONNXRUNTIME_ROOT or ONNXRUNTIME_INCLUDE")
    assert done.returncode == 0, done.stderr
    done = subprocess.run(["cmake", "--build", build], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stdout + done.stderr
    return build / "predict"


@pytest.mark.parametrize("way", WAYS)
def test_in_cpp_the_tensor_is_the_same_bit_by_bit(
    way: str, program: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    for height, width in SIZES:
        same_tensor(drawn_picture(height, width), way, program, models, tmp_path)


def test_in_cpp_the_tensor_of_a_tall_picture_is_the_same(
    program: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    for way in WAYS:
        for height, width in TALL:
            same_tensor(drawn_picture(height, width), way, program, models, tmp_path)


def same_tensor(picture: Image.Image, way: str, program: Path, models: dict[str, Path], folder: Path) -> None:
    picture.save(folder / "a.ppm")
    lines(program, models[way], folder / "a.ppm", "--dump", folder / "a.f32")
    expected, _ = WAYS[way](picture)
    found = np.fromfile(folder / "a.f32", np.float32).reshape(expected.shape)
    np.testing.assert_array_equal(found, expected, err_msg=f"{picture.size}, {way}")


@pytest.mark.parametrize("way", WAYS)
def test_in_cpp_score_and_decision(
    way: str, program: Path, models: dict[str, Path], pictures: list[Path], tmp_path: Path
) -> None:
    model = flawscope.load(models[way])
    decisions, worst = set(), 0.0
    for path in pictures:
        Image.fromarray(flawscope.pictures.preprocess.decode(path)).save(tmp_path / "a.ppm")
        (found,) = lines(program, models[way], tmp_path / "a.ppm")
        expected = model.predict(path)
        same(found, expected)
        decisions.add(found["is_anomalous"])
        worst = max(worst, abs(found["score"] / expected.score - 1))
    print(f"largest relative difference of a score: {worst:.1e}")
    if way in BOTH:
        assert len(decisions) == 2


def test_in_cpp_bad_input_is_one_line(program: Path, onnx_path: Path, tmp_path: Path) -> None:
    good, short, deep = (tmp_path / f"{name}.ppm" for name in ("good", "short", "deep"))
    drawn_picture(9, 9).save(good)
    short.write_bytes(good.read_bytes()[:-1])
    deep.write_bytes(b"P6 1 1 65535\n" + bytes(6))
    for words in ([], [onnx_path], [onnx_path, tmp_path / "no.ppm"], [onnx_path, short], [onnx_path, deep],
                  [onnx_path, onnx_path], [good, good], [onnx_path, good, "--dump", tmp_path]):  # fmt: skip
        done = subprocess.run([program, *words], capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        assert done.stderr.startswith("predict: ")
        assert not done.stdout


# ------------------------------------------------------------------------------------------------ README


def test_the_golden_tensor_of_the_readme(
    onnx_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    shutil.copy(onnx_path, tmp_path / "part.onnx")
    drawn_picture(30, 41).save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    expected, _ = WAYS["stretched"](drawn_picture(30, 41))
    np.testing.assert_array_equal(np.fromfile("tensor.f32", np.float32), expected.ravel())

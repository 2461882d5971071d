"""Runs to report on, with a session that anybody can compute in the head: a picture's map is its red channel,
its score the brightest pixel."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from flawscope.artefact.model_file import Artefact, Manifest, Picture
from flawscope.calibration.decision import Calibration
from flawscope.datasets import Dataset, open_dataset
from flawscope.evaluation import Evaluation, evaluate
from flawscope.pictures.decoding import decode, pixel_hash
from flawscope.pictures.preprocess import Preprocess
from flawscope.predictor import Predictor
from flawscope.report import write_report

SIDE = 16
HOSTILE = "<img src=x onerror=alert(1)>\"'&amp;日本"  # a name that must never become markup


class Brightness:
    runtime = "fake"
    size = (SIDE, SIDE)
    batch, lanes = 3, 1

    def run(
        self, images: NDArray[np.float32], positions: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        maps = images[:, 0]
        return maps.max((1, 2)), maps

    run_alone = run


class Run(NamedTuple):
    result: Evaluation
    predictor: Predictor
    dataset: Dataset

    def write(self, path: Path) -> str:
        write_report(path, self.result, self.predictor, self.dataset, model="model.safetensors")
        return path.read_text(encoding="utf-8")


def run_on(root: Path, learnt: tuple[Path, ...] = (), **manifest: Any) -> Run:
    """Evaluate with the threshold at 0.5, of 20 calibration scores."""
    values = (*map(float, np.linspace(0.1, 0.49, 19)), 0.5)
    predictor = Predictor(
        Artefact(
            Manifest(
                method="patchcore",
                config={"seed": 0},
                preprocess=Preprocess((SIDE, SIDE)),
                calibration=Calibration(values, values, 0.1, rate=0.05),
                pictures=tuple(Picture(pixel_hash(decode(p)), "train", p.name) for p in learnt),
                **manifest,
            ),
            {},
        ),
        Brightness(),
    )
    dataset = open_dataset(root)
    return Run(evaluate(predictor, dataset), predictor, dataset)


def draw(path: Path, level: float, *, spot: bool = False, size: tuple[int, int] = (32, 32)) -> Path:
    """A picture [H, W] of noise that the session does not see; `level` is its red, in a square if `spot`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([*os.fsencode(path.name)])
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[..., 1:] = rng.integers(0, 255, (*size, 2))
    h, w = size
    pixels[(slice(h // 4, h // 2), slice(w // 4, w // 2)) if spot else ...][..., 0] = round(level * 255)
    Image.fromarray(pixels).save(path)
    return path


def draw_mask(path: Path, size: tuple[int, int] = (32, 32)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    h, w = size
    pixels = np.zeros(size, np.uint8)
    pixels[h // 4 : h // 2, w // 4 : w // 2] = 255
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """What goes wrong in practice, all at once: names that are markup, an unreadable file, a defect without
    a mask, a flat and a tiny picture, a deep one, one that the model has learnt from."""
    root = tmp_path_factory.mktemp("hostile") / f"cat {HOSTILE}"
    for k in range(3):
        draw(root / f"train/good/{k}.png", 0.2)
    for k, level in enumerate((0.1, 0.2, 0.3, 0.6, 0.95)):
        draw(root / f"test/good/g{k}.png", level)
    learnt = draw(root / "test/good/learnt.png", 0.2)
    (root / "test/good/broken.png").write_bytes(b"\x89PNG nothing")
    draw(root / "test/good/tiny.png", 0.1, size=(2, 3))
    draw(root / "test/good/flat.png", 0.15, size=(4, 400))
    Image.fromarray(np.full((20, 20), 9000, np.uint16)).save(root / "test/good/deep.png")
    for k, level in enumerate((0.3, 0.8, 0.9)):
        draw(root / f"test/dent/d{k}.png", level, spot=True)
        draw_mask(root / f"ground_truth/dent/d{k}_mask.png")
    draw(root / f"test/{HOSTILE}/{HOSTILE}.png", 0.45, spot=True)
    with suppress(OSError):  # where names must be text
        draw(root / "test/good" / os.fsdecode(b"odd\xff.png"), 0.12)
    return run_on(root, (learnt,), notes=(f"a note with {HOSTILE}",), category=HOSTILE)


@pytest.fixture(scope="session")
def report_path(hostile: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    hostile.write(path)
    return path


@pytest.fixture
def run_of(tmp_path: Path) -> Callable[..., Run]:
    """A run on good test pictures and defective ones of these levels."""

    def made(good: tuple[float, ...], bad: tuple[float, ...], *, masks: bool = True) -> Run:
        root = tmp_path / "thing"
        draw(root / "train/good/0.png", 0.2)
        for k, level in enumerate(good):
            draw(root / f"test/good/g{k}.png", level)
        for k, level in enumerate(bad):
            draw(root / f"test/dent/d{k}.png", level, spot=True)
            if masks:
                draw_mask(root / f"ground_truth/dent/d{k}_mask.png")
        return run_on(root)

    return made

"""Runs to report on."""

import os
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from brightness import HOSTILE, draw, draw_mask, model
from flawscope.datasets import Dataset, open_dataset
from flawscope.evaluation.evaluation import evaluate
from flawscope.evaluation.result import Evaluation
from flawscope.pages.report import write_report
from flawscope.predictor import Predictor


class Run(NamedTuple):
    result: Evaluation
    predictor: Predictor
    dataset: Dataset

    def write(self, path):
        write_report(path, self.result, self.predictor, self.dataset, model="model.safetensors")
        return path.read_text(encoding="utf-8")


def run_on(root, **given):
    predictor, dataset = model(**given), open_dataset(root)
    return Run(evaluate(predictor, dataset), predictor, dataset)


@pytest.fixture(scope="session")
def hostile(tmp_path_factory):
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
    return run_on(root, seen={"train": [learnt]}, notes=(f"a note with {HOSTILE}",), category=HOSTILE)


@pytest.fixture(scope="session")
def report_path(hostile, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    hostile.write(path)
    return path


@pytest.fixture
def run_of(tmp_path):
    """A run on good test pictures and defective ones of these levels."""

    def made(good, bad, *, masks=True):
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

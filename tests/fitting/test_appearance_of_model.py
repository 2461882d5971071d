"""What a model keeps of its training pictures as a whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from flawscope.artefact.model_file import read, write
from flawscope.fitting.fitting import fit, partial_fit
from flawscope.pictures.appearance import KEY, Appearance, measure
from flawscope.predictor import load

pytest.importorskip("torch")


def measured(paths: list[Path], preprocess: object, roi: np.ndarray | None = None) -> list[tuple[float, ...]]:
    return [measure(preprocess(path)[0][0], roi) for path in paths]  # type: ignore[operator]


def test_the_range_is_that_of_the_training_pictures(model_path: Path, drawn: Path) -> None:
    artefact = read(model_path)
    train = sorted((drawn / "plate/train/good").glob("*.png"))
    wanted = Appearance.of(measured(train, artefact.manifest.preprocess))
    found = Appearance.from_facts(artefact.manifest.facts)
    assert wanted is not None
    assert found is not None
    assert found.pictures == len(train) == 12
    np.testing.assert_allclose(found.ranges, wanted.ranges, atol=1e-6)
    model = load(model_path, device="cpu", threads=1)
    assert all(abs(shift) < 1e-3 for path in train for shift in model.predict(path).shifts)


def test_outside_the_region_anything_may_be(drawn: Path) -> None:
    train = sorted((drawn / "plate/train/good").glob("*.png"))
    model = fit(
        list(map(str, train)), size=64, device="cpu", roi="0.25,0.25,0.75,0.75", samples=0, check=False
    )
    roi = model.artefact.tensors["roi"]
    found = Appearance.from_facts(model.manifest.facts)
    wanted = Appearance.of(measured(train, model.manifest.preprocess, roi))
    assert found is not None
    assert wanted is not None
    np.testing.assert_allclose(found.ranges, wanted.ranges, atol=1e-6)


def test_an_extended_model_expects_the_new_pictures_too(model_path: Path, drawn: Path) -> None:
    old = read(model_path)
    before = Appearance.from_facts(old.manifest.facts)
    more = sorted((drawn / "plate/test/good").glob("*.png"))
    new = partial_fit(old, list(map(str, more)), device="cpu", check=False)
    assert before is not None
    assert new.appearance is not None
    assert new.appearance.pictures == 16
    for row in measured(more, old.manifest.preprocess):
        assert max(map(abs, new.appearance.shifts(row))) < 1e-3
    assert all(
        a[0] <= b[0] <= b[1] <= a[1] for a, b in zip(new.appearance.ranges, before.ranges, strict=True)
    )


def test_a_model_from_before_opens_and_says_nothing_of_it(
    model_path: Path, drawn: Path, tmp_path: Path
) -> None:
    old = read(model_path)
    del old.manifest.facts[KEY]
    path = tmp_path / "old.safetensors"
    write(old, path)
    picture = min((drawn / "plate/test/good").glob("*.png"))
    now, then = (load(p, device="cpu", threads=1).predict(picture) for p in (model_path, path))
    assert then.shifts == ()
    assert (then.score, then.severity, then.to_dict()["shifts"]) == (now.score, now.severity, {})
    again = load(path, device="cpu", threads=1).calibrate([shutil.copy(picture, tmp_path / "new.png")])
    assert KEY not in again.manifest.facts

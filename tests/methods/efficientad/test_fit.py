"""From pictures to an EfficientAD model: what is held out, what the manifest says, what comes back."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import flawscope
from flawscope.artefact.state_file import read_checkpoint
from flawscope.calibration import hold_out
from flawscope.datasets import list_pictures
from flawscope.errors import InputError
from flawscope.fitting.fitting import fit
from flawscope.methods.efficientad import Config
from flawscope.methods.efficientad.fit import FOR_QUANTILES, Held, divided
from flawscope.methods.efficientad.networks import read_teacher, write_teacher
from flawscope.methods.task import Budget
from flawscope.pictures.decoding import decode, pixel_hash
from flawscope.predictor import Predictor
from flawscope.synthesis.demo.dataset import draw_picture

Settings = dict[str, Any]


@pytest.fixture(scope="module")
def few() -> list[np.ndarray]:
    """Four parts at the network's size: three are learnt, one is held out."""
    return [draw_picture("plate", np.random.default_rng([9, k]), size=256)[0] for k in range(4)]


@pytest.fixture(scope="module")
def model(efficientad_path: Path) -> Predictor:
    return flawscope.load(efficientad_path, device="cpu")


def fit_small(images: Any, settings: Settings, **options: Any) -> Predictor:
    """A border of 0 is quicker."""
    options = {"method": "efficientad", "device": "cpu", "samples": 0, "check": False, "border": 0, **options}
    return fit(images, **{**settings, **options})


def stop_after(count: int) -> Callable[[str, int, int], None]:
    def step(stage: str, done: int, total: int) -> None:
        if stage.startswith("training") and done == count:
            raise KeyboardInterrupt

    return step


# --------------------------------------------------------------------------------------------- holding out


def held_pictures(
    used: Sequence[int], groups: Sequence[int], config: Config, rate: float, reserved: Sequence[int] = ()
) -> Held:
    parts = hold_out(
        used,
        groups,
        share=config.held_out,
        rate=rate,
        seed=config.seed,
        method="efficientad",
        reserved=reserved,
        more=FOR_QUANTILES,
    )
    return divided(parts, len(used), rate, reserved)


@pytest.mark.parametrize(("total", "size"), [(150, 15), (200, 15), (130, 13), (150, 3)])
def test_large_groups_leave_the_threshold_what_its_rate_needs(total: int, size: int) -> None:
    for seed in range(5):
        config = Config(seed=seed)
        held = held_pictures(range(total), [i // size for i in range(total)], config, 0.05)
        assert len(held.threshold) >= 19 or len(held.all) < 19, (seed, len(held.threshold))


@pytest.mark.parametrize(
    ("total", "for_quantiles", "for_threshold"),
    [
        (2, 1, 1),
        (5, 1, 1),
        (12, 3, 3),
        (40, 10, 10),
        (48, 10, 10),  # 10 at least, where a quarter of all are as many
        (119, 12, 12),  # a tenth
        (120, 5, 19),  # as many as a rate of 5 % needs, and others for the quantiles
        (213, 5, 19),
        (1000, 20, 80),
    ],
)
def test_how_many_are_held_out(total: int, for_quantiles: int, for_threshold: int) -> None:
    held = held_pictures(range(total), range(total), Config(), 0.05)
    assert (len(held.quantiles), len(held.threshold)) == (for_quantiles, for_threshold)
    assert held.shared == (total < 120)
    both = {*held.quantiles, *held.threshold}
    assert both <= set(range(total))
    assert len(both) == len(held.all) == (for_threshold if held.shared else for_quantiles + for_threshold)
    assert len(both) < total
    assert held.shared or not set(held.quantiles) & set(held.threshold)


def test_who_is_held_out_follows_from_the_seed_alone() -> None:
    one, again, other = (held_pictures(range(200), range(200), Config(seed=s), 0.05) for s in (0, 0, 1))
    assert (one.quantiles, one.threshold) == (again.quantiles, again.threshold)
    assert one.threshold != other.threshold
    assert one.threshold != list(range(19))


def test_a_larger_share_and_a_stricter_rate_hold_out_more() -> None:
    def held(total: int, share: float, rate: float) -> int:
        return len(held_pictures(range(total), range(total), Config(held_out=share), rate).all)

    assert held(100, 0.3, 0.05) == 30
    assert held(1000, 0.1, 0.01) == 104  # 99 and 5
    assert held(400, 0.1, 0.01) == 80  # but a fifth at most
    assert held(400, 0.5, 0.05) == 200


def test_numbers_that_were_left_out_stay_out() -> None:
    used = [k for k in range(60) if k % 3]
    held = held_pictures(used, [0] * 10 + list(range(1, 31)), Config(), 0.05)
    assert set(held.threshold) < set(used)


@pytest.mark.parametrize("total", [30, 150, 600])
def test_pictures_of_one_part_are_held_out_together(total: int) -> None:
    groups = [k // 3 for k in range(total)]
    held = held_pictures(range(total), groups, Config(), 0.05)
    parts = [held.quantiles, held.threshold]
    learnt = set(range(total)) - {*held.quantiles, *held.threshold}
    of = [{groups[i] for i in part} for part in (*parts, learnt)]
    assert not of[2] & (of[0] | of[1])
    assert held.shared or not of[0] & of[1]
    assert held.shared == (total < 120)
    assert len(learnt) > total / 2


@pytest.mark.parametrize(("kept_apart", "for_quantiles"), [(1, 1), (23, 23), (24, 5), (30, 6)])
def test_what_the_data_set_keeps_apart_is_held_out_and_nothing_else(
    kept_apart: int, for_quantiles: int
) -> None:
    """Quantiles get pictures of their own where enough are left for a threshold at 5 %."""
    reserved = range(100, 100 + kept_apart)
    held = held_pictures(range(100 + kept_apart), range(100 + kept_apart), Config(), 0.05, reserved)
    assert {*held.quantiles, *held.threshold} == set(reserved)
    assert len(held.quantiles) == for_quantiles
    assert held.shared == (kept_apart < 24)
    assert held.shared or not set(held.quantiles) & set(held.threshold)


def test_something_is_always_left_to_learn_from() -> None:
    held = held_pictures(range(20), [0] * 19 + [1], Config(), 0.05)
    assert 0 < len(held.all) < 20
    with pytest.raises(InputError, match="all pictures show one part"):
        held_pictures(range(20), [7] * 20, Config(), 0.05)
    for few in (0, 1):
        with pytest.raises(InputError, match=rf"too few usable pictures .*\({few}\)"):
            held_pictures(range(few), range(few), Config(), 0.05)


# ---------------------------------------------------------------------------------------------- a model


@pytest.mark.smoke
def test_the_manifest_tells_how_it_was_trained(model: Predictor, teacher_path: Path) -> None:
    manifest = model.manifest
    facts = manifest.facts
    assert (facts["steps"], facts["training_precision"]) == (3, "fp32")
    assert facts["penalty"] == "generated textures, no photographs"
    assert [point["step"] for point in facts["curve"]] == [1, 2, 3]
    assert set(facts["curve"][0]) == {"step", "hard", "penalty", "autoencoder", "student_autoencoder"}
    assert facts["seconds"]["training"] > 0
    assert facts["summary"][0].startswith("trained 3 steps in ")
    assert manifest.backbone["name"] == "PDN-S teacher from none"
    notes = " | ".join(manifest.notes)
    assert "quantiles and the threshold come from the same 3 held-out pictures" in notes
    assert "no photographs were given for the penalty" in notes
    assert manifest.config["teacher"] == "drawn.safetensors"
    assert (manifest.config["network"], manifest.config["steps"]) == ("s", 3)
    assert str(teacher_path.parent) not in json.dumps(manifest.to_dict())


def test_the_calibration_is_what_the_model_says_of_the_held_out(model: Predictor, drawn: Path) -> None:
    by_hash = {pixel_hash(decode(p)): p for p in list_pictures(drawn / "plate/train/good")}
    paths = [by_hash[h] for h in model.manifest.facts["calibration_pictures"]]
    results = model.predict(paths)
    assert [r.score for r in results] == pytest.approx(model.calibration.scores, rel=1e-5)
    assert model.calibration.scores == model.calibration.map_maxima
    levels = [float(np.median(r.map)) for r in results]
    assert model.calibration.map_level == pytest.approx(float(np.median(levels)), rel=1e-4)
    # 3.4: over all pixels of all of them, 0.9 and 0.995 of the local and the global map become 0 and 0.1
    session = model.session
    images = torch.from_numpy(np.concatenate([model.manifest.preprocess(p)[0] for p in paths]))
    with torch.inference_mode():
        maps = session.model.enlarged(session.model.embed(images))  # [3, 2, H, W]
    exact = np.quantile(maps.double().numpy(), [0.9, 0.995], axis=(0, 2, 3)).T
    np.testing.assert_allclose(model.artefact.tensors["quantiles"], exact, rtol=1e-5)


# ------------------------------------------------------------------------------------------ what it is told


def test_a_region_of_interest_limits_quantiles_scores_and_map(
    quick_settings: Settings, few: list[np.ndarray]
) -> None:
    half = fit_small(few[:2], quick_settings, steps=1, roi="0,0,0.5,1")
    found = half.predict(few[3]).map
    assert len(np.unique(found[:, 128:])) == 1
    assert (found[:, :128] > found[0, 255]).all()
    held = half.manifest.facts["calibration_pictures"]
    picture = next(p for p in few[:2] if pixel_hash(p) in held)
    detector = half.session.model
    with torch.inference_mode():
        image = torch.from_numpy(half.manifest.preprocess(picture)[0])
        maps = detector.enlarged(detector.embed(image))[0, :, :, :128]
    exact = np.quantile(maps.double().numpy(), [0.9, 0.995], axis=(1, 2)).T
    np.testing.assert_allclose(half.artefact.tensors["quantiles"], exact, rtol=1e-5)


def test_photographs_are_named_by_their_folder_and_number(
    quick_settings: Settings, few: list[np.ndarray], photographs: Path
) -> None:
    made = fit_small(few[:2], quick_settings, steps=1, natural=str(photographs))
    assert made.manifest.facts["penalty"].startswith(f"24 pictures of folder {photographs.name} (")
    assert made.manifest.config["natural"] == photographs.name
    assert str(photographs.parent) not in json.dumps(made.manifest.to_dict())
    assert not any("photographs were given" in note for note in made.manifest.notes)
    assert all(point["penalty"] > 0 for point in made.manifest.facts["curve"])


def test_without_other_pictures_there_is_no_penalty(quick_settings: Settings, few: list[np.ndarray]) -> None:
    made = fit_small(few[:2], quick_settings, steps=2, natural="none")
    assert made.manifest.facts["penalty"] == "none"
    assert [point["penalty"] for point in made.manifest.facts["curve"]] == [0.0, 0.0]
    assert not any("photographs were given" in note for note in made.manifest.notes)


def test_blank_pictures_make_a_model_that_can_be_read(quick_settings: Settings, tmp_path: Path) -> None:
    """Channels of the teacher that never change say nothing."""
    blank = [np.full((256, 256, 3), v, np.uint8) for v in (100, 101)]
    made = fit_small(blank, quick_settings, steps=1)
    made.save(tmp_path / "m.safetensors")
    loaded = flawscope.load(tmp_path / "m.safetensors", device="cpu")
    assert np.isfinite(loaded.predict(blank[0]).score)


def test_overflowing_networks_name_the_precision(
    quick_settings: Settings, few: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    from flawscope.methods.efficientad.model import Model

    embed = Model.embed
    for factor in (torch.inf, torch.nan):
        monkeypatch.setattr(Model, "embed", lambda self, images, f=factor: embed(self, images) * f)
        with pytest.raises(InputError, match="precision"):
            fit_small(few[:2], quick_settings, steps=1)


# ---------------------------------------------------------------------------------------------- checkpoints


@pytest.fixture(scope="module")
def stopped(
    quick_settings: Settings, few: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The checkpoint of a run that was stopped after step 1 of 3. Copy it."""
    path = tmp_path_factory.mktemp("stopped") / "c.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flawscope.fitting.fitting.Budget", functools.partial(Budget, every=0.0))
        with pytest.raises(KeyboardInterrupt):
            fit_small(few[:3], quick_settings, checkpoint=path, step=stop_after(2))
    assert read_checkpoint(path)[1]["done"] == 1
    return path


def test_other_pictures_and_another_teacher_are_told(
    quick_settings: Settings, few: list[np.ndarray], stopped: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="another training set: give the same, or remove the checkpoint"):
        fit_small([few[0], few[1], few[3]], quick_settings, checkpoint=stopped, resume=True)
    state, facts = read_teacher(quick_settings["teacher"])
    state["conv1.bias"] += 1e-2
    write_teacher(tmp_path / "other.safetensors", state, facts)
    other = {**quick_settings, "teacher": str(tmp_path / "other.safetensors")}
    with pytest.raises(InputError, match="another teacher: give the same, or remove the checkpoint"):
        fit_small(few[:3], other, checkpoint=stopped, resume=True)


def test_a_photograph_that_was_cut_short_does_not_stop_a_training(
    quick_settings: Settings, few: list[np.ndarray], tmp_path: Path
) -> None:
    """Its header is whole: only decoding it shows that it was cut short."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "a.png")
    Image.fromarray(noise).save(folder / "b.png")
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:4000])
    made = fit_small(few[:2], quick_settings, steps=6, natural=str(folder))
    assert made.manifest.facts["steps"] == 6

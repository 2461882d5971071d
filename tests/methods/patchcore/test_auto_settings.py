"""`size=auto`: what is compared, what is chosen, and what is said about it."""

from __future__ import annotations

import numpy as np
import pytest

from flawscope.errors import InputError
from flawscope.fitting.fitting import fit
from flawscope.methods.features.backbone import load_backbone
from flawscope.methods.patchcore import Config
from flawscope.methods.patchcore import auto_settings as choosing
from flawscope.methods.patchcore.auto_settings import Trial
from flawscope.methods.task import AutoSettingsTask
from flawscope.synthesis.demo.dataset import draw_picture


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return [draw_picture("plate", np.random.default_rng([3, k]), size=72)[0] for k in range(15)]


@pytest.fixture(scope="module")
def backbone():
    config = Config()
    return load_backbone(config.backbone, config.stages, (64, 64))[0]


@pytest.fixture(autouse=True)
def _small(monkeypatch, backbone):
    monkeypatch.setattr(choosing, "load_backbone", lambda *_: (backbone, {}))  # built once
    monkeypatch.setattr(choosing, "CANDIDATE_SIDES", (48, 64, 96))
    monkeypatch.setattr(choosing, "CANDIDATES", ((48,), (48, 64), (48, 96)))
    monkeypatch.setattr(choosing, "TRIAL_BANK_SIZE", 60)


def choose(pictures, region=None) -> tuple[str, list[str]]:
    lines: list[str] = []
    undecided = AutoSettingsTask(pictures.__getitem__, len(pictures), roi=region, say=lines.append)
    return choosing.choose(Config(size="auto"), undecided).size, lines


@pytest.mark.parametrize("region", [None, "0,0,0.5,1"])
def test_chooses_by_the_figures_it_names_and_never_enlarges(pictures, monkeypatch, region):
    seen: list[Trial] = []
    real = choosing.try_sizes
    monkeypatch.setattr(choosing, "try_sizes", lambda *given: seen.append(real(*given)) or seen[-1])
    chosen, lines = choose(pictures, region)
    trials = {trial.name: trial for trial in seen}
    assert set(trials) == {"48", "48+64"}  # the pictures are 72 px: 96 would show nothing more
    best = max(t.auroc for t in trials.values())
    close = [t for t in trials.values() if t.auroc >= best - choosing.MARGIN]
    assert chosen == min(close, key=lambda t: t.cost).name
    assert len(lines) == 1
    assert lines[0].startswith(f"size {chosen}: image AUROC {trials[chosen].auroc:.3f}")
    assert "\n" not in lines[0]
    assert "--min-defect" not in lines[0]  # the pictures are not reduced
    for trial in trials.values():
        assert len(trial.by_scale) == 3
        assert all(0 <= value <= 1 for value in trial.by_scale)


def test_a_size_that_sees_the_defects_wins(pictures, monkeypatch):
    coarse = (0.5, 0.6, 0.7)
    monkeypatch.setattr(choosing, "try_sizes", lambda sizes, *_: Trial(sizes, fine if sizes[1:] else coarse))
    fine = (0.9, 0.9, 0.9)
    assert choose(pictures)[0] == "48+64"
    coarse = (0.895, 0.895, 0.895)  # within 0.01, and cheaper
    assert choose(pictures)[0] == "48"


def test_too_few_pictures_give_the_default_and_say_so(pictures):
    broken = [None if k % 2 else p for k, p in enumerate(pictures)]
    for few, count in ((pictures[:5], 5), (broken, 8)):
        chosen, lines = choose(few)
        assert chosen == Config().size
        assert f"only {count} pictures" in lines[0]


def test_small_pictures_need_no_comparison(pictures, monkeypatch):
    monkeypatch.setattr(choosing, "TRIAL_SIDE", 36)  # the shorter side is that of the user's pictures
    monkeypatch.setattr(choosing, "CANDIDATE_SIDES", (72, 100))
    chosen, lines = choose(pictures)
    assert chosen == "72"
    assert "72 px" in lines[0]


def test_what_it_cannot_see_in_large_pictures_is_said(pictures, monkeypatch):
    """The defects that it judges by grow with the pictures."""
    monkeypatch.setattr(choosing, "TRIAL_SIDE", 72)
    masks = []
    real = choosing.simulate_defect

    def spy(*args, **kwargs):
        masks.append((made := real(*args, **kwargs)).mask)
        return made

    monkeypatch.setattr(choosing, "simulate_defect", spy)
    line = choose([p.repeat(5, 0).repeat(5, 1) for p in pictures])[1][0]
    assert all(mask.shape == (72, 72) for mask in masks)
    smallest = min(max(np.ptp(where) + 1 for where in np.nonzero(mask)) for mask in masks)
    assert f"; judged by simulated defects of {5 * smallest} px and more in these pictures; " in line
    assert line.endswith("smaller ones: --min-defect")


def test_a_backbone_for_one_size_is_told(pictures, backbone, monkeypatch):
    monkeypatch.setattr(backbone, "fixed", True)
    with pytest.raises(InputError, match="give --size instead of auto"):
        choose(pictures)


def test_auto_and_crop_exclude_each_other():
    with pytest.raises(InputError, match="auto and crop"):
        Config(size="auto", crop=(224, 224))


def test_a_fit_takes_the_size_that_was_chosen(pictures, monkeypatch):
    monkeypatch.setattr(choosing, "choose_size", lambda *args, **kwargs: "48+64")
    assert fit(list(pictures), size="auto", samples=0).manifest.preprocess.network_size == (64, 64)

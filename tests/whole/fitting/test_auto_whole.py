"""The search for settings, with models that score by a script; and one with real ones."""

import time

import pytest

import flawscope
from auto_helpers import pictures
from flawscope.artefact.tried import Choice
from flawscope.fitting import auto, auto_search, fit_auto
from flawscope.fitting.proposals import propose_frames
from flawscope.methods.feature_memory import FeatureMemory
from flawscope.methods.patch_detector import PatchDetector
from flawscope.pictures.near_duplicates import Compared
from small_network import SMALL_NETWORK


def test_parts_that_lie_turned_are_to_be_aligned_and_others_are_not():
    turned, still = pictures(8, 128, turned=True), pictures(8, 128)
    proposed = [one.options for one in propose_frames(turned, turned.__getitem__)]
    assert {"align": "turn"} in proposed
    assert [*propose_frames(still, still.__getitem__)] == []


def test_features_are_computed_once_for_fits_of_the_same_settings(small_backbone, monkeypatch):
    """A fit to more pictures embeds those that are new; other settings, and more than fits, share nothing."""
    embed, embedded = PatchDetector.embed, []
    monkeypatch.setattr(
        PatchDetector, "embed", lambda model, images: embedded.append(len(images)) or embed(model, images)
    )
    options = {"device": "cpu", "check": False, "samples": 0, "force": True, "size": "64", **small_backbone}
    shown, memory = pictures(10), FeatureMemory()
    alone = flawscope.fit(shown, **options)

    def count(name, some, **more):
        embedded.clear()
        with memory.used_for(name):
            fitted = flawscope.fit(some, **{**options, **more})
        return fitted, sum(embedded)

    plain = count("", shown[:6])[1]
    both, again = count("", shown)
    assert again <= plain - 6 + 4
    assert both.calibration.scores == pytest.approx(alone.calibration.scores, rel=1e-4)
    assert count("other", shown)[1] >= again + 6
    assert count("", shown, size="32")[1] >= again + 6
    memory.drop(keep=("other",))
    assert count("", shown)[1] >= again + 6


def test_near_copies_are_looked_for_once_and_in_the_fit(small_backbone, monkeypatch):
    """Trials learn from one picture of each part, which were told apart before."""
    compared, fitted = [], []
    monkeypatch.setattr(
        "flawscope.pictures.units.compare_pictures",
        lambda looks, bank: compared.append(len(looks)) or Compared([(0, 1, 1.0)], []),
    )
    inner = auto.fit
    for place in (auto, auto_search):
        monkeypatch.setattr(place, "fit", lambda some, **o: fitted.append(len(some)) or inner(some, **o))
    monkeypatch.setattr(auto_search, "propose_frames", lambda *_: [])
    options = {"device": "cpu", "check": False, "samples": 0, "size": "32", **small_backbone}
    model = fit_auto(pictures(14), **options)
    assert (fitted[0], fitted[-1]) == (10, 14)
    assert compared == [14, 14]
    assert model.calibration.unit_count == 13


def test_a_search_with_real_models_keeps_its_time_and_writes_what_it_tried(tmp_path):
    began = time.monotonic()
    quick = {"size": "64", "align": "none", "device": "cpu", "force": True, "samples": 0, **SMALL_NETWORK}
    model = fit_auto(pictures(12, 64), minutes=2, **quick)
    assert time.monotonic() - began < 132
    model.save(tmp_path / "m.safetensors")
    from flawscope import load

    choice = Choice.from_facts(load(tmp_path / "m.safetensors").manifest.facts)
    assert choice is not None
    assert choice.simulated > 0
    assert any(one.simulated for one in choice.trials)

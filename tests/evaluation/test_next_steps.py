"""Advice after an evaluation, by what was missed."""

from dataclasses import replace

import numpy as np
import pytest

from flawscope import load
from flawscope.artefact.rates import promise_of
from flawscope.artefact.tried import Choice, Trial
from flawscope.calibration.rows import calibrate
from flawscope.cli.fit import lacking
from flawscope.datasets import open_dataset
from flawscope.evaluation import next_steps
from flawscope.evaluation.evaluation import evaluate
from flawscope.evaluation.next_steps import advise_after, advise_untried
from flawscope.pictures.table import Picture
from flawscope.results.advice import SEARCH, advice


def test_a_search_is_advised_where_parts_lie_elsewhere(drawn, model_path, monkeypatch):
    """It asks the good test pictures, of few all, and only where defects are missed."""
    model, asked = load(model_path, device="cpu"), []
    monkeypatch.setattr(next_steps, "_remedies", lambda manifest: [SEARCH])
    found = evaluate(model, open_dataset(drawn, "plate"))
    good = sum(not one.item.anomalous for one in found.pictures)
    for how, advised, enough in ((None, False, good), ("turn", True, good), ("turn", True, good + 1)):
        monkeypatch.setattr(next_steps, "POSE_PICTURES", enough)
        monkeypatch.setattr(next_steps, "_pose_kind_needed", lambda good, h=how: asked.append(len(good)) or h)
        missed = [
            one._replace(prediction=replace(one.prediction, is_anomalous=False, p_value=1.0))
            for one in found.pictures
        ]
        steps = advise_after(replace(found, pictures=missed), model.manifest)
        assert any("--auto" in one.step for one in steps) == advised
    assert asked == [good, good, len(found.pictures)]


@pytest.mark.parametrize(
    ("trials", "asked", "steps"),
    [
        ([("", "")], True, ["--align turn"]),  # it ended before it came to ask
        ([("", ""), ("--align shift", "no time")], False, ["--align shift"]),
        ([("", ""), ("--align full", "no time")], False, ["--align full"]),
        ([("", ""), ("--align turn", "")], False, []),
        ([("", ""), ("--size 256+768", "no time")], False, []),
        ([("", ""), ("--align turn --several", "no time")], False, []),
    ],
)
def test_a_search_tells_what_it_had_no_time_to_try_and_is_not_asked_again(trials, asked, steps, monkeypatch):
    before, calls = advice(lies="turn"), []
    monkeypatch.setattr(next_steps, "advise_before", lambda dataset: calls.append(dataset) or before)
    choice = Choice("", "", tuple(Trial(flags, note=note) for flags, note in trials))
    assert [one.step for one in advise_untried(choice, "pictures")] == steps
    assert bool(calls) == asked


def test_a_picture_that_hides_defects_is_named(drawn, model_path):
    """One good picture far above the others raises the threshold above all defects."""
    model = load(model_path, device="cpu")
    manifest = model.manifest
    usual = [float(v) for v in np.linspace(1, 2, 30)]
    found = evaluate(model, open_dataset(drawn, "plate"))
    lowest = min(one.prediction.score for one in found.pictures if one.item.anomalous)
    scores = (*(one * lowest / 4 for one in usual), 1e6)
    rows = tuple(
        Picture(f"{k:064d}", "train", f"{k}.png", k, score, score, 0.0, True)
        for k, score in enumerate(scores)
    )
    how = {**manifest.calibration.to_dict(), "rate": 1 / 32}
    far = replace(manifest, calibration=calibrate(rows, **how), pictures=rows)
    missed = [one._replace(prediction=replace(one.prediction, is_anomalous=False)) for one in found.pictures]
    steps = advise_after(replace(found, pictures=missed), far)
    assert any("30.png is good" in one.step for one in steps)
    assert not any("--auto" in one.step for one in steps)


def test_what_a_rate_lacks_is_said_of_the_parts_that_a_model_decides_on(drawn, model_path):
    """Six parts have both views. A seventh has one: it is a unit of the pictures, and no part that counts."""
    model = load(model_path, device="cpu")
    names = [f"p{part}_{view}.png" for part in range(7) for view in ("side", "top")][:-1]
    rows = tuple(
        Picture(f"{k:064d}", "train", name, k // 2, float(k), float(k), 0.0, True)
        for k, name in enumerate(names)
    )
    how = {**model.manifest.calibration.to_dict(), "rate": 0.05}
    facts = {**model.manifest.facts, "part": {"part": r"p\d+", "view": "side|top"}}
    manifest = replace(model.manifest, calibration=calibrate(rows, **how), pictures=rows, facts=facts)
    steps = advise_after(evaluate(model, open_dataset(drawn, "plate")), manifest)
    wanted = promise_of(manifest).describe_missing()
    assert wanted == "good pictures of 13 more parts"
    assert wanted == lacking(manifest, updated=False)
    assert f"add {wanted}" in [one.step for one in steps]

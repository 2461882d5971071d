"""Which simulated defects a model finds: by the threshold, or by the rank of the part that carries them."""

import json
from dataclasses import replace

import numpy as np
import pytest

from flawscope.artefact.detection import (
    decided_defects,
    describe_detection,
    describe_found,
    finder,
    with_decided_defects,
)
from flawscope.artefact.model_facts import ModelFacts
from flawscope.artefact.model_file import Manifest
from flawscope.artefact.parts import part_calibration, stored_part_pattern
from flawscope.artefact.rates import describe_rates, promise_of
from flawscope.calibration.power import SIMULATED_DEFECTS as KEY
from flawscope.calibration.power import DefectScores
from flawscope.calibration.rows import calibrate
from flawscope.pictures.table import Picture
from flawscope.views.preprocess import Preprocess

VIEWS = ("a", "b", "c", "d", "e", "f")
PATTERN = {"part": r"^(\d+)", "view": r"_(\w+)\."}


def model(pictures, facts, rate=0.05):
    calibration = calibrate(pictures, rate)
    return Manifest("patchcore", {}, Preprocess(), calibration, pictures=tuple(pictures), facts=facts)


def row(name, unit, score):
    return Picture(name, "train", name, unit, score, score, 8.0, True)


def parts_model(carriers=True, seed=1):
    """99 good parts in six views, and 40 defects in one view, two spreads above its middle."""
    rng = np.random.default_rng(seed)
    rows = [row(f"{p:02d}_{v}.png", p, float(rng.normal(10, 1))) for p in range(99) for v in VIEWS]
    scores = tuple(map(float, rng.normal(12, 0.3, 40)))
    names = {"small": tuple(f"{p:02d}_c.png" for p in range(40))} if carriers else {}
    tried = DefectScores({"small": scores}, {}, 20, 1.0, 0.05, 0.0, carriers=names)
    return model(rows, {"part": PATTERN, KEY: tried.to_dict()}), scores


def test_defects_on_parts_are_found_as_parts_are_decided():
    manifest, scores = parts_model()
    known = part_calibration(manifest, stored_part_pattern(manifest))
    wanted = 0
    for part, score in enumerate(scores):
        views = known.known_scores(f"{part:02d}") | {"c": score}
        wanted += known.decide(views).is_anomalous
    assert 0 < wanted < 25  # the threshold of single pictures says 34 and more
    assert sum(score > manifest.calibration.score_threshold for score in scores) > 30
    (at_five,) = (one for one in describe_rates(manifest) if one["rate"] == 0.05)
    assert at_five["found"] == {"small": [wanted, 40]}
    assert describe_found(manifest)[0].startswith(f"simulated defects found: {wanted} of 40,")
    assert f"small {wanted} of 40" in describe_detection(manifest)
    counted = with_decided_defects(manifest).facts[KEY]["sizes"]["small"]
    assert (counted["found"], counted["carriers"][:2]) == (wanted, ["00_c.png", "01_c.png"])
    rule = finder(ModelFacts.of(manifest))
    assert sum(rule(f"{k:02d}_c.png", score) for k, score in enumerate(scores)) == wanted


def test_a_higher_rate_finds_as_many_or_more_parts():
    rows = describe_rates(parts_model()[0])
    found = [one["found"]["small"][0] for one in rows]  # the highest rate first
    assert found == sorted(found, reverse=True)
    assert found[0] > found[-1]


def test_defects_of_parts_that_nobody_knows_are_not_counted():
    manifest, _ = parts_model(carriers=False)  # as earlier versions stored them
    assert decided_defects(manifest) is None
    assert describe_found(manifest) == []
    assert all(one["found"] == {} for one in describe_rates(manifest))
    assert with_decided_defects(manifest) is manifest


def test_defects_count_among_other_parts_where_the_model_is_calibrated_anew():
    manifest, _ = parts_model()
    rng = np.random.default_rng(5)
    rows = [row(f"{p}_{v}.png", p, float(rng.normal(10, 1))) for p in range(200, 299) for v in VIEWS]
    new = replace(manifest, calibration=calibrate(rows, 0.05), pictures=tuple(rows))
    (found, count), (before, _) = (decided_defects(one).count_found("small") for one in (new, manifest))
    assert count == 40
    assert abs(found - before) <= 12
    assert decided_defects(replace(manifest, calibration=manifest.calibration.with_rate(0.2))).rate == 0.2


def test_the_promise_of_parts_is_that_of_the_present_calibration():
    manifest, _ = parts_model()
    assert "about 1 of 20 good parts" in promise_of(manifest).text
    looser = replace(manifest, calibration=manifest.calibration.with_rate(0.2))
    assert "about 1 of 5 good parts" in promise_of(looser).text


def test_pictures_are_decided_by_the_threshold_and_counts_follow_it():
    good = [row(f"{k}.png", k, 0.05 * k) for k in range(1, 21)]
    tried = DefectScores(
        {"small": (0.2, 0.97, 1.2, float("nan")), "large": (1.0, 1.1, 2.0, 3.0)}, {}, 3, 1, 0.05, 1
    )
    manifest = model(good, {"other": 1, KEY: tried.to_dict()})
    assert decided_defects(manifest).count_found("small") == (2, 4)  # NaN is anomalous
    looser = with_decided_defects(replace(manifest, calibration=manifest.calibration.with_rate(0.5)))
    assert looser.facts["other"] == 1
    assert looser.facts[KEY]["sizes"]["small"]["found"] == 3
    assert (looser.facts[KEY]["rate"], manifest.facts[KEY]["sizes"]["small"]["found"]) == (0.5, 2)
    assert json.dumps(looser.facts[KEY]["sizes"]["large"], allow_nan=False)


def test_another_precision_is_told():
    good = [row(f"{k}.png", k, 0.05 * k) for k in range(1, 21)]
    scores = {"small": (0.2, 1.2), "large": (2.0, 3.0)}
    for precision, told in (("bf16", True), ("fp32", False)):
        tried = DefectScores(scores, {}, 2, 0.5, 0.05, 1.0, precision)
        said = describe_detection(model(good, {KEY: tried.to_dict()}))
        assert said.endswith("measured in bf16") == told


@pytest.mark.parametrize("wrong", [{}, {KEY: None}, {KEY: []}, {KEY: {"sizes": {}}}])
def test_damaged_counts_are_as_none(wrong):
    manifest = model([row(f"{k}.png", k, 0.1 * k) for k in range(1, 5)], wrong)
    assert describe_detection(manifest) is None
    assert describe_found(manifest) == []
    assert with_decided_defects(manifest) is manifest

"""Pictures that are added to a model: what they may change, and when they are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import flawscope
from flawscope.calibration.threshold import Calibration
from flawscope.errors import InputError
from flawscope.fitting.update_evaluation import PowerLostError, is_unlike
from flawscope.predictor import Predictor
from flawscope.station.review import DEFECT, FINE, Decisions

Part = Callable[..., str]


def extended(model: Predictor, images: list[str], **how: object) -> Predictor:
    return flawscope.extend(model, images, device="cpu", check=False, **how)  # type: ignore[arg-type]


def test_chosen_pictures_leave_the_calibration_as_it_was(model: Predictor, part: Part) -> None:
    """Each false alarm would be one of its largest scores."""
    stained = [part(200 + k, stained=True) for k in range(3)]
    assert all(model.predict(source).is_anomalous for source in stained)
    said: list[str] = []
    new = extended(model, stained, force=True, say=said.append)
    assert new.calibration.scores == model.calibration.scores
    assert new.calibration.score_threshold == model.calibration.score_threshold
    assert new.predict(stained[0]).score < model.predict(stained[0]).score
    threshold = f"{model.calibration.score_threshold:.4g}"
    assert f"score threshold: {threshold} before, {threshold} after" in said
    assert any(line.startswith("called anomalous of 3 pictures learnt: 3 before") for line in said)


def test_a_fair_sample_sets_the_threshold_if_it_is_one(model: Predictor, part: Part) -> None:
    good = [part(100 + k) for k in range(4)]
    new = extended(model, good, fair=True, force=True)
    assert new.calibration.count == model.calibration.count + 4
    stained = [part(200 + k, stained=True) for k in range(6)]
    with pytest.raises(PowerLostError) as refused:
        # each was looked at: what is left is that they are not like those of the calibration
        extended(model, stained, fair=True, drop_suspects=False)
    assert len(refused.value.pictures) == 6


def test_what_looks_like_a_defect_is_refused_by_name(model: Predictor, part: Part) -> None:
    good, bad = part(100), part(300, "noise")
    with pytest.raises(PowerLostError) as refused:
        extended(model, [good, bad])
    assert refused.value.pictures == [Path(bad).name]
    assert "\n" not in str(refused.value)
    assert "--force" in str(refused.value)
    new = extended(model, [good, bad], drop_suspects=True)
    assert [name for name, _ in new.suspects] == [Path(bad).name]
    assert new.predict(bad).is_anomalous
    assert not extended(model, [good, bad], force=True).predict(bad).is_anomalous
    with pytest.raises(InputError, match="nothing is left to learn from"):
        extended(model, [bad], drop_suspects=True)
    with pytest.raises(InputError, match="nothing new to learn from"):
        extended(extended(model, [good]), [good])


def test_chance_alone_is_no_reason_to_call_a_sample_unlike() -> None:
    """The share of fair samples that are called unlike is at most 1 %."""
    rng = np.random.default_rng(0)
    called = []
    for _ in range(600):
        scores = tuple(rng.normal(size=40))
        before = Calibration(scores, scores, 0.0)
        called.append(is_unlike(before, rng.normal(size=20)))
        assert is_unlike(before, np.full(4, max(scores) + 1))
    assert 0 < sum(called) <= 0.025 * len(called)


# ------------------------------------------------------------------------------------- as `review` leaves it


def test_what_a_review_wrote_is_known_by_each_of_its_folders(
    model: Predictor, part: Part, tmp_path: Path
) -> None:
    for seed in (200, 201, 202):
        part(seed, stained=True, folder="review/good")
    part(310, "noise", folder="review/defect")
    (tmp_path / "review/review.csv").touch()
    data = flawscope.open_dataset(tmp_path / "review")
    assert (data.reviewed, len(data.train)) == (True, 3), "none is kept for a test"
    assert [item.anomalous for item in data.test] == [False, False, False, True]
    assert flawscope.open_dataset(tmp_path / "review/good").test == data.test
    with pytest.raises(InputError, match="called these pictures defects"):
        flawscope.open_dataset(tmp_path / "review/defect")
    for folder in ("review", "review/good"):
        with pytest.raises(InputError, match="no fair sample"):
            flawscope.extend(model, tmp_path / folder, fair=True)
    said: list[str] = []
    flawscope.extend(model, tmp_path / "review", device="cpu", force=True, say=said.append)
    assert any(line.startswith("known defects found: 1 of 1 before") for line in said)
    assert any(line.startswith("simulated defects found: ") and " of 60 after" in line for line in said)


def test_what_looks_like_a_defect_is_learnt_when_a_review_called_it_good_twice(
    model: Predictor, part: Part, tmp_path: Path
) -> None:
    source = Path(part(300, "noise", folder="review/good"))
    decisions = Decisions(tmp_path / "review/review.csv")
    decisions.add("a.png", FINE, source.name)
    decisions.add("a.png", DEFECT, source.name)
    decisions.add("a.png", FINE, source.name)
    with pytest.raises(PowerLostError, match=source.name):
        flawscope.extend(model, tmp_path / "review", device="cpu", check=False)
    decisions.add("a.png", FINE, source.name)
    new = flawscope.extend(model, tmp_path / "review", device="cpu", check=False)
    assert new.predict(source).score < model.predict(source).score / 2

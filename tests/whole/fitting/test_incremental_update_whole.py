"""The next model from corrections: what it learns and refuses, its fair threshold, and scores of what it
learnt from."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import flawscope
from flawscope.calibration.power import wilson_interval
from flawscope.datasets import open_dataset
from flawscope.errors import InputError
from flawscope.fitting.fitting import fit
from flawscope.fitting.incremental_update import update
from flawscope.fitting.one_update import PowerLostError
from flawscope.fitting.update_evaluation import (
    ReviewedPicture,
)
from flawscope.pictures.decoding import decode, pixel_hash
from incremental_update_helpers import QUICK, extended, reviewed, stained_fixture  # noqa: F401
from small_network import FILE, SMALL_NETWORK


def test_corrected_pictures_alone_do_not_decide_the_threshold(model, part, stained):
    plain = [ReviewedPicture(10 + k, part(100 + k), True, drawn=True, judged=False) for k in range(4)]
    made = update(model.artefact, model, [*stained, *plain], **QUICK)
    assert (made.how, made.learnt, made.drawn) == ("extended", [0, 1, 2], 4)
    calibration, before = made.predictor.calibration, model.calibration
    assert calibration.scores[: before.count] == before.scores
    assert calibration.count == before.count + 4, "the corrected ones are in the bank alone"
    assert calibration.method.endswith("; 4 drawn from the line")
    assert all(score.learnt for score in made.comparison.after.values())
    # the score of a left-out picture is that of a model which never saw it
    without = update(model.artefact, model, [*stained[1:], *plain], **QUICK).predictor
    fresh = without.predict(stained[0].source).score
    assert made.comparison.after[0].score == pytest.approx(fresh, rel=0.05)
    assert made.predictor.predict(stained[0].source).score < fresh - 1, "as it is, it knows the picture"
    # drawn ones among the corrected do decide
    some = update(model.artefact, model, [replace(stained[0], drawn=True), *stained[1:]], **QUICK)
    assert some.predictor.calibration.count == before.count + 1


def test_the_judgement(model, part, stained):
    bad = reviewed(model, 20, part(310, "contamination", stained=True), False)
    missed = reviewed(model, 21, part(100), False)
    plain = reviewed(model, 22, part(101), True)
    pictures = [*stained, bad, missed, plain]
    made = update(model.artefact, model, pictures, device="cpu")
    found = made.judgement()
    assert found.good.count == 4
    assert found.good.before == [3, *(round(end, 4) for end in wilson_interval(3, 4))]
    assert set(found.gained) <= {0, 1, 2}
    assert [one.id for one in found.missed if one.id == 21] == [21]
    assert 0 < found.missed[-1].rate <= 1
    lists = found.gained, found.alarms, found.lost, found.found, found.weaker
    assert set(map(int, found.scores)) == {number for several in lists for number in several}


def test_prn_is_trained_anew_with_what_was_marked(part, drawn, tmp_path, monkeypatch):
    monkeypatch.chdir(FILE.parent)  # a model names its weights without their folder
    quick = {"size": "64", "width": 0.25, "batch": 2, "steps": 2, "training": "fp32", **SMALL_NETWORK}
    good = open_dataset(drawn)
    old = fit(good, method="prnet", device="cpu", check=False, seen=1, roi="0,0,1,0.9", **quick)
    known = {one.hash for one in old.manifest.pictures if one.role == "seen"}
    with pytest.raises(InputError, match="needs the pictures that the model was fitted on"):
        update(old.artefact, old, [], how="retrained")
    pictures = []
    for k in range(2):
        mask = np.zeros((96, 96), np.uint8)
        mask[30:46, 30:46] = 255
        path = tmp_path / f"mask-{k}.png"
        Image.fromarray(mask).save(path)
        pictures.append(ReviewedPicture(k, part(200 + k, stained=True), False, mask=str(path)))
    pictures.append(ReviewedPicture(9, part(400), True, learn=True, sure=True))
    made = update(old.artefact, old, pictures, how="retrained", good=good, **QUICK)
    seen = {one.hash for one in made.predictor.manifest.pictures if one.role == "seen"}
    assert seen == known | {pixel_hash(decode(one.source)) for one in pictures[:2]}
    np.testing.assert_array_equal(made.predictor.artefact.tensors["roi"], old.artefact.tensors["roi"])
    gone = replace(good, test=())  # the defect that it had learnt from is no longer there
    made = update(old.artefact, old, pictures, how="retrained", good=gone, device="cpu", check=False)
    assert made.predictor.manifest.notes[-1].startswith("1 known defect that the earlier model had learnt")
    assert set(made.comparison.after) == {0, 1, 9}
    assert all(score.learnt for score in made.comparison.after.values()), "by trainings that did not see them"


def test_a_fair_sample_sets_the_threshold_if_it_is_one(model, part):
    good = [decode(part(100 + k)) for k in range(4)]
    new = extended(model, good, fair=True, force=True)
    assert extended(model, good[:1], drop_suspects=True).calibration.scores == model.calibration.scores
    assert new.calibration.count == model.calibration.count + 4
    stained = [part(200 + k, stained=True) for k in range(6)]
    with pytest.raises(PowerLostError) as refused:
        # each was looked at: what is left is that they are not like those of the calibration
        extended(model, stained, fair=True, drop_suspects=False)
    assert len(refused.value.pictures) == 6


def test_what_a_review_wrote_is_known_by_each_of_its_folders(model, part, tmp_path):
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
    said = []
    flawscope.extend(model, tmp_path / "review", device="cpu", force=True, say=said.append)
    assert any(line.startswith("known defects found: 1 of 1 before") for line in said)
    assert any(line.startswith("simulated defects found: ") and " of 60 after" in line for line in said)

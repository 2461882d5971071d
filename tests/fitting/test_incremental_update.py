"""The next model from corrections: what it learns and refuses, its fair threshold, and scores of what it
learnt from."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import flawscope
from flawscope.calibration.rows import calibrate
from flawscope.errors import InputError
from flawscope.fitting.incremental_update import update
from flawscope.fitting.one_update import PowerLostError
from flawscope.fitting.update_evaluation import (
    Comparison,
    ReviewedPicture,
    Score,
    score_pictures,
)
from flawscope.fitting.updated_models import CAP_GROWTH
from flawscope.pages.review.session import DEFECT, GOOD, DecisionLog
from flawscope.pictures.decoded import DecodedPictures
from flawscope.pictures.decoding import decode
from flawscope.pictures.table import Picture, next_unit
from incremental_update_helpers import QUICK, extended, reviewed, stained_fixture  # noqa: F401


def test_the_next_one_keeps_what_the_last_one_was_learnt_from(model, part, stained):
    first = stained[:2]
    once = update(model.artefact, model, first, **QUICK).predictor
    more = [replace(one, learn=False, before=None) for one in first]
    more.append(replace(reviewed(model, 5, part(205, stained=True), True, sure=True), before=None))
    twice = update(once.artefact, once, more, **QUICK)
    assert (twice.learnt, set(twice.comparison.after)) == ([5], {0, 1, 5})
    assert all(score.learnt for score in twice.comparison.after.values())
    assert sum(note.startswith("learnt from ") for note in twice.predictor.manifest.notes) == 1
    assert sum(note.startswith("extended by ") for note in twice.predictor.manifest.notes) == 1


def test_a_full_bank_gets_room_once(model, part, stained):
    config = {**model.manifest.config, "cap": len(model.artefact.tensors["bank_groups.0"])}
    full = replace(model.artefact, manifest=replace(model.manifest, config=config))
    made = update(full, model, stained, **QUICK).predictor
    grown = len(made.artefact.tensors["bank_groups.0"])
    assert config["cap"] < grown <= CAP_GROWTH * config["cap"] + 1
    again = update(made.artefact, made, [replace(stained[0], source=part(210, stained=True))], **QUICK)
    assert again.predictor.manifest.config["cap"] == made.manifest.config["cap"]


def test_what_needs_a_second_look(model, part, stained):
    odd = reviewed(model, 7, part(300, "missing_part"), True)
    odd = replace(odd, learn=True, before=1.5 * model.calibration.score_threshold)
    sure = update(model.artefact, model, [*stained, replace(odd, sure=True)], **QUICK)
    assert sure.learnt == [0, 1, 2, 7]
    unsure = update(model.artefact, model, [*stained, odd], **QUICK)
    assert (7 in unsure.unsure, 7 in unsure.learnt) == (True, False)


def test_same_pixels_and_unreadable_pictures(model, part, tmp_path):
    source = part(200, stained=True)
    copy = tmp_path / "copy.bmp"
    Image.open(source).save(copy)
    one = reviewed(model, 1, source, True, sure=True)
    other = replace(one, number=2, source=str(copy), good=False, learn=False)
    gone = replace(one, number=3, source=str(tmp_path / "gone.png"))
    third = reviewed(model, 4, part(201, stained=True), True, sure=True)
    made = update(model.artefact, model, [one, other, gone, third], **QUICK)
    assert (made.contradictory, [*made.unreadable], made.learnt) == ([1, 2], [3], [4])
    twice = update(model.artefact, model, [third, replace(third, number=9)], **QUICK)
    assert list(twice.comparison.after) == [4], "copies count once"
    known = next(iter(model.manifest.pictures)).hash
    unread = [ReviewedPicture(0, "not read", True, digest=known)]
    scores = score_pictures(model, unread, {}, DecodedPictures([]), {}, model.facts)
    assert scores[0].learnt, "its left-out score stands in the model"


def test_what_stands_out_less_and_is_not_clear_any_more(model, part, stained):
    """A mark on good and bad parts alike: what it added to a defect's severity goes, and no harm is done."""
    bad = reviewed(model, 20, part(310, "missing_part", stained=True), False)
    made = update(model.artefact, model, [*stained, bad], **QUICK)
    fence_severity = float(model.calibration.severity(model.manifest.facts["suspicious_above"]))
    assert made.clear == pytest.approx(fence_severity)
    assert fence_severity > 0

    def weaker(severity, clear=made.clear):
        scores = {
            when: {**getattr(made.comparison, when), 20: Score(one, 0.0, 0.1, one, anomalous=one > 0)}
            for when, one in (("before", 3 * fence_severity), ("after", severity))
        }
        found = replace(made, clear=clear, comparison=replace(made.comparison, **scores)).judgement()
        return [number for number in found.weaker if number == 20]

    assert weaker(1.6 * fence_severity) == weaker(1.6 * fence_severity, None) == [], "more than half"
    assert weaker(1.2 * fence_severity) == [], "less than half, and still clear"
    assert weaker(1.2 * fence_severity, None) == [20], "nobody knows what is clear"
    assert weaker(0.9 * fence_severity) == [20]


def test_a_threshold_of_the_line_alone_for_other_methods(model, part):
    drawn = [ReviewedPicture(k, part(100 + k), True, drawn=True, judged=False) for k in range(20)]
    with pytest.raises(InputError, match=r"5 good pictures of the line can calibrate, 19 are needed"):
        update(model.artefact, model, drawn[:5], how="recalibrated", **QUICK)
    made = update(model.artefact, model, drawn, how="recalibrated", **QUICK)
    assert (made.predictor.calibration.count, made.predictor.calibration.method) == (20, "held out")
    with pytest.raises(InputError, match="nothing new to learn from"):
        update(model.artefact, model, [ReviewedPicture(1, part(5), True)], **QUICK)


def test_a_correction_that_hides_a_known_defect_is_responsible(model, part, tmp_path):
    """Both were looked at twice; one is as the known defect is, the other has nothing to do with it."""
    picture = decode(part(300)).copy()
    picture[20:70, 20:70] = np.random.default_rng(0).integers(0, 255, (50, 50, 3))
    for name in ("wrong.png", "known.png"):
        picture[0, 0] ^= 1  # other pixels, the same defect
        Image.fromarray(picture).save(tmp_path / name)
    pictures = [
        reviewed(model, 0, part(200, stained=True), True, sure=True),
        reviewed(model, 1, str(tmp_path / "wrong.png"), True, sure=True),
        reviewed(model, 2, str(tmp_path / "known.png"), False),
    ]
    steps = []
    told = {"step": lambda *step: steps.append(step)}
    made = update(model.artefact, model, pictures, device="cpu", check=False, **told)
    assert (made.comparison.found["known"], made.responsible) == ([1, 0, 1], [1])
    assert {("reading pictures", 2, 3), ("corrections one by one", 1, 2)} <= {*steps}, "no part is silent"
    found = made.judgement()
    assert (found.lost, found.responsible, found.refused) == ([2], [1], ["known"])
    harmless = update(model.artefact, model, [pictures[0], pictures[2]], device="cpu", check=False)
    assert harmless.comparison.found["known"] == [1, 1, 1]
    assert harmless.comparison.refused == harmless.responsible == []


def test_chosen_pictures_leave_the_calibration_as_it_was(model, part):
    """Each false alarm would be one of its largest scores."""
    stained = [part(200 + k, stained=True) for k in range(3)]
    assert all(model.predict(source).is_anomalous for source in stained)
    said = []
    new = extended(model, stained, force=True, say=said.append)
    assert new.calibration.scores == model.calibration.scores
    assert new.calibration.score_threshold == model.calibration.score_threshold
    assert new.predict(stained[0]).score < model.predict(stained[0]).score
    threshold = f"{model.calibration.score_threshold:.4g}"
    assert f"score threshold: {threshold} before, {threshold} after" in said
    assert any(line.startswith("called anomalous of the 3 pictures learnt: 3 before") for line in said)


def test_a_loss_that_shows_after_the_work_is_a_question(model, part, monkeypatch):
    """What was learnt is there, with the names; `force` asks nothing."""
    good, said = part(100), []
    monkeypatch.setattr(Comparison, "refused", property(lambda self: ["known"]))
    monkeypatch.setattr(Comparison, "refusal", lambda self: "2 known defects would be lost")
    new = extended(model, [good], say=said.append)
    (question,) = new.questions
    assert question.startswith("2 known defects would be lost, because of: ")
    assert question in said
    roles = [picture.role for picture in new.manifest.pictures]
    assert roles.count("train") == 1 + sum(one.role == "train" for one in model.manifest.pictures)
    assert extended(model, [good], force=True).questions == ()


def test_what_looks_like_a_defect_is_refused_by_name(model, part):
    good, bad = part(100), part(300, "noise")
    with pytest.raises(PowerLostError, match=r"^.*--force.*$") as refused:
        extended(model, [good, bad])
    assert refused.value.pictures == [Path(bad).name]
    assert "\n" not in str(refused.value)
    new = extended(model, [good, bad], drop_suspects=True)
    assert [one.name for one in new.suspects] == [Path(bad).name]
    assert new.predict(bad).is_anomalous
    assert not extended(model, [good, bad], force=True).predict(bad).is_anomalous


def test_pictures_of_which_nothing_is_left_or_new_are_refused(model, part):
    good, bad = part(100), part(300, "noise")
    with pytest.raises(InputError, match="nothing is left to learn from"):
        extended(model, [bad], drop_suspects=True)
    with pytest.raises(InputError, match="nothing new to learn from"):
        extended(extended(model, [good]), [good])


def test_what_looks_like_a_defect_is_learnt_when_a_review_called_it_good_twice(model, part, tmp_path):
    source = Path(part(300, "noise", folder="review/good"))
    decisions = DecisionLog(tmp_path / "review/review.csv")
    for decision in (GOOD, DEFECT, GOOD):
        decisions.add("a.png", decision, source.name)
    with pytest.raises(PowerLostError, match=source.name):
        flawscope.extend(model, tmp_path / "review", device="cpu", check=False)
    decisions.add("a.png", GOOD, source.name)
    new = flawscope.extend(model, tmp_path / "review", device="cpu", check=False)
    assert new.predict(source).score < model.predict(source).score / 2


def with_wrong(model, count):
    """The model as if so many pictures of it, each a part of its own, had been counted wrong."""
    rows, how = model.manifest.pictures, model.calibration.to_dict()
    first = next_unit(rows)
    wrong = [
        Picture(f"{k:064d}", "calibration", f"wrong{k}.png", first + k, counted=True) for k in range(count)
    ]
    rows = (*rows, *wrong)
    manifest = replace(model.manifest, pictures=rows, calibration=calibrate(rows, **how))
    return replace(model.artefact, manifest=manifest)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_pictures_counted_wrong_are_parts_of_their_own_when_drawn_ones_come(model, part, count):
    """A drawn part must not share a unit with one of them: p-values would be too small, in silence."""
    old = with_wrong(model, count)
    before = old.manifest.calibration
    drawn = [ReviewedPicture(k, part(300 + k), True, drawn=True) for k in range(4)]
    made = update(old, model, drawn, fair=True, **QUICK).predictor
    known = made.calibration
    assert (known.miscounted, known.unit_count) == (count, before.unit_count + 4)
    assert float(known.p_values(np.inf)) == (1 + count) / (known.unit_count + 1)
    # learnt afterwards they keep their scores, and so does the file
    made.save(path := Path(drawn[0].source).with_name("made.safetensors"))
    again = flawscope.load(path, device="cpu")
    assert again.calibration == known
    learnt = [replace(one, drawn=False, learn=True, sure=True) for one in drawn]
    both = update(again.artefact, again, learnt, **QUICK).predictor.calibration
    assert (both.miscounted, both.scores, both.unit_count) == (count, known.scores, known.unit_count)

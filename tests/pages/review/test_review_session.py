"""Decisions and the folders that follow from them: durable, repeatable, and no original is touched."""

import csv
import os
import shutil
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from flawscope.datasets import open_dataset
from flawscope.datasets.seen_defects import choose_seen
from flawscope.errors import FlawscopeError, InputError
from flawscope.pages.review import session as sessions
from flawscope.pages.review.session import (
    DEFECT,
    GOOD,
    DecisionLog,
    ReviewPicture,
    ReviewSession,
    proposed_mask,
    read_review_pictures,
)
from flawscope.pictures.listing import OUTPUT_LIST, pictures_in
from flawscope.pictures.masks import read_mask
from flawscope.results.prediction import Prediction, ScoreLevels
from flawscope.results.table import ResultRow, csv_line
from flawscope.views.preprocess import Preprocess


def files(folder):
    """Without the list of flawscope's own files."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != OUTPUT_LIST
    }


def again(session):
    return ReviewSession(session.pictures, session.out)


def test_the_anomalous_pictures_are_reviewed_most_severe_first(run):
    found = read_review_pictures(run / "results")
    assert [one.name for one in found] == ["a/part", "b/part", "b/part.jpg"]
    assert all(one.path.is_file() and one.overlay and one.mask for one in found)
    assert [one.name for one in read_review_pictures(run / "results", every=True)][-1] == "fine"
    alone = read_review_pictures(run / "results/results.csv")
    assert [(one.name, one.overlay) for one in alone] == [("part", None)] * 3


def test_good_pictures_near_the_threshold_are_reviewed_last(run):
    table = run / "results/results.csv"
    lines = table.read_text(encoding="utf-8-sig").splitlines()
    place = lines[0].split(",").index("near")
    row = next(k for k, line in enumerate(lines) if "fine.png" in line)
    cells = next(csv.reader([lines[row]]))
    assert cells[place] == "false"
    cells[place] = "true"
    lines[row] = csv_line(cells).rstrip()
    table.write_text("\n".join(lines))
    assert [one.name for one in read_review_pictures(run / "results")][-2:] == ["b/part.jpg", "fine"]


def test_nothing_to_review_is_said(run, tmp_path):
    with pytest.raises(InputError, match="there is no"):
        read_review_pictures(tmp_path / "elsewhere")
    shutil.rmtree(run / "in")
    with pytest.raises(InputError, match=r"none of the pictures of .* is there"):
        read_review_pictures(run / "results")
    table = run / "results/results.csv"
    table.write_text("".join(line for line in table.open() if "anomalous" not in line))
    with pytest.raises(InputError, match=r"no anomalous picture.*--all"):
        read_review_pictures(run / "results")


def test_names_that_are_no_text_are_kept(tmp_path):
    name = os.fsdecode(b'odd\xff,"x"\n.png')
    DecisionLog(tmp_path / "review.csv").add(name, GOOD, "copy.png")
    assert DecisionLog(tmp_path / "review.csv").current[name].decision == GOOD


def test_decisions_become_folders_that_fit_takes(session, run):
    before, above = files(run / "in"), pictures_in(run)
    for number, decision in enumerate((GOOD, DEFECT, DEFECT)):
        session.decide(number, decision)
    assert files(run / "in") == before  # originals stay as they are
    assert pictures_in(run) == above, "or the next `predict` would judge the copies"
    good = open_dataset(session.out / "good")
    assert [item.path.name for item in good.train] == ["a_part.png"]
    assert good.train[0].path.read_bytes() == before["a/part.png"]
    seen = choose_seen(str(session.out / "defect"))
    assert {item.path.name for item in seen} == {"b_part.png", "b_part.jpg.jpg"}
    for item in seen:
        (mask,) = item.masks
        with Image.open(item.path) as picture:
            assert read_mask(mask).shape == picture.size[::-1]
    whole = open_dataset(session.out)  # what evaluate and compare take
    assert sum(item.anomalous for item in whole.test) == 2


def test_files_of_somebody_else_are_not_replaced(session):
    (session.out / "good").mkdir()
    (session.out / "good/a_part.png").write_bytes(b"mine")
    with pytest.raises(InputError, match="move it"):
        session.decide(0, GOOD)
    assert (session.out / "good/a_part.png").read_bytes() == b"mine"
    assert session.decisions() == {}
    (session.out / sessions.DECISIONS_FILE).write_text("mine\n1\n")
    with pytest.raises(InputError, match="not a file of decisions"):
        again(session)
    assert (session.out / sessions.DECISIONS_FILE).read_text() == "mine\n1\n"


def other_picture(path, seed=1):
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(path)


def test_another_picture_under_a_decided_path_is_undecided_and_takes_nothing_from_the_first(session, run):
    """A camera that numbers from 1 each day."""
    session.decide(0, GOOD)
    session.decide(1, DEFECT)
    monday = (session.out / "good/a_part.png").read_bytes()
    other_picture(run / "in/a/part.png")
    tuesday = again(session)
    assert tuesday.decisions() == {1: DEFECT}
    assert tuesday.replaced == [str(run / "in/a/part.png")]
    assert (session.out / "good/a_part.png").read_bytes() == monday
    tuesday.undo(0)  # nothing is decided on it
    assert (session.out / "good/a_part.png").read_bytes() == monday
    tuesday.decide(0, DEFECT)
    assert tuesday.decisions() == {0: DEFECT, 1: DEFECT}
    assert again(tuesday).decisions() == {0: DEFECT, 1: DEFECT}
    assert (session.out / "good/a_part.png").read_bytes() == monday
    assert (session.out / "defect/a_part_2.png").read_bytes() == (run / "in/a/part.png").read_bytes()
    assert {item.path.name for item in open_dataset(session.out).train} == {"a_part.png"}


def test_a_picture_that_was_saved_anew_or_has_gone_stays_decided(session, run):
    session.decide(0, GOOD)
    session.decide(1, GOOD)
    path = run / "in/a/part.png"
    Image.open(path).save(path, compress_level=1)
    (run / "in/b/part.png").unlink()
    assert again(session).decisions() == {0: GOOD, 1: GOOD}
    (session.out / "good/a_part.png").unlink()
    assert again(session).decisions() == {0: GOOD, 1: GOOD}
    assert (session.out / "good/a_part.png").is_file(), "copied again: the pixels are the decided ones"
    (session.out / "good/a_part.png").unlink()
    other_picture(path)
    assert again(session).decisions() == {1: GOOD}
    assert not (session.out / "good/a_part.png").exists()


def test_decisions_of_an_earlier_version_are_compared_by_their_copies_and_severities(session, run):
    session.decide(0, GOOD)
    session.decide(1, GOOD)
    file = session.out / sessions.DECISIONS_FILE
    file.write_text("".join(f"{line.rpartition(',')[0]}\n" for line in file.read_text("utf-8").splitlines()))
    assert again(session).decisions() == {0: GOOD, 1: GOOD}
    (session.out / "good/b_part.png").unlink()
    assert again(session).decisions() == {0: GOOD, 1: GOOD}, "its severity is the decided one's"
    other_picture(run / "in/a/part.png")
    later = again(session)
    assert later.decisions() == {1: GOOD}
    later.decide(0, DEFECT)
    assert again(session).decisions() == {0: DEFECT, 1: GOOD}


def test_a_picture_that_is_written_anew_while_it_is_shown_is_not_decided(session, run):
    session.note_shown(0)
    other_picture(run / "in/a/part.png")
    with pytest.raises(InputError, match="was written anew while it was reviewed"):
        session.decide(0, GOOD)
    assert session.decisions() == {}
    session.note_shown(0)
    session.decide(0, GOOD)


def test_numbers_in_the_file_of_decisions_are_numbers(session):
    picture = session.pictures[0]
    low = ReviewPicture(replace(picture.row, severity=-0.69591), picture.path, picture.name)
    other = ReviewSession([low], session.out)
    other.decide(0, GOOD)
    (row,) = csv.DictReader((session.out / sessions.DECISIONS_FILE).open(encoding="utf-8-sig"))
    assert row["severity"] == "-0.6959"
    assert float(row["score"]) > 0


def test_a_decision_can_be_changed_and_taken_back(session):
    for number, decision in ((0, DEFECT), (1, GOOD), (0, GOOD)):
        session.decide(number, decision)
    assert set(files(session.out)) == {"review.csv", "good/a_part.png", "good/b_part.png"}
    session.undo(0)
    assert session.decisions() == {1: GOOD}
    assert set(files(session.out)) == {"review.csv", "good/b_part.png"}
    session.undo(1)
    session.undo(1)
    assert session.decisions() == {}
    assert set(files(session.out)) == {"review.csv"}


def test_an_outline_that_a_person_drew_is_the_mask_and_stays(session):
    session.decide(0, DEFECT)
    drawn = np.zeros((48, 64), np.bool_)
    drawn[3, 3] = True
    session.decide(0, DEFECT, drawn)
    (session.out / "defect/a_part.png").unlink()
    later = again(session)
    np.testing.assert_array_equal(read_mask(later.mask_path(0)), drawn)
    later.undo(0)
    assert not later.mask_path(0).exists()


def test_a_line_that_was_being_written_when_the_power_failed_costs_only_itself(session):
    session.decide(0, GOOD)
    session.decide(1, DEFECT)
    log = session.out / "review.csv"
    whole = log.read_bytes()
    last = len(whole) - whole.rindex(b"\n", 0, -1) - 1
    for cut in (last - 1, last // 2, 20):  # the path or the copy's name is not whole
        log.write_bytes(whole[:-cut])
        later = again(session)
        assert later.decisions() == {0: GOOD}
        later.decide(2, GOOD)
        assert again(session).decisions() == {0: GOOD, 2: GOOD}


def test_a_decision_is_on_the_disk_before_it_holds(session, monkeypatch):
    """The line is forced to the disk; where that fails nothing is decided and nothing is left behind."""
    full = Mock(side_effect=OSError(28, "No space left on device"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(FlawscopeError, match="No space left"):
            session.decide(0, GOOD)
    assert full.called
    assert session.decisions() == {}
    assert not list((session.out / "good").iterdir())
    session.decide(0, GOOD)
    assert session.decisions() == {0: GOOD}


def test_a_picture_that_has_gone_cannot_be_decided(session):
    session.pictures[0].path.unlink()
    with pytest.raises(InputError, match=r"cannot copy .*a/part\.png .*is it there"):
        session.decide(0, GOOD)
    assert session.decisions() == {}
    session.decide(1, GOOD)
    session.pictures[1].path.unlink()
    (session.out / "good/b_part.png").unlink()
    assert "cannot copy" in again(session).problems[0]


def test_the_proposed_mask_is_what_the_model_outlined(session):
    """4 of 16 rows and columns at the network's size, as a share of the picture's."""
    wanted = np.zeros((48, 64), bool)
    wanted[12:24, 32:48] = True
    np.testing.assert_array_equal(proposed_mask(session.pictures[0]), wanted)


def test_of_regions_of_any_shape_the_mask_is_the_models_own(tmp_path):
    """Against the prediction's own mask at the picture's size: they differ at the edges only."""
    values = np.zeros((64, 64), np.float32)
    rows, columns = np.indices(values.shape)
    values[(rows - 20) ** 2 + (columns - 30) ** 2 < 90] = 1
    values[50:52, 13:50] = 1
    geometry = Preprocess((64, 64), keep_aspect=True).geometry((300, 200))
    found = Prediction(1.0, 0.1, 1.0, True, values, geometry, ScoreLevels(0.5, 0.5, (0.0, 1.0)), path="x")
    picture, mask = tmp_path / "x.png", tmp_path / "mask.png"
    Image.new("RGB", (200, 300)).save(picture)
    Image.fromarray(found.mask.astype(np.uint8) * 255).save(mask)
    one = ReviewPicture(ResultRow.from_result(found), picture, "x", None, mask)
    made, own = proposed_mask(one), found.picture_mask()
    assert (made & own).sum() / (made | own).sum() > 0.9
    without = proposed_mask(ReviewPicture(ResultRow.from_result(found), picture, "x"))
    assert not (own & ~without).any()  # boxes hold the regions

"""Decisions and the folders that follow from them: durable, repeatable, and no original is touched."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flawscope.datasets import open_dataset
from flawscope.datasets.files import OWN_LIST, pictures_in
from flawscope.datasets.seen import choose_seen
from flawscope.errors import FlawscopeError, InputError
from flawscope.pictures.decoding import read_mask
from flawscope.results.table import Row
from flawscope.station.review import DEFECT, FINE, Decisions, Flagged, Session, read_flagged
from flawscope.station.review import session as sessions
from flawscope.station.review.session import proposed_mask


def files(folder: Path) -> dict[str, bytes]:
    """Without the list of flawscope's own files."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != OWN_LIST
    }


def again(session: Session) -> Session:
    return Session(session.pictures, session.out)


# --------------------------------------------------------------------------------------------- what is there


def test_the_anomalous_pictures_are_reviewed_most_severe_first(run: Path) -> None:
    found = read_flagged(run / "results")
    assert [one.name for one in found] == ["a/part", "b/part", "b/part.jpg"]
    assert all(one.path.is_file() and one.overlay and one.mask for one in found)
    assert [one.name for one in read_flagged(run / "results", every=True)][-1] == "fine"


def test_a_table_alone_can_be_reviewed(run: Path) -> None:
    found = read_flagged(run / "results/results.csv")
    assert [(one.name, one.overlay) for one in found] == [("part", None)] * 3


def test_nothing_to_review_is_one_line(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no"):
        read_flagged(tmp_path / "elsewhere")
    for path in (run / "in").rglob("*.*"):
        path.unlink()
    with pytest.raises(InputError, match=r"none of the pictures of .* is there"):
        read_flagged(run / "results")
    table = run / "results/results.csv"
    table.write_text("".join(line for line in table.open() if "anomalous" not in line))
    with pytest.raises(InputError, match=r"no anomalous picture.*--all"):
        read_flagged(run / "results")


# ------------------------------------------------------------------------------------------------- decisions


def test_decisions_become_folders_that_fit_takes(session: Session, run: Path) -> None:
    before = files(run / "in")
    for number, decision in enumerate((FINE, DEFECT, DEFECT)):
        session.decide(number, decision)
    assert files(run / "in") == before  # originals stay as they are
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


def test_copies_are_no_pictures_of_a_folder_above(session: Session, run: Path) -> None:
    """Or the next `predict` would judge them again."""
    before = pictures_in(run)
    session.decide(0, FINE)
    session.decide(1, DEFECT)
    assert pictures_in(run) == before
    assert len(pictures_in(session.out / "good")) == 1


def test_a_file_of_somebody_else_is_not_replaced(session: Session) -> None:
    (session.out / "good").mkdir()
    (session.out / "good/a_part.png").write_bytes(b"mine")
    with pytest.raises(InputError, match="move it"):
        session.decide(0, FINE)
    assert (session.out / "good/a_part.png").read_bytes() == b"mine"
    assert session.decided() == {}


def test_a_decision_can_be_changed_and_taken_back(session: Session) -> None:
    session.decide(0, DEFECT)
    session.decide(1, FINE)
    session.decide(0, FINE)
    assert set(files(session.out)) == {"review.csv", "good/a_part.png", "good/b_part.png"}
    session.undo(0)
    assert session.decided() == {1: FINE}
    assert set(files(session.out)) == {"review.csv", "good/b_part.png"}
    session.undo(1)
    session.undo(1)
    assert session.decided() == {}
    assert set(files(session.out)) == {"review.csv"}


def test_a_later_session_goes_on_and_makes_missing_copies_again(session: Session) -> None:
    session.decide(0, FINE)
    session.decide(1, DEFECT)
    kept = files(session.out)
    for name in ("good/a_part.png", "defect/b_part.png"):
        (session.out / name).unlink()
    (session.out / "good").joinpath("a_part.png.part").write_bytes(b"half")
    later = again(session)
    assert later.decided() == {0: FINE, 1: DEFECT}
    assert files(session.out) == kept
    later.undo(1)  # also of the session before
    assert later.decided() == {0: FINE}


def test_a_mask_that_a_person_drew_stays(session: Session) -> None:
    session.decide(0, DEFECT)
    mask = session.mask_of(0)
    drawn = np.zeros((48, 64), np.uint8)
    drawn[3, 3] = 255
    Image.fromarray(drawn).save(mask)
    (session.out / "defect/a_part.png").unlink()
    again(session)
    assert read_mask(mask).sum() == 1


def test_an_outline_that_is_drawn_in_the_page_is_the_mask(session: Session) -> None:
    session.decide(0, DEFECT)
    drawn = np.zeros((48, 64), np.bool_)
    drawn[3, 3] = True
    session.decide(0, DEFECT, drawn)
    np.testing.assert_array_equal(read_mask(session.mask_of(0)), drawn)
    session.undo(0)
    assert not session.mask_of(0).exists()


def test_a_line_that_was_being_written_when_the_power_failed_costs_only_itself(session: Session) -> None:
    session.decide(0, FINE)
    session.decide(1, DEFECT)
    log = session.out / "review.csv"
    whole = log.read_bytes()
    last = len(whole) - whole.rindex(b"\n", 0, -1) - 1
    for cut in (last - 1, last // 2, 20):  # the path or the copy's name is not whole
        log.write_bytes(whole[:-cut])
        later = again(session)
        assert later.decided() == {0: FINE}
        later.decide(2, FINE)
        assert again(session).decided() == {0: FINE, 2: FINE}


def test_a_decision_is_on_the_disk_before_it_holds(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line is forced to the disk; where that fails nothing is decided and nothing is left behind."""
    synced: list[int] = []
    real = os.fsync

    def full(number: int) -> None:
        synced.append(number)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FlawscopeError, match="No space left"):
        session.decide(0, FINE)
    assert synced
    assert session.decided() == {}
    assert not list((session.out / "good").iterdir())
    monkeypatch.setattr(os, "fsync", real)
    session.decide(0, FINE)
    assert session.decided() == {0: FINE}


def test_a_picture_that_has_gone_cannot_be_decided(session: Session) -> None:
    session.pictures[0].path.unlink()
    with pytest.raises(InputError, match="any more"):
        session.decide(0, FINE)
    assert session.decided() == {}
    session.decide(1, FINE)
    session.pictures[1].path.unlink()
    (session.out / "good/b_part.png").unlink()
    assert "any more" in again(session).problems[0]


def test_another_file_of_that_name_is_not_written_to(session: Session) -> None:
    (session.out / sessions.LOG).write_text("mine\n1\n")
    with pytest.raises(InputError, match="not a file of decisions"):
        again(session)
    assert (session.out / sessions.LOG).read_text() == "mine\n1\n"


def test_names_that_are_no_text_are_kept(tmp_path: Path) -> None:
    log = Decisions(tmp_path / "review.csv")
    name = os.fsdecode(b'odd\xff,"x"\n.png')
    log.add(name, FINE, "copy.png")
    assert Decisions(tmp_path / "review.csv").current[name].decision == FINE


# ----------------------------------------------------------------------------------------------------- masks


def test_the_proposed_mask_is_what_the_model_outlined(session: Session) -> None:
    """4 of 16 rows and columns at the network's size, as a share of the picture's."""
    wanted = np.zeros((48, 64), bool)
    wanted[12:24, 32:48] = True
    np.testing.assert_array_equal(proposed_mask(session.pictures[0]), wanted)


def test_of_regions_of_any_shape_the_mask_is_the_models_own(tmp_path: Path) -> None:
    """Against the prediction's own mask at the picture's size: they differ at the edges only."""
    from flawscope.pictures.preprocess import Preprocess
    from flawscope.results.prediction import Prediction

    values = np.zeros((64, 64), np.float32)
    rows, columns = np.indices(values.shape)
    values[(rows - 20) ** 2 + (columns - 30) ** 2 < 90] = 1
    values[50:52, 13:50] = 1
    geometry = Preprocess((64, 64), keep_aspect=True).geometry((300, 200))
    found = Prediction(1.0, 0.1, 1.0, True, values, geometry, 0.5, 0.5, (0.0, 1.0), path="x")
    picture, mask = tmp_path / "x.png", tmp_path / "mask.png"
    Image.new("RGB", (200, 300)).save(picture)
    Image.fromarray(found.mask.astype(np.uint8) * 255).save(mask)
    one = Flagged(Row.of(found), picture, "x", None, mask)
    made, own = proposed_mask(one), found.picture_mask()
    assert made is not None
    assert (made & own).sum() / (made | own).sum() > 0.9
    without = proposed_mask(Flagged(Row.of(found), picture, "x"))
    assert without is not None
    assert not (own & ~without).any()  # boxes hold the regions


def test_without_a_region_there_is_no_mask(session: Session, tmp_path: Path) -> None:
    one = session.pictures[0]
    assert proposed_mask(Flagged(Row(one.row.path, 1.0, 0.1, 1.0, "anomalous", 0.5), one.path, "x")) is None

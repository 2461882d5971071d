"""`predict`: what it prints, where, and what it leaves behind and names, whatever goes wrong."""

import json
import shutil
import sys
from unittest.mock import Mock

import pytest

from flawscope.artefact.files import FullDiskError
from flawscope.cli import output
from flawscope.errors import FlawscopeError
from flawscope.predictor import Predictor
from flawscope.results.folder import PictureWriter
from flawscope.results.run import earlier_paths, earlier_product
from flawscope.results.table import TableWriter, read_table
from predict_helpers import PLAIN, batch_fixture, names_of, written  # noqa: F401


def test_a_person_reads_picture_and_verdict(run, model_path, batch, tmp_path):
    code, printed, err = run("predict", model_path, batch / "a.png", batch / "b.png")
    assert code == 0
    read = [line.split()[:3] for line in printed.splitlines()]
    assert [[*words, sign[0]] for *words, sign in read] == [
        *(["good", "severity", "-"], ["anomalous", "severity", "+"])
    ]
    assert "1 of 2 pictures anomalous" in err
    assert "good pictures will be called anomalous" in err
    assert "severity: above 0 is anomalous" in err
    assert "p: the share of good pictures that score as high" in err
    assert "warning" not in err
    call = ("predict", model_path, batch / "b.png", "--out", tmp_path / "out", *PLAIN)
    assert f"next: flawscope review {tmp_path / 'out'} " in run(*call)[2]
    quiet = run("predict", model_path, batch / "a.png", "--quiet", "--out", tmp_path / "quiet")
    assert (quiet[0], len(quiet[1].splitlines()), quiet[2]) == (0, 1, "")


def test_results_of_another_product_stay_and_those_of_the_same_are_replaced(run, model_path, batch, tmp_path):
    out, summary = tmp_path / "out", tmp_path / "out/results.json"
    call = ("predict", model_path, batch / "a.png", "--out", out, *PLAIN, "--quiet")
    assert run(*call)[0] == 0
    facts = json.loads(summary.read_text())
    assert earlier_product(out) == facts["product"] == "plate"
    summary.write_text(json.dumps({**facts, "product": "lids"}))
    code, _, err = run(*call)
    assert code == 2
    assert "holds results of lids, the model is of plate: choose another folder, or replace" in err
    assert earlier_product(out) == "lids"
    assert run(*call, "--force")[0] == 0
    assert earlier_product(out) == "plate"
    for unknown in ("{}", "[]", "", '{"product": ""}'):  # of an earlier version, or of an interrupted run
        summary.write_text(unknown)
        assert earlier_product(out) == ""
    (tmp_path / "results.json").write_text('{"product": "lids"}')  # of somebody else
    assert earlier_product(tmp_path) == ""


def test_results_of_other_pictures_stay_until_somebody_says_so(run, model_path, batch, tmp_path):
    out = tmp_path / "out"
    call = ("predict", model_path, "--out", out, *PLAIN, "--quiet")
    assert run(*call, batch / "a.png")[0] == 0
    assert earlier_paths(out) == [str(batch / "a.png")]
    code, _, err = run(*call, batch / "b.png")
    assert code == 2
    assert f"holds results of 1 other picture, such as {batch / 'a.png'}: choose another folder" in err
    assert earlier_paths(out) == [str(batch / "a.png")]
    assert run(*call, batch / "a.png", batch / "b.png")[0] == 0, "some are the same: the run was repeated"
    assert run(*call, tmp_path / "elsewhere.png")[0] == 2
    shutil.copy(batch / "b.png", tmp_path / "elsewhere.png")
    assert run(*call, tmp_path / "elsewhere.png", "--force")[0] == 0
    assert earlier_paths(out) == [str(tmp_path / "elsewhere.png")]


def test_where_nothing_was_judged_no_others_are_done(run, model_path, tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"no picture")
    err = run("predict", model_path, tmp_path / "a.png", tmp_path / "b.png")[2]
    assert err.splitlines()[-1].endswith("2 pictures were skipped")


@pytest.mark.parametrize(
    ("names", "flags", "code"),
    [
        (["b.png"], [], 0),
        (["a.png"], ["--fail-on-anomaly"], 0),
        (["a.png", "b.png"], ["--fail-on-anomaly"], 3),
        (["broken.png", "b.png"], ["--fail-on-anomaly"], 3),  # before any 1
        (["broken.png", "a.png"], ["--fail-on-anomaly"], 1),
        (["broken.png", "a.png"], [], 1),
        (["missing.png"], [], 2),
        (["missing.png", "b.png", "none/*.png"], ["--fail-on-anomaly"], 3),
    ],
)
def test_exit_codes(run, model_path, batch, names, flags, code):
    found, _, err = run("predict", model_path, *[batch / name for name in names], *flags)
    assert found == code
    if "broken.png" in names:
        assert len([line for line in err.splitlines() if line.startswith("skipped: ")]) == 1


def test_what_means_nothing_stands_in_its_place_and_each_picture_once(run, model_path, batch):
    words = [batch / name for name in ("a.png", "missing.png", "?.png", "none/*.png")]
    code, printed, err = run("predict", model_path, *words, "--json")
    lines = [json.loads(line) for line in printed.splitlines()]
    assert names_of(printed) == ["a.png", "missing.png", "b.png", "*.png"]
    assert [line["decision"] for line in lines] == ["good", None, "anomalous", None]
    assert code == 1
    assert f"skipped: {words[1]}: no such file or folder; check the path" in err.splitlines()


def test_pictures_that_one_reason_keeps_from_being_read_are_one_line(run, model_path, batch, tmp_path):
    """Whatever their names hold: a reason is no part of a text."""
    for k in range(7):
        (tmp_path / f"{k}: it is empty.png").write_bytes(b"x")
    (tmp_path / "empty.png").write_bytes(b"")
    code, _, err = run("predict", model_path, batch / "a.png", *sorted(tmp_path.glob("*.png")))
    told = [line for line in err.splitlines() if line.startswith("skipped: ")]
    assert (code, len(told)) == (1, 2)
    assert told[0].startswith(
        "skipped: cannot read 7 pictures: it is not a picture we know; convert it to PNG: "
    )
    assert all(f"/{k}: it is empty.png" in told[0] for k in range(7))
    assert "empty.png: it is empty" in told[1]
    assert "8 pictures were skipped" in err


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux alone: nothing to install")
def test_a_name_that_cannot_be_shown_spoils_nothing(run, model_path, batch, tmp_path):
    name = tmp_path / "odd" / b"\xff\xfe.png".decode("utf-8", "surrogateescape")
    name.parent.mkdir()
    shutil.copy(batch / "a.png", name)
    shutil.copy(batch / "a.png", name.parent / "two\nlines.png")
    (name.parent / "not\na picture.png").write_bytes(b"x")
    code, printed, err = run("predict", model_path, name.parent)
    assert code == 1
    assert "\\udcff" in printed
    assert len([line for line in err.splitlines() if line.startswith("skipped: ")]) == 1
    assert len(names_of(run("predict", model_path, name.parent, "--json")[1])) == 3


def test_another_rate_moves_the_threshold(run, model_path, batch):
    rates = ("10%", "50%", "0.5")
    err = [run("predict", model_path, batch / "a.png", "--false-alarm-rate", rate)[2] for rate in rates]
    assert "about 1 of 13 good pictures will be called anomalous" in err[0]  # of 12 calibration pictures
    assert err[0] != err[1] == err[2]


def test_good_ones_near_the_threshold_are_told_and_offered(run, answer, model_path, batch, tmp_path):
    """At a rate that calls anomalous what is one step further out, of 12 calibration pictures."""
    call, out = ("predict", model_path, batch / "a.png"), tmp_path / "out"
    p_value = json.loads(run(*call, "--json")[1])["p_value"]
    rate = ("--false-alarm-rate", f"{p_value - 0.5 / 13:.4f}")
    said = [f"next: flawscope review {out} ", "; 1 near the threshold, called good, comes after them"]
    answer(*call, *rate, "--out", out, *PLAIN, printed=["a.png  (near the threshold)"], said=said)


def test_a_batch_at_a_false_discovery_rate(run, model_path, batch, tmp_path):
    call = ("predict", model_path, batch / "a.png", batch / "b.png", "--false-discovery-rate")
    code, _, err = run(*call, "20%", "--out", tmp_path / "r")
    found = json.loads((tmp_path / "r/results.json").read_text())["batch"]
    assert (code, found["pictures"], found["rate"], found["defective"]) == (0, 2, 0.2, 1)
    assert "1 of 2 pictures can be called defective, those of p 0.0769 or less" in err
    err = run(*call, "0.01")[2]
    assert "none of 2 pictures can be called defective at a false discovery rate of 1.0%" in err


def test_only_anomalous_ones_are_shown_and_the_table_has_all(run, model_path, mixed, tmp_path):
    (mixed / "c.gif").unlink()
    out = tmp_path / "out"
    _, printed, _ = run("predict", model_path, mixed, "--only-anomalous", "--out", out, "--quiet")
    assert [line.split()[-1] for line in printed.splitlines()] == [str(mixed / "b.png")]
    for folder in ("overlays", "maps", "masks"):
        assert [p.stem for p in (out / folder).rglob("*.png")] == ["b"]
    assert {p.stem for p in (out / "predictions").rglob("*.json")} == {"b", "d"}  # and what was not judged
    assert [row.decision for row in read_table(out / "results.csv")] == ["good", "anomalous", "", "good"]
    assert "data:image/webp" in (out / "report.html").read_text(encoding="utf-8")


def test_without_what_a_page_needs_the_rest_is_written(answer, model_path, batch, tmp_path, monkeypatch):
    monkeypatch.setattr("PIL.features.check", lambda name: name != "webp")
    answer("predict", model_path, batch / "b.png", "--out", tmp_path / "out", *PLAIN, said="no page: ")
    assert (tmp_path / "out/results.csv").is_file()
    assert not (tmp_path / "out/report.html").exists()


def test_a_full_disk_stops_no_judging_and_is_said_once(run, model_path, mixed, tmp_path, monkeypatch):
    full = FullDiskError("cannot write to it: No space left on device; free some space")
    monkeypatch.setattr(PictureWriter, "add", Mock(side_effect=full))
    code, printed, err = run("predict", model_path, mixed / "[ab].png", "--out", tmp_path / "out")
    assert (code, len(printed.splitlines())) == (1, 2)
    assert err.count("No space left on device") == 1
    assert "could not be written: 2 pictures; all others are there" in err
    assert written(tmp_path / "out") == (False, {"picture": 2})
    assert [row.decision for row in read_table(tmp_path / "out/results.csv")] == ["good", "anomalous"]


def test_rows_that_cannot_be_written_are_counted_and_nothing_is_called_complete(
    run, model_path, mixed, tmp_path, monkeypatch
):
    real, full = TableWriter.add_result, FlawscopeError("cannot write to it: No space left on device; free")
    calls = iter([None, full, None, full])

    def add(self, result):
        if error := next(calls, None):
            raise error
        real(self, result)

    monkeypatch.setattr(TableWriter, "add_result", add)
    out = tmp_path / "out"
    code, _, err = run("predict", model_path, mixed, "--out", out, *PLAIN)
    assert code == 1
    assert "could not be written: 2 rows" in err
    assert "a row for every input" not in err
    assert len(read_table(out / "results.csv")) == 3
    facts = json.loads((out / "results.json").read_text())
    assert (facts["complete"], facts["unwritten"]["row"], facts["inputs"]) == (False, 2, 5)


def test_a_picture_that_cannot_be_printed_is_not_counted(run, model_path, mixed, tmp_path, monkeypatch):
    """As in `predict --out DIR | head -1`."""
    monkeypatch.setattr(output, "show_result", Mock(side_effect=[None, BrokenPipeError]))
    out = tmp_path / "out"
    code, _, err = run("predict", model_path, mixed, "--out", out, *PLAIN)
    assert (code, "unexpected" in err) == (1, False)
    assert len(read_table(out / "results.csv")) == 1
    assert json.loads((out / "results.json").read_text())["inputs"] == 1


def test_a_scored_picture_that_has_gone_is_reported_and_the_others_are_drawn(
    run, model_path, batch, tmp_path, monkeypatch
):
    """As in a folder from which another program takes the pictures away."""
    for name in ("1.png", "2.png"):
        shutil.copy(batch / "a.png", tmp_path / name)
    scored = Predictor.stream

    def stream(*args, **kwargs):
        for source, result in scored(*args, **kwargs):
            (tmp_path / "1.png").unlink(missing_ok=True)
            yield source, result

    monkeypatch.setattr(Predictor, "stream", stream)
    out = tmp_path / "out"
    words = [tmp_path / name for name in ("1.png", "2.png")]
    code, lines, err = run("predict", model_path, *words, "--json", "--out", out)
    assert (code, len(lines.splitlines())) == (1, 2)
    assert "1.png: there is no such file; check the path (scored, but not drawn)" in err
    assert [p.name for p in (out / "overlays").iterdir()] == ["2.png"]
    assert len(list((out / "masks").iterdir())) == 2
    assert written(out) == (False, {"overlay": 1})

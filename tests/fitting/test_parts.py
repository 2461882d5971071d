"""`fit --part`: one decision on all views of a part, from the folder to the results."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import flawscope
from flawscope.artefact import model_file
from flawscope.cli import main
from flawscope.errors import InputError
from parts_helpers import QUICK, VIEWS, data_fixture, model_fixture, view  # noqa: F401
from picture_files import save


def test_in_python_and_where_names_do_not_tell(model, capsys):
    predictor = flawscope.load(model, device="cpu")
    found = predictor.predict_part({"top": view(70, 1, True), "side": view(70, 0)}, "70")
    assert (found.decision, found.worst, found.missing, found.part) == ("anomalous", "top", (), "70")
    assert found.severity > 3
    assert found.line() == f"part 70: anomalous, severity {found.severity:+.1f}, p 0.048, most unusual: top"
    good = replace(found, is_anomalous=False, near=True)
    assert good.line().endswith("most unusual: top  (near the threshold)")
    assert found.to_dict()["severity"] == found.severity
    alone = predictor.predict_part({"side": view(70, 0)})
    assert (alone.is_anomalous, alone.missing) == (False, ("top",))
    assert alone.decision == "incomplete", "nothing says good of a part that was not seen whole"
    with pytest.raises(InputError, match="no view left: name one of side, top"):
        predictor.predict_part({"left": view(70, 0)})
    single = flawscope.fit([view(k, 0) for k in range(6)], **QUICK)
    assert single.parts() is None
    with pytest.raises(InputError, match="fit it with --part"):
        single.predict_part({"top": view(1, 1)})


def test_names_twice_or_unknown_are_reported_and_the_others_decided(model, tmp_path, answer):
    names = ("p01_side.png", "again/p01_side.png", "p01_top.png", "p02_below.png", "p03_side.png")
    save(tmp_path, {name: view(1, int("top" in name)) for name in names})
    said = ["shows part p01 from side too", "the model knows no view below"]
    said.append("0 of 2 parts anomalous, 1 incomplete; ")
    answer("predict", model, tmp_path, code=1, said=said, printed=["part p01: good", "part p03: incomplete"])
    answer("predict", model, tmp_path / "p03_side.png", "--fail-on-anomaly", code=3)
    answer("predict", model, tmp_path / "again", "--only-anomalous", printed="part p01: incomplete")


def test_an_incomplete_part_is_told_as_soon_as_the_next_one_comes(model, tmp_path, run):
    """Its maps wait for nothing: files of a part are judged one after another."""
    names = ("p01_side.png", "p02_side.png", "p02_top.png", "p03_top.png")
    save(tmp_path, {name: view(1, int("top" in name)) for name in names})
    printed = run("predict", model, tmp_path)[1]
    told = [line.partition(",")[0] for line in printed.splitlines() if line.startswith("part ")]
    assert told == ["part p01: incomplete", "part p02: good", "part p03: incomplete"]


def test_pictures_say_what_their_part_decides(model, tmp_path, answer):
    """Views that are odd by themselves in parts that are not, in the console, the tables and the page."""
    names = {f"p{k}_{name}.png": (k, n) for k in range(100, 112) for n, name in enumerate(VIEWS)}
    pictures = {name: view(*shown) for name, shown in names.items()}
    for k in range(100, 110):
        pictures[f"p{k}_top.png"] = weak_defect(k)
    folder = save(tmp_path / "new", pictures)
    single = [one.is_anomalous for _, one in flawscope.load(model, device="cpu").stream(folder)]
    out = tmp_path / "out"
    printed = answer("predict", model, folder, "--out", out, said=" of 12 parts anomalous; parts of 2 views")
    parts = {row["part"]: row for row in read(out / "parts.csv")}
    rows = {Path(row["path"]).stem: row for row in read(out / "results.csv")}
    assert {row["decision"] for row in parts.values()} == {"good", "anomalous"}
    for name, row in rows.items():
        of = parts[name.partition("_")[0]]
        assert (row["decision"], row["severity"], row["p_value"]) == tuple(of[k] for k in SAID), name
        assert ("most unusual" in row["remark"]) == (name.partition("_")[2] == of["worst"])
        assert (float(of["severity"]) > 0) == (of["decision"] == "anomalous")
    assert sum(single) != sum(row["decision"] == "anomalous" for row in rows.values())
    assert len([line for line in printed.splitlines() if line.startswith("part ")]) == 12


SAID = ("decision", "severity", "p_value")


def weak_defect(k):
    """View from the top with a spot that stands out a little more with each part."""
    picture = view(k, 1).astype(np.float64)
    picture[34:44, 44:54] -= 2 * (k - 100)
    return picture.clip(0, 255).astype(np.uint8)


def read(path):
    with path.open(encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def test_wrong_patterns_are_told_before_the_work(data):
    good = data / "train" / "good"
    for how, message in (
        ({"view": "a"}, "give --part too"),
        ({"part": r"p\d+", "group": "p"}, "--part does not go with --group"),
        ({"part": r"p\d+_\w+"}, "another text in each name"),
        ({"part": r"q\d+"}, "matches nothing"),
        ({"part": "p"}, "the same text in each name"),
        ({"part": "p", "view": "side|top"}, "both show view"),
    ):
        with pytest.raises(InputError, match=message):
            flawscope.fit(good, device="cpu", **how)


def test_a_damaged_pattern_is_one_line(model, tmp_path):
    artefact = model_file.read(model)
    artefact.manifest.facts["part"] = {"part": "("}
    model_file.write(artefact, tmp_path / "m.safetensors")
    with pytest.raises(InputError, match="parts are damaged"):
        flawscope.load(tmp_path / "m.safetensors", device="cpu").parts()


def test_views_that_were_exchanged_or_shown_twice_make_no_good_part(model, tmp_path, capsys):
    side, top = view(70, 0), view(70, 1)
    for part, (pictures, remark) in {
        "p70": ((side, top), None),
        "p71": ((top, side), "named as view side, looks like top"),
        "p72": ((side, side), "side and top are the same picture"),
        "p73": ((view(73, 1), view(74, 1)), "named as view side, looks like top"),  # another of the same view
    }.items():
        named = {f"{part}_{v}.png": one for v, one in zip(VIEWS, pictures, strict=True)}
        folder = save(tmp_path / part, named)
        assert main(["predict", str(model), str(folder), "--device", "cpu", "--quiet"]) == 0
        line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(f"part {part}"))
        assert (": good," in line) == (remark is None)
        assert remark is None or remark in line
    predictor = flawscope.load(model, device="cpu")
    assert predictor.predict_part({"side": side, "top": top}).decision == "good"
    found = predictor.predict_part({"side": top, "top": side})
    assert [one.code for views in found.views.values() for one in views.findings] == ["view_exchanged"] * 2
    twice = predictor.predict_part({"side": top, "top": top})
    assert [one["code"] for one in twice.to_dict()["findings"]] == ["same_picture"]
    assert twice.decision == found.decision == "anomalous"


def test_an_older_model_knows_no_looks_and_judges_as_before(model):
    predictor = flawscope.load(model, device="cpu")
    facts = {k: v for k, v in predictor.manifest.facts.items() if k != "view_looks"}
    assert len(facts) < len(predictor.manifest.facts)
    manifest = replace(predictor.manifest, facts=facts)
    older = flawscope.Predictor(replace(predictor.artefact, manifest=manifest), predictor.session)
    same = older.predict_part({"side": view(70, 1), "top": view(70, 0)})
    assert not any(one.findings for one in same.views.values())


def test_a_model_of_parts_is_calibrated_on_whole_parts(model, monkeypatch):
    """A part of which a view is missing would be compared with nothing afterwards: told before the work."""
    found = flawscope.load(model, device="cpu")
    one_view = [f"new/p{part}_top.png" for part in range(70, 90)]
    monkeypatch.setattr("flawscope.predictor.recalibration.score", None)
    with pytest.raises(InputError, match=r"no good part has pictures of all views \(side, top\)"):
        found.calibrate(one_view)

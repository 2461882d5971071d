"""Every command on one small real model: what it prints, where, and what it leaves behind."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flawscope.artefact.model_file import read_manifest
from flawscope.cli import main
from flawscope.synthesis.demo.dataset import draw_dataset

pytest.importorskip("torch")

Capture = pytest.CaptureFixture[str]


def plate(drawn: Path) -> Path:
    return drawn / "plate"


@pytest.fixture
def model(model_path: Path) -> str:
    return str(model_path)


@pytest.fixture
def batch(drawn: Path, tmp_path: Path) -> Path:
    """A folder with a good picture, a defective one, and one that is none."""
    folder = tmp_path / "batch"
    folder.mkdir()
    shutil.copy(plate(drawn) / "train/good/000.png", folder / "a.png")
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "b.png")
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:200])
    return folder


def run(capsys: Capture, *argv: str) -> tuple[int, str, str]:
    code = main(argv)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# ------------------------------------------------------------------------------------------------- predict


def test_predict_json_is_one_line_a_picture_and_nothing_else(
    capsys: Capture, model: str, batch: Path
) -> None:
    code, out, err = run(capsys, "predict", model, str(batch), "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [Path(line["path"]).name for line in lines] == ["a.png", "b.png", "broken.png"]
    last = lines.pop()
    assert last["decision"] is None
    assert "truncated" in last["error"]
    for line in lines:
        assert {"path", "score", "p_value", "severity", "is_anomalous", "regions"} <= set(line)
        assert (line["score"] > line["score_threshold"]) == (line["severity"] > 0) == line["is_anomalous"]
        assert line["mask_threshold"] == read_manifest(model).calibration.mask_threshold
    assert [line["is_anomalous"] for line in lines] == [False, True]
    assert code == 1  # one was skipped
    assert "broken.png" in err


def test_predict_agrees_with_python(capsys: Capture, model: str, batch: Path) -> None:
    import flawscope

    _, out, _ = run(capsys, "predict", model, str(batch / "b.png"), "--json")
    assert json.loads(out) == flawscope.load(model).predict(batch / "b.png").to_dict()


def test_predict_for_a_person_names_picture_and_verdict(capsys: Capture, model: str, batch: Path) -> None:
    code, out, err = run(capsys, "predict", model, str(batch / "a.png"), str(batch / "b.png"))
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["good", "anomalous"]
    assert [line.split()[1] for line in out.splitlines()] == ["severity"] * 2
    assert [line.split()[2][0] for line in out.splitlines()] == ["-", "+"]
    assert "1 of 2 pictures anomalous" in err
    assert "score threshold" in err
    assert "warning" not in err


@pytest.fixture
def fabric(tmp_path: Path) -> Path:
    """Pictures of another product than the model's, a data set of their own."""
    return draw_dataset(tmp_path / "other", category="fabric", train=1, good=5, bad_per_kind=1, size=96)


def test_predict_says_that_pictures_are_of_another_product(
    capsys: Capture, model: str, fabric: Path, drawn: Path
) -> None:
    code, out, err = run(capsys, "predict", model, str(fabric / "test/good"))
    assert (code, len(out.splitlines())) == (0, 5)
    (said,) = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert "5 of 5 pictures look unlike the training pictures" in said
    assert "warning" not in run(capsys, "predict", model, str(fabric / "test/good"), "--quiet")[2]
    # defects of the right product, whatever is found
    _, _, err = run(capsys, "predict", model, *map(str, sorted(plate(drawn).glob("test/[!g]*/*.png"))))
    assert "look unlike" not in err


def test_after_calibrating_on_other_light_it_is_as_expected(
    capsys: Capture, model: str, drawn: Path, tmp_path: Path
) -> None:
    for path in plate(drawn).glob("test/good/*.png"):
        with Image.open(path) as picture:
            picture.point([value * 6 // 10 for value in range(256)] * 3).save(tmp_path / path.name)
    _, _, err = run(capsys, "predict", model, str(tmp_path))
    assert "4 of 4 pictures look unlike the training pictures as a whole" in err
    assert "darker" in err
    new = str(tmp_path / "new.safetensors")
    assert run(capsys, "calibrate", model, "--good", str(tmp_path), "--out", new, "--quiet")[0] == 0
    assert "warning" not in run(capsys, "predict", new, str(tmp_path))[2]


def test_evaluate_says_that_pictures_are_of_another_product(
    capsys: Capture, model: str, fabric: Path, drawn: Path
) -> None:
    _, out, _ = run(capsys, "evaluate", model, "--data", str(fabric.parent), "--json", "--quiet")
    assert "5 of 5 good test pictures look unlike" in json.loads(out)["mismatch"]
    assert "\nwarning: 5 of 5 good test" in run(capsys, "evaluate", model, "--data", str(fabric.parent))[1]
    _, out, _ = run(capsys, "evaluate", model, "--data", str(drawn), "--json", "--quiet")
    found = json.loads(out)
    assert found["mismatch"] is None
    assert found["kinds"]["good"]["median_severity"] < 0


@pytest.mark.parametrize(
    ("names", "flags", "code"),
    [
        (["a.png"], [], 0),
        (["b.png"], [], 0),
        (["a.png"], ["--fail-on-anomaly"], 0),
        (["a.png", "b.png"], ["--fail-on-anomaly"], 3),
        (["broken.png", "b.png"], ["--fail-on-anomaly"], 3),  # before any 1
        (["broken.png", "a.png"], ["--fail-on-anomaly"], 1),
        (["broken.png", "a.png"], [], 1),
        (["broken.png"], ["--json"], 1),
        (["missing.png"], [], 2),
        (["missing.png", "b.png", "none/*.png"], ["--fail-on-anomaly"], 3),
    ],
)
def test_predict_exit_codes(
    capsys: Capture, model: str, batch: Path, names: list[str], flags: list[str], code: int
) -> None:
    found, _, err = run(capsys, "predict", model, *[str(batch / n) for n in names], *flags)
    assert found == code
    if "broken.png" in names:
        assert len([line for line in err.splitlines() if line.startswith("skipped: ")]) == 1


def test_a_missing_name_in_a_list_is_reported_and_the_others_are_scored(
    capsys: Capture, model: str, batch: Path
) -> None:
    names = [str(batch / name) for name in ("a.png", "missing.png", "b.png", "none/*.png")]
    code, out, err = run(capsys, "predict", model, *names, "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["path"] for line in lines] == names
    assert [line["decision"] for line in lines] == ["good", None, "anomalous", None]
    assert code == 1
    assert f"skipped: {names[1]}: no such file or folder; check the path" in err.splitlines()


def piped(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(content))))  # type: ignore[arg-type]


def test_predict_reads_paths_from_stdin_and_skips_missing_ones(
    capsys: Capture, model: str, batch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = f"{batch / 'b.png'}\r\n\n{batch / 'missing.png'}\n{batch / 'a.png'}"
    piped(monkeypatch, listed.encode())
    code, out, err = run(capsys, "predict", model, "-", "--json")
    names = [Path(json.loads(line)["path"]).name for line in out.splitlines()]
    assert names == ["b.png", "missing.png", "a.png"]
    assert code == 1
    assert "missing.png" in err


def test_a_picture_on_stdin_is_judged(
    capsys: Capture, model: str, batch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, it was taken for a list of paths and printed back."""
    expected = json.loads(run(capsys, "predict", model, str(batch / "b.png"), "--json")[1])
    piped(monkeypatch, (batch / "b.png").read_bytes())
    code, out, _ = run(capsys, "predict", model, "-", "--json", "--out", str(tmp_path / "out"))
    assert (code, json.loads(out)) == (0, {**expected, "path": "-"})
    assert (tmp_path / "out/overlays/-.png").exists()
    piped(monkeypatch, b"\0\1\2" * 30)
    code, _, err = run(capsys, "predict", model, "-")
    assert (code, err.count("\n")) == (2, 1)
    assert "neither a picture" in err


def test_predict_of_an_empty_list_is_nothing(
    capsys: Capture, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    piped(monkeypatch, b"")
    assert run(capsys, "predict", model, "-", "--json")[:2] == (0, "")


def test_predict_takes_patterns_and_names_each_picture_once(capsys: Capture, model: str, batch: Path) -> None:
    code, out, _ = run(capsys, "predict", model, str(batch / "?.png"), str(batch / "a.png"), "--json")
    assert (code, len(out.splitlines())) == (0, 2)


def test_predict_quiet_says_only_what_was_asked(
    capsys: Capture, model: str, batch: Path, tmp_path: Path
) -> None:
    out_folder = str(tmp_path / "out")
    code, out, err = run(capsys, "predict", model, str(batch / "a.png"), "--quiet", "--out", out_folder)
    assert (code, len(out.splitlines()), err) == (0, 1, "")


def test_predict_writes_pictures(capsys: Capture, model: str, batch: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    assert run(capsys, "predict", model, str(batch / "b.png"), "--out", str(out))[0] == 0
    assert (out / "contact_sheet.png").is_file()
    for folder in ("overlays", "maps", "masks"):
        assert len(list((out / folder).rglob("*.png"))) == 1
    assert "data:image/webp" in (out / "report.html").read_text(encoding="utf-8")


def test_predict_without_what_a_page_needs_writes_the_rest(
    capsys: Capture, model: str, batch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    code, _, err = run(capsys, "predict", model, str(batch / "b.png"), "--out", str(tmp_path / "out"))
    assert code == 0
    assert "no page: " in err
    assert "jinja2" in err
    assert (tmp_path / "out/results.csv").is_file()
    assert not (tmp_path / "out/report.html").exists()


def test_pictures_elsewhere_are_named_from_their_common_folder(
    capsys: Capture, model: str, batch: Path, tmp_path: Path
) -> None:
    for name in ("in/1/x.png", "in/2/x.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        shutil.copy(batch / "a.png", tmp_path / name)
    out = tmp_path / "out"
    assert run(capsys, "predict", model, str(tmp_path / "in"), "--out", str(out))[0] == 0
    assert {p.relative_to(out).as_posix() for p in (out / "overlays").rglob("*.png")} == {
        "overlays/1/x.png",
        "overlays/2/x.png",
    }


def test_a_scored_picture_that_has_gone_is_reported_and_the_others_are_drawn(
    capsys: Capture, model: str, batch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a folder from which another program takes the pictures away."""
    from flawscope.predictor import Predictor

    for name in ("1.png", "2.png"):
        shutil.copy(batch / "a.png", tmp_path / name)
    scored = Predictor.stream

    def stream(*args: Any, **kwargs: Any) -> Any:
        for source, result in scored(*args, **kwargs):
            (tmp_path / "1.png").unlink(missing_ok=True)
            yield source, result

    monkeypatch.setattr(Predictor, "stream", stream)
    out = tmp_path / "out"
    names = [str(tmp_path / name) for name in ("1.png", "2.png")]
    code, lines, err = run(capsys, "predict", model, *names, "--json", "--out", str(out))
    assert (code, len(lines.splitlines())) == (1, 2)
    assert "1.png: there is no such file; check the path (scored, but not drawn)" in err
    assert [p.name for p in (out / "overlays").iterdir()] == ["2.png"]
    assert len(list((out / "masks").iterdir())) == 2
    assert (out / "contact_sheet.png").is_file()


def test_predict_at_another_rate_moves_the_threshold(capsys: Capture, model: str, batch: Path) -> None:
    err = [
        run(capsys, "predict", model, str(batch / "a.png"), "--false-alarm-rate", r)[2]
        for r in ("10%", "50%", "0.5")
    ]
    assert "(1/13) of good pictures expected above it" in err[0]  # of 12 calibration pictures
    assert err[0] != err[1] == err[2]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes only there")
def test_a_name_that_cannot_be_shown_spoils_nothing(
    capsys: Capture, model: str, batch: Path, tmp_path: Path
) -> None:
    name = tmp_path / "odd" / b"\xff\xfe.png".decode("utf-8", "surrogateescape")
    name.parent.mkdir()
    shutil.copy(batch / "a.png", name)
    shutil.copy(batch / "a.png", name.parent / "two\nlines.png")
    (name.parent / "not\na picture.png").write_bytes(b"x")
    code, out, err = run(capsys, "predict", model, str(name.parent))
    assert code == 1
    assert "\\udcff" in out
    assert len([line for line in err.splitlines() if line.startswith("skipped: ")]) == 1
    code, out, _ = run(capsys, "predict", model, str(name.parent), "--json")
    assert len([json.loads(line) for line in out.splitlines()]) == 3


# ------------------------------------------------------------------------------------------------ evaluate


def test_evaluate_json_is_one_document(capsys: Capture, model: str, drawn: Path, tmp_path: Path) -> None:
    out_folder = tmp_path / "results"
    code, out, err = run(capsys, "evaluate", model, "--data", str(drawn), "--json", "--out", str(out_folder))
    document = json.loads(out)
    assert code == 0
    assert "evaluation" in err  # progress
    names = "category method metrics false_alarms images left_out seconds"
    assert set(names.split()) <= set(document)
    assert document["category"] == "plate"
    assert json.loads((out_folder / "results.json").read_text()) == document
    assert (out_folder / "contact_sheet.png").is_file()
    test = sorted((plate(drawn) / "test").rglob("*.png"))
    assert document["images"] == len(test)
    assert len(list((out_folder / "overlays").rglob("*.png"))) == len(test)


def test_evaluate_for_a_person_labels_what_used_test_labels(capsys: Capture, model: str, drawn: Path) -> None:
    code, out, err = run(capsys, "evaluate", model, "--data", str(drawn), "--quiet")
    assert (code, err) == (0, "")
    assert "image AUROC" in out
    assert "(test labels)" in out
    assert "false alarms" in out


def test_evaluate_leaves_out_training_pictures(
    capsys: Capture, model: str, drawn: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(plate(drawn), tmp_path / "plate")
    shutil.copy(root / "train/good/003.png", root / "test/good/zz.png")
    code, out, _ = run(capsys, "evaluate", model, "--data", str(root), "--json")
    assert (code, json.loads(out)["left_out"]) == (0, 1)
    assert "left out" in run(capsys, "evaluate", model, "--data", str(root))[1]


def test_evaluate_reports_a_bad_picture_and_does_the_others(
    capsys: Capture, model: str, drawn: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(plate(drawn), tmp_path / "plate")
    (root / "test/good/000.png").write_bytes(b"x")
    code, out, err = run(capsys, "evaluate", model, "--data", str(root), "--json")
    assert code == 1
    assert json.loads(out)["failures"]
    assert "skipped: " in err


def test_several_categories_are_listed(capsys: Capture, model: str, drawn: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(plate(drawn), tmp_path / "data" / name)
    data = str(tmp_path / "data")
    for argv in (
        ["evaluate", model, "--data", data],
        ["fit", "--data", data, "--out", str(tmp_path / "m.safetensors")],
        ["data", "check", "--data", data],
    ):
        code, out, err = run(capsys, *argv)
        assert (code, out) == (2, "")
        assert "one, two" in err
        assert "--category" in err
    code, _, err = run(capsys, "evaluate", model, "--data", data, "--category", "onne")
    assert code == 2
    assert "one" in err


def test_nothing_to_evaluate_is_said(capsys: Capture, model: str, drawn: Path) -> None:
    code, out, err = run(capsys, "evaluate", model, "--data", str(plate(drawn) / "train/good"))
    assert (code, out) == (2, "")
    assert "no test pictures" in err


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_an_output_folder_that_cannot_be_made_is_told_at_once(
    capsys: Capture, drawn: Path, tmp_path: Path, command: str
) -> None:
    """Before the model is opened: it is not even there."""
    (tmp_path / "file").write_text("x")
    picture = str(plate(drawn) / "test/good/000.png")
    missing = str(tmp_path / "missing.safetensors")
    rest = [picture] if command == "predict" else ["--data", str(drawn)]
    for out in (tmp_path / "file", tmp_path / "file" / "sub"):
        code, _, err = run(capsys, command, missing, *rest, "--out", str(out))
        assert code == 2
        assert "--out" in err or command == "evaluate"
        assert err.count("\n") == 1


# ----------------------------------------------------------------------------------------------- calibrate


def test_calibrate_then_predict(
    capsys: Capture, model: str, drawn: Path, batch: Path, tmp_path: Path
) -> None:
    good = plate(drawn) / "test/good"
    new = tmp_path / "new.safetensors"
    code, out, err = run(capsys, "calibrate", model, "--good", str(good), "--out", str(new))
    assert (code, out) == (0, "")
    assert "before:" in err
    assert "now:" in err
    code, out, _ = run(capsys, "predict", str(new), str(good), "--json", "--quiet")
    scores = [json.loads(line)["score"] for line in out.splitlines()]
    made = read_manifest(new)
    assert made.calibration.scores == pytest.approx(scores, rel=1e-5)
    assert made.calibration.score_threshold == pytest.approx(max(scores), rel=1e-5)
    # what the thresholds were learnt from is not test data any more
    _, out, _ = run(capsys, "evaluate", str(new), "--data", str(drawn), "--json", "--quiet")
    assert json.loads(out)["left_out_by_kind"] == {"good": len(scores)}


def test_calibrate_says_what_was_before_and_what_it_left_out(
    capsys: Capture, model: str, drawn: Path, tmp_path: Path
) -> None:
    old = read_manifest(model).calibration
    train = list((plate(drawn) / "train/good").iterdir())
    good, new = tmp_path / "good", tmp_path / "new.safetensors"
    shutil.copytree(plate(drawn) / "test/good", good)
    shutil.copy(train[0], good / "known.png")
    argv = ["--good", str(good), "--out", str(new), "--false-alarm-rate", "20%"]
    _, _, err = run(capsys, "calibrate", model, *argv)
    assert f"before: {old.promise()}\n" in err
    assert old.promise() != old.with_rate(0.2).promise()
    assert "\nnot calibrated with 1 picture that the model was fitted on, or copies\n" in err
    *_, last = read_manifest(new).notes
    assert f"\n{last}\n" in err


def test_calibrate_refuses_pictures_the_model_was_fitted_on(
    capsys: Capture, model: str, drawn: Path, tmp_path: Path
) -> None:
    """They would score nearly nothing, and every new picture would be called anomalous."""
    good = str(plate(drawn) / "train/good")
    out = tmp_path / "m.safetensors"
    code, _, err = run(capsys, "calibrate", model, "--good", good, "--out", str(out), "--quiet")
    assert code == 2
    assert "has not seen" in err
    assert not out.exists()


def test_calibrate_skips_a_bad_picture(capsys: Capture, model: str, batch: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    code, _, err = run(capsys, "calibrate", model, "--good", str(batch), "--out", str(out), "--quiet")
    assert code == 1
    assert err.count("skipped: ") == 1
    assert read_manifest(out).calibration.count == 1  # b.png: a.png was fitted on


# --------------------------------------------------------------------------------------- info and the others


def test_info_for_a_person_and_for_a_program(capsys: Capture, model: str) -> None:
    code, out, err = run(capsys, "info", model)
    assert (code, err) == (0, "")
    for word in (
        "patchcore",
        "plate",
        "64x64",
        "12 train",
        "score threshold",
        "mask threshold",
        "Apache-2.0",
    ):
        assert word in out
    code, out, err = run(capsys, "info", model, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == read_manifest(model).to_dict()


def test_info_self_test_passes_where_the_model_was_made(capsys: Capture, model: str) -> None:
    code, out, err = run(capsys, "info", model, "--self-test", "--json")
    assert code == 0
    json.loads(out)
    assert "self-test passed: 3 pictures in batches of 1, 3, 8, fp32, torch" in err


def test_a_failing_self_test_is_exit_code_1(capsys: Capture, model: str, tmp_path: Path) -> None:
    from dataclasses import replace

    from flawscope.artefact.model_file import read, write

    loaded = read(model)
    for samples, code in (
        ([{**s, "score": s["score"] * 1.01} for s in loaded.manifest.samples], 1),
        ([{**s, "score": "much"} for s in loaded.manifest.samples], 2),
        (loaded.manifest.samples[:1], 2),
    ):
        manifest = replace(loaded.manifest, samples=tuple(samples))
        write(replace(loaded, manifest=manifest), tmp_path / "m.safetensors")
        assert run(capsys, "info", str(tmp_path / "m.safetensors"), "--self-test")[0] == code


def test_backbones_lists_the_default_and_what_is_at_hand(capsys: Capture) -> None:
    from flawscope.methods.features.weights import DEFAULT_BACKBONE

    code, out, _ = run(capsys, "backbones", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0
    assert rows[DEFAULT_BACKBONE]["at_hand"] is True
    assert rows[DEFAULT_BACKBONE]["licence"] == "Apache-2.0"
    code, out, _ = run(capsys, "backbones")
    assert (code, DEFAULT_BACKBONE in out) == (0, True)


def test_data_check_of_a_clean_and_a_faulty_folder(capsys: Capture, drawn: Path, tmp_path: Path) -> None:
    root = shutil.copytree(plate(drawn), tmp_path / "plate")
    (root / "train/good/000.png").write_bytes(b"x")
    code, out, err = run(capsys, "data", "check", "--data", str(root), "--json", "--no-near")
    document = json.loads(out)
    assert code == 1
    assert "000.png" in json.dumps(document)
    assert "check" in err
    code, out, _ = run(capsys, "data", "check", "--data", str(root), "--no-near", "--quiet")
    assert (code, "000.png" in out) == (1, True)


def test_data_check_with_a_model_accuses_a_foreign_picture_and_not_its_own(
    capsys: Capture, model: str, drawn: Path, batch: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(plate(drawn), tmp_path / "plate")
    shutil.copy(batch / "b.png", root / "train/good/foreign.png")
    _, out, _ = run(capsys, "data", "check", "--data", str(root), "--model", model, "--json", "--no-near")
    suspects = [s["path"] for s in json.loads(out)["suspects"]]
    assert suspects[0] == "train/good/foreign.png"
    assert len(suspects) <= 2


def test_a_method_that_looks_for_no_suspects_is_named_as_the_reason(
    capsys: Capture, efficientad_path: Path, drawn: Path
) -> None:
    code, out, err = run(capsys, "data", "check", "--data", str(drawn), "--model", str(efficientad_path))
    assert (code, out) == (2, "")
    assert "efficientad does not look for suspicious pictures; give a model of patchcore" in err


# ---------------------------------------------------------------------------------------------------- fit


def test_an_automatic_split_keeps_parts_together_when_fitting_evaluating_and_checking(
    capsys: Capture, drawn: Path, tmp_path: Path
) -> None:
    """Fitting stores the pattern: split by file names, evaluation would find most pictures learnt from."""
    root = tmp_path / "thing"
    (root / "good").mkdir(parents=True)
    for k, path in enumerate(sorted((plate(drawn) / "train/good").iterdir())):
        shutil.copy(path, root / "good" / f"part{k // 3}_{k % 3}.png")
    shutil.copytree(plate(drawn) / "test/scratch", root / "bad")
    data, out = ["--data", str(root)], str(tmp_path / "m.safetensors")
    assert run(capsys, "fit", *data, "--group", r"part(\d)", "--size", "64", "--out", out, "--quiet")[0] == 0
    document = json.loads(run(capsys, "evaluate", out, *data, "--json", "--quiet")[1])
    assert document["left_out"] == 0
    assert document["false_alarms"]["images"] == 3  # one whole part of four
    for split in (["--group", r"part(\d)"], ["--model", out]):
        checked = run(capsys, "data", "check", *data, *split, "--json", "--quiet", "--no-near")[1]
        assert {c["split"]: c["pictures"] for c in json.loads(checked)["counts"] if c["kind"] == "good"} == {
            "train": 9,
            "test": 3,
        }


def test_fit_settings_come_from_file_category_flag_and_set_in_this_order(
    capsys: Capture, drawn: Path, tmp_path: Path
) -> None:
    """The category is the data's own when it is not named."""
    config = tmp_path / "c.yaml"
    config.write_text(
        "size: 128\nratio: 0.5\nsigma: 1\nseed: 5\ncategories: {plate: {size: 96, ratio: 0.4}}\n"
    )
    out = tmp_path / "m.safetensors"
    code, stdout, err = run(
        capsys,
        *("fit", "--data", str(drawn), "--out", str(out), "--config", str(config)),
        *("--size", "64x48", "--set", "ratio=0.05", "--false-alarm-rate", "20%", "--no-samples"),
        *("--threads", "1"),
    )
    assert (code, stdout) == (0, "")
    assert "12 good pictures" in err
    made = read_manifest(out)
    wanted = {"size": "64x48", "ratio": 0.05, "sigma": 1.0, "seed": 5}
    assert wanted.items() <= made.config.items()
    assert made.calibration.rate == 0.2
    assert made.samples == ()
    assert made.category == "plate"
    assert [p.role for p in made.pictures] == ["train"] * 12
    assert run(capsys, "info", str(out), "--self-test")[0] == 2  # it has no samples


@pytest.mark.parametrize(
    ("argv", "match"),
    [
        (["--set", "ratoi=0.1"], "did you mean ratio"),
        (["--set", "ratio=2"], "at most 1"),
        (["--size", "large"], "size"),
        (["--size", "256+"], "joined by +"),
        (["--size", "64+96", "--crop", "48"], "crop works with one size"),
        (["--size", "8"], "between 16 and 4096"),
        (["--method", "pathcore"], "did you mean patchcore"),
        (["--preset", "papr"], "paper"),
        (["--group", "("], "--group"),
        (["--device", "gpu"], "cpu"),
        (["--backbone", "resnet9000"], "resnet9000"),
        (["--config", "no.yaml"], "no.yaml"),
        (["--roi", "no.png"], "no.png"),
        (["--update", "no.safetensors"], "there is no model"),
    ],
)
def test_a_wrong_setting_is_one_line_and_leaves_nothing(
    capsys: Capture, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str], match: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out = tmp_path / "m.safetensors"
    code, stdout, err = run(capsys, "fit", "--data", str(drawn), "--out", str(out), "--quiet", *argv)
    assert (code, stdout) == (2, "")
    assert match in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_fit_skips_a_bad_picture_and_says_so(capsys: Capture, drawn: Path, tmp_path: Path) -> None:
    good = shutil.copytree(plate(drawn) / "train/good", tmp_path / "good")
    (good / "003.png").write_bytes(b"x")
    out = tmp_path / "m.safetensors"
    code, _, err = run(capsys, "fit", "--data", str(good), "--out", str(out), "--size", "64", "--quiet")
    assert code == 1
    assert "003.png" in err
    assert len(read_manifest(out).pictures) == 11


def test_update_adds_pictures_and_refuses_settings(
    capsys: Capture, model: str, drawn: Path, tmp_path: Path
) -> None:
    out = str(tmp_path / "m.safetensors")
    more = str(plate(drawn) / "test/good")
    code, _, err = run(capsys, "fit", "--data", more, "--update", model, "--out", out, "--size", "64")
    assert code == 2
    assert "size" in err
    call = ["fit", "--data", more, "--update", model, "--out", out]
    # 12 pictures of 64 pixels are so few that four more hide some of the simulated defects
    code, _, err = run(capsys, *call)
    assert (code, Path(out).exists()) == (2, False)
    assert "simulated defects" in err.splitlines()[-1]
    assert run(capsys, *call, "--no-check", "--quiet")[0] == 0
    assert len(read_manifest(out).pictures) == 16
    assert read_manifest(out).calibration.scores == read_manifest(model).calibration.scores
    assert run(capsys, *call, "--no-check", "--fair", "--force", "--quiet")[0] == 0
    assert read_manifest(out).calibration.count == 16

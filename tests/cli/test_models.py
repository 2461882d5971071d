"""`calibrate`, `info` and `backbones`."""

import json
import shutil
from dataclasses import replace

import pytest
from PIL import Image

from flawscope.artefact.model_file import read, read_manifest, write
from flawscope.calibration.rows import scored
from flawscope.methods.features.weights import DEFAULT_BACKBONE


def test_calibrate_sets_what_new_pictures_say_and_names_what_it_left_out(run, model_path, drawn, tmp_path):
    old = read_manifest(model_path).calibration
    good, new = tmp_path / "good", tmp_path / "new.safetensors"
    shutil.copytree(drawn / "plate/test/good", good)
    shutil.copy(drawn / "plate/train/good/000.png", good / "known.png")
    (good / "half.png").write_bytes(b"x")
    Image.open(good / "000.png").save(good / "copy.bmp")
    call = ["calibrate", model_path, "--good", good, "--out", new, "--false-alarm-rate", "20%"]
    code, printed, err = run(*call)
    assert (code, printed, err.count("skipped: ")) == (1, "", 1)
    assert f"before: {old.promise()}\n" in err
    made = read_manifest(new).calibration
    assert f"now:    {made.promise()}\n" in err
    assert "\nnot calibrated with 2 pictures that the model was fitted on, or copies [FS-G34]\n" in err
    assert f"\n{read_manifest(new).notes[-1]}\n" in err
    roles = [picture.role for picture in read_manifest(new).pictures]
    assert roles == ["train"] * 12 + ["calibration"] * 4
    assert [row.name for row in scored(read_manifest(new).pictures)] == [f"{k:03}.png" for k in range(4)]
    _, printed, _ = run("predict", new, drawn / "plate/test/good", "--json", "--quiet")
    scores = [json.loads(line)["score"] for line in printed.splitlines()]
    assert made.scores == pytest.approx(scores, rel=1e-5)
    assert made.score_threshold == pytest.approx(max(scores), rel=1e-5)
    # what the thresholds were learnt from is not test data any more
    found = json.loads(run("evaluate", new, "--data", drawn, "--json", "--quiet")[1])
    assert found["left_out_by_kind"] == {"good": len(scores)}


def test_calibrate_with_a_rate_alone_keeps_the_scores(run, answer, model_path, tmp_path, drawn):
    old, new = read_manifest(model_path), tmp_path / "new.safetensors"
    code, _, err = run("calibrate", model_path, "--false-alarm-rate", "30%", "--out", new)
    made = read_manifest(new)
    assert code == 0
    assert made.calibration == old.calibration.with_rate(0.3)
    assert made.calibration.score_threshold < old.calibration.score_threshold
    assert err.splitlines() == [made.calibration.promise(), f"wrote {new}"]
    assert made.pictures == old.pictures
    by_option, kept = (
        [
            json.loads(line)["is_anomalous"]
            for line in answer("predict", *how, drawn / "plate/test", "--json", "--quiet").splitlines()
        ]
        for how in ((model_path, "--false-alarm-rate", "30%"), (new,))
    )
    assert kept == by_option
    answer("calibrate", model_path, "--out", new, code=2, said=["--good FOLDER", "--false-alarm-rate"])


def test_after_calibrating_on_other_light_it_is_as_expected(run, answer, model_path, drawn, tmp_path):
    for path in drawn.glob("plate/test/good/*.png"):
        with Image.open(path) as picture:
            picture.point([value * 6 // 10 for value in range(256)] * 3).save(tmp_path / path.name)
    warning = "4 of 4 pictures look unlike the training pictures as a whole"
    answer("predict", model_path, tmp_path, said=[warning, "darker"])
    new = tmp_path / "new.safetensors"
    answer("calibrate", model_path, "--good", tmp_path, "--out", new, "--quiet", "--force")
    assert "warning" not in run("predict", new, tmp_path)[2]


def test_info_for_a_person_and_for_a_program(run, answer, model_path):
    code, short, err = run("info", model_path)
    assert (code, err) == (0, "")
    first, *_ = short.splitlines()
    assert first.split() == ["product", "plate"]
    assert [word in short for word in ("score threshold", "--self-test", "Apache-2.0")] == [True, True, False]
    code, printed, err = run("info", model_path, "--verbose")
    assert (code, err) == (0, "")
    words = (
        "patchcore",
        "plate",
        "64x64",
        "12 learnt from",
        "score threshold",
        "mask threshold",
        "Apache-2.0",
    )
    assert all(word in printed for word in words)
    passed = "self-test passed: torch, fp32: 3 pictures decided as by"
    document = json.loads(answer("info", model_path, "--self-test", "--json", said=passed))
    assert document == json.loads(json.dumps(read_manifest(model_path).to_dict()))


def test_a_failing_self_test_is_exit_code_1(run, model_path, tmp_path):
    loaded = read(model_path)
    for samples, code in (
        ([{**s, "score": s["score"] * 1.01} for s in loaded.manifest.samples], 1),
        ([{**s, "score": "much"} for s in loaded.manifest.samples], 2),
        (loaded.manifest.samples[:1], 2),
    ):
        manifest = replace(loaded.manifest, samples=tuple(samples))
        write(replace(loaded, manifest=manifest), tmp_path / "m.safetensors")
        assert run("info", tmp_path / "m.safetensors", "--self-test")[0] == code


def test_backbones_lists_the_default_and_what_is_at_hand(answer):
    rows = {row["name"]: row for row in json.loads(answer("backbones", "--json"))}
    default = rows[DEFAULT_BACKBONE]
    assert (default["at_hand"], default["licence"]) == (True, "Apache-2.0")
    answer("backbones", printed=DEFAULT_BACKBONE)

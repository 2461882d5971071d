"""`fit`: where settings come from, what it says, pictures that are added, and several categories."""

import json
import re
import shutil
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from fit_helpers import categories, fits_fixture, root_fixture  # noqa: F401
from flawscope.artefact.model_file import read_manifest
from flawscope.datasets import open_dataset
from flawscope.fitting import simulated_defects, update_evaluation
from flawscope.fitting.fitting import fit
from small_network import SMALL_FLAGS

FOUND = re.compile(
    ", ".join(
        rf"{size} (?:(\d+) of \d+ faint)?(?: and )?(?:(\d+) of \d+ \([^)]*\) clear)? ones"
        for size in ("small", "medium", "large")
    )
)


def test_settings_come_from_file_category_flag_and_set_in_this_order(run, drawn, tmp_path, monkeypatch):
    """The category is the data's own when it is not named. Simulated defects that are found are said."""
    monkeypatch.setattr(simulated_defects, "TIME_SHARE", 1e3)  # as many on a busy machine
    monkeypatch.setattr(simulated_defects, "MAX_PER_SIZE", 8)
    config = tmp_path / "c.yaml"
    config.write_text(
        "size: 128\nratio: 0.5\nsigma: 1\nseed: 5\ncategories: {plate: {size: 96, ratio: 0.4}}\n"
    )
    out = tmp_path / "m.safetensors"
    words = ["--config", config, "--size", "64x48", "--set", "ratio=0.05", "--false-alarm-rate", "20%"]
    words += SMALL_FLAGS
    call = ["fit", "--data", drawn, "--out", out, *words, "--no-samples", "--threads", "1"]
    code, printed, err = run(*call, "--evaluate", "--json")
    measured = json.loads(printed)
    again = json.loads(run("evaluate", out, "--data", drawn, "--json", "--threads", "1")[1])
    assert (code, measured["metrics"], measured["kinds"]) == (0, again["metrics"], again["kinds"])
    assert run(*call, "--evaluate", "--category", "all")[0] == run(*call, "--json")[0] == 2
    assert "12 good pictures" in err
    assert re.search(r"simulated defects found: \d+ of \d\d+, faint ones too \(95 %: \d+% to \d+%\)", err)
    assert any(line.startswith("about 1 of ") for line in err.splitlines())
    assert max((len(line), line) for line in err.splitlines() if str(out) not in line)[0] <= 120, err
    made = read_manifest(out)
    assert {"size": "64x48", "ratio": 0.05, "sigma": 1.0, "seed": 5}.items() <= made.config.items()
    assert (made.calibration.rate, made.samples, made.category) == (0.2, (), "plate")
    assert [p.role for p in made.pictures] == ["train"] * 12
    assert run("info", out, "--self-test")[0] == 2  # it has no samples

    short = run("info", out)[1]
    assert re.search(r"simulated defects found +\d+ of \d\d+, faint ones too", short)
    assert "simulated defects by size" not in short
    lines = run("info", out, "--verbose")[1].splitlines()
    said = next(line for line in lines if "simulated defects by size" in line)
    counts = FOUND.search(said)
    assert counts
    facts = json.loads(run("info", out, "--json")[1])["facts"]["simulated_defects"]
    faint, clear = ([int(text or 0) for text in counts.groups()[k::2]] for k in (0, 1))
    assert [one["found"] for one in facts["sizes"].values()] == [
        a + b for a, b in zip(faint, clear, strict=True)
    ]
    assert said.endswith("only labelled ones tell")
    assert "memory: " not in err
    assert "layout" not in err
    assert run("evaluate", out, "--data", drawn, "--out", tmp_path / "results", "--quiet")[0] == 0
    page = (tmp_path / "results/report.html").read_text(encoding="utf-8")
    assert said.split("by size", 1)[1].strip() in page
    code, _, err = run(*call, "--no-check", "--verbose")
    assert (code, "memory: " in err, " layout" in err) == (0, True, True)
    assert "simulated defects found" not in run("info", out)[1]


def test_settings_are_found_out_and_what_was_tried_is_kept(run, drawn, tmp_path):
    """Given defects choose, and take no part in the evaluation. Minutes may stand in a file."""
    out, config = tmp_path / "m.safetensors", tmp_path / "c.yaml"
    config.write_text("auto: 20\nsize: 64\nseen: 2\n")
    call = ["fit", "--data", drawn, "--config", config, "--out", out, "--threads", "1", "--no-check"]
    call += SMALL_FLAGS
    code, printed, err = run(*call, "--evaluate", "--json")
    assert code == 0, err
    assert "chosen: as given, since " in err
    assert any(line.startswith("as given ") and " of 3 " in line for line in err.splitlines())
    made = read_manifest(out)
    assert [one.role for one in made.pictures].count("seen") == made.facts["tried"]["given"] == 2
    assert json.loads(printed)["left_out"] == 2
    assert "chosen: as given" in run("info", out, "--verbose")[1]
    assert run(*call, "--minutes", "3")[0] == 2
    code, _, err = run(*call, "--resume")
    assert (code, "tried before, which is not done again" in err) == (0, True), err


@pytest.mark.copies
def test_what_is_not_learnt_from_is_named(answer, mixed, tmp_path):
    (mixed / "b.png").write_bytes(b"x")
    out = tmp_path / "m.safetensors"
    said = [
        "mixed: 3 good pictures",
        "not learnt from: 2 files of formats that are not read: d.mp4, f",
        "c.gif: it holds 2 pictures; store them one by one",
        "1 file beside the pictures not looked at: e.txt",
        "skipped: cannot read picture",
        f"flawscope export {out} --out {out.with_suffix('.onnx')} ",
    ]
    how = ("--size", "64", *SMALL_FLAGS, "--no-check", "--device", "cpu", "--out", out)
    answer("fit", "--data", mixed, *how, code=1, said=said)
    assert len(read_manifest(out).pictures) == 1


def test_a_question_before_the_work_and_its_answer(answer, drawn, tmp_path):
    """Defects are not learnt as good in silence, and nothing is computed before the question."""
    root, out = tmp_path / "tiles", tmp_path / "m.safetensors"
    shutil.copytree(drawn / "plate/train/good", root / "MT_Free/Imgs")
    shutil.copytree(drawn / "plate/test/scratch", root / "MT_Scratch/Imgs")
    call = ["fit", "--data", root, "--size", "64", *SMALL_FLAGS, "--no-check", "--quiet", "--out", out]
    good = len([*(root / "MT_Free/Imgs").iterdir()])
    question = f"which folders hold good pictures? MT_Free ({good}, good by its name), MT_Scratch ("
    answer(*call, code=2, said=question)
    assert not out.exists()
    answer(*call, "--good", "MT_Free")
    assert len(read_manifest(out).pictures) == round(0.8 * good)
    told = json.loads(answer("evaluate", out, "--data", root, "--good", "MT_Free", "--json", "--quiet"))
    assert told["images"] == good - round(0.8 * good) + len([*(root / "MT_Scratch/Imgs").iterdir()])
    remedy = "give the folder of good ones alone, or add --force"
    answer("calibrate", out, "--good", root, "--out", tmp_path / "n.safetensors", code=2, said=remedy)


def test_a_marked_good_picture_is_a_question_before_the_work(answer, drawn, tmp_path):
    root, out = tmp_path / "part", tmp_path / "m.safetensors"
    shutil.copytree(drawn / "plate/train/good", root / "good")
    shutil.copytree(drawn / "plate/test/scratch", root / "bad")
    first = open_dataset(root).train[0].path
    mask = np.zeros((96, 96), np.uint8)
    mask[20:40, 20:40] = 255
    with Image.open(first) as picture:
        Image.fromarray(mask).resize(picture.size).save(tmp_path / "mask.png")
    (root / "masks/good").mkdir(parents=True)
    shutil.copy(tmp_path / "mask.png", root / "masks/good" / first.name)
    call = ["fit", "--data", root, "--size", "64", *SMALL_FLAGS, "--no-check", "--out", out]
    remedy = "are they good? Move them, remove the marks, or go on with --force"
    answer(*call, code=2, said=["counted as good, but something is marked: good/", remedy])
    assert not out.exists()
    answer(*call, "--force", said="--force: counted as good, but something is marked")


def test_update_adds_pictures_unless_fewer_defects_would_be_found(run, answer, drawn, tmp_path, monkeypatch):
    model, out = tmp_path / "plate.safetensors", tmp_path / "m.safetensors"
    fit(drawn, size=64, device="cpu", seed=0).save(model)  # features that tell a picture that lies far out
    call = ["fit", "--data", drawn / "plate/test/good", "--update", model, "--out", out]
    call.append("--drop-suspects")  # one of the four lies far out
    with monkeypatch.context() as patch:
        patch.setattr(update_evaluation, "MIN_KEPT_SHARE", 2.0)  # more would have to be found
        code, _, err = run(*call)
    assert (code, out.exists()) == (2, True), err  # with a question
    assert any("simulated defects" in line for line in err.splitlines() if line.startswith("question: "))
    out.unlink()
    answer(*call, "--no-check", "--quiet")
    assert len(read_manifest(out).pictures) == 15
    assert read_manifest(out).calibration.scores == read_manifest(model).calibration.scores
    answer("info", out, "--verbose", printed="not measured after the model was extended")
    answer(*call, "--no-check", "--fair", "--force", "--quiet")
    assert read_manifest(out).calibration.count == 16


# ------------------------------------------ several categories; instead of fitting, the shared model is taken


def test_resume_keeps_models_that_are_there_and_an_interruption_says_how_far_it_is(
    root, fits, tmp_path, answer, monkeypatch
):
    call = ["fit", "--data", root, "--category", "bottle,plate", "--out", tmp_path / "models"]
    answer(*call, "--quiet")
    (tmp_path / "models/plate.safetensors").unlink()
    answer(*call, "--resume", said="bottle: kept, it is there already")
    assert categories(fits) == ["bottle", "plate", "plate"]
    assert "resume" not in fits[-1]  # patchcore learns in one go
    monkeypatch.setattr("flawscope.predictor.Predictor.save", Mock(side_effect=KeyboardInterrupt))
    told = "0 of 2 models done; interrupted during bottle; go on with --resume"
    answer(*call, code=130, said=told)


@pytest.mark.copies  # bars in every direction count as copies of each other
def test_how_parts_lie_is_told_where_nothing_could_be_tried(answer, tmp_path):
    rng = np.random.default_rng(3)
    (tmp_path / "bars").mkdir()
    for k in range(9):
        bar = np.full((20, 44, 3), 190, np.uint8) + rng.integers(0, 20, (20, 44, 3), dtype=np.uint8)
        alpha = Image.new("L", (44, 20), 255).rotate(40 * k, expand=True)
        ground = Image.new("RGB", (96, 96), (30, 30, 30))
        ground.paste(Image.fromarray(bar).rotate(40 * k, expand=True), (20, 20), alpha)
        ground.save(tmp_path / "bars" / f"{k}.png")
    call = ["fit", "--data", tmp_path / "bars", "--size", "32", "--auto", "--no-check", "--no-samples"]
    said = ["too few to choose by", "next: parts lie at any angle: --align turn"]
    answer(*call, "--out", tmp_path / "m.safetensors", said=said)

"""`predict`: what it prints, where, and what it leaves behind and names, whatever goes wrong."""

import io
import json
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import flawscope
from flawscope.cli import output
from flawscope.predictor import Predictor
from flawscope.results.prediction import MismatchDetector
from flawscope.results.table import read_table
from flawscope.synthesis.demo.dataset import draw_dataset
from predict_helpers import PLAIN, batch_fixture, names_of, written  # noqa: F401


def test_every_input_of_a_folder_has_a_line_a_row_and_a_file(run, model_path, mixed, tmp_path):
    out = tmp_path / "out"
    code, printed, err = run("predict", model_path, mixed, "--json", "--out", out, *PLAIN)
    lines = [json.loads(line) for line in printed.splitlines()]
    assert names_of(printed) == ["a.png", "b.png", "c.gif", "d.mp4", "f"]
    assert [line["decision"] for line in lines] == ["good", "anomalous", None, None, "good"]
    assert lines[1] == flawscope.load(model_path).predict(mixed / "b.png").to_dict()
    assert [row.path for row in read_table(out / "results.csv")] == [line["path"] for line in lines]
    found = [json.loads(path.read_text()) for path in (out / "predictions").rglob("*.json")]
    assert sorted(found, key=lambda one: one["path"]) == lines
    facts = json.loads((out / "results.json").read_text())
    assert (facts["inputs"], facts["judged"], facts["unjudged"], facts["complete"]) == (5, 3, 2, True)
    assert code == 1
    assert "d.mp4: it is a video; take single pictures out of it" in err
    assert "c.gif: it holds 2 pictures; store them one by one" in err
    assert "2 pictures were skipped" in err
    assert f"1 file beside the pictures not looked at: {mixed / 'e.txt'}" in err


def test_stdin_has_paths_or_a_picture(run, model_path, batch, tmp_path, monkeypatch):
    def piped(content):
        stream = io.TextIOWrapper(io.BufferedReader(io.BytesIO(content)))
        monkeypatch.setattr(sys, "stdin", stream)
        return run("predict", model_path, "-", "--json", "--out", tmp_path / "out")

    listed = f"{batch / 'b.png'}\r\n\n{batch / 'missing.png'}\n{batch / 'a.png'}"
    code, printed, err = piped(listed.encode())
    assert (code, names_of(printed)) == (1, ["b.png", "missing.png", "a.png"])
    assert "missing.png" in err
    code, alone, _ = piped((batch / "b.png").read_bytes())
    assert (code, json.loads(alone)) == (0, {**json.loads(printed.splitlines()[0]), "path": "-"})
    assert (tmp_path / "out/overlays/-.png").exists()
    for other in (b"\0\1\2" * 30, listed.encode("utf-16-le"), listed.encode("utf-16-be")):
        code, _, err = piped(other)
        assert (code, err.count("\n")) == (2, 1)
        assert "neither a picture that can be read nor a list of paths in UTF-8; save a list as UTF-8" in err
    assert piped(b"")[:2] == (0, "")


def test_pictures_of_another_product_are_told_and_defects_of_the_right_one_are_not(
    run, model_path, drawn, tmp_path
):
    fabric = draw_dataset(tmp_path / "other", category="fabric", train=1, good=5, bad_per_kind=1, size=96)
    code, printed, err = run("predict", model_path, fabric / "test/good")
    assert (code, len(printed.splitlines())) == (0, 5)
    (said,) = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert "5 of 5 pictures look unlike the training pictures" in said
    assert "warning" not in run("predict", model_path, fabric / "test/good", "--quiet")[2]
    _, _, err = run("predict", model_path, *sorted(drawn.glob("plate/test/[!g]*/*.png")))
    assert "look unlike" not in err
    found = json.loads(run("evaluate", model_path, "--data", fabric.parent, "--json", "--quiet")[1])
    assert "5 of 5 good test pictures look unlike" in found["mismatch"]
    assert "\nwarning: 5 of 5 good test" in run("evaluate", model_path, "--data", fabric.parent)[1]


def test_an_earlier_run_is_named_and_removed_and_somebody_elses_file_stays(
    answer, model_path, mixed, tmp_path
):
    out = tmp_path / "out"
    answer("predict", model_path, mixed / "a.png", "--out", out, *PLAIN, "--quiet")
    (out / "mine.txt").write_text("mine")
    said = ["of an earlier run removed", f"{out}: 1 other file left alone"]
    answer("predict", model_path, mixed / "b.png", "--out", out, *PLAIN, "--force", said=said)
    assert [p.stem for p in (out / "overlays").rglob("*.png")] == ["b"]
    assert (out / "mine.txt").read_text() == "mine"
    (tmp_path / "results.csv").write_text("mine")
    answer("predict", "no.onnx", mixed, "--out", tmp_path, code=2, said="results.csv is there already")
    assert (tmp_path / "results.csv").read_text() == "mine"


def test_a_name_that_cannot_be_written_loses_no_other_row(run, model_path, mixed, tmp_path):
    out, pictures, names = tmp_path / "out", tmp_path / "in", ["1.png", "2.bmp", "2.png", "3.png"]
    pictures.mkdir()
    for name in names:
        with Image.open(mixed / "a.png") as picture:
            picture.save(pictures / name)
    (out / "predictions/1.json").mkdir(parents=True)
    (out / "overlays").mkdir()
    (out / "overlays/3.png").write_text("of somebody else")
    code, _, err = run("predict", model_path, pictures, "--out", out, *PLAIN)
    assert code == 1
    for said in ("predictions/1.json", "overlays/3.png", "a row for every input"):
        assert said in err
    assert "could not be written: 1 JSON file, 1 picture; all others are there" in err
    assert "free some space" not in err
    assert [Path(row.path).name for row in read_table(out / "results.csv")] == names
    assert written(out) == (False, {"JSON file": 1, "picture": 1})
    drawn = {p.name for p in (out / "overlays").iterdir()}
    assert drawn == {"1.png", "2.bmp.png", "2.png.png", "3.png"}
    assert json.loads((out / "predictions/2.bmp.json").read_text())["path"].endswith("2.bmp")
    assert (out / "overlays/3.png").read_text() == "of somebody else"


@pytest.mark.parametrize("place", ["judging", "printing", "counting"])
def test_ctrl_c_keeps_what_was_judged_and_counts_and_writes_alike(
    run, model_path, mixed, tmp_path, monkeypatch, place
):
    called = []
    if place == "judging":
        stream = Predictor.stream

        def judging(self, *given, **options):
            for count, one in enumerate(stream(self, *given, **options)):
                if count == 2:
                    raise KeyboardInterrupt
                yield one

        monkeypatch.setattr(Predictor, "stream", judging)
    else:
        owner, name = (output, "show_result") if place == "printing" else (MismatchDetector, "add")
        real = getattr(owner, name)

        def stopping(*given, **options):
            real(*given, **options)
            called.append(given)
            if len(called) == 2:
                signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(owner, name, stopping)
    out = tmp_path / "out"
    code, printed, err = run("predict", model_path, mixed, "--json", "--out", out, *PLAIN)
    assert (code, len(printed.splitlines())) == (130, 2)
    assert f"interrupted after 2 inputs of 5; their results are in {out}" in err
    assert len(read_table(out / "results.csv")) == 2
    assert len(list((out / "predictions").rglob("*.json"))) == 2
    assert len(list((out / "overlays").rglob("*.png"))) == 2
    facts = json.loads((out / "results.json").read_text())
    assert (facts["inputs"], facts["complete"]) == (2, False)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


NAMES_TEXT = (
    "IMG_0001.JPG|DSC00042.jpg|P1010001.png|2024-05-01 10.15.30.png|Scan 1.tif|scan0001.bmp|"
    "cam1-000123.png|000001.png|1.png|a.png|x.png|x_gt.png|q1.jpg|q1_seg1.jpg|4712_gt.jpg|4712.jpg|"
    "pcb1.png|pcb1_mask_top.png|masks/9.png|9.png|pcb7_soldermask.png|pcb7.png|r1.png|r1.jpg|"
    "a_label.png|mask_7.png|Bild (1).png|Bild - Kopie.png|Prüfteil 7.png|pièce n°3.png|部品1.png|"
    "niO 4.png|bad/1.png|good/1.png|#1.png|50%.png|a&b.png|[1].png|-dash.png|.hidden.png|notes.txt|"
    "labels.json|raw.xyz|noending|video.mp4|a.png.part|a.png~|true.png|true_mask.png|"
    "ground_truth/1.png"
)
STEMS_TEXT = (
    "DSCN1234|100_0815|_MG_2210|20240501_101530|Image_20240501101530123|Basler_acA1300_0001|frame_000001|"
    "GOPR0042|WIN_20240501_10_15_30_Pro|Screenshot 2024-05-01|PXL_20240501_101530|Bild_003_links|b_mask|"
    "A12-7_top|part_label|mask|truth|ground truth 4|seg_1|annotated|maske|masque 2|ok|nok|defekt|schlecht_1|"
    "a+b|a,b|{1}|a'b|~temp|$1|@1|--all|a..b|UPPER|e\u0301|overlay|results|thumb"
)
SOME_NAMES = NAMES_TEXT.split("|")
NAMES = [
    *SOME_NAMES,
    *(f"{stem}.{suffix}" for stem in STEMS_TEXT.split("|") for suffix in ("png", "JPG", "bmp", "tif")),
]


@pytest.mark.parametrize(("names", "quiet"), [(NAMES, []), (SOME_NAMES, ["--quiet"])], ids=["all", "quiet"])
def test_names_of_cameras_scanners_and_people_are_judged_or_told(
    run, model_path, drawn, tmp_path, names, quiet
):
    assert len({*NAMES}) >= 200
    good, folder = drawn / "plate/train/good/000.png", tmp_path / "in"
    with Image.open(good) as picture:
        mask = np.zeros(picture.size[::-1], np.uint8)
        mask[10:30, 10:30] = 255
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.stem == "true_mask":
                Image.fromarray(mask).save(path)
            elif path.suffix.lower() in (".png", ".jpg", ".bmp", ".tif"):
                picture.convert("RGB").resize((32, 32)).save(path)
            else:
                path.write_bytes(b"none")
    call = ("predict", model_path, folder, "--json", "--out", tmp_path / "out", *PLAIN, *quiet)
    _, printed, err = run(*call)
    judged = {Path(json.loads(line)["path"]).relative_to(folder).as_posix() for line in printed.splitlines()}
    facts = json.loads((tmp_path / "out/results.json").read_text())
    passed = {Path(path).relative_to(folder).as_posix(): why for path, why in facts["not_judged"].items()}
    assert judged | passed.keys() == {*names}
    assert judged & passed.keys() == set()
    other = ("notes.txt", "labels.json", "a.png.part")
    assert passed == {
        ".hidden.png": "it is hidden: its name begins with a point",
        "true_mask.png": "it is the mask of a picture, by its name and its look",
        **{name: f"{Path(name).suffix} is not a picture's ending" for name in other},
    }
    for name in (".hidden.png", "true_mask.png"):
        assert (f"not judged: {folder / name}: " in err) or quiet

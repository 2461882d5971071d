"""`predict --scale-mm` and `--tolerances`: a third decision, told apart from good everywhere."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from brightness import draw, model
from flawscope.evaluation.trials import read_study
from flawscope.pages.report import REPORT_NAME
from flawscope.results import drawing
from flawscope.results.drawing import OUTLINE_COLOUR, WITHIN_COLOUR
from flawscope.results.table import read_table

FILE = "version: 7\npicture: [32, 32]\nrules:\n  - {kind: any, length: 1.2, zone: [0, 0, 32, 20]}\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A good picture, and one with a square of 8 x 8 pixels at the upper left."""
    monkeypatch.setattr("flawscope.cli.common.load_model", lambda args, path: model())
    monkeypatch.setattr(drawing, "draw_note", lambda picture, *_: picture)  # covers so small a picture
    (tmp_path / "rules.yaml").write_text(FILE)
    draw(tmp_path / "in/good.png", 0.2)
    draw(tmp_path / "in/spot.png", 0.9, spot=True)
    return tmp_path


def outlines(path):
    """Colours of outlines in an overlay."""
    pixels = {tuple(pixel) for pixel in np.asarray(Image.open(path)).reshape(-1, 3).tolist()}
    return pixels & {WITHIN_COLOUR, OUTLINE_COLOUR}


def test_a_tolerated_part_is_told_apart_everywhere(run, folder):
    rules = ("--scale-mm", "0.1", "--tolerances", folder / "rules.yaml")
    call = ("predict", "m.safetensors", folder / "in", *rules)
    code, out, err = run(*call, "--fail-on-anomaly", "--out", folder / "out")
    good, spot = sorted(out.splitlines())
    assert (code, good.split()[0], spot.split(" ")[:3]) == (4, "good", ["within", "tolerance", "severity"])
    assert "(anomalous, within tolerance: region length 0.8 mm, may be up to 0.88 mm ≤ 1.2 mm (tol" in spot
    assert "0 of 2 pictures anomalous, 1 within tolerance\n" in err
    rows = {Path(row.path).stem: row for row in read_table(folder / "out/results.csv")}
    assert (rows["good"].decision, rows["spot"].decision) == ("good", "within tolerance")
    facts = json.loads((folder / "out/results.json").read_text())
    assert (facts["anomalous"], facts["within_tolerance"], facts["tolerances"]["version"]) == (0, 1, "7")
    digest = facts["tolerances"]["sha256"]
    assert digest[:8] in spot
    lines = {name: outlines(folder / f"out/overlays/{name}.png") for name in ("good", "spot")}
    assert lines == {"good": set(), "spot": {WITHIN_COLOUR}}
    details = json.loads((folder / "out/predictions/spot.json").read_text())
    sizes = [details["regions"][0][name] for name in ("length_mm", "length_mm_at_most")]
    assert sizes == pytest.approx([0.8, 0.88])
    assert details["findings"][0]["code"] == "within_tolerance"
    badge = '<span class="badge within-tolerance">within tolerance</span>'
    text = (folder / "out" / REPORT_NAME).read_text(encoding="utf-8")
    for words in (digest, "yellow on a part within tolerance", "0 of 2 pictures anomalous, 1 within", badge):
        assert words in text
    # a study of agreement takes it for a good part
    (folder / "ref.csv").write_text("part,reference\ngood,good\nspot,bad\n")
    study = read_study([folder / "out"], folder / "ref.csv").study
    assert next(iter(study.decisions.values())).ravel().tolist() == [False, False]


def test_beyond_tolerance_is_anomalous_with_the_reason(run, folder):
    draw(folder / "in/bright.png", 0.9)  # marked to the picture's border
    rules = ("--tolerances", folder / "rules.yaml", "--json", "--fail-on-anomaly")
    code, out, _ = run("predict", "m.safetensors", folder / "in", *rules, "--scale-mm", "0.2")
    bright, good, spot = map(json.loads, sorted(out.splitlines()))
    assert code == 3
    assert "findings" not in good
    assert spot["findings"][0]["code"] == "beyond_tolerance"
    assert "region length 1.6 mm > 1.2 mm" in spot["findings"][0]["words"]
    assert "may reach, the edge" in bright["findings"][0]["words"]
    call = ("predict", "m.safetensors", folder / "in/spot.png", *rules)
    code, out, _ = run(*call, "--out", folder / "out")
    assert outlines(folder / "out/overlays/spot.png") == {OUTLINE_COLOUR}
    assert code == 3
    assert "say --scale-mm" in json.loads(out)["findings"][0]["words"]


def test_a_scratch_with_a_faint_end_is_not_tolerated(answer, folder):
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[8:12, 6:12, 0] = 230
    pixels[8:12, 12:24, 0] = 100  # below the mask threshold, above what good pictures show
    Image.fromarray(pixels).save(folder / "scratch.png")
    rules = ("--tolerances", folder / "rules.yaml", "--scale-mm", "0.1", "--fail-on-anomaly")
    said = "beyond tolerance: region length 0.6 mm, may be up to 1.98 mm > 1.2 mm (tol"
    answer("predict", "m.safetensors", folder / "scratch.png", *rules, code=3, printed=said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--scale-mm 0", "'0' is not a length: write millimetres"),
        ("--scale-mm nan", "'nan' is not a length"),
        ("--scale-mm 1e200", "'1e200' is not a length"),  # its square is no number
        ("--tolerances gone.yaml", "cannot read gone.yaml"),
        ("--tolerances rules.yaml --cluster local --out x", "--tolerances is not for --cluster"),
    ],
)
def test_wrong_calls_are_one_line(run, folder, monkeypatch, words, said):
    monkeypatch.chdir(folder)
    code, _, err = run("predict", "m.safetensors", "in", *words.split())
    assert (code, len(err.splitlines()), said in err) == (2, 1, True)

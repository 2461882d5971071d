"""`data check` and `demo`."""

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flawscope.cli import main
from near_duplicates_helpers import product


def test_a_faulty_folder_is_checked(run, answer, drawn, tmp_path):
    root = shutil.copytree(drawn / "plate", tmp_path / "plate")
    (root / "train/good/000.png").write_bytes(b"x")
    code, printed, err = run("data", "check", "--data", root, "--json", "--no-near")
    assert (code, err) == (1, ""), "it takes no time worth a line"
    assert "000.png" in json.dumps(json.loads(printed))
    answer("data", "check", "--data", root, "--no-near", "--quiet", code=1, printed="000.png")


def shown_on(page):
    """The pictures of a page, with what stands beside each."""
    return json.loads(page.read_text().partition('id="data">')[2].partition("</script>")[0])


def test_a_page_shows_each_form_in_which_pictures_and_masks_were_met(answer, drawn, tmp_path):
    root = tmp_path / "part"
    shutil.copytree(drawn / "plate/train/good", root / "good")
    good = np.asarray(Image.open(root / "good/000.png").convert("RGB"))
    height, width = good.shape[:2]
    np.save(root / "good/five.npy", np.dstack([good, good[:, :, :2]]))
    (root / "bad/masks").mkdir(parents=True)
    mask = np.zeros((height, width), np.uint8)
    mask[10:20, 10:30] = 255
    for name in "nopqrst":
        Image.fromarray(np.full_like(good, ord(name))).save(root / f"good/{name}.png")  # shows nothing
    for name in ("a", "b", "c"):
        Image.fromarray(np.where(mask[..., None], 255 - good, good)).save(root / f"bad/{name}.png")
    Image.fromarray(mask).save(root / "bad/masks/a.png")
    points = [[10, 10], [30, 10], [30, 20], [10, 20]]
    shapes = [{"label": "x", "points": points, "shape_type": "polygon"}]
    facts = {"imagePath": "b.png", "imageHeight": height, "imageWidth": width, "shapes": shapes}
    (root / "bad/b.json").write_text(json.dumps(facts))
    page, call = tmp_path / "check.html", ("data", "check", "--data", root)
    found = json.loads(answer(*call, "--json", "--no-near", "--out", page))["forms"]
    forms = {one["marks"] for one in found}
    drawn_in = {"LabelMe, outlines", "mask in a folder below: .png, mode L"}
    assert drawn_in | {"no mask"} < forms
    assert any("5 channels, seen as 1, 2, 3, 4, 5" in one["pixels"] for one in found)
    assert "warning: plain: 2 more of these; --json lists all" in page.read_text()
    marked = {dict(one["facts"])["Marked"]: "truth" in one["layers"] for one in shown_on(page)}
    assert marked == {name: name in drawn_in for name in forms}
    assert len(shown_on(page)) == len(found)
    answer(*call, "--out", tmp_path / "check.png", code=2, said=".html")


@pytest.mark.copies
def test_pictures_of_one_part_are_shown_side_by_side(answer, tmp_path):
    for k in range(8):
        for view in range(2 if k < 2 else 1):
            product(k).rotate(view).save(tmp_path / f"{k}_{view}.png")
    page = tmp_path.parent / "copies.html"
    answer("data", "check", "--data", tmp_path, "--out", page)
    pairs = [one for one in shown_on(page) if dict(one["facts"]).get("Seems") == "one part"]
    assert [one["name"] for one in pairs] == ["0_0.png, 0_1.png", "1_0.png, 1_1.png"]
    assert all(one["layers"]["photo"] for one in pairs)


def test_poses_of_parts_are_told_and_drawn(answer, tmp_path):
    rng = np.random.default_rng(0)
    good = tmp_path / "parts" / "good"
    good.mkdir(parents=True)
    bracket = np.full((40, 40), 60.0)
    bracket[4:14, 4:36] = bracket[4:36, 4:14] = 190
    for number in range(10):
        picture = np.full((96, 96), 60.0)
        y, x = rng.integers(4, 52, 2)
        if number < 9:
            picture[y : y + 40, x : x + 40] = bracket
        picture += rng.normal(0, 3, picture.shape)
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(good / f"{number}.png")
    call = "data", "check", "--data", good.parent, "--no-near", "--align", "shift"
    told = json.loads(answer(*call, "--json", "--out", tmp_path / "poses.html"))["alignment"]["pictures"]
    assert [one["part_found"] for one in told].count(False) == 1
    shown = shown_on(tmp_path / "poses.html")
    assert [one["name"] for one in shown].count("reference") == 1
    assert sum(dict(one["facts"]).get("Part", "").endswith("spreads off") for one in shown) == 9
    answer(*call, printed="parts found in 9 of 10 pictures")


def test_the_demo_ends_with_the_path_of_a_report_and_with_commands_that_work(capsys, tmp_path, monkeypatch):
    """With pictures as a user gets, fewer of them, which the network sees smaller."""
    from flawscope.methods.patchcore.record import Config
    from flawscope.synthesis.demo import dataset

    few, draw = {"good": 2, "bad_per_kind": 1}, dataset.draw_dataset
    monkeypatch.setattr(dataset, "draw_dataset", lambda root, **how: draw(root, **{**how, **few}))
    monkeypatch.setattr(Config, "sizes", ((64, 64),))
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--out", "demo", "--train", "6"]) == 0
    said = capsys.readouterr()
    last = said.out.splitlines()[-1]
    assert last == str(Path("demo") / "results" / "report.html")
    assert Path(last).stat().st_size < 10_000_000
    commands = said.err[said.err.index("\nNext, ") :].splitlines()[2:]
    assert [line.partition(" flawscope ")[0][0] for line in commands] == ["$"] * 3
    for line in commands:
        words = shlex.split(line)
        verb = next(k for k, word in enumerate(words) if word in ("predict", "info", "fit"))
        assert main(words[verb:]) == 0, line

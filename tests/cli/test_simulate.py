"""`flawscope simulate`: what it writes, what it prints, and how a wrong call is reported."""

import re

import numpy as np
import pytest
from PIL import Image

from flawscope.synthesis.demo.dataset import draw_picture


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def good(tmp_path):
    """Four good pictures."""
    rng = np.random.default_rng(0)
    for k in range(4):
        save(tmp_path / "good" / f"{k}.png", draw_picture("plate", rng, size=64)[0])
    return tmp_path / "good"


@pytest.fixture
def seen(tmp_path):
    """Two defective pictures with masks."""
    rng = np.random.default_rng(1)
    for k in range(2):
        picture, mask = draw_picture("plate", rng, "stain", 0.0, size=64)
        save(tmp_path / "seen" / "pictures" / f"{k}.png", picture)
        save(tmp_path / "seen" / "masks" / f"{k}.png", mask.astype(np.uint8) * 255)
    return tmp_path / "seen"


def read(folder):
    return {
        path.relative_to(folder).as_posix(): np.asarray(Image.open(path)) for path in folder.rglob("*.png")
    }


def test_pictures_masks_and_a_sheet_are_written(run, good, seen):
    out = good.parent / "out"
    code, printed, err = run("simulate", "--data", good, "--seen", seen, "--out", out, "--count", 7)
    assert code == 0
    written = read(out)
    assert written.pop("contact_sheet.png").shape[1] > 6 * 176
    pictures = sorted(name.partition("/")[2] for name in written if name.startswith("pictures/"))
    assert len(pictures) == 7
    assert sorted(name.partition("/")[2] for name in written if name.startswith("masks/")) == pictures
    originals = [np.asarray(Image.open(path)) for path in sorted(good.iterdir())]
    for name in pictures:
        mask = written[f"masks/{name}"]
        marked = mask.reshape(64, 64, -1)[..., 0] > 0
        assert set(np.unique(mask)) == {0, 255}
        changed = [(written[f"pictures/{name}"] != one).any(-1) for one in originals]
        assert any((one == marked).all() for one in changed)  # exact, of one of the good pictures
    header, line, *rows = printed.splitlines()
    assert header.split() == ["kind", "count", "mean", "area", "mean", "difference"]
    assert set(line) == {"-", " "}
    counts = {row.split()[0]: int(row.split()[1]) for row in rows}
    assert sum(counts.values()) == 7
    assert set(counts) <= {"texture", "structure", "seen", "spot"}
    assert all(re.fullmatch(r"\w+ +\d+ +\d+\.\d\d% +\d+\.\d", row) for row in rows)
    assert "simulate: done in" in err
    assert re.search(r"object found in \d of 4 good pictures", err)
    assert f"wrote {out / 'contact_sheet.png'}" in err


def test_the_same_seed_writes_the_same_files(run, good, seen):
    runs = []
    for number, seed in enumerate((5, 5, 6)):
        out = good.parent / f"out{number}"
        options = ["--seen", seen, "--count", 3, "--seed", seed, "--quiet"]
        code, printed, err = run("simulate", "--data", good, "--out", out, *options)
        assert (code, err) == (0, "")
        runs.append((printed, read(out)))
    assert runs[0][0] == runs[1][0]
    assert runs[0][1].keys() == runs[1][1].keys()
    assert all((runs[0][1][name] == runs[1][1][name]).all() for name in runs[0][1])
    assert runs[0][0] != runs[2][0]


def test_grey_deep_and_odd_shaped_pictures(run, tmp_path):
    rng = np.random.default_rng(0)
    deep = rng.integers(1500, 2500, (40, 90)).astype(np.uint16)
    save(tmp_path / "deep" / "1.png", deep)
    save(tmp_path / "grey" / "1.png", (deep // 16).astype(np.uint8))
    for name in ("deep", "grey"):
        out = tmp_path / f"{name}_out"
        code, _, err = run("simulate", "--data", tmp_path / name, "--out", out, "--count", 4, "--quiet")
        assert (code, err) == (0, "")
        for picture in read(out / "pictures").values():
            assert picture.shape == (40, 90, 3)
            assert (picture == picture[..., :1]).all()
            assert 80 < np.median(picture) < 170  # one white level for all, 4095


def test_what_cannot_be_read_is_named_and_the_rest_is_done(run, good, seen):
    textures = good.parent / "textures"
    save(textures / "1.png", np.full((9, 9, 3), 250, np.uint8))
    (textures / "torn.png").write_bytes(b"\x89PNG and no more")
    (good / "0.png").write_bytes(b"no picture")
    save(good / "tiny.png", np.zeros((8, 8, 3), np.uint8))
    save(seen / "masks" / "0.png", np.zeros((64, 64), np.uint8))
    out = good.parent / "out"
    options = ["--textures", textures, "--seen", seen, "--count", 12]
    code, printed, err = run("simulate", "--data", good, "--out", out, *options)
    assert code == 1
    assert sum(int(row.split()[1]) for row in printed.splitlines()[2:]) == 12
    for name in ("torn.png", "0.png", "tiny.png"):
        assert re.search(rf"^skipped: .*{re.escape(name)}", err, re.M)
    assert "skipped: cannot use mask" in err
    assert "4 pictures were skipped" in err


def test_the_foreground_may_be_given(run, good):
    """Its mask may be of another size than the pictures."""
    left = np.zeros((16, 16), np.uint8)
    left[:, :4] = 255
    mask, out = save(good.parent / "left.png", left), good.parent / "out"
    code, _, err = run("simulate", "--data", good, "--foreground", mask, "--out", out, "--count", 6)
    assert code == 0
    assert "object found in 4 of 4" in err
    assert not any(defect[:, 18:].any() for defect in read(out / "masks").values())
    assert any(defect.any() for defect in read(out / "masks").values())


def test_nothing_good_and_an_empty_foreground_are_refused(run, good, tmp_path):
    save(tmp_path / "tiny" / "1.png", np.zeros((8, 8, 3), np.uint8))
    code, _, err = run("simulate", "--data", tmp_path / "tiny", "--out", tmp_path / "out")
    assert code == 2
    assert "no good picture in" in err
    assert "1.png: it is below 16x16" in err
    mask = save(tmp_path / "empty.png", np.zeros((64, 64), np.uint8))
    code, _, err = run("simulate", "--data", good, "--foreground", mask, "--out", tmp_path / "out")
    assert code != 0
    assert "foreground is empty" in err


@pytest.mark.parametrize("name", ["contact_sheet.png", "masks/000_spot.png"])
def test_somebody_elses_file_in_the_way_stops_the_call(run, good, name):
    out = good.parent / "out"
    mine = save(out / name, np.zeros((4, 4), np.uint8))
    before = mine.read_bytes()
    code, printed, err = run("simulate", "--data", good, "--out", out, "--count", 2)
    assert (code, printed) == (2, "")
    assert f"{mine} is there already, and no list says that flawscope wrote it" in err
    assert mine.read_bytes() == before
    assert [path for path in out.rglob("*") if path.is_file()] == [mine]


def test_a_folder_that_is_read_is_not_written_to(run, good, seen):
    everything = sorted(good.parent.rglob("*"))
    for out, option in ((good, "data"), (good.parent, "data"), (seen, "seen")):
        code, _, err = run("simulate", "--data", good, "--seen", seen, "--out", out, "--count", 2)
        assert code == 2
        assert f"--out {out} holds what --{option} reads: choose another folder" in err
    assert sorted(good.parent.rglob("*")) == everything


def test_out_may_lie_among_the_pictures(run, good):
    """What was made is not taken for good pictures then."""
    for _ in range(2):
        code, _, err = run("simulate", "--data", good, "--out", good / "simulated", "--count", 6)
        assert code == 0
        assert "of 4 good pictures" in err

"""`fit --joint`, and `predict`, `evaluate` and `info` with the model of several products that it writes."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flawscope.artefact import model_file
from flawscope.cli import fit_one, main
from flawscope.errors import InputError
from flawscope.runtime import read_fitted
from flawscope.synthesis.demo.dataset import draw_dataset
from small_network import SMALL_FLAGS

SMALL = (*SMALL_FLAGS, "--size", "64", "--set", "cap=300", "--device", "cpu", "--no-check", "--quiet")


@pytest.fixture(scope="module")
def pictures(shared):
    """A data set of two products, and a folder of pictures of both and of something else. Read only."""

    def fill(root):
        for name in ("fabric", "plate"):
            draw_dataset(root / "data", category=name, train=8, good=2, bad_per_kind=1, size=96, seed=1)
            source = root / "data" / name / "test/good/000.png"
            (root / "new").mkdir(exist_ok=True)
            shutil.copy(source, root / "new" / f"{name}.png")
        noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / "new" / "noise.png")

    return shared("joint-pictures", fill)


@pytest.fixture(scope="module")
def line(pictures, shared):
    """A joint model of both products, fitted by the command. Read only."""

    def fill(folder):
        call = ["fit", "--data", str(pictures / "data"), "--category", "all", "--joint"]
        assert main([*call, "--out", str(folder / "line.safetensors"), *SMALL]) == 0

    return shared("joint-line", fill) / "line.safetensors"


def test_predict_says_which_product_a_picture_shows(run, line, pictures, tmp_path):
    out = tmp_path / "out"
    code, lines, said = run("predict", line, pictures / "new", "--json", "--out", out, "--device", "cpu")
    assert code == 0, said
    found = {Path(one["path"]).stem: one for one in map(json.loads, lines.splitlines())}
    products = {name: one["product"] for name, one in found.items()}
    assert products == {"fabric": "fabric", "plate": "plate", "noise": None}
    assert found["noise"]["is_anomalous"]
    assert 0 < found["plate"]["product_p_value"] <= 1
    with open(out / "results.csv", encoding="utf-8-sig", newline="") as file:
        rows = {Path(row["path"]).stem: row["product"] for row in csv.DictReader(file)}
    assert rows == {"fabric": "fabric", "plate": "plate", "noise": "none of these"}
    told = json.loads((out / "results.json").read_text())
    assert (told["none_of_these"], told["products"]["plate"]["pictures"]) == (1, 1)
    code, lines, said = run("predict", line, pictures / "new", "--device", "cpu")
    assert "(plate, p " in lines
    assert "(none of these, p " in lines
    assert "none of these 1" in said


def test_a_product_can_be_named(run, answer, line, pictures):
    call = ("predict", line, pictures / "new/noise.png", "--device", "cpu", "--product")
    found = json.loads(answer(*call, "plate", "--json"))
    assert (found["product"], found["product_p_value"]) == ("plate", None)
    code, _, said = run(*call, "bottle")
    assert (code, said) == (2, "flawscope: the model has no product bottle: it knows fabric, plate\n")


def test_info_tells_of_each_product(answer, line):
    lines = answer("info", line, "--self-test", "--device", "cpu")
    assert lines.startswith("joint model of 2 products: fabric, plate\n")
    document = json.loads(answer("info", line, "--json"))
    assert document["products"]["plate"]["category"] == "plate"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--each-view",), "give --part"),
        (("--each-view", "--part", "x"), "--each-view is for one product"),
        (("--category", "bottle"), "bottle"),
        (("--several",), "--several needs --align"),
    ],
)
def test_what_cannot_be_fitted_is_one_line(run, pictures, tmp_path, options, why):
    out = tmp_path / "line.safetensors"
    code, _, said = run("fit", "--data", pictures / "data", "--joint", "--out", out, *options)
    assert code in (1, 2)
    assert why in said
    assert not out.exists()


def test_a_fit_that_was_stopped_goes_on_with_the_products_that_are_left(run, pictures, tmp_path, monkeypatch):
    out, fit = tmp_path / "line.safetensors", fit_one.fit_and_save
    call = ("fit", "--data", pictures / "data", "--joint", "--out", out, *SMALL)

    def fail(args, *others):
        if args.category == "plate":
            raise InputError("stopped")
        return fit(args, *others)

    monkeypatch.setattr(fit_one, "fit_and_save", fail)
    code, _, said = run(*call)
    assert (code, out.exists()) == (1, False)
    assert "plate: failed: stopped" in said
    assert "--resume keeps the other models" in said
    fitted = []
    monkeypatch.setattr(
        fit_one, "fit_and_save", lambda args, *others: fitted.append(args.category) or fit(args, *others)
    )
    assert run(*call, "--resume")[0] == 0
    assert fitted == ["plate"]
    assert [*read_fitted(out).products] == ["fabric", "plate"]
    assert [*tmp_path.iterdir()] == [out]


def check_names(answer, call):
    """A product that is not named, or not there."""
    answer(*call, code=2, said="name it with --product, fabric or plate")
    answer(*call, "--product", "bottle", code=2, said="has no product bottle")


def test_one_product_is_calibrated_by_its_name(answer, line, pictures, tmp_path):
    draw_dataset(tmp_path / "more", category="plate", train=9, good=0, bad_per_kind=0, size=96, seed=5)
    good, out = tmp_path / "more/plate/train/good", tmp_path / "new.safetensors"
    call = ("calibrate", line, "--out", out, "--device", "cpu")
    check_names(answer, [*call, "--good", good])
    answer(*call, "--good", good, "--product", "plate", "--force")
    before, after = read_fitted(line).products, read_fitted(out).products
    assert after["plate"].manifest.calibration.count == 9
    assert after["fabric"].manifest == before["fabric"].manifest
    answer(*call, "--false-alarm-rate", "20%")
    rates = {one.manifest.calibration.rate for one in read_fitted(out).products.values()}
    assert rates == {0.2}


def test_one_product_learns_kinds_by_its_name(answer, line, tmp_path):
    data, out = tmp_path / "plates", tmp_path / "named.safetensors"
    draw_dataset(data, category="plate", train=4, good=1, bad_per_kind=0, size=96, seed=6)
    (data / "plate/test/spot").mkdir()
    for number, path in enumerate((data / "plate/train/good").iterdir()):
        spotted = np.array(Image.open(path))
        spotted[30:60, 30 + 5 * number : 55 + 5 * number] = 255
        Image.fromarray(spotted).save(data / f"plate/test/spot/{number}.png")
    call = ("kinds", line, "--data", data, "--out", out, "--device", "cpu")
    check_names(answer, call)
    answer(*call, "--product", "plate")
    before, after = read_fitted(line).products, read_fitted(out).products
    assert after["plate"].manifest.kinds is not None
    assert after["fabric"].manifest == before["fabric"].manifest
    lines = answer("predict", out, data / "plate/test", "--json", "--device", "cpu")
    found = [json.loads(one) for one in lines.splitlines()]
    assert any(region["kind_p_values"] for one in found for region in one["regions"])


def test_evaluate_has_a_row_for_each_product_and_says_how_many_were_mistaken(run, line, pictures, tmp_path):
    call = ("evaluate", line, "--data", pictures / "data", "--device", "cpu")
    code, lines, said = run(*call, "--out", tmp_path / "table.csv")
    assert code == 0, said
    table, _, remarks = lines.partition("\n\n")
    assert all(line.startswith(("fabric: ", "plate: ")) for line in remarks.splitlines())
    header, _, *rows = [line.split("  ") for line in table.splitlines()]
    assert "mistaken" in header[-1]
    assert [row[0] for row in rows] == ["fabric", "plate", "mean of 2"]
    document = json.loads(run(*call, "--json")[1])
    assert document["categories"]["plate"]["products"] == {"pictures": 9, "mistaken": {}}
    for name in ("fabric", "plate"):
        single = tmp_path / f"{name}.safetensors"
        model_file.write(read_fitted(line).products[name], single)
        alone = ("evaluate", single, "--data", pictures / "data", "--category", name, "--device", "cpu")
        same = json.loads(run(*alone, "--json")[1])
        assert document["categories"][name]["metrics"] == same["metrics"]
    with open(tmp_path / "table.csv", encoding="utf-8-sig", newline="") as file:
        assert [row["mistaken"] for row in csv.DictReader(file)] == ["0", "0", "0"]
    code, lines, _ = run(*call, "--category", "plate")
    assert (code, lines.splitlines()[2].split()[0]) == (0, "plate")


def test_a_picture_of_the_wrong_product_is_counted_and_judged_by_the_right_one(run, line, pictures, tmp_path):
    shutil.copytree(pictures / "data/plate", tmp_path / "plate")
    shutil.copy(pictures / "new/noise.png", tmp_path / "plate/test/good/noise.png")
    shutil.copy(pictures / "new/fabric.png", tmp_path / "plate/test/good/fabric.png")
    call = ("evaluate", line, "--data", tmp_path, "--category", "plate", "--device", "cpu", "--json")
    found = json.loads(run(*call)[1])["categories"]["plate"]
    assert found["products"] == {"pictures": 11, "mistaken": {"fabric": 1, "none of these": 1}}


def test_update_adds_a_product_and_pictures_of_one(run, line, pictures, tmp_path):
    one, two, three = (tmp_path / f"{name}.safetensors" for name in ("one", "two", "three"))
    data, quick = pictures / "data", ("--device", "cpu", "--no-check", "--quiet")
    assert run("fit", "--data", data, "--category", "fabric", "--joint", "--out", one, *SMALL)[0] == 0
    call = ("fit", "--data", data, "--category", "plate", "--update", one, "--out", two)
    code, _, said = run(*call, *SMALL, "--light", "5%")
    assert code == 0, said
    before, added = read_fitted(one), read_fitted(two)
    assert [*added.products] == ["fabric", "plate"]
    light = added.products["plate"].manifest.preprocess.normalization
    assert light is not None  # a further product has options of its own
    assert light.share == 0.05
    assert added.products["fabric"].manifest == before.products["fabric"].manifest
    draw_dataset(tmp_path / "more", category="plate", train=3, good=0, bad_per_kind=0, size=96, seed=9)
    call = ("--data", tmp_path / "more", "--category", "plate", "--update", two, "--out", three, "--force")
    assert "leave out --light" in run("fit", *call, *quick, "--light", "5%")[2]
    code, _, said = run("fit", *call, *quick)
    assert code == 0, said
    longer = read_fitted(three)
    known = [one.recognition.known["plate"] for one in (longer, added) if one.recognition]
    assert len(np.unique(known[0].groups)) == len(np.unique(known[1].groups)) + 3
    model_file.write(added.products["fabric"], tmp_path / "before")
    model_file.write(longer.products["fabric"], tmp_path / "after")
    assert (tmp_path / "before").read_bytes() == (tmp_path / "after").read_bytes()


def test_an_update_that_would_lose_defects_is_refused_and_names_the_product(answer, line, tmp_path):
    rng, folder = np.random.default_rng(1), tmp_path / "more/plate/train/good"
    folder.mkdir(parents=True)
    for k in range(3):
        noise = rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{k}.png")
    out = tmp_path / "new.safetensors"
    call = ("--data", tmp_path / "more", "--category", "plate", "--update", line, "--out", out)
    answer("fit", *call, "--device", "cpu", "--no-check", "--quiet", code=1, said="plate: failed: refused: ")
    assert not out.exists()

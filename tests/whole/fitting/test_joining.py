"""Routers with `--light` and `--part`, and to a model for each view."""

import csv
import itertools
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import flawscope
from flawscope.artefact import model_file
from flawscope.errors import InputError
from flawscope.fitting import joining
from flawscope.fitting.fitting import fit
from flawscope.predictor.recognition import KnownProduct
from flawscope.results.prediction import Prediction, Recognition
from flawscope.runtime import read_fitted
from flawscope.views.light import Light, light_variations
from picture_files import save
from small_network import SMALL_FLAGS, SMALL_NETWORK

PRODUCTS, VIEWS, PATTERN, PARTS = ("block", "rings"), ("side", "top"), r"p\d+", 12
SETTINGS = {"size": "64", "samples": 1, "device": "cpu", "check": False}
OF_ONE = ("--part", PATTERN, "--no-each-view")
SMALL = ("--size", "64", "--device", "cpu", "--no-check", "--quiet")
LIGHTS = light_variations(0.1)


def view(product, part, name, defect=False):
    """Noisy picture of a part, 80 x 80; a defect is a dark spot that shows from the top."""
    k = VIEWS.index(name)
    rng = np.random.default_rng([PRODUCTS.index(product), part, k])
    y, x = np.mgrid[:80, :80]
    if product == "block":
        picture = np.full((80, 80, 3), (60, 80 + 60 * k, 120), np.float64)
        picture[20:60, 20 + 10 * k : 60] = 150
    else:
        waves = np.sin(np.hypot(y - 40, x - 40 + 10 * k) / (1.5 + k))
        picture = np.repeat(110 + 60 * waves[:, :, None], 3, 2) * (1.1, 0.9, 0.7)
    if defect and name == "top":
        picture[34:46, 42:54] = 20
    return (picture + rng.normal(0, 3, picture.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def data(shared):
    """Two products: good parts to learn, and good and defective ones to test, all in two views. Read only."""

    each = {"train/good": range(PARTS), "test/good": range(50, 54), "test/hole": range(60, 63)}

    def fill(root):
        for product, (kind, numbers) in itertools.product(PRODUCTS, each.items()):
            named = {
                f"p{part:02d}_{name}.png": view(product, part, name, kind == "test/hole")
                for part in numbers
                for name in VIEWS
            }
            save(root / product / kind, named)

    return shared("joint-parts", fill)


@pytest.fixture(scope="module")
def all_three(data, shared):
    """A folder with the model of each product, with light and parts, and the joint one. Read only."""

    def fill(folder):
        for name in PRODUCTS:
            model = fit(data / name, light="10%", part=PATTERN, **SETTINGS)
            model.save(folder / f"{name}.safetensors")
        models = {name: folder / f"{name}.safetensors" for name in PRODUCTS}
        made = joining.join(models, {name: data / name for name in PRODUCTS}, device="cpu")
        made.save(folder / "line.safetensors")

    return shared("joint-light-parts", fill)


@pytest.fixture(scope="module")
def line(all_three):
    return flawscope.load(all_three / "line.safetensors", device="cpu")


def test_each_product_of_a_joint_model_keeps_its_own_light_and_is_known_in_each(line):
    first, second = (line.products[name].manifest.preprocess.normalization for name in PRODUCTS)
    assert first != second

    known = line.artefact.recognition.known["block"]
    assert np.bincount(known.lights).tolist() == [2 * PARTS] * len(LIGHTS)
    assert len(np.unique(known.groups)) == PARTS  # copies in other light vouch for no picture of their part
    apart = known.good @ known.good.T
    apart[known.groups[:, None] == known.groups] = -1
    assert KnownProduct(known).limit >= np.sqrt(2 - 2 * apart.max(1)).max()


@pytest.mark.parametrize("batch", [None, 1, 3])
def test_in_every_light_a_picture_finds_its_product_and_is_judged_as_by_its_own_model(all_three, line, batch):
    for name in PRODUCTS:
        alone = flawscope.load(all_three / f"{name}.safetensors", device="cpu")
        pictures = [light(view(name, 70 + k, v)) for k, light in enumerate(LIGHTS) for v in VIEWS]
        pictures.append(Light(brightness=0.6)(view(name, 90, "top")))
        for (_, found), (_, same) in zip(
            line.stream(pictures, batch), alone.stream(pictures, batch), strict=True
        ):
            assert (found.score, found.p_value, found.shifts) == (same.score, same.p_value, same.shifts)
            outside = found.to_dict().get("outside_light")
            assert outside == same.to_dict().get("outside_light")
            np.testing.assert_array_equal(found.map, same.map)
            assert outside or found.product == name
        assert outside
        given = line.predict(pictures[0], product=name)
        assert given.score == pytest.approx(alone.predict(pictures[0]).score, rel=1e-5)


NOISE = np.random.default_rng(0).integers(0, 256, (80, 80, 3)).astype(np.uint8)


def test_in_the_range_something_else_is_still_none_of_these(line):
    for light in LIGHTS:
        found = line.predict(light(NOISE))
        assert (found.product_name, found.is_anomalous) == (Prediction.NO_PRODUCT_NAME, True)


def test_the_commands_decide_on_the_parts_of_each_product(run, answer, data, tmp_path):
    """`--joint --part`: a part has a product, found by all its views; something else is anomalous."""
    model, new = tmp_path / "line.safetensors", tmp_path / "new"
    answer("fit", "--data", data, "--joint", "--part", PATTERN, "--out", model, *SMALL)
    new.mkdir()
    for product, part in (("block", 60), ("rings", 50), ("rings", 61)):
        for name in VIEWS:
            kind = "good" if part == 50 else "hole"
            shutil.copy(data / product / "test" / kind / f"p{part}_{name}.png", new)
    noise = np.random.default_rng(0).integers(0, 256, (80, 80, 3)).astype(np.uint8)
    Image.fromarray(noise).save(new / "p99_top.png")
    (new / "p61_side.png").unlink()
    code, lines, said = run("predict", model, new, "--json", "--out", tmp_path / "out", "--fail-on-anomaly")
    assert code == 3, said
    parts = {one["part"]: one for one in map(json.loads, lines.splitlines()) if "part" in one}
    found = {name: (one["product"], one["decision"]) for name, one in parts.items()}
    assert (found["p60"], found["p50"][0]) == (("block", "anomalous"), "rings")
    assert (found["p61"], found["p99"]) == (("rings", "anomalous"), (None, "anomalous"))
    assert (parts["p61"]["missing"], parts["p60"]["p_value"]) == (["side"], 1 / (PARTS + 1))
    with (tmp_path / "out" / "parts.csv").open(encoding="utf-8-sig") as file:
        rows = {row["part"]: row["product"] for row in csv.DictReader(file)}
    assert rows == {"p60": "block", "p50": "rings", "p61": "rings", "p99": Prediction.NO_PRODUCT_NAME}
    code, lines, said = run("predict", model, new)
    assert "  (block)" in lines
    assert f"  ({Prediction.NO_PRODUCT_NAME})" in lines
    assert "of 4 parts anomalous; block: parts of 2 views" in said

    promise = "block: parts of 2 views (side, top): about 1 of 13 good parts will be called anomalous"
    lines = answer("evaluate", model, "--data", data, printed=promise)
    assert lines.count("3 of 3 defective found, AUROC 1.0000") == 2
    single = tmp_path / "block.safetensors"
    answer("fit", "--data", data, "--category", "block", *OF_ONE, "--out", single, *SMALL)
    mine, its = model_file.read(single), read_fitted(model).products["block"]
    assert mine.manifest.calibration == its.manifest.calibration
    assert mine.manifest.facts["part"] == its.manifest.facts["part"] == {"part": PATTERN, "view": None}
    assert mine.tensors.keys() == its.tensors.keys()
    assert all(np.array_equal(mine.tensors[key], its.tensors[key]) for key in mine.tensors)


def test_a_further_product_is_asked_for_the_parts_of_the_others(answer, data, tmp_path):
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    few = tmp_path / "few"
    for path in data.glob("*/train/good/p0[0-4]*"):
        (few / path.parent.relative_to(data)).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, few / path.relative_to(data))
    call = ("fit", "--data", few, "--category")
    answer(*call, "block", "--joint", "--part", PATTERN, "--out", one, *SMALL, *SMALL_FLAGS)
    remedy = "fit all with the same --part and --view, or none"
    answer(*call, "rings", "--update", one, "--out", two, *SMALL, *SMALL_FLAGS, code=2, said=remedy)
    answer(*call, "rings", "--update", one, "--out", two, "--part", PATTERN, *SMALL, *SMALL_FLAGS)
    first, second = (read_fitted(two).products[name].manifest for name in PRODUCTS)
    assert first.facts["part"] == second.facts["part"]


def test_all_three_together(all_three, line, tmp_path):
    for name in PRODUCTS:
        alone = flawscope.load(all_three / f"{name}.safetensors", device="cpu")
        for k, light in enumerate(LIGHTS):
            pictures = {v: light(view(name, 140 + k, v, defect=k % 2 == 0)) for v in VIEWS}
            found, same = line.predict_part(pictures, "7"), alone.predict_part(pictures, "7")
            assert (found.product, found.product_name) == (name, name)
            assert (found.p_value, found.worst) == (same.p_value, same.worst)
            assert found.is_anomalous == same.is_anomalous
            assert found.score == pytest.approx(same.score, rel=1e-4)
    given = line.predict_part(pictures, product="rings")
    assert given.p_value == found.p_value
    with pytest.raises(InputError, match="knows no view left"):
        line.predict_part({"left": view("block", 1, "top")})


def test_a_view_that_shows_something_else_makes_the_part_anomalous(line):
    """Together the views are one product's; one of them shows the other."""
    mixed = {"side": view("block", 160, "side"), "top": view("rings", 160, "top")}
    found = line.predict_part(mixed)
    assert found.is_anomalous
    assert found.product_name == Prediction.NO_PRODUCT_NAME
    assert {one.product for one in found.views.values()} <= {"block", "rings"}
    found = line.predict_part({"side": view("rings", 161, "side"), "top": NOISE})
    assert (found.product, found.product_name, found.is_anomalous) == (None, Prediction.NO_PRODUCT_NAME, True)
    assert found.to_dict()["product"] is None
    with pytest.raises(InputError, match="no product bottle"):
        line.predict_part(mixed, product="bottle")


def test_views_are_recognised_together(line, tmp_path):
    """A view that is a little nearer to the other product is judged again as its part's product."""
    parts = line.parts()
    found = []
    for name in VIEWS:
        path = tmp_path / f"p09_{name}.png"
        Image.fromarray(view("block", 170, name)).save(path)
        found.append(line.predict(path))
    near, far = found[0].recognition.distances
    wrong = line.predict(tmp_path / "p09_top.png", product="rings")
    close = min(KnownProduct(one).limit for one in line.artefact.recognition.known.values()) / 2
    mistaken = replace(wrong, recognition=Recognition("rings", "rings", 0.5, (close + 1e-3, close)))
    assert near < far - 1e-3
    assert parts.add(found[0]) is None
    part = parts.add(mistaken)
    assert part.product == "block"
    assert part.views["top"].score == pytest.approx(found[1].score, rel=1e-5) != wrong.score
    again = line.parts()
    again.add(found[0])
    (tmp_path / "p09_top.png").unlink()
    part = again.add(mistaken)
    assert part.missing == ("top",)


def test_each_view_has_its_own_model_and_the_part_one_decision(answer, data, tmp_path):
    model, root = tmp_path / "views.safetensors", data / "rings"
    told = "views side, top look different: each has a model of its own, in one file"
    quick = [flag for flag in SMALL if flag != "--quiet"]
    answer("fit", "--data", root, "--part", PATTERN, "--out", model, *quick, said=told)
    assert answer("info", model).startswith(
        "joint model of 2 views: side, top\nparts of 2 views (side, top): about 1 of 13 good parts "
    )
    artefact = read_fitted(model)
    assert artefact.recognition is None
    for name in VIEWS:
        pictures = sorted((root / "train/good").glob(f"*_{name}.png"))
        alone = fit(pictures, group=PATTERN, **{**SETTINGS, "samples": 3})
        assert alone.calibration == artefact.products[name].manifest.calibration
        mine, its = alone.artefact.tensors, artefact.products[name].tensors
        assert mine.keys() == its.keys()
        assert all(np.array_equal(mine[key], its[key]) for key in mine)
    call = ("predict", model, root / "test/hole", "--json", "--out", tmp_path / "out", "--fail-on-anomaly")
    found = [json.loads(one) for one in answer(*call, code=3).splitlines()]
    parts = [one for one in found if "part" in one]
    assert [(p["part"], p["decision"], p["worst"]) for p in parts] == [
        (f"p{k}", "anomalous", "top") for k in (60, 61, 62)
    ]
    assert not any("product" in one for one in found)
    told = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {*told["views"]} == {*VIEWS}
    assert "missing" in (tmp_path / "out" / "parts.csv").read_text().splitlines()[0]
    lines = answer("evaluate", model, "--data", root, printed="3 of 3 defective found, AUROC 1.0000")
    assert [row.split()[0] for row in lines.splitlines()[2:5]] == ["side", "top", "mean"]
    document = json.loads(answer("evaluate", model, "--data", root, "--json"))
    assert document["parts"]["defective"] == 3
    assert document["categories"]["top"]["metrics"]["image_auroc"] == 1.0
    Image.fromarray(view("rings", 1, "top")).save(tmp_path / "p01_below.png")
    remedy = "the model knows no view below: name it by one of side, top"
    answer("predict", model, tmp_path / "p01_below.png", code=1, said=remedy)
    before = read_fitted(model)
    more = {f"p{part}_{name}.png": view("rings", part, name) for part in range(30, 34) for name in VIEWS}
    save(tmp_path / "more/train/good", more)
    quick = ("--device", "cpu", "--no-check", "--quiet", "--force")
    answer("fit", "--data", tmp_path / "more", "--update", model, "--out", model, *quick)
    for name, one in read_fitted(model).products.items():
        assert len(one.manifest.pictures) == len(before.products[name].manifest.pictures) + 4


@pytest.fixture(scope="module")
def of_views(data):
    """A model of each view."""
    good = data / "rings/train/good"
    quick = SETTINGS | SMALL_NETWORK
    return {name: fit(sorted(good.glob(f"*_{name}.png")), **quick) for name in VIEWS}


def test_the_parts_of_views_combine_the_left_out_scores_of_their_models(of_views):
    parts = joining.join(of_views, part=PATTERN, device="cpu").parts()
    calibration = parts.calibration
    assert calibration.parts == tuple(f"p{k:02d}" for k in range(PARTS))
    for k, name in enumerate(VIEWS):
        manifest = of_views[name].manifest
        by_name = {row.name[:3]: row.score for row in manifest.pictures}
        assert calibration.scores[:, k].tolist() == [by_name[part] for part in calibration.parts]


def test_a_damaged_pattern_of_views_is_one_clear_line(of_views, tmp_path):
    path = tmp_path / "views.safetensors"
    joining.join(of_views, part=PATTERN, device="cpu").save(path)
    with path.open("rb") as file:
        header = model_file.read_header(file, path, several=True)
        tensors = model_file.read_tensors(file, header, path)
    for wrong in ({"part": "("}, {"part": 7, "view": None}, ["part"], {"which": "x"}):
        document = {**header.document, "views": wrong}
        model_file.write_contents(document, header.run, tensors, path)
        with pytest.raises(InputError, match="its pattern of views is damaged"):
            flawscope.load(path, device="cpu")
    model_file.write_contents({**header.document, "views": None}, header.run, tensors, path)
    with pytest.raises(InputError, match="cannot use model"):  # products, and nothing to know them by
        flawscope.load(path, device="cpu")

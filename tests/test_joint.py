"""One model of several products: each product's part is its own model, and pictures find their product."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import flawscope
from flawscope.artefact import joint_file, model_file
from flawscope.calibration.recognition import GOOD_DISTANCE_FACTOR, ProductDescriptors, Recogniser
from flawscope.errors import InputError
from flawscope.fitting import joint
from flawscope.fitting.fitting import fit
from flawscope.results.prediction import NO_PRODUCT_NAME, Prediction
from flawscope.synthesis.demo.dataset import draw_picture

Shared = Callable[[str, Callable[[Path], Any]], Path]
PRODUCTS = ("fabric", "plate")
SIZE = 64


@pytest.fixture(scope="module")
def singles(two_products: Path, shared: Shared) -> Path:
    """A folder with the model of each product alone. Read only."""

    def fill(folder: Path) -> None:
        for name in PRODUCTS:
            model = fit(two_products, category=name, size=SIZE, cap=400, device="cpu", check=False)
            model.save(folder / f"{name}.safetensors")

    return shared("line-singles", fill)


@pytest.fixture(scope="module")
def joint_path(two_products: Path, singles: Path, shared: Shared) -> Path:
    """The joint model of both. Read only."""

    def fill(folder: Path) -> None:
        models = {name: singles / f"{name}.safetensors" for name in PRODUCTS}
        made = joint.join(models, {name: two_products / name for name in PRODUCTS}, device="cpu")
        made.save(folder / "line.safetensors")

    return shared("line-joint", fill) / "line.safetensors"


def test_each_part_is_the_model_of_its_product(joint_path: Path, singles: Path, tmp_path: Path) -> None:
    artefact = joint_file.read(joint_path)
    for name in PRODUCTS:
        model_file.write(artefact.product(name), tmp_path / "part.safetensors")
        single = (singles / f"{name}.safetensors").read_bytes()
        assert (tmp_path / "part.safetensors").read_bytes() == single
    joint_file.write(artefact, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == joint_path.read_bytes()


def test_the_backbone_is_stored_once(joint_path: Path, singles: Path) -> None:
    backbone = sum(
        values.nbytes
        for name, values in model_file.read(singles / "plate.safetensors").tensors.items()
        if name.startswith("backbone.")
    )
    apart = sum(path.stat().st_size for path in singles.iterdir())
    assert joint_path.stat().st_size < apart - 0.9 * backbone


def test_pictures_find_their_product(joint_path: Path, singles: Path, two_products: Path) -> None:
    model = flawscope.load(joint_path, device="cpu")
    assert isinstance(model, flawscope.JointPredictor)
    for name in PRODUCTS:
        alone = flawscope.load(singles / f"{name}.safetensors", device="cpu")
        paths = [str(path) for path in sorted((two_products / name / "test").rglob("*.png"))]
        for (_, found), (_, same) in zip(model.stream(paths), alone.stream(paths), strict=True):
            assert isinstance(found, Prediction)
            assert isinstance(same, Prediction)
            assert found.product == name
            assert 0 < (found.product_p_value or 0) <= 1
            assert (found.score, found.p_value, found.shifts) == (same.score, same.p_value, same.shifts)
            assert found.is_anomalous == same.is_anomalous
            np.testing.assert_array_equal(found.map, same.map)
        one = model.predict(paths[0])
        assert one.to_dict()["product"] == name
        assert one.score == pytest.approx(alone.predict(paths[0]).score, rel=1e-5)


def test_another_picture_shows_none_of_them_and_is_anomalous(joint_path: Path) -> None:
    model = flawscope.load(joint_path, device="cpu")
    assert isinstance(model, flawscope.JointPredictor)
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3)).astype(np.uint8)
    found = model.predict(noise)
    assert (found.product, found.product_name, found.is_anomalous) == (None, NO_PRODUCT_NAME, True)
    assert found.severity > 0
    assert NO_PRODUCT_NAME in repr(found)
    known = model.predict(noise, product="plate")
    assert (known.product, known.product_p_value) == ("plate", None)
    with pytest.raises(InputError, match="no product bottle: it knows fabric, plate"):
        model.predict(noise, product="bottle")


def test_one_picture_that_cannot_be_read_stops_no_other(
    joint_path: Path, two_products: Path, tmp_path: Path
) -> None:
    model = flawscope.load(joint_path, device="cpu")
    good = str(two_products / "plate/test/good/000.png")
    (tmp_path / "no.png").write_text("no picture")
    results = [result for _, result in model.stream([good, str(tmp_path / "no.png"), good])]
    assert [isinstance(result, InputError) for result in results] == [False, True, False]


def test_a_joint_model_is_refused_where_one_product_is_wanted(joint_path: Path, singles: Path) -> None:
    with pytest.raises(InputError, match="it is a joint model of several products"):
        model_file.read(joint_path)
    with pytest.raises(InputError, match="it is a model of one product"):
        joint_file.read(singles / "plate.safetensors")
    assert joint_file.is_joint(joint_path)
    assert not joint_file.is_joint(singles / "plate.safetensors")


def test_models_that_see_pictures_differently_are_not_joined(two_products: Path, singles: Path) -> None:
    other = fit(two_products / "plate", size=96, cap=200, device="cpu", check=False)
    models = {"fabric": singles / "fabric.safetensors", "plate": other}
    with pytest.raises(InputError, match="fabric and plate cannot share a model: their settings of size"):
        joint.join(models, {name: two_products / name for name in PRODUCTS}, device="cpu")


def test_a_product_of_three_pictures_is_refused(two_products: Path) -> None:
    few = sorted((two_products / "plate/train/good").iterdir())[:3]
    model = fit(few, size=SIZE, cap=200, device="cpu", check=False)
    with pytest.raises(InputError, match="plate can be recognised only by 4 good pictures or more"):
        joint.join({"plate": model}, {"plate": few}, device="cpu")


@pytest.mark.parametrize("damage", ["cut", "byte", "name", "tensor", "descriptor", "number", "twice"])
def test_a_damaged_file_is_one_clear_line(joint_path: Path, tmp_path: Path, damage: str) -> None:
    path, data = tmp_path / "line.safetensors", bytearray(joint_path.read_bytes())
    if damage == "cut":
        data = data[:-7]
    elif damage == "byte":
        data[-1] ^= 1
    else:
        with joint_path.open("rb") as file:
            header = model_file.read_header(file, joint_path, model_file.JOINT_FORMAT)
            tensors = model_file.read_tensors(file, header, joint_path)
        document, key = json.loads(json.dumps(header.document)), "recognition.1.good"
        if damage == "name":
            document["products"][0]["name"] = 7
        elif damage == "tensor":
            del tensors["products.1.roi"]
        elif damage == "descriptor":
            tensors[key] = 2 * tensors[key]
        elif damage == "number":
            tensors["products.01.more"] = tensors[key]
        else:
            document["products"][0]["name"] = document["products"][1]["name"]
        model_file.write_contents(document, header.run, tensors, path)
        data = bytearray(path.read_bytes())
    path.write_bytes(data)
    with pytest.raises(InputError, match="cannot use model") as found:
        flawscope.load(path, device="cpu")
    assert "\n" not in str(found.value)


def test_a_file_from_before_there_were_lights_still_opens(
    joint_path: Path, two_products: Path, tmp_path: Path
) -> None:
    with joint_path.open("rb") as file:
        header = model_file.read_header(file, joint_path, model_file.JOINT_FORMAT)
        tensors = model_file.read_tensors(file, header, joint_path)
    old = {name: values for name, values in tensors.items() if not name.endswith(".lights")}
    assert len(old) == len(tensors) - len(PRODUCTS)
    model_file.write_contents(header.document, header.run, old, tmp_path / "old.safetensors")
    before, now = (flawscope.load(path, device="cpu") for path in (tmp_path / "old.safetensors", joint_path))
    picture = two_products / "plate/test/good/000.png"
    assert before.predict(picture).to_dict() == now.predict(picture).to_dict()


def test_descriptors_of_another_network_are_one_clear_line(joint_path: Path, two_products: Path) -> None:
    artefact = joint_file.read(joint_path)
    others = {name: known(unit([1, 0], [1, 0.1], [1, 0.2], [1, 0.3])) for name in PRODUCTS}
    model = joint.join_artefacts(artefact.products, others, "cpu")
    with pytest.raises(InputError, match="do not fit its network"):
        model.predict(two_products / "plate/test/good/000.png")


def test_another_rate_holds_for_every_product(joint_path: Path) -> None:
    with pytest.warns(UserWarning, match="plate: "):  # twelve pictures promise no such rate
        model = flawscope.load(joint_path, device="cpu", false_alarm_rate="1%")
    assert isinstance(model, flawscope.JointPredictor)
    assert {one.calibration.rate for one in model.products.values()} == {0.01}


def unit(*rows: list[float]) -> np.ndarray:
    made = np.array(rows, np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def known(good: np.ndarray, groups: list[int] | None = None) -> ProductDescriptors:
    numbers = np.array(range(len(good)) if groups is None else groups, np.int32)
    return ProductDescriptors(good, numbers, good[:0], numbers[:0])


def test_the_rule_of_recognition() -> None:
    angles = np.array([0.0, 0.01, 0.02, 0.03, 0.04])
    near = np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1).astype(np.float32)
    one, other = known(near), known(near[:, [2, 0, 1]])
    assert one.limit == pytest.approx(GOOD_DISTANCE_FACTOR * 0.01, rel=1e-3)
    rule = Recogniser({"one": one, "other": other})
    inside, outside = 0.04 + 0.9 * one.limit, 0.04 + 1.1 * one.limit
    asked = np.array([[np.cos(a), np.sin(a), 0] for a in (0.005, inside, outside)], np.float32)
    found = rule.recognise(asked)
    assert [each.product for each in found] == ["one", "one", None]
    assert [each.nearest for each in found] == ["one"] * 3
    assert [each.p_value for each in found] == pytest.approx([1, 1 / 6, 1 / 6])
    alone = Recogniser({"one": one}).recognise(asked)  # nothing about a product depends on the others
    assert [each[:3] for each in alone] == [each[:3] for each in found]
    assert found[0].distances[0] == pytest.approx(0.005, rel=1e-3)


def test_pictures_of_one_part_do_not_vouch_for_each_other() -> None:
    base = unit([1, 0], [1, 0.1], [1, 0.2], [1, 0.3])
    pairs = np.repeat(base, 2, axis=0)
    assert known(pairs).limit < known(pairs, [0, 0, 1, 1, 2, 2, 3, 3]).limit


def test_defective_parts_widen_the_limit() -> None:
    good = unit([1, 0], [1, 0.01], [1, 0.02], [1, 0.03])
    far = replace(known(good), defective=unit([1, 0.2]), carriers=np.array([0], np.int32))
    assert far.limit > 0.17 * 1.2 > known(good).limit


def test_a_product_is_added_and_extended_without_touching_the_others(
    joint_path: Path, two_products: Path, singles: Path
) -> None:
    both = joint_file.read(joint_path)
    first = joint_file.JointArtefact(*({"fabric": d["fabric"]} for d in (both.products, both.descriptors)))
    described = joint.describe_product(both.product("plate"), two_products / "plate", device="cpu")
    products = {**first.products, "plate": both.product("plate")}
    added = joint.join_artefacts(products, {**first.descriptors, "plate": described}, "cpu").artefact
    assert [*added.products] == ["fabric", "plate"]
    for name in PRODUCTS:
        found, expected = (one.descriptors[name].leave_one_out[0] for one in (added, both))
        np.testing.assert_allclose(found, expected, atol=1e-6)
    more = [draw_picture("plate", np.random.default_rng(k), size=96)[0] for k in range(3)]
    longer = flawscope.extend(both.product("plate"), more, device="cpu", check=False, force=True)
    new = joint.describe_product(longer.artefact, more, device="cpu")
    assert len(both.descriptors["plate"].merged(new).good) == 15


def test_other_methods_say_why_not() -> None:
    with pytest.raises(InputError, match="efficientad learns its networks anew for each product"):
        joint.check_joinable("efficientad")


def test_a_product_that_varies_much_swallows_no_other() -> None:
    rng = np.random.default_rng(0)

    def known(spread: float) -> ProductDescriptors:
        good = np.eye(64, dtype=np.float32)[0] + rng.normal(size=(20, 64)).astype(np.float32) * spread
        good /= np.linalg.norm(good, axis=1, keepdims=True)
        return ProductDescriptors(good, np.arange(20, dtype=np.int32), good[:0], np.empty(0, np.int32))

    quiet, lively = known(0.001), known(0.05)
    assert 3 * lively.leave_one_out[0][-1] > 1
    assert lively.limit == 0.4
    away = np.eye(64, dtype=np.float32)[1:2]
    quiet = replace(quiet, good=np.roll(quiet.good, 1, axis=1))  # about the second axis
    recogniser = Recogniser({"lively": lively, "quiet": quiet})
    assert recogniser.recognise(away)[0].product == "quiet"
    angle = 0.1
    turned = np.cos(angle) * away + np.sin(angle) * np.eye(64, dtype=np.float32)[:1]
    found = recogniser.recognise(turned.astype(np.float32))[0]  # beyond the limit, and nearest to it
    assert (found.product, found.nearest) == (None, "quiet")

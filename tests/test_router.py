"""A router hands each picture to the ordinary model of its product, whatever settings that has, and changes
nothing in it."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import flawscope
from flawscope.artefact import model_file
from flawscope.artefact.model_file import FORMAT
from flawscope.cli import main
from flawscope.errors import InputError
from flawscope.fitting import joining
from flawscope.fitting.fitting import fit
from flawscope.predictor import Predictor
from flawscope.results.prediction import Prediction
from flawscope.runtime import is_router, read_facts, read_fitted
from flawscope.synthesis.demo.dataset import draw_picture
from small_network import SMALL_NETWORK

PRODUCTS = ("fabric", "plate")
SIZE = 64
QUICK = {"cap": 60, "device": "cpu", "check": False, "samples": 1, **SMALL_NETWORK}
REGION = np.pad(np.ones((60, 60), np.bool_), 18)  # of pictures of 96 x 96 pixels
# Settings of fabric and of plate, each with and without what the other has
SETTINGS = {
    "plain": ({"size": SIZE}, {"size": SIZE}),
    "light": ({"size": SIZE, "light": "10%"}, {"size": "48+64"}),
    "aligned": ({"size": SIZE, "keep_aspect": True}, {"size": SIZE, "align": "shift"}),
    "all": ({"size": 48, "tile": 48, "roi": REGION}, {"size": SIZE, "align": "turn", "light": "10%"}),
}


def joined(which, data, shared):
    def fill(folder):
        models = {}
        for name, settings in zip(PRODUCTS, SETTINGS[which], strict=True):
            models[name] = fit(data, category=name, **QUICK, **settings)
            models[name].save(folder / f"{name}.safetensors")
        pictures = {name: data / name for name in PRODUCTS}
        joining.join(models, pictures, device="cpu").save(folder / "line.safetensors")

    return shared(f"router-{which}", fill)


@pytest.fixture(scope="module", params=SETTINGS)
def pair(request, two_products, shared):
    """A folder with the model of each product, and the router to both. Read only."""
    return joined(request.param, two_products, shared)


@pytest.fixture(scope="module")
def plain(two_products, shared):
    return joined("plain", two_products, shared) / "line.safetensors"


def opened(path, **how):
    return flawscope.load(path, device="cpu", **how)


def shown(data, name):
    return [str(path) for path in sorted((data / name / "test").rglob("*.png"))[::2]]


@pytest.mark.parametrize("batch", [None, 1, 3])
def test_a_picture_is_judged_by_the_model_of_its_product_bit_for_bit(pair, two_products, batch):
    router = opened(pair / "line.safetensors")
    alone = {name: flawscope.load(pair / f"{name}.safetensors", device="cpu") for name in PRODUCTS}
    of = {path: name for name in PRODUCTS for path in shown(two_products, name)}
    mixed = sorted(of, key=lambda path: path[::-1])  # in turns
    for path, found in router.stream(mixed, batch):
        name = of[str(path)]
        same = next(alone[name].stream([path], 1))[1] if batch == 1 else alone[name].predict(path)
        assert (found.product, found.recognition and found.recognition.nearest) == (name, name)
        assert 0 < (found.product_p_value or 0) <= 1
        assert found.score == pytest.approx(same.score, rel=1e-5)
        for fact in ("is_anomalous", "shifts", "part_pose", "geometry"):
            assert getattr(found, fact) == getattr(same, fact)
        np.testing.assert_allclose(found.map, same.map, rtol=1e-4, atol=1e-4)
        said = next(router.stream([path], 1, product=name))[1]
        if batch == 1:
            assert (found.score, said.score) == (same.score, same.score)
            np.testing.assert_array_equal(found.map, same.map)


def test_a_product_is_taken_out_as_it_was_joined(pair, tmp_path):
    router = opened(pair / "line.safetensors")
    for name in PRODUCTS:
        router.products[name].save(tmp_path / "out.safetensors")
        assert (tmp_path / "out.safetensors").read_bytes() == (pair / f"{name}.safetensors").read_bytes()
    router.save(tmp_path / "line.safetensors")
    assert (tmp_path / "line.safetensors").read_bytes() == (pair / "line.safetensors").read_bytes()


def test_equal_tensors_are_stored_and_held_once(pair):
    artefact = read_fitted(pair / "line.safetensors")
    each = [*(one.tensors for one in artefact.products.values()), artefact.recognition.tensors]
    values = {id(one): one for tensors in each for one in tensors.values()}
    contents = {(str(one.dtype), one.shape, one.tobytes()) for one in values.values()}
    assert len(contents) == len(values)
    assert all(each[0][key] is each[1][key] for key in each[0] if key.startswith("backbone."))
    router = opened(pair / "line.safetensors")
    first, second = (router.products[name].session.model.state_dict() for name in PRODUCTS)
    shared = [key for key in first if key.startswith("backbone.") and key in second]
    assert shared
    assert all(first[key].data_ptr() == second[key].data_ptr() for key in shared if first[key].numel())


def test_one_product_is_calibrated_anew_and_the_others_stay(plain, tmp_path):
    router = opened(plain)
    rng = np.random.default_rng(7)
    good = [np.asarray(draw_picture("plate", rng, size=96)[0]) for _ in range(20)]
    new = router.with_product("plate", router.products["plate"].calibrate(good, force=True))
    new.save(tmp_path / "new.safetensors")
    before, after = read_fitted(plain), read_fitted(tmp_path / "new.safetensors")
    assert after.products["plate"].manifest.calibration.count == 20
    for one, part in ((before, "before"), (after, "after")):
        model_file.write(one.products["fabric"], tmp_path / part)
    assert (tmp_path / "before").read_bytes() == (tmp_path / "after").read_bytes()
    with pytest.raises(InputError, match="no product bottle: it knows fabric, plate"):
        router.with_product("bottle", router.products["plate"])


def test_another_rate_holds_for_every_product_and_a_single_model_is_a_router_s_kin(plain):
    with pytest.warns(UserWarning, match="plate: "):  # twelve pictures promise no such rate
        router = opened(plain, false_alarm_rate="1%")
    assert {one.calibration.rate for one in router.products.values()} == {0.01}
    one = opened(plain).products["plate"]
    assert isinstance(one, Predictor)
    assert ([*one.products.values()], one.kind) == ([one], "")
    assert one.with_product("", one) is one
    assert one.facts.manifests == {"": one.manifest}
    assert [shown.product for _, shown in one.recognise(np.zeros((8, 8, 3), np.uint8))] == [""]
    assert opened(plain).kind == "product"


def test_another_picture_shows_none_of_them_and_is_anomalous(plain):
    router = opened(plain)
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3)).astype(np.uint8)
    found = router.predict(noise)
    assert (found.product, found.product_name, found.is_anomalous) == (None, Prediction.NO_PRODUCT_NAME, True)
    assert found.severity > 0
    assert Prediction.NO_PRODUCT_NAME in repr(found)
    known = router.predict(noise, product="plate")
    assert (known.product, known.product_p_value) == ("plate", None)
    with pytest.raises(InputError, match="no product bottle: it knows fabric, plate"):
        router.predict(noise, product="bottle")
    ((_, recognition),) = router.recognise(noise)
    assert not isinstance(recognition, InputError)
    assert (recognition.product, recognition) == (None, found.recognition)


def test_a_picture_that_cannot_be_read_stops_no_other_and_a_prepared_one_is_as_it_is(
    plain, two_products, tmp_path
):
    router = opened(plain)
    good = str(two_products / "plate/test/good/000.png")
    (tmp_path / "no.png").write_text("no picture")
    given = [good, str(tmp_path / "no.png"), good]
    assert [isinstance(one, InputError) for _, one in router.stream(given)] == [False, True, False]
    assert [isinstance(one, InputError) for _, one in router.recognise(given)] == [False, True, False]
    router, path = opened(plain), str(two_products / "plate/test/good/000.png")
    prepared = router.prepare(path)
    ((_, found),) = router.stream([prepared])
    assert found.to_dict() == router.predict(path).to_dict()


def test_what_no_reader_foresees_stops_no_other_picture_either(plain, two_products, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("no such thing")

    router, path = opened(plain), str(two_products / "plate/test/good/000.png")
    for module in ("router", "any_model"):
        monkeypatch.setattr(f"flawscope.predictor.{module}.read_picture", fail)
    for _, found in (*router.stream([path]), *router.recognise([path])):
        assert isinstance(found, InputError)
        assert "it could not be read (unexpected ZeroDivisionError" in str(found)


def test_a_product_of_three_pictures_is_refused(two_products):
    few = sorted((two_products / "plate/train/good").iterdir())[:3]
    model = fit(few, size=SIZE, **QUICK)
    with pytest.raises(InputError, match="plate can be recognised only by 4 good pictures or more"):
        joining.join({"plate": model}, {"plate": few}, device="cpu")


def test_further_pictures_of_a_product_are_described_beside_the_others(plain, two_products):
    artefact = read_fitted(plain)
    more = [draw_picture("plate", np.random.default_rng(k), size=96)[0] for k in range(3)]
    before = artefact.products["plate"]
    longer = flawscope.extend(before, more, device="cpu", check=False, force=True).artefact
    seen = [one.hash for one in before.manifest.pictures]
    new = joining.describe_product(artefact.recognition, longer, more, described=seen, device="cpu")
    known = joining.with_products(artefact.recognition, {"plate": new}).known
    assert len(known["plate"].good) == 15
    assert known["fabric"] is artefact.recognition.known["fabric"]


def test_files_of_one_and_of_several_products_are_told_apart(plain, tmp_path):
    router = opened(plain)
    router.products["plate"].save(tmp_path / "plate.safetensors")
    single = tmp_path / "plate.safetensors"
    assert (is_router(plain), is_router(single)) == (True, False)
    assert [*read_facts(plain).manifests] == [*PRODUCTS]
    assert [read_fitted(one).kind for one in (plain, single)] == ["product", ""]
    assert [*read_fitted(single).products] == [*read_facts(single).manifests] == [""]
    for call, path, said in (
        (model_file.read, plain, "it is a joint model of several products"),
        (router.save, tmp_path / "line.onnx", r"this router is saved as \.safetensors"),
    ):
        with pytest.raises(InputError, match=said):
            call(path)


DAMAGES = ("cut", "byte", "name", "tensor", "unused", "descriptor", "twice", "preprocess")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_one_clear_line(plain, tmp_path, damage):
    path, data = tmp_path / "line.safetensors", bytearray(plain.read_bytes())
    if damage == "cut":
        data = data[:-7]
    elif damage == "byte":
        data[-1] ^= 1
    else:
        with plain.open("rb") as file:
            header = model_file.read_header(file, plain, several=True)
            tensors = model_file.read_tensors(file, header, plain)
        document = json.loads(json.dumps(header.document))
        first, about = document["products"][0], document["recognition"]
        if damage == "name":
            first["name"] = 7
        elif damage == "tensor":
            del first["tensors"]["roi"]
        elif damage == "unused":
            tensors["more"] = np.zeros(3)
        elif damage == "descriptor":
            key = about["known"]["plate"]["good"]
            tensors[key] = 2 * tensors[key]
        elif damage == "twice":
            first["name"] = document["products"][1]["name"]
        else:
            about["preprocess"]["size"] = [0, 0]
        model_file.write_contents(document, header.run, tensors, path)
        data = bytearray(path.read_bytes())
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"cannot use model|fit anew") as found:
        flawscope.load(path, device="cpu")
    assert "\n" not in str(found.value)


def test_a_file_that_is_no_archive_of_a_router_is_one_clear_line(tmp_path):
    path = tmp_path / "line.zip"
    path.write_bytes(b"no archive")
    with pytest.raises(InputError, match="it is no model of several products"):
        flawscope.load(path)
    for document, said in (
        ({"format": FORMAT, "products": []}, "it is no model of several products"),
        ({"format": FORMAT + 1}, "made by a newer flawscope, and this one reads"),
    ):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("router.json", json.dumps(document))
        with pytest.raises(InputError, match=said):
            flawscope.load(path)


VIEWS = Path(__file__).parent / "fixtures/models/views.safetensors"
NO_WHOLE_PART = r"no good part has pictures of all views \(fabric, plate\)"


def test_a_view_is_calibrated_on_parts_that_the_other_views_know():
    """Known before the work: names tell the parts, and no picture is read."""
    model = opened(VIEWS)
    model.check_whole_parts({"fabric": ["new/p03-fabric.png", "new/p90-fabric.png"]})
    with pytest.raises(InputError, match=NO_WHOLE_PART):
        model.check_whole_parts({"fabric": ["new/p90-fabric.png", "new/p91-fabric.png"]})
    given = model.sort_by_view(["new/p90-fabric.png", "new/p91-fabric.png", "new/p91-plate.png"])
    assert [len(pictures) for pictures in given.values()] == [2, 1]
    model.check_whole_parts(given)


def test_a_product_with_a_model_for_each_view_is_not_joined(plain):
    for nested in (VIEWS, str(VIEWS), opened(VIEWS), plain):
        with pytest.raises(InputError, match="housing has several models itself"):
            joining.join({"housing": nested}, {"housing": ["never read"]})


def test_a_model_for_each_view_is_not_extended_as_a_joint_one(tmp_path, capsys):
    call = ["fit", "--joint", "--data", str(tmp_path), "--out", str(tmp_path / "new.safetensors")]
    single = VIEWS.with_name("patchcore.safetensors")
    for update, why in ((VIEWS, "has a model for each view"), (single, "it is a model of one product")):
        assert main([*call, "--update", str(update)]) == 2
        assert why in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_a_model_that_could_decide_on_no_whole_part_is_not_written(tmp_path):
    model = opened(VIEWS)
    fabric = model.products["fabric"]
    rows = tuple(replace(row, name=f"p9{row.name[1:]}") for row in fabric.manifest.pictures)
    other = model.with_product("fabric", fabric.with_manifest(replace(fabric.manifest, pictures=rows)))
    with pytest.raises(InputError, match=NO_WHOLE_PART):
        other.save(tmp_path / "views.safetensors")
    model.save(tmp_path / "views.safetensors")

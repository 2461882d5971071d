"""One joint model serves all of its products, with and without the product in the address."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import flawscope
from flawscope.errors import InputError
from flawscope.predictor.router import Router
from flawscope.results.prediction import Prediction
from flawscope.runtime import OpenModel, open_model
from flawscope.synthesis.demo.dataset import draw_picture
from flawscope_station.cli import serve
from flawscope_station.client import Client
from flawscope_station.settings.sources import CameraSourceSettings, FolderSourceSettings
from flawscope_station.settings.station import LearningSettings, ProductSettings
from sink_helpers import make_broker, make_sink
from station_helpers import Running, png, until

PRODUCTS = ("fabric", "plate", "Blech 7/ä")
CALLED = ("fabric", "plate", "Blech-7-ae")  # at the station
SIZE = 64


def drawn_picture(product: str, seed: int, defect: str | None = None) -> Image.Image:
    kind = "plate" if product == PRODUCTS[2] else product
    picture = np.asarray(draw_picture(kind, np.random.default_rng(seed), defect, size=96)[0])
    return Image.fromarray(255 - picture if product == PRODUCTS[2] else picture)


NOISE = png(np.random.default_rng(0).integers(0, 256, (96, 96, 3)).astype(np.uint8))
GOOD = {name: png(drawn_picture(name, 1000)) for name in PRODUCTS}


@pytest.fixture(scope="session")
def joint_models(small_backbone, shared):
    """Joint models: two.zip of the first two products, three.zip of all, both exported; other.zip with other
    limits; trained.safetensors in torch; plate.safetensors of one product. Read only."""
    from flawscope.export.router_export import export_router
    from flawscope.fitting import joining
    from flawscope.fitting.fitting import fit

    def fill(folder: Path) -> None:
        settings = {**small_backbone, "size": SIZE, "cap": 200, "check": False}
        for name in PRODUCTS:
            (folder / name.replace("/", "")).mkdir()
            for seed in range(12):
                drawn_picture(name, seed).save(folder / name.replace("/", "") / f"{seed}.png")
        folders = {name: str(folder / name.replace("/", "")) for name in PRODUCTS}
        models = {name: fit(one, device="cpu", **settings) for name, one in folders.items()}
        models["plate"].save(folder / "plate.safetensors")
        joining.join(models, folders, device="cpu").save(folder / "trained.safetensors")
        export_router(folder / "trained.safetensors", folder / "three.zip")
        artefact, sessions, describe = open_model(folder / "three.zip", device="cpu", threads=1)
        by, first = artefact.recognition, PRODUCTS[:2]
        less = replace(by, known={name: by.known[name] for name in first}, samples={})
        products = {name: artefact.products[name] for name in first}
        two = Router.opened(
            OpenModel(replace(artefact, products=products, recognition=less), sessions, describe)
        )
        two.save(folder / "two.zip")
        two.with_rate("30%").save(folder / "other.zip")

    return shared("station-joint", fill)


@pytest.fixture(scope="module")
def model_file(joint_models):
    return joint_models / "three.zip"


@pytest.fixture
def open_line(open_station, joint_models):
    """`open_line("three", ...)` opens a station whose entry `line` has this model."""

    def open_one(model: str = "three", **more: Any) -> Line:
        entry = ProductSettings(str(joint_models / f"{model}.zip"), **more)
        return Line(open_station(products={"line": entry}))

    return open_one


class Line:
    """A running station, and requests to it."""

    def __init__(self, running: Running):
        self.running, self.station = running, running.station
        self.http = httpx.Client(base_url=f"{running.url}/api/v1/products/", timeout=60)

    def send(self, address: str, data: bytes, key: str = "", **query: Any) -> httpx.Response:
        headers = {"Idempotency-Key": key} if key else {}
        return self.http.post(f"{address}/inspections", content=data, headers=headers, params=query)

    def found(self, product: str) -> list[dict[str, Any]]:
        return self.http.get(f"{product}/inspections").json()["inspections"]

    def names(self) -> list[str]:
        return [one["name"] for one in self.products()]

    def products(self) -> list[dict[str, Any]]:
        return httpx.get(f"{self.running.url}/api/v1/products").json()["products"]

    def active(self, product: str) -> int | None:
        return self.http.get(product).json()["version"]

    def add(self, path: Path, product: str = "plate") -> httpx.Response:
        return self.http.post(f"{product}/versions", params={"name": path.name}, content=path.read_bytes())


def test_it_judges_as_the_library_with_and_without_the_product(open_line, joint_models):
    line = open_line()
    model = flawscope.load(joint_models / "three.zip", device="cpu", threads=1)
    assert isinstance(model, Router)
    assert line.names() == [*CALLED]
    pictures = [png(drawn_picture(name, 2000 + k)) for name in PRODUCTS for k in range(3)]
    pictures += [png(drawn_picture("plate", 5, "scratch")), png(drawn_picture("fabric", 6, "stain")), NOISE]
    seen = set()
    for data in pictures:
        found, right = line.send("line", data).json(), model.predict(data)
        called = dict(zip(PRODUCTS, CALLED, strict=True))
        assert found["product"] == called[right.recognition.nearest]
        assert found["shows"] == (called[right.product] if right.product else Prediction.NO_PRODUCT_NAME)
        seen.add(found["shows"])
        assert found["product_p_value"] == right.product_p_value
        assert (found["score"], found["p_value"]) == pytest.approx((right.score, right.p_value), rel=1e-6)
        assert (found["decision"], found["severity"]) == (right.decision, pytest.approx(right.severity))
        assert line.found(found["product"])[0] == found
        for name in PRODUCTS:
            said, alone = line.send(called[name], data).json(), model.predict(data, product=name)
            assert (said["product"], said["shows"], said["product_p_value"]) == (called[name], None, None)
            assert (said["score"], said["decision"]) == (pytest.approx(alone.score, rel=1e-6), alone.decision)
    assert seen == {*CALLED, Prediction.NO_PRODUCT_NAME}


def test_none_of_these_is_anomalous_and_waits_for_a_review(open_line):
    line = open_line()
    found = line.send("line", NOISE, name="belt.png").json()
    assert (found["shows"], found["decision"], found["review"]) == (
        Prediction.NO_PRODUCT_NAME,
        "anomalous",
        "waiting",
    )
    assert found["severity"] > 0
    here = f"{found['product']}/inspections/{found['id']}"
    for layer in ("overlay", "view", "mask", "map"):
        assert line.http.get(f"{here}/{layer}").status_code == 200
    (row,) = csv.DictReader(line.http.get(f"{found['product']}/export").text.splitlines())
    assert row["shows"] == Prediction.NO_PRODUCT_NAME
    page = httpx.get(f"{line.running.url}/{found['product']}/inspections/{found['id']}").text
    assert Prediction.NO_PRODUCT_NAME in page


def test_the_entry_is_an_address_for_pictures_alone(open_line):
    line = open_line()
    for path in ("line", "line/inspections", "line/versions", "line/review"):
        answer = line.http.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        assert (
            "line finds the product of a picture and is none itself: ask for one of fabric, plate"
            in answer.text
        )
    assert httpx.get(f"{line.running.url}/line/live").status_code == 404
    assert line.send("lime", NOISE).status_code == 404
    assert {one["found_at"] for one in line.products()} == {"line"}


@pytest.mark.both_databases
def test_a_key_at_the_entry_has_one_answer_for_all_products(open_line, database_url):
    line = open_line()
    first = line.send("line", GOOD["plate"], "K")
    again = line.send("line", GOOD["plate"], "K")
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    other = line.send("line", GOOD["fabric"], "K")  # it would be another product's
    assert (other.status_code, other.json()["code"]) == (409, "key_used")
    assert f"inspection {first.json()['id']}" in other.text
    # a product's own keys are others
    for name in ("plate", "fabric"):
        assert line.send(name, GOOD["fabric"], "K").status_code == 201
    assert line.send("line", GOOD["plate"], "K").json() == first.json()
    assert line.send("fabric", GOOD["plate"], "K").status_code == 409


def test_a_key_is_known_after_a_switch_that_changes_the_product(open_line, joint_models):
    """The same picture may be another product to a later model; its answer stays."""
    line = open_line("two")
    data = GOOD[PRODUCTS[2]]
    first = line.send("line", data, "K").json()
    assert first["product"] in ("fabric", "plate")
    version = line.add(joint_models / "three.zip").json()["id"]
    assert line.http.post(f"plate/versions/{version}/activate").status_code == 200
    assert line.send("line", data).json()["product"] == "Blech-7-ae"
    assert line.send("line", data, "K").json() == first


def test_a_deadline_holds_at_the_entry(open_line):
    line = open_line(deadline="1 ms")
    assert line.send("line", GOOD["plate"]).status_code == 504
    assert line.send("plate", GOOD["plate"]).status_code == 504
    assert line.send("line", GOOD["plate"], deadline=60_000).status_code == 201
    assert "parts of line are not judged in time" in str(line.station.problems())


def test_a_version_is_switched_for_all_products_and_back(open_line, joint_models):
    line = open_line("two")
    before = {name: line.send("line", GOOD[name]).json() for name in PRODUCTS[:2]}
    versions = {name: line.active(name) for name in PRODUCTS[:2]}
    version = line.add(joint_models / "other.zip").json()
    assert version["active"] is False
    assert line.send("line", GOOD["plate"]).json()["score_threshold"] == before["plate"]["score_threshold"]
    assert line.http.post(f"plate/versions/{version['id']}/activate").json()["version"] == version["id"]
    for name in PRODUCTS[:2]:
        after = line.send("line", GOOD[name]).json()
        assert after["version"] == line.active(name) != versions[name]
        assert after["score_threshold"] < before[name]["score_threshold"]
    # old maps are those of the old version
    number = before["plate"]["id"]
    assert line.http.get(f"plate/inspections/{number}/map").status_code == 200
    models = line.station.versions.models
    assert len({id(models.active[n].model) for n in line.station.addresses.entries.values()}) == 1
    joint_model = models.active[line.station.addresses.entries["line"]].model
    assert isinstance(joint_model, Router)
    for name, product in line.station.products.items():
        assert models.active[product].model is joint_model.products[name]
    # back, exactly, by the other product
    assert line.http.post(f"fabric/versions/{versions['fabric']}/activate").status_code == 200
    for name in PRODUCTS[:2]:
        again = line.send("line", GOOD[name]).json()
        same = ("version", "score", "p_value", "score_threshold", "product_p_value")
        assert [again[key] for key in same] == [before[name][key] for key in same]


def test_it_resumes_what_was_active_even_without_the_file(open_station, joint_models, tmp_path):
    file = tmp_path / "line.zip"
    shutil.copy(joint_models / "two.zip", file)
    products = {"line": ProductSettings(str(file))}
    line = Line(open_station(products=products))
    version = line.add(joint_models / "other.zip", "fabric").json()["id"]
    line.http.post(f"fabric/versions/{version}/activate")
    first = line.send("line", GOOD["plate"], "K").json()
    line.running.close()
    for gone in (False, True):
        if gone:
            file.unlink()
        line = Line(open_station(products=products))
        assert line.names() == ["fabric", "plate"]
        assert line.active("fabric") == version
        assert line.send("line", GOOD["plate"], "K").json() == first
        again = line.send("line", GOOD["plate"]).json()
        assert (again["score"], again["version"]) == (first["score"], first["version"])
        assert line.station.problems() == []
        line.running.close()


def test_a_further_product_comes_goes_and_leaves_its_history(open_station, joint_models):
    two, three = (ProductSettings(str(joint_models / f"{name}.zip")) for name in ("two", "three"))
    line = Line(open_station(products={"line": two}))
    assert line.names() == ["fabric", "plate"]
    # by the API
    version = line.add(joint_models / "three.zip").json()["id"]
    assert line.names() == [*CALLED]
    refused = line.send("Blech-7-ae", GOOD[PRODUCTS[2]])
    assert (refused.status_code, refused.json()["code"]) == (503, "no_model")
    assert line.station.problems() == []
    line.http.post(f"plate/versions/{version}/activate")
    found = line.send("line", GOOD[PRODUCTS[2]]).json()
    assert found["product"] == found["shows"] == "Blech-7-ae"
    until(lambda: line.http.get("Blech-7-ae/drift").json()["pictures"] == 1)
    line.running.close()
    # by the settings, and back
    for entry, known in ((three, True), (two, True)):
        line = Line(open_station(products={"line": entry}))
        assert line.names() == [*CALLED]
        assert line.found("Blech-7-ae")[-1] == found
        assert line.send("Blech-7-ae", GOOD[PRODUCTS[2]]).status_code == (201 if known else 503)
        if entry is two:
            back = line.http.get("plate/versions").json()["versions"][-1]["id"]
            line.http.post(f"plate/versions/{back}/activate")
            assert line.active("Blech-7-ae") is None
            assert line.send("line", GOOD[PRODUCTS[2]]).json()["product"] != "Blech-7-ae"
            assert line.http.get(f"Blech-7-ae/inspections/{found['id']}/overlay").status_code == 200
            assert httpx.get(f"{line.running.url}/Blech-7-ae/live").status_code == 200
            assert line.station.problems() == []
        line.running.close()


def test_a_product_keeps_its_history_as_it_joins_a_model(open_station, joint_models):
    alone = {"plate": ProductSettings(str(joint_models / "plate.safetensors"))}
    line = Line(open_station(products=alone))
    first = line.send("plate", GOOD["plate"]).json()
    line.running.close()
    line = Line(open_station(products={"line": ProductSettings(str(joint_models / "two.zip"))}))
    found = line.send("line", GOOD["plate"]).json()
    assert [one["id"] for one in line.found("plate")] == [found["id"], first["id"]]
    assert found["version"] != first["version"]
    refused = line.http.post(f"plate/versions/{first['version']}/activate")
    assert refused.status_code == 422
    assert "the settings name a joint model for this product" in refused.text
    line.running.close()
    line = Line(open_station(products=alone))  # and leaves it
    assert line.send("plate", GOOD["plate"]).json()["version"] == first["version"]
    assert line.send("line", GOOD["plate"]).status_code == 404
    line.running.close()
    line = Line(open_station(products={"line": ProductSettings(str(joint_models / "two.zip"))}))
    assert line.send("line", GOOD["plate"]).json()["version"] == found["version"] == line.active("plate")


def test_files_of_the_other_kind_are_a_line(open_station, joint_models, open_line):
    line = open_line("two")
    sent = line.add(joint_models / "plate.safetensors")
    assert sent.status_code == 422
    assert "it is a model of one product" in sent.text
    only = joint_models / "two.zip"
    version = line.add(joint_models / "three.zip").json()["id"]
    line.http.post(f"plate/versions/{version}/activate")
    sent = line.add(only, "Blech-7-ae")
    assert sent.status_code == 422
    assert "has no product Blech-7-ae: send it to one that it has, fabric, plate" in sent.text
    line.running.close()
    products = {"plate": ProductSettings(str(joint_models / "plate.safetensors"))}
    line = Line(open_station(products=products))
    sent = line.add(only)
    assert sent.status_code == 422
    assert "joint model of several products" in sent.text


@pytest.mark.parametrize("case", ["entry", "twice", "both", "learn", "own"])
def test_settings_that_do_not_fit_are_one_line(case, joint_models, open_station):
    two = ProductSettings(str(joint_models / "two.zip"))
    alone = ProductSettings(str(joint_models / "plate.safetensors"))
    products, words = {
        "entry": ({"plate": two}, "plate: the model's product plate would be plate at the station"),
        "twice": ({"a": two, "b": two}, "b: the model's product fabric would be fabric at the station"),
        "both": ({"line": two, "plate": alone}, "line: the model's product plate would be plate"),
        "learn": (
            {"line": replace(two, learn=LearningSettings())},
            "a joint model does not learn from corrections",
        ),
        "own": ({"line": two}, "product line has inspections of its own"),
    }[case]
    if case == "own":
        line = Line(open_station(products={"line": alone}))
        assert line.send("line", GOOD["plate"]).status_code == 201
        line.running.close()
    with pytest.raises(InputError, match=words) as error:
        open_station(products=products)
    assert "\n" not in str(error.value)


def test_learning_is_refused_with_the_remedy(open_line):
    line = open_line()
    found = line.send("line", NOISE).json()
    product = found["product"]
    line.http.post(f"{product}/inspections/{found['id']}/verdict", json={"verdict": "good"})
    said = line.http.get(f"{product}/learning").json()
    assert "add the pictures to it with `flawscope fit --update`, and use the new file" in said["why_not"]
    refused = line.http.post(f"{product}/learning")
    assert (refused.status_code, refused.json()["error"]) == (422, said["why_not"])
    page = httpx.get(f"{line.running.url}/{product}/models").text
    assert "fit --update" in page


@pytest.mark.both_databases
def test_a_folders_pictures_find_their_product(open_line, tmp_path, database_url):
    folder = tmp_path / "in"
    folder.mkdir()
    line = open_line(sources=(FolderSourceSettings(str(folder)),))
    for name, data in zip(CALLED, GOOD.values(), strict=True):
        (folder / f"{name}.png").write_bytes(data)
    until(lambda: all(line.found(name) for name in CALLED))
    for name in CALLED:
        (one,) = line.found(name)
        assert (one["name"], one["source"], one["shows"]) == (f"{name}.png", "folder", name)
        (source,) = line.http.get(name).json()["sources"]
        assert source["place"] == str(folder)
    line.running.close()
    line = open_line(sources=(FolderSourceSettings(str(folder)),))
    (folder / "more.png").write_bytes(png(drawn_picture("plate", 77)))
    until(lambda: len(line.found("plate")) == 2)
    assert [len(line.found(name)) for name in CALLED] == [1, 2, 1]


def test_a_camera_is_triggered_with_and_without_the_product(open_line):
    drawn = "lavfi:testsrc2=size=96x96:rate=25,realtime"
    line = open_line(sources=(CameraSourceSettings(drawn, "trigger", latency="1 ms"),))
    with Client(line.running.url) as client:
        said = client.trigger("plate", key="K", seconds=20)
        assert (said.product, said.shows, said.source) == ("plate", None, "camera")
        found = client.trigger(key="K", seconds=20)  # at the entry: its keys are others
        assert found.id != said.id
        assert found.shows in (*CALLED, Prediction.NO_PRODUCT_NAME)
        assert client.trigger("line", key="K") == found
        assert client.trigger("plate", key="K") == said


def test_sinks_get_all_products_inspections(open_station, joint_models, tmp_path):
    """Also of those that a later version brings."""
    out = make_sink(folder=str(tmp_path / "out"), picture="none")
    entry = ProductSettings(str(joint_models / "two.zip"), sinks=(out,))
    broker = make_broker(broker="mqtt://127.0.0.1:1")
    line = Line(open_station(products={"line": entry}, mqtt=broker))
    version = line.add(joint_models / "three.zip").json()["id"]
    line.http.post(f"plate/versions/{version}/activate")
    sent = {
        line.send("line", data).json()["id"]: name for name, data in zip(CALLED, GOOD.values(), strict=True)
    }
    until(lambda: len([*(tmp_path / "out").rglob("*.json")]) == 3)
    told = [json.loads(path.read_text())["data"] for path in (tmp_path / "out").rglob("*.json")]
    assert {one["id"]: one["shows"] for one in told} == sent

    def waiting(name: str) -> dict[str, int]:
        return {one["kind"]: one["waiting"] for one in line.http.get(name).json()["sinks"]}

    for name in CALLED:
        until(lambda name=name: waiting(name) == {"folder": 0, "mqtt": 1})


def test_serve_takes_a_joint_model_file(joint_models):
    import argparse

    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    path = str(joint_models / "two.zip")
    assert [*serve.station_settings(parser.parse_args([path])).products] == ["two"]
    assert [*serve.station_settings(parser.parse_args([path, "--product", "line"])).products] == ["line"]

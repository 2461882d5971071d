"""Parts in several views at the station: one decision for each part, whatever happens between its views; and
pictures of several parts."""

import io
import threading
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import flawscope
from brackets import SIDE, drawn
from flawscope.errors import InputError
from flawscope_station.challenge.challenge import Challenge
from flawscope_station.client import Client, RefusedError
from flawscope_station.inspecting.writer import Answer
from flawscope_station.queries import Overview
from flawscope_station.settings.sources import DELETE, CameraSourceSettings, FolderSourceSettings
from flawscope_station.settings.station import ProductSettings
from flawscope_station.store.schema import LATE, MISSED
from sink_helpers import make_sink
from station_helpers import NAME, Running, png, until
from tablet import PHONE, SLATE, Tablet, needs_chromium
from view_helpers import (  # noqa: F401
    API,
    VIEWS,
    Tolerated,
    by_length_fixture,
    part_model_fixture,
    post,
    recorded_parts,
    view,
    whole,
)

GOOD = 20  # a part that is good; one of ten others would be a false alarm


def of_product(product: str, part: int, name: str) -> bytes:
    """PNG of a part of one of two products: the lid is the box in other colours."""
    shown = np.asarray(Image.open(io.BytesIO(view(part, name))))
    return png(255 - shown if product == "lid" else shown)


@pytest.fixture
def line(part_model, open_station):
    """`line(part_deadline="1 s", ...)` opens a station that judges parts."""

    def opened(**product: Any) -> Running:
        more = {name: product.pop(name) for name in ("mqtt",) if name in product}
        return open_station(products={NAME: ProductSettings(str(part_model), **product)}, **more)

    return opened


@pytest.fixture
def client(line):
    with Client(line().url) as made:
        yield made


def decided(url: str, count: int) -> list[dict[str, Any]]:
    """The parts, the newest first, as soon as there are so many."""

    def found() -> Any:
        every = httpx.get(f"{url}{API}/parts").json()["parts"]
        return every if len(every) >= count else None

    return list(until(found))


def test_a_part_is_judged_as_the_model_does_in_python(client, part_model):
    predictor = flawscope.load(part_model, device="cpu", threads=1)
    assert client.product().views == [*VIEWS]
    for part, bad in ((GOOD, None), (21, "top"), (22, "left")):
        pictures = whole(part, bad)
        found = client.inspect_part(pictures, f"n{part}", batch="b")
        expected = predictor.predict_part(pictures)
        assert (found.decision, found.worst) == (expected.decision, expected.worst)
        assert (found.score, found.p_value) == pytest.approx((expected.score, expected.p_value), abs=1e-9)
        assert (found.part, found.batch) == (f"n{part}", "b")
        assert found.views == {one.view: one.id for one in found.inspections}
        assert [one.view for one in found.inspections] == [*pictures]
        assert {one.part_decision for one in found.inspections} == {expected.decision}
        assert expected.is_anomalous == (bad is not None)
    for query, names in (
        ({}, ["n22", "n21", "n20"]),
        ({"decision": "anomalous"}, ["n22", "n21"]),
        ({"part": "n20"}, ["n20"]),
    ):
        found_parts = httpx.get(f"{client.url}{API}/parts", params=query).json()["parts"]
        assert [one["part"] for one in found_parts] == names
    page = httpx.get(f"{client.url}{API}/parts?limit=2").json()
    assert len(page["parts"]) == 2
    rest = httpx.get(f"{client.url}{API}/parts", params={"limit": 2, "cursor": page["next"]}).json()
    assert ([one["part"] for one in rest["parts"]], rest["next"]) == (["n20"], None)
    with pytest.raises(RefusedError, match="there is no part 99"):
        client.part(99)


def test_what_is_not_all_views_of_one_part_is_refused_unjudged(client, common):
    url, pictures = client.url, whole(GOOD)
    two = {name: pictures[name] for name in ("top", "left")}
    for files, query, message in (
        (
            {"top": pictures["top"]},
            {"part": "A"},
            "part A lacks left, right: send the pictures of all its views",
        ),
        (two, {"part": "A"}, "part A lacks right"),
        (pictures, {}, "send its `part`, and as `view` one of left, right, top"),
        ({**two, "below": pictures["top"]}, {"part": "A"}, "one of left, right, top"),
        ({**pictures, "p8_top.png": view(8, "top")}, {"part": "A"}, "part A has a view twice"),
        (
            {**{f"p7_{k}.png": v for k, v in two.items()}, "p8_right.png": pictures["right"]},
            {},
            "show parts p7, p8",
        ),
        ({**pictures, "top": b"no picture"}, {"part": "A"}, "top: "),
    ):
        answer = post(url, files, **query)
        text = answer.text
        assert (answer.status_code, message in text) == (422, True), text
    for wrong in ({"part": "A", "view": "top"}, {"view": "x" * 101}):
        with pytest.raises(RefusedError) as refused:
            client.inspect(view(1, "top"), **wrong)
        assert refused.value.status == 422
    assert list(client.search()) == []
    assert httpx.get(f"{url}{API}/parts").json()["parts"] == []
    named = post(url, {f"p77_{name}.png": data for name, data in pictures.items()}).json()["results"]
    assert {one["inspection"]["part"] for one in named} == {"p77"}
    assert {one["inspection"]["part_decision"] for one in named} == {"good"}
    with Client(common.url) as single, pytest.raises(RefusedError, match="judges single pictures: leave"):
        single.inspect(view(1, "top"), view="top")


def test_parts_of_a_joint_model_are_those_of_their_product(open_station, tmp_path, small_backbone):
    folders = {name: tmp_path / name for name in ("box", "lid")}
    for name, folder in folders.items():
        folder.mkdir()
        for part in range(9):
            for seen_from in VIEWS:
                (folder / f"p{part}_{seen_from}.png").write_bytes(of_product(name, part, seen_from))
    how: dict[str, Any] = {"part": r"p\d+", "size": 64, "cap": 200, "check": False, "device": "cpu"}
    models = {name: flawscope.fit(folder, **how, **small_backbone) for name, folder in folders.items()}
    joint = flawscope.join(models, folders, device="cpu")
    joint.save(tmp_path / "line.safetensors")
    running = open_station(products={"line": ProductSettings(str(tmp_path / "line.safetensors"))})
    url = f"{running.url}/api/v1/products/line/inspections"

    def send(**pictures: bytes) -> httpx.Response:
        files = [("files", (name, data)) for name, data in pictures.items()]
        return httpx.post(url, params={"part": "7"}, files=files, timeout=60)

    with Client(running.url) as client:
        for product in ("lid", "box"):
            pictures = {name: of_product(product, GOOD, name) for name in VIEWS}
            found = [one["inspection"] for one in send(**pictures).json()["results"]]
            expected = joint.products[product].predict_part(pictures)
            assert {(one["product"], one["shows"]) for one in found} == {(product, product)}
            assert {one["part_decision"] for one in found} == {expected.decision}
            assert client.part(found[0]["part_id"], product).p_value == pytest.approx(expected.p_value)
        two = {name: pictures[name] for name in VIEWS[1:]}
        for wrong in (two, {**two, "below": pictures["left"]}, {**two, "left": of_product("lid", 1, "left")}):
            assert send(**wrong).status_code in (422, 503), wrong.keys()
        assert len(list(client.search("box"))) == len(list(client.search("lid"))) == 3


def test_a_model_for_each_view_is_refused_in_a_line(open_station, tmp_path, small_backbone):
    models = {}
    for name in VIEWS:
        (tmp_path / name).mkdir()
        for part in range(6):
            (tmp_path / name / f"p{part}_{name}.png").write_bytes(view(part, name))
        how: dict[str, Any] = {"size": 64, "cap": 200, "check": False, "device": "cpu"}
        models[name] = flawscope.fit(tmp_path / name, **how, **small_backbone)
    flawscope.join(models, part=r"p\d+", device="cpu").save(tmp_path / "views.safetensors")
    with pytest.raises(InputError, match="a model for each view, which a station does not serve"):
        open_station(products={"line": ProductSettings(str(tmp_path / "views.safetensors"))})


def test_a_folder_gathers_the_views_of_a_part_and_says_what_is_missing(line, tmp_path):
    """By the model's pattern, or by the folder's."""
    folders = [tmp_path / name for name in ("named", "pattern")]
    for folder in folders:
        folder.mkdir()
    for name in VIEWS:
        (folders[0] / f"p60_{name}.png").write_bytes(view(GOOD, name))
        (folders[1] / f"{name}-61.png").write_bytes(view(21, name, name == "top"))
    pattern = r"(?P<view>\w+)-(?P<part>\d+)"
    sources = (
        FolderSourceSettings(str(folders[0]), DELETE),
        FolderSourceSettings(str(folders[1]), pattern=pattern),
    )
    running = line(part_deadline="100 ms", sources=sources)
    found = {one["part"]: (one["decision"], sorted(one["views"])) for one in decided(running.url, 2)}
    assert found == {"p60": ("good", [*VIEWS]), "61": ("anomalous", [*VIEWS])}

    def told() -> list[str]:
        return [row.text for row in running.station.store.events(MISSED, 1)]

    codes: list[str] = []
    running.station.refusals.on_refused.append(lambda name, code: codes.append(code))
    (folders[0] / "p62_top.png").write_bytes(view(62, "top"))
    until(lambda: any("p62_top.png of" in text and "part p62 lacks left, right" in text for text in told()))
    assert codes == ["failed"], "Live is told that a part is not judged, once"
    (folders[0] / "odd.png").write_bytes(view(62, "left"))
    until(lambda: any("odd.png" in row.text for row in running.station.store.events("unreadable", 1)))
    for name in VIEWS:
        (folders[0] / f"p62_{name}.png").write_bytes(view(62, name))
    decided(running.url, 3)
    assert len(told()) == 1
    until(lambda: [path.name for path in folders[0].iterdir()] == ["odd.png"])
    assert len(httpx.get(f"{running.url}{API}/inspections").json()["inspections"]) == 9


def cameras_of(*views: str) -> tuple[CameraSourceSettings, ...]:
    address = "lavfi:testsrc2=size=80x80:rate=25,realtime"
    return tuple(CameraSourceSettings(address, every="trigger", view=name, latency="1 ms") for name in views)


def test_a_trigger_takes_the_cameras_of_all_views(line):
    running = line(sources=cameras_of(*VIEWS))
    with Client(running.url) as client:
        said = client.trigger(part="4711", seconds=30, key="k")
        (part,) = decided(running.url, 1)
        assert (said.part_id, said.part_decision, said.view) == (part["id"], "anomalous", part["worst"])
        assert sorted(part["views"]) == [*VIEWS]
        again = client.trigger(part="4711", seconds=30, key="k")
        assert (again.part_id, again.part_decision) == (part["id"], "anomalous")
        with pytest.raises(RefusedError, match="lacks right, top"):
            client.trigger(camera=1, part="4712", seconds=30)
        with pytest.raises(RefusedError, match="send its `part`"):
            client.trigger(seconds=30)
        assert len(list(client.search())) == 3
    running.close()
    running = line(sources=cameras_of("left", "top"))
    with Client(running.url) as client, pytest.raises(RefusedError, match="has no camera for right"):
        client.trigger(part="4711", seconds=30)


def test_parts_of_several_clients_are_never_mixed(line):
    """Also where all have the same number."""
    running = line()

    def send(client_number: int) -> None:
        with Client(running.url) as client:
            for part in range(6):
                bad = "top" if (client_number, part) == (1, 2) else None
                found = client.inspect_part(whole(100 + part, bad), str(part), batch=str(client_number % 2))
                assert sorted(found.views) == [*VIEWS]
                ids = sorted(found.views.values())
                assert ids == [*range(ids[0], ids[0] + 3)], "recorded together"

    threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = decided(running.url, 24)
    assert len(found) == 24
    flagged = [(one["part"], one["batch"], one["worst"]) for one in found if one["decision"] == "anomalous"]
    assert ("2", "1", "top") in flagged


def test_every_sink_gets_each_part_once(line, receive, tmp_path):
    receiver = receive()
    sinks = (make_sink(webhook=receiver.url), make_sink(folder=str(tmp_path / "found")))
    running = line(sinks=sinks)
    with Client(running.url) as client:
        client.inspect_part(whole(GOOD), "p4711", batch="b")
        client.inspect_part(whole(21, "top"), "4712")
        until(lambda: len(receiver.taken) == 8)
        told = [one.json for one in receiver.taken]
        parts_told = [one for one in told if one["type"] == "part.decided"]
        assert [one["data"]["part"] for one in parts_told] == ["p4711", "4712"]
        first, second = (one["data"] for one in parts_told)
        assert (first["decision"], first["batch"]) == ("good", "b")
        assert first["views"] == {one.view: one.id for one in client.search(part="p4711")}
        assert (second["decision"], second["worst"]) == ("anomalous", "top")
        assert [one["type"] for one in told].count("inspection.created") == 6
        until(lambda: len(list((tmp_path / "found").glob("*/*.json"))) == 8)
        files = sorted(path.name for path in (tmp_path / "found").glob("*/part-*"))
        assert files == ["part-000001-p4711.json", "part-000002-4712.json"]
        until(lambda: {one.waiting for one in client.product().sinks} == {0})
        assert len(receiver.taken) == 8


@needs_chromium
def test_pages_show_the_part(line, driver, monkeypatch):
    running = line()
    with Client(running.url) as client, httpx.Client(base_url=running.url, timeout=30) as http:
        tablet = Tablet(driver, running.url, http)
        tablet.screen(1024, 768)
        tablet.open("live")
        band = lambda: tablet.find("#band").get_attribute("data-state")  # noqa: E731
        assert band() == "waiting"
        client.inspect_part(whole(GOOD), "p4711")
        tablet.wait(lambda: band() == "good")
        assert tablet.text("#whole") == "Part p4711"
        found = client.inspect_part(whole(21, "top"), "4712")
        tablet.wait(lambda: band() == "anomalous")
        assert tablet.text("#whole") == "Part 4712"
        assert tablet.unfit(PHONE, SLATE) == []
        tablet.open("live")
        assert (band(), tablet.text("#whole")) == ("anomalous", "Part 4712")
        with monkeypatch.context() as patch:
            patch.setattr(Answer, "decide", lambda self: LATE)
            client.inspect_part(whole(21, "right"), "4713")  # the worst view comes last
        number = running.station.products[NAME]
        state = {**running.station.parts[Overview].state(NAME), "waiting": 0, "backlog": 77}
        running.station.live.publish(number, state, "state")
        tablet.wait(lambda: tablet.text("#backlog") == "77")  # what came before has been shown
        assert (band(), tablet.text("#since")) == ("refused", "4713: not in time")
        tablet.open("live")
        assert (band(), tablet.text("#since")) == ("refused", "4713: not in time")
        client.inspect_part(whole(GOOD), "p4711")
        tablet.wait(lambda: band() == "good")
        tablet.open(f"inspections/{found.inspections[0].id}")
        assert "Part: Defective" in tablet.text("main")
        tablet.open("history?part=4712")
        assert "Part: Defective" in tablet.text("main")
        tablet.open("review")
        tablet.wait(lambda: tablet.text("#views").startswith("Part "))
        tablet.click("#views a")
        tablet.wait(lambda: "All views of part" in tablet.text("main"))
        assert tablet.complaints() == []
        driver.get("about:blank")
    driver.get_log("browser")


def test_a_picture_is_recorded_with_its_parts(open_station, several_model, tmp_path):
    running = open_station(products={"brackets": ProductSettings(str(several_model))})
    expected = flawscope.load(several_model)
    with Client(running.url) as client:
        for cells, word in ((range(5), ""), (range(4), "1 missing"), (range(6), "1 too many")):
            picture = drawn(500, cells)[0]
            answer = client.inspect(png(picture), "brackets")
            found = expected.predict(picture).found_parts
            assert [one.part_pose for one in answer.found_parts.parts] == [
                one.part_pose for one in found.parts
            ]
            assert answer.found_parts.wrong.startswith(word)
            assert answer.is_anomalous or not word
            again = client.inspection(answer.id, "brackets")
            assert again.found_parts == answer.found_parts
        api = f"{running.url}/api/v1/products/brackets/inspections/{answer.id}"
        overlay = Image.open(io.BytesIO(httpx.get(f"{api}/overlay").content))
        assert overlay.size == (SIDE, SIDE)
        there = f"{running.url}/brackets/inspections/{answer.id}"
        page = httpx.get(there, follow_redirects=True, timeout=60)
        assert "6 parts found, 5 expected, 0 other objects" in page.text
        assert page.text.count("<dt>Part ") == 6


@pytest.mark.parametrize("way", ["http", "folder"])
def test_a_tolerance_and_a_kind_hold_for_a_part(open_station, part_model, naming, by_length, tmp_path, way):
    tolerated = Tolerated(part_model, VIEWS, tmp_path)
    (incoming := tmp_path / "incoming").mkdir()
    sources = (FolderSourceSettings(str(incoming), DELETE),)
    product = ProductSettings(str(tolerated.model), tolerances=str(tolerated.rules), sources=sources)
    running = open_station(products={NAME: product})
    for name, decision in (("p1", "within tolerance"), ("p2", "anomalous")):
        if way == "http":
            assert post(running.url, whole(tolerated.part, "top"), part=name).status_code == 201
        else:
            for seen_from, data in whole(tolerated.part, "top").items():
                (incoming / f"{name}_{seen_from}.png").write_bytes(data + name.encode())
        newest = decided(running.url, int(name[1:]))[0]
        assert (newest["part"], newest["decision"], newest["worst"]) == (name, decision, "top")
        one = httpx.get(f"{running.url}{API}/inspections/{newest['views']['top']}").json()
        assert (one["decision"], one["regions"][0]["kinds"]) == (decision, ["scratch"])
        tolerated.tighten(running.station)


def test_a_part_in_views_is_a_challenge_part(line, part_model, tmp_path, open_station):
    """It is kept from its inspections or as it is shown, by HTTP and a folder, and judged as a whole."""
    (incoming := tmp_path / "incoming").mkdir()
    pattern = r"(?P<part>\w+)_(?P<view>\w+)\.png"
    running = line(challenge=(), sources=(FolderSourceSettings(str(incoming), DELETE, pattern),))
    url, station = running.url, running.station
    challenge, product = station.parts[Challenge], station.products[NAME]
    predictor = flawscope.load(part_model, device="cpu", threads=1)
    each = (part for part in range(GOOD, 100) if not predictor.predict_part(whole(part)).is_anomalous)
    kept, shown, other = next(each), next(each), next(each)  # one of ten would be a false alarm

    def show(name: str, part: int, bad: str | None = None, **query: str) -> str:
        answer = post(url, whole(part, bad), part=name, **query)
        assert answer.status_code == 409, answer.text
        told = answer.json()["results"]
        assert {one["code"] for one in told} == {"not_production"}
        return str(told[0]["error"])

    for name, expected in (("g", "good"), ("d", "anomalous")):
        wanted = {"name": name, "expected": expected}
        assert httpx.post(f"{url}{API}/challenge/awaited", json=wanted).status_code == 200
    assert "not ready" in post(url, whole(kept), part="g").text, "another is awaited now"
    assert show("d", 31, "left") == "the challenge part d is kept, and was judged as defective"
    httpx.post(f"{url}{API}/challenge/awaited", json={"name": "g", "expected": "good"})
    assert show("g", kept) == "the challenge part g is kept, and was judged as good"
    assert [sorted(one["views"]) for one in challenge.facts(product)["parts"]] == [[*VIEWS]] * 2
    assert post(url, whole(other), part="4711").status_code == 503
    assert "has passed; next is d" in show("g", shown, key="k")
    assert "taken before" in show("g", shown, key="k"), "the same pictures again, under their key, too"
    assert "taken before" in show("g", shown, key="k")
    for name, data in whole(38, "left").items():
        (incoming / f"d_{name}.png").write_bytes(data)
    until(lambda: challenge.facts(product)["ready"])
    assert post(url, whole(other), part="4711").status_code == 201
    assert [one["part"] for one in httpx.get(f"{url}{API}/parts").json()["parts"]] == ["4711"]
    found = httpx.get(f"{url}{API}/inspections", params={"purpose": "challenge"}).json()["inspections"]
    assert {one["purpose"] for one in found} == {"challenge"}
    shown = httpx.get(f"{url}{API}/inspections").json()["inspections"]
    assert {(one["part"], one["purpose"]) for one in shown} == {("4711", "production")}
    refused = httpx.post(f"{url}{API}/inspections/{found[0]['id']}/verdict", json={"verdict": "good"})
    assert (refused.status_code, "challenge part" in refused.text) == (422, True)
    assert station.store.totals(product)["inspections"] == 3
    stored = challenge.facts(product)["parts"][0]["id"]
    stored = f"{url}{API}/challenge/parts/{stored}/view?view="
    assert len({httpx.get(stored + name).content for name in VIEWS}) == 3
    assert httpx.get(stored + "below").status_code == 404

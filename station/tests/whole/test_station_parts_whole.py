"""Parts in several views at the station: one decision for each part, whatever happens between its views; and
pictures of several parts."""

import hashlib
import io
import threading
import time
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import flawscope
from brackets import SIDE, drawn
from flawscope_station.challenge.challenge import Challenge
from flawscope_station.client import Client, RefusedError
from flawscope_station.core.queries import Overview
from flawscope_station.inspecting.ticket import Ticket
from flawscope_station.settings.sources import CameraSourceSettings, FolderSourceSettings
from flawscope_station.settings.station import ProductSettings
from flawscope_station.store.schema import LATE, MISSED
from sink_helpers import make_sink
from station_helpers import NAME, png, until
from tablet import PHONE, SLATE, Tablet, needs_chromium
from view_helpers import (  # noqa: F401
    API,
    VIEWS,
    Tolerated,
    by_length_fixture,
    client_fixture,
    decided,
    line_fixture,
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


def test_a_part_is_judged_as_the_model_does_in_python(client, part_model):
    predictor = flawscope.load(part_model, device="cpu", threads=1)
    assert client.product().views == [*VIEWS]
    for part, bad in ((GOOD, None), (21, "top"), (22, "left")):
        pictures = whole(part, bad)
        found = client.inspect_part(pictures, f"n{part}", batch="b")
        expected = predictor.predict_part(pictures)
        assert (found.decision, found.view) == (expected.decision, expected.worst)
        assert found.p_value == pytest.approx(expected.p_value, abs=1e-9)
        assert found.part_score == pytest.approx(expected.score, abs=1e-9)
        assert (found.part, found.batch) == (f"n{part}", "b")
        assert [one.view for one in found.views] == [*VIEWS]
        assert expected.is_anomalous == (bad is not None)
        for one in found.views:
            alone = expected.views[one.view]
            assert (one.score, one.decision) == (pytest.approx(alone.score, abs=1e-5), alone.decision)
        shown = next(one for one in found.views if one.view == found.view)
        assert (shown.picture, shown.score, shown.regions) == (found.picture, found.score, found.regions)
        assert client.inspection(found.id) == found
    for query, names in (
        ({}, ["n22", "n21", "n20"]),
        ({"decision": "anomalous"}, ["n22", "n21"]),
        ({"part": "n20"}, ["n20"]),
    ):
        assert [one.part for one in client.search(**query)] == names
    pictures = [httpx.get(f"{client.url}{API}/inspections/{found.id}/picture?of={one}") for one in VIEWS]
    assert [one.content for one in pictures] == [whole(22, "left")[one] for one in VIEWS]
    overlay = httpx.get(
        f"{client.url}{API}/inspections/{found.id}/overlay", params={"of": "right", "side": 64}
    )
    assert overlay.headers["content-type"] == "image/webp"
    assert httpx.get(f"{client.url}{API}/inspections/{found.id}/view?of=below").status_code == 404


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
    named = post(url, {f"p77_{name}.png": data for name, data in pictures.items()}).json()["results"]
    assert {one["inspection"]["part"] for one in named} == {"p77"}
    assert [one["inspection"]["decision"] for one in named] == ["good"]
    with Client(common.url) as single, pytest.raises(RefusedError, match="judges single pictures: leave"):
        single.inspect(view(1, "top"), view="top")


def test_parts_of_a_joint_model_are_those_of_their_product(open_station, tmp_path, small_backbone):
    folders = {name: tmp_path / name for name in ("box", "lid")}
    for name, folder in folders.items():
        folder.mkdir()
        for part in range(9):
            for seen_from in VIEWS:
                (folder / f"p{part}_{seen_from}.png").write_bytes(of_product(name, part, seen_from))
    how: dict[str, Any] = {"part": r"p\d+", "each_view": False, "size": 64, "cap": 200}
    how |= {"check": False, "device": "cpu"}
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
            (found,) = (one["inspection"] for one in send(**pictures).json()["results"])
            expected = joint.predict_part(pictures)
            assert (found["product"], found["shows"], expected.product) == (product, product, product)
            assert (found["decision"], found["view"]) == (expected.decision, expected.worst)
            assert found["p_value"] == pytest.approx(expected.p_value)
        two = {name: pictures[name] for name in VIEWS[1:]}
        for wrong in (two, {**two, "below": pictures["left"]}):
            assert send(**wrong).status_code == 422, wrong.keys()
        assert len(list(client.search("box"))) == len(list(client.search("lid"))) == 1
        mixed = send(**{**two, "left": of_product("lid", 1, "left")}).json()["results"][0]["inspection"]
        assert mixed["decision"] == "anomalous", "as the library says of a part of two products"


def test_a_model_for_each_view_judges_parts_as_in_python(open_station, tmp_path, small_backbone):
    models = {}
    for name in VIEWS:
        (tmp_path / name).mkdir()
        for part in range(12):
            (tmp_path / name / f"p{part}_{name}.png").write_bytes(view(part, name))
        how: dict[str, Any] = {"size": 64, "cap": 200, "check": False, "device": "cpu"}
        models[name] = flawscope.fit(tmp_path / name, false_alarm_rate="10%", **how, **small_backbone)
    file = tmp_path / "views.safetensors"
    flawscope.join(models, part=r"p\d+", device="cpu").save(file)
    predictor = flawscope.load(file, device="cpu", threads=1)
    running = open_station(products={NAME: ProductSettings(str(file))})
    with Client(running.url) as client:
        assert client.product().views == [*VIEWS]
        found = []
        for part in range(GOOD, GOOD + 6):
            pictures = whole(part, [None, "top", None, "left", "right", None][part - GOOD])
            told, expected = client.inspect_part(pictures, f"n{part}"), predictor.predict_part(pictures)
            assert (told.decision, told.view) == (expected.decision, expected.worst)
            assert told.p_value == pytest.approx(expected.p_value, abs=1e-9)
            for one in told.views:
                alone = expected.views[one.view]
                assert (one.score, one.decision) == (pytest.approx(alone.score, abs=1e-5), alone.decision)
            found.append(told)
        assert [one.decision == "anomalous" for one in found] == [False, True, False, True, True, False]
        assert [one.part for one in client.search(decision="anomalous")] == ["n24", "n23", "n21"]
        missing = post(running.url, {"top": whole(GOOD)["top"]}, part="A")
        assert (missing.status_code, "part A lacks left, right" in missing.text) == (422, True)

        api = f"{running.url}{API}"
        promised = httpx.get(f"{api}").json()["promised"]
        assert (promised["rate"], promised["calibrated"]) == (predictor.parts().expected_rate, 12)
        (version,) = httpx.get(f"{api}/versions").json()["versions"]
        assert (version["promise"], version["score_threshold"]) == (predictor.parts().promise(), None)
        for page in ("live", "models", "trends", "review", "history", f"inspections/{found[1].id}"):
            assert httpx.get(f"{running.url}/{NAME}/{page}").status_code == 200, page


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
        FolderSourceSettings(str(folders[0]), str(tmp_path / "done")),
        FolderSourceSettings(str(folders[1]), pattern=pattern),
    )
    running = line(part_deadline="100 ms", sources=sources)
    every = decided(running.url, 2)
    found = {one["part"]: (one["decision"], [view["view"] for view in one["views"]]) for one in every}
    assert found == {"p60": ("good", [*VIEWS]), "61": ("anomalous", [*VIEWS])}

    def told() -> list[str]:
        return [row.text for row in running.station.store.events(MISSED, 1)]

    codes: list[str] = []
    running.station.refusals.on_refused.append(lambda name, code: codes.append(code))
    (folders[0] / "p62_top.png").write_bytes(view(62, "top"))
    until(lambda: any("p62_top.png of" in text and "part p62 lacks left, right" in text for text in told()))
    until(lambda: codes == ["failed"], "Live is told that a part is not judged, once")
    (folders[0] / "odd.png").write_bytes(view(62, "left"))
    until(lambda: any("odd.png" in row.text for row in running.station.store.events("unreadable", 1)))
    for name in VIEWS:
        (folders[0] / f"p62_{name}.png").write_bytes(view(62, name))
    decided(running.url, 3)
    assert len(told()) == 1
    until(lambda: not list(folders[0].iterdir()))
    left_over = {path.name for path in (tmp_path / "done" / "unreadable").iterdir()}
    assert left_over == {"p62_top.png", "odd.png"}
    assert len(httpx.get(f"{running.url}{API}/inspections").json()["inspections"]) == 3


def test_folders_with_a_view_each_share_their_parts(line, tmp_path):
    """One a camera: what lacks a view waits while a folder is away, and is told when it is there."""
    folders = {name: tmp_path / f"of {name}" for name in VIEWS}
    sources = []
    for name, folder in folders.items():
        folder.mkdir()
        sources.append(FolderSourceSettings(str(folder), str(tmp_path / "done"), r"(?P<part>\d+)", view=name))
    running = line(part_deadline="500 ms", sources=tuple(sources))
    for number, bad in ((60, None), (61, "top")):
        for name, folder in folders.items():
            (folder / f"{number}.png").write_bytes(view(number, name, name == bad))
    every = decided(running.url, 2)
    assert {one["part"]: [view["view"] for view in one["views"]] for one in every} == {
        "60": [*VIEWS],
        "61": [*VIEWS],
    }
    assert next(one for one in every if one["part"] == "61")["decision"] == "anomalous"
    told = lambda: [row.text for row in running.station.store.events(MISSED, 1)]  # noqa: E731
    away = folders["top"].rename(tmp_path / "away")
    until(lambda: running.station.sources[NAME][2].state.state == "away")
    for name in ("left", "right"):
        (folders[name] / "62.png").write_bytes(view(62, name))
    (away / "62.png").write_bytes(view(62, "top"))
    time.sleep(4)
    assert told() == []
    away.rename(folders["top"])
    decided(running.url, 3)
    (folders["left"] / "63.png").write_bytes(view(63, "left"))
    until(lambda: any("part 63 lacks right, top" in text for text in told()))
    assert len(told()) == 1


def cameras_of(*views: str) -> tuple[CameraSourceSettings, ...]:
    address = "lavfi:testsrc2=size=80x80:rate=25,realtime"
    return tuple(CameraSourceSettings(address, every="trigger", view=name, latency="1 ms") for name in views)


def test_a_trigger_takes_the_cameras_of_all_views(line):
    running = line(sources=cameras_of(*VIEWS))
    with Client(running.url) as client:
        said = client.trigger(part="4711", seconds=30, key="k")
        (part,) = decided(running.url, 1)
        assert (said.id, said.decision, said.view) == (part["id"], "anomalous", part["view"])
        assert [one.view for one in said.views] == [*VIEWS]
        assert client.trigger(part="4711", seconds=30, key="k") == said
        with pytest.raises(RefusedError, match="lacks right, top"):
            client.trigger(camera=1, part="4712", seconds=30)
        with pytest.raises(RefusedError, match="send its `part`"):
            client.trigger(seconds=30)
        assert len(list(client.search())) == 1
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
                own = {
                    name: hashlib.sha256(data).hexdigest() for name, data in whole(100 + part, bad).items()
                }
                assert {one.view: one.picture for one in found.views} == own

    threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = decided(running.url, 24)
    assert len(found) == 24
    flagged = [(one["part"], one["batch"], one["view"]) for one in found if one["decision"] == "anomalous"]
    assert ("2", "1", "top") in flagged


def test_every_sink_gets_each_part_once(line, receive, tmp_path):
    receiver = receive()
    sinks = (make_sink(webhook=receiver.url), make_sink(folder=str(tmp_path / "found")))
    running = line(sinks=sinks)
    with Client(running.url) as client:
        client.inspect_part(whole(GOOD), "p4711", batch="b")
        client.inspect_part(whole(21, "top"), "4712")
        until(lambda: len(receiver.taken) == 2)
        told = [one.json for one in receiver.taken]
        assert [one["type"] for one in told] == ["inspection.created"] * 2
        first, second = (one["data"] for one in told)
        assert (first["part"], first["decision"], first["batch"]) == ("p4711", "good", "b")
        assert [one["view"] for one in first["views"]] == [*VIEWS]
        assert (second["part"], second["decision"], second["view"]) == ("4712", "anomalous", "top")
        until(lambda: len(list((tmp_path / "found").glob("*/*.json"))) == 2)
        files = sorted(path.name for path in (tmp_path / "found").glob("*/*") if path.suffix != ".webp")
        assert files == sorted(
            f"{number}-{part}{ending}"
            for number, part in (("000001", "p4711"), ("000002", "4712"))
            for ending in (".json", *(f"-{name}.png" for name in VIEWS))
        )
        until(lambda: {one.waiting for one in client.product().sinks} == {0})
        assert len(receiver.taken) == 2


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
        found = client.inspect_part(whole(21, "top"), "4712")
        tablet.wait(lambda: band() == "anomalous")
        assert tablet.unfit(PHONE, SLATE) == []
        tablet.open("live")
        assert band() == "anomalous"
        assert "4712" in tablet.text("#name")
        with monkeypatch.context() as patch:
            store, mark = running.station.store, running.station.store.set_unanswered
            patch.setattr(Ticket, "decide", lambda self: LATE)
            patch.setattr(store, "set_unanswered", lambda number, why: mark(number, LATE))
            client.inspect_part(whole(21, "right"), "4713")  # the worst view comes last
        number = running.station.products[NAME]
        state = {**running.station.components[Overview].state(NAME).model_dump(), "waiting": 0, "backlog": 77}
        running.station.live.publish(number, state, "state")
        tablet.wait(lambda: tablet.text("#backlog") == "77")  # what came before has been shown
        assert (band(), tablet.text("#since")) == ("refused", "4713: not in time")
        tablet.open("live")
        assert (band(), tablet.text("#since")) == ("refused", "4713: not in time")
        client.inspect_part(whole(GOOD), "p4711")
        tablet.wait(lambda: band() == "good")
        tablet.open(f"inspections/{found.id}")
        assert "All views of part 4712" in tablet.text("main")
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
        assert "Parts found: 6, expected: 5, other objects: 0" in page.text
        assert page.text.count("<dt>Part ") == 6


@pytest.mark.parametrize("way", ["http", "folder"])
def test_a_tolerance_and_a_kind_hold_for_a_part(open_station, part_model, naming, by_length, tmp_path, way):
    tolerated = Tolerated(part_model, VIEWS, tmp_path)
    (incoming := tmp_path / "incoming").mkdir()
    sources = (FolderSourceSettings(str(incoming), str(tmp_path / "done")),)
    product = ProductSettings(str(tolerated.model), tolerances=str(tolerated.rules), sources=sources)
    running = open_station(products={NAME: product})
    for name, decision in (("p1", "within tolerance"), ("p2", "anomalous")):
        if way == "http":
            assert post(running.url, whole(tolerated.part, "top"), part=name).status_code == 201
        else:
            for seen_from, data in whole(tolerated.part, "top").items():
                (incoming / f"{name}_{seen_from}.png").write_bytes(data + name.encode())
        newest = decided(running.url, int(name[1:]))[0]
        assert (newest["part"], newest["decision"], newest["view"]) == (name, decision, "top")
        assert newest["regions"][0]["kinds"] == ["scratch"]
        tolerated.tighten(running.station)


def test_a_part_in_views_is_a_challenge_part(line, part_model, tmp_path, open_station):
    """It is kept from its inspections or as it is shown, by HTTP and a folder, and judged as a whole."""
    (incoming := tmp_path / "incoming").mkdir()
    pattern = r"(?P<part>\w+)_(?P<view>\w+)\.png"
    running = line(
        challenge=(), sources=(FolderSourceSettings(str(incoming), str(tmp_path / "done"), pattern),)
    )
    url, station = running.url, running.station
    challenge, product = station.components[Challenge], station.products[NAME]
    predictor = flawscope.load(part_model, device="cpu", threads=1)
    each = (part for part in range(GOOD, 100) if not predictor.predict_part(whole(part)).is_anomalous)
    kept, shown, other = next(each), next(each), next(each)  # one of ten would be a false alarm

    def show(name: str, part: int, bad: str | None = None, **query: str) -> str:
        answer = post(url, whole(part, bad), part=name, **query)
        assert answer.status_code == 409, answer.text
        assert answer.json()["code"] == "not_production"
        return str(answer.json()["error"])

    for name, expected in (("g", "good"), ("d", "anomalous")):
        wanted = {"name": name, "expected": expected}
        assert httpx.post(f"{url}{API}/challenge/parts", json=wanted).status_code == 201
    assert show("d", 31, "left") == "the challenge part d is kept, and was judged as defective"
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
    found = httpx.get(f"{url}{API}/inspections", params={"purpose": "challenge"}).json()["inspections"]
    assert {one["purpose"] for one in found} == {"challenge"}
    shown = httpx.get(f"{url}{API}/inspections").json()["inspections"]
    assert {(one["part"], one["purpose"]) for one in shown} == {("4711", "production")}
    refused = httpx.post(f"{url}{API}/inspections/{found[0]['id']}/verdict", json={"verdict": "good"})
    assert (refused.status_code, "challenge part" in refused.text) == (422, True)
    assert station.store.totals(product)["inspections"] == 1
    stored = challenge.facts(product)["parts"][0]["id"]
    stored = f"{url}{API}/challenge/parts/{stored}/view?view="
    assert len({httpx.get(stored + name).content for name in VIEWS}) == 3
    assert httpx.get(stored + "below").status_code == 404

"""A key names a request and a part's number a part."""

import csv
import io
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import pytest
from PIL import Image

from flawscope.errors import InputError
from flawscope_station.client import Client
from flawscope_station.inspecting.picture import Picture
from flawscope_station.settings.sources import CameraSourceSettings, read_source
from flawscope_station.settings.station import ProductSettings
from flawscope_station.store.inspection import KeyUsedError, Label, trigger_request, upload_request
from station_helpers import INSPECTIONS, until

PRODUCT = "products/plate"
SLOW = "lavfi:testsrc2=size=96x64:rate=1,realtime"


def count(api: httpx.Client) -> int:
    return int(api.get(PRODUCT).json()["inspections"])


def post(api: httpx.Client, *data: bytes, key: str = "", form: bool = False, **query: str) -> httpx.Response:
    """One picture in the body, or several in a form."""
    headers = {"Idempotency-Key": key} if key else {}
    if form:
        files = [("files", (f"{place}.png", one)) for place, one in enumerate(data)]
        return api.post(INSPECTIONS, files=files, headers=headers, params=query)
    return api.post(INSPECTIONS, content=data[0], headers=headers, params=query)


def used(answer: httpx.Response) -> bool:
    return answer.status_code == 409 and answer.json()["code"] == "key_used"


def test_other_bytes_under_a_key_are_refused_unjudged(open_station, parts):
    good, other, bad = parts[0], parts[1], parts[-1]
    running = open_station()
    with httpx.Client(base_url=f"{running.url}/api/v1/", timeout=60) as api:
        first = post(api, good, key="0001").json()
        form = post(api, good, other, key="f", form=True).json()
        labelled = post(api, good, key="l", part="4711", batch="b").json()
        post(api, b"broken", good, key="g", form=True)
    running.close()
    running = open_station()
    judged = Counter[str]()
    submit = running.station.inspector.submit

    def counted(pictures: Any) -> Any:
        judged.update(one.key for one in pictures)
        return submit(pictures)

    running.station.inspector.submit = counted
    with httpx.Client(base_url=f"{running.url}/api/v1/", timeout=60) as api:
        there = count(api)
        for data in (bad, b"no picture", good + b"\0"):
            assert used(post(api, data, key="0001")), "other bytes"
        assert "inspection 1" in post(api, bad, key="0001").json()["error"]
        for several in ((good, bad), (other, good), (good,), (good, other, bad), (bad, good, other)):
            assert used(post(api, *several, key="f", form=True)), "another form"
        assert used(post(api, good, key="f")), "one picture in the place of a form"
        assert used(post(api, good, key="g", form=True)), "also where the form's first one was none"
        assert used(post(api, good, key="0001", form=True))
        for query in ({"part": "4712", "batch": "b"}, {"part": "4711"}, {}):
            assert used(post(api, good, key="l", **query)), "another part"
        assert judged == Counter()
        assert count(api) == there
        again = post(api, good, key="0001", name="called otherwise")
        assert (again.status_code, again.json()) == (200, first)
        assert post(api, good, other, key="f", form=True).json() == form
        assert post(api, good, key="l", part=" 4711 ", batch="b").json() == labelled
        assert post(api, good, key="0001/0").status_code == 201, "no key of a form's picture"
        metrics = httpx.get(f"{running.url}/metrics").text
        assert 'reason="key_used"' in metrics


def test_while_one_is_judged_others_are_refused(api, running, parts):
    go = threading.Event()
    running.station.inspector.judge.run_between(lambda: go.wait(60))
    with ThreadPoolExecutor() as pool:
        first = pool.submit(post, api, parts[0], key="k")
        form = pool.submit(post, api, parts[0], parts[1], key="f", form=True)
        until(lambda: running.station.inspector.backlog() == 3)
        assert used(post(api, parts[-1], key="k"))
        assert used(post(api, parts[0], key="k", form=True))
        assert used(post(api, parts[0], parts[-1], key="f", form=True))
        assert used(post(api, parts[0], key="f"))
        same = pool.submit(post, api, parts[0], key="k")
        go.set()
        assert first.result().json() == same.result().json()
        assert form.result().status_code == 201
    assert count(api) == 3


@pytest.mark.both_databases
def test_of_two_pictures_at_once_with_one_key_one_is_judged(api, parts):
    """Whoever sent it gets its answer, however often, and never the other one's refusal."""
    for turn in range(8):
        with ThreadPoolExecutor(8) as pool:
            sent = [pool.submit(post, api, parts[k % 2], key=f"k{turn}") for k in range(8)]
            answers = [one.result() for one in sent]
        refused = [used(answer) for answer in answers]
        assert sum(refused) == 4
        assert len(set(refused[::2])) == len(set(refused[1::2])) == 1
        assert len({answer.json().get("id") for answer in answers}) == 2
        assert count(api) == turn + 1


def test_a_key_recorded_on_the_way_is_refused(api, running, parts):
    """Nobody looked it up before: what is in the data base decides."""
    first = post(api, parts[0], key="k").json()
    inspector, product = running.station.inspector, running.station.products["plate"]
    for data in (parts[0], parts[-1]):
        request = upload_request("k", [data], False, Label())
        picture = Picture(product, data, "a", "http", request.picture_key(0), request=request)
        (answer,) = inspector.submit([picture])
        if data == parts[0]:
            assert answer.result(60).number == first["id"]
        else:
            with pytest.raises(KeyUsedError, match=f"inspection {first['id']}"):
                answer.result(60)
    assert count(api) == 1


def test_another_verdict_under_a_key_is_refused(api, running, parts):
    there = f"{INSPECTIONS}/{post(api, parts[-1]).json()['id']}/verdict"

    def say(**body: Any) -> httpx.Response:
        return api.post(
            there, json={"verdict": "defect", "note": "a", **body}, headers={"Idempotency-Key": "v"}
        )

    first = say()
    assert first.status_code == 200
    assert say().json() == first.json()
    for body in ({"verdict": "good"}, {"note": "b"}, {"kind": "dent"}, {"mask": mask(parts[-1])}):
        assert used(say(**body))
    assert api.get(there.removesuffix("/verdict")).json() == first.json()


def mask(part: bytes) -> str:
    import numpy as np

    from flawscope_station.client.messages import encode_mask

    with Image.open(io.BytesIO(part)) as image:
        return encode_mask(np.ones(image.size[::-1], bool))


def test_a_part_comes_many_times_and_is_found(api, running, parts):
    with Client(running.url) as client:
        mine = [client.inspect(parts[0], part="4711", batch="47"), client.inspect(parts[-1], part="4711")]
        assert [(one.part, one.batch) for one in mine] == [("4711", "47"), ("4711", None)]
        views = post(api, parts[0], parts[1], form=True, part="4712", batch="47").json()["results"]
        assert [one["inspection"]["part"] for one in views] == ["4712"] * 2
        client.inspect(parts[0], part="")
        assert [one.id for one in client.search(part="4711")] == [2, 1]
        assert {one.id for one in client.search(part="471*")} == {1, 2, 3, 4}
        assert {one.id for one in client.search(batch="47", decision="good")} == {1, 3, 4}
        assert [one.id for one in client.search(part="4711", batch="4*")] == [1]
        assert list(client.search(part="47")) == []
        assert client.inspection(5).part is None
        assert client.search(part="4711").__next__() == mine[1]
    table = api.get(f"{PRODUCT}/export", params={"part": "4711"}).content.decode("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [(row["id"], row["part"], row["batch"]) for row in rows] == [
        ("2", "4711", ""),
        ("1", "4711", "47"),
    ]
    table = api.get(f"{PRODUCT}/export?batch=47").content.decode("utf-8-sig")
    assert [row["part"] for row in csv.DictReader(io.StringIO(table))] == ["4712", "4712", "4711"]
    page = httpx.get(f"{running.url}/plate/history", params={"part": "4711"}).text
    assert page.count('href="/plate/inspections/') == 2
    assert "4711" in httpx.get(f"{running.url}/plate/inspections/1").text


def test_a_number_that_is_none_is_refused(api, parts):
    for query in ({"part": "x" * 101}, {"batch": "a\nb"}, {"part": "\0"}, {"part": "a\u202eb"}):
        answer = post(api, parts[0], **query)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid"), query
        assert "\n" not in answer.json()["error"]
    field = api.post(INSPECTIONS, files=[("files", ("a.png", parts[0]))], data={"part": "4711"})
    assert field.status_code == 422, "a number that is lost without a word"
    assert count(api) == 0
    assert post(api, parts[0], part="ä" * 100, batch="x").json()["part"] == "ä" * 100


def test_a_folder_reads_parts_from_names(open_station, settings, parts, tmp_path):
    folder = tmp_path / "in"
    (folder / "lot7").mkdir(parents=True)
    for name in ("lot7/4711_a.png", "4712_b.png", "other.png", f"{'1' * 120}_a.png"):
        (folder / name).write_bytes(parts[0])
    pattern = r"(?:(?P<batch>\w+)/)?(?P<part>\d+)_[ab]\.png$"
    source = read_source({"folder": str(folder), "pattern": pattern}, tmp_path)
    model = settings.products["plate"].model
    running = open_station(products={"plate": ProductSettings(model, sources=(source,))})
    with Client(running.url) as client:
        until(lambda: len(list(client.search())) == 4)
        found = {one.name: (one.part, one.batch) for one in client.search()}
    assert found["lot7/4711_a.png"] == ("4711", "lot7")
    assert found["4712_b.png"] == ("4712", None)
    assert found["other.png"] == (None, None)
    assert Counter(found.values())[None, None] == 2, (
        "a number that cannot be kept is no reason to lose a part"
    )


def test_a_frame_says_how_many_triggers_it_answers(open_station, settings):
    """Each has a part of its own; one that is sent again counts once."""
    plate = replace(
        settings.products["plate"],
        sources=(CameraSourceSettings(SLOW, "trigger", None, "60 s", latency="1 ms"),),
    )
    running = open_station(products={"plate": plate})
    (camera,) = running.station.sources["plate"]
    until(lambda: camera.state.state == "running")
    first, other = (trigger_request(key, None, Label(key)) for key in "ab")
    shots = [camera.next_shot(one) for one in (first, first, other, None)]
    assert {shot.result(60).triggers for shot in shots} == {3}
    with Client(running.url) as client:
        found = client.trigger(key="a", part="1", batch="x", seconds=30)
        assert (found.triggers, found.part, found.batch) == (1, "1", "x")
        assert client.trigger(key="a", part="1", batch="x", seconds=30) == found
        for wrong in ({"part": "2", "batch": "x"}, {"part": "1", "batch": "x", "camera": 1}, {}):
            with pytest.raises(InputError, match="Key was used"):
                client.trigger(key="a", **wrong)
        with pytest.raises(InputError, match="Key was used"):
            client.inspect(b"a picture", key="a")
        assert len(list(client.search())) == 1

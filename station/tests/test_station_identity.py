"""A key names a request and a part's number a part."""

import csv
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import pytest
from PIL import Image

from flawscope.errors import InputError
from flawscope_station.client import Client
from flawscope_station.settings.sources import CameraSourceSettings
from flawscope_station.store.inspection import KeyUsedError, Label, trigger_request, upload_request
from identity_helpers import PRODUCT, count, post, used
from station_helpers import INSPECTIONS, one_part, until

SLOW = "lavfi:testsrc2=size=96x64:rate=1,realtime"


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


def test_a_key_recorded_on_the_way_is_refused(api, running, parts):
    """Nobody looked it up before: what is in the database decides."""
    first = post(api, parts[0], key="k").json()
    inspector, product = running.station.inspector, running.station.products["plate"]
    for data in (parts[0], parts[-1]):
        request = upload_request("http:k", [data], False, False, Label())
        part = one_part(product, data, "a", key=request.key, request=request)
        answer = inspector.submit(part)
        if data == parts[0]:
            assert answer.result(60).number == first["id"]
        else:
            # a moment after the answer the key may still be the first request's
            with pytest.raises(KeyUsedError, match=f"inspection {first['id']}|not answered yet"):
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


def test_a_number_that_would_be_lost_is_refused(api, parts):
    field = api.post(INSPECTIONS, files=[("files", ("a.png", parts[0]))], data={"part": "4711"})
    assert field.status_code == 422, "a number that is lost without a word"
    assert count(api) == 0
    assert post(api, parts[0], part="ä" * 100, batch="x").json()["part"] == "ä" * 100


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

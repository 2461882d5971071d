"""The JSON API through a real server, on both databases."""

import base64
import io
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from api_helpers import (  # noqa: F401
    PRODUCT,
    picture_of,
    png,
    send,
    some_fixture,
)
from station_helpers import INSPECTIONS


def test_maps_are_the_same_when_they_are_computed_again(open_station, parts):
    """Of good pictures no map is kept: after a restart they are computed, and the overlay is the same."""
    first = open_station()
    with httpx.Client(base_url=f"{first.url}/api/v1/") as api:
        numbers = [send(api, part).json()["id"] for part in (parts[0], parts[-1])]
        before = [api.get(f"{INSPECTIONS}/{n}/overlay").content for n in numbers]
    first.close()
    with httpx.Client(base_url=f"{open_station().url}/api/v1/") as api:
        after = [api.get(f"{INSPECTIONS}/{n}/overlay").content for n in numbers]
    for pair in zip(before, after, strict=True):
        one, other = (np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int) for data in pair)
        assert np.abs(one - other).mean() < 1


def test_two_reviewers_get_different_pictures(api, running, parts):
    numbers = [send(api, parts[-1], f"{k}.png").json()["id"] for k in range(6)]

    def given(reader: str, limit: int = 2, after: int = 0) -> list[int]:
        query = {"reader": reader, "limit": limit, "after": after}
        return [one["id"] for one in api.get(f"{PRODUCT}/review", params=query).json()["inspections"]]

    assert given("anna") == numbers[:2]
    assert given("bert") == numbers[2:4]
    assert given("anna") == numbers[:2], "one's own come again"
    assert given("anna", after=numbers[1]) == numbers[4:5], "of the last ones half"
    assert given("bert", after=numbers[3]) == numbers[5:]
    assert given("emil") == [], "the others have all"
    assert given("", 6) == numbers, "who does not say who asks gets all"
    for number in numbers[:2]:
        api.post(f"{INSPECTIONS}/{number}/verdict", json={"verdict": "defect"})
    api.post(f"{PRODUCT}/review/release", params={"reader": "bert"}).raise_for_status()
    assert given("carl", 6) == [numbers[2], numbers[3]], "what one gives back is the next one's"
    clock = running.station.records._leases
    clock._clock = lambda: time.monotonic() + 301
    assert given("dora") == numbers[2:4], "after some minutes they are anybody's"


def test_verdicts_and_masks(api, parts):
    one = send(api, parts[-1]).json()
    here = f"{INSPECTIONS}/{one['id']}"
    mask = np.zeros((one["height"], one["width"]), np.uint8)
    mask[5:20, 7:30] = 255
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    sent = base64.b64encode(buffer.getvalue()).decode()
    said = api.post(f"{here}/verdict", json={"verdict": "defect", "mask": sent, "note": "tief"}).json()
    expected = {"verdict": "defect", "has_mask": True, "note": "tief", "verdict_by": "local"}
    assert {name: said[name] for name in expected} == expected
    assert np.array_equal(np.asarray(picture_of(api.get(f"{here}/mask"))), mask)
    assert api.post(f"{here}/verdict", json={"verdict": "undo"}).json() == one
    assert not np.array_equal(np.asarray(picture_of(api.get(f"{here}/mask"))), mask)
    notes = ("x" * 2001, "nul \0", "half \ud800")
    masks = (
        "no base64!",
        *(base64.b64encode(one).decode() for one in (b"no png", png(3, 2), parts[-1][:300])),
    )
    for wrong in (
        *({"verdict": "good", "note": note} for note in notes),
        *({"verdict": "defect", "mask": mask} for mask in masks),
        *({"verdict": "undo"}, {"verdict": "maybe"}, {"verdict": "good", "more": 1}, []),
    ):
        headers = {"Content-Type": "application/json"}
        response = api.post(f"{here}/verdict", content=json.dumps(wrong), headers=headers)
        assert response.status_code in (200, 422), wrong
        if response.status_code == 200:  # a text that no database holds may be cleaned instead
            assert "note" in wrong
            api.post(f"{here}/verdict", json={"verdict": "undo"})
    assert api.get(here).json() == one
    assert api.post(f"{INSPECTIONS}/999/verdict", json={"verdict": "good"}).status_code == 404


def test_a_model_comes_goes_live_and_back(api, parts, other_model):
    there, data = f"{PRODUCT}/versions", other_model.read_bytes()
    before = send(api, parts[0]).json()
    added = api.post(there, params={"name": "new.onnx"}, content=data)
    version = added.json()
    assert (added.status_code, version["active"], version["origin"]) == (201, False, "sent by local")
    again = api.post(there, params={"name": "x.onnx"}, content=data)
    assert again.json()["id"] == version["id"], "the same content is the same version"
    assert send(api, parts[0]).json()["version"] == before["version"]
    assert api.post(f"{there}/{version['id']}/activate").json()["version"] == version["id"]
    after = send(api, parts[0]).json()
    assert (after["version"], after["score_threshold"]) == (version["id"], version["score_threshold"])
    assert after["score_threshold"] != before["score_threshold"]
    assert api.get(f"{PRODUCT}/trends").json()["threshold"] is None
    listed = api.get(there).json()
    assert [listed["active"], *(one["id"] for one in listed["versions"])] == [
        *(version["id"], version["id"], before["version"])
    ]
    assert [one["by"] for one in listed["versions"][0]["switches"]] == ["local"]
    assert api.post(f"{there}/{before['version']}/activate").status_code == 200
    assert send(api, parts[0]).json()["score_threshold"] == before["score_threshold"]
    assert api.get(f"{there}/{version['id']}/file").content == data
    for name in ("a.pt", "a.xml", "", "../a.onnx/", ".onnx", "-a.onnx", "a" * 300 + ".onnx"):
        assert api.post(there, params={"name": name}, content=b"x").status_code == 422, name
    assert len(api.get(there).json()["versions"]) == 2


def events_of(response: httpx.Response) -> Iterator[tuple[str, Any]]:
    event = ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            event = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield event, json.loads(line.removeprefix("data: "))


@pytest.mark.listens
def test_what_happens_is_seen_live(api, parts):
    with api.stream("GET", f"{PRODUCT}/live", timeout=20) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        events = events_of(stream)
        kind, state = next(events)
        assert kind == "state"
        assert set(state) == {
            "rate", "backlog", "waiting", "problem", "problems", "sources", "timing", "views",
            "problem_products", "stopped", "refused", "started", "at", "promised", "counts", "product",
            "paused"
        }  # fmt: skip
        sent = [send(api, part, f"{k}.png").json() for k, part in enumerate(parts[:3])]
        seen = []
        while len(seen) < 3:
            kind, data = next(events)
            if kind == "inspection":
                seen.append(data)
        assert seen == sent
    assert api.get("products").status_code == 200


def test_products_status_health_and_metrics(api, running, parts):
    send(api, parts[0])
    (product,) = api.get("products").json()["products"]
    assert product == api.get(PRODUCT).json()
    assert (product["name"], product["inspections"], product["backlog"]) == ("plate", 1, 0)
    assert product["rate"] == 0.02  # of the last minute
    status = api.get("status").json()
    assert [one["code"] for one in status["problems"] if one["code"] != "disk_full"] == []
    with httpx.Client(base_url=running.url) as root:
        assert root.get("/healthz").status_code == 200
        ready = root.get("/readyz")
        assert ready.status_code == (200 if ready.json()["ready"] else 503)
        metrics = root.get("/metrics").text
    assert re.search(r'flawscope_inspections_total\{[^}]*product="plate"[^}]*\} 1\.0', metrics)
    assert 'flawscope_backlog{product="plate"} 0.0' in metrics
    schema = api.get("openapi.json").json()
    assert schema["components"]["schemas"]["Inspection"]["example"]
    posts = schema["paths"]["/api/v1/products/{name}/inspections"]["post"]
    assert any(one["name"] == "Idempotency-Key" for one in posts["parameters"])
    assert {"200", "201", "413", "422", "503"} <= set(posts["responses"])

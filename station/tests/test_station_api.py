"""The JSON API through a real server, on both databases."""

import csv
import io
import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from openpyxl import load_workbook
from PIL import Image

from api_helpers import (  # noqa: F401
    PRODUCT,
    picture_of,
    png,
    send,
    some_fixture,
)
from flawscope import load
from flawscope_station.settings.station import Limits
from station_helpers import INSPECTIONS, PATIENCE, delayed, until


@pytest.fixture
def shared_api(common):
    """API of the station that the tests of this file share."""
    with httpx.Client(base_url=f"{common.url}/api/v1/", timeout=30) as made:
        yield made


def count(api: httpx.Client) -> int:
    return int(api.get(PRODUCT).json()["inspections"])


def files_in(running: Any, kind: str = "pictures") -> list[Path]:
    return sorted(path for path in (running.station.files.folder / kind).rglob("*") if path.is_file())


@pytest.mark.smoke
def test_a_picture_goes_in_and_everything_about_it_comes_out(api, parts, model_file):
    expected = load(model_file, device="cpu", threads=1).predict(parts[-1])
    response = send(api, parts[-1], "0007.png")
    one = response.json()
    assert response.status_code == 201
    assert one["score"] == pytest.approx(expected.score, rel=1e-5)
    assert (one["decision"], one["review"], one["verdict"]) == ("anomalous", "waiting", None)
    assert (one["product"], one["name"], one["source"]) == ("plate", "0007.png", "http")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", one["at"])
    assert api.get(f"{INSPECTIONS}/{one['id']}").json() == one

    here = f"{INSPECTIONS}/{one['id']}"
    original = api.get(f"{here}/picture")
    assert original.content == parts[-1]
    assert original.headers["content-type"] == "image/png"
    assert original.headers["content-disposition"].startswith('attachment; filename="0007.png"')
    assert original.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert original.headers["x-content-type-options"] == "nosniff"
    with Image.open(io.BytesIO(parts[-1])) as image:
        size = image.size
    view, overlay = (
        picture_of(api.get(f"{here}/{what}", params={"side": 64})) for what in ("view", "overlay")
    )
    assert view.size == overlay.size
    assert max(view.size) == 64
    assert np.asarray(view).tobytes() != np.asarray(overlay).tobytes()
    assert picture_of(api.get(f"{here}/view")).size == size, "it is not made larger than it is"
    found = api.get(f"{here}/map")
    low, high = (float(found.headers[f"x-map-{end}"]) for end in ("low", "high"))
    values = np.asarray(picture_of(found)).astype(float) / 65535 * (high - low) + low
    assert values.shape == expected.map.shape
    assert values == pytest.approx(expected.map, abs=0.01 * (high - low))
    mask = np.asarray(picture_of(api.get(f"{here}/mask")))
    assert mask.shape == size[::-1]
    assert set(np.unique(mask)) == {0, 255}
    assert np.mean((mask > 0) == expected.picture_mask()) > 0.99


def test_several_in_a_form_with_a_broken_one_among_them(shared_api, parts):
    before = count(shared_api)
    files = [("files", ("a.png", parts[0])), ("files", ("b.png", parts[-1][:500])), ("files", ("c", b"no"))]
    files += [("files", ("../../d ä.png", parts[-1]))]
    response = shared_api.post(INSPECTIONS, files=files)
    results = response.json()["results"]
    assert response.status_code == 201
    assert [one.get("name", "judged") for one in results] == ["judged", "b.png", "c", "judged"]
    assert results[3]["inspection"]["name"] == "d ä.png"
    for one in results[1:3]:
        assert one["code"] == "invalid"
        assert one["name"] in one["error"]
        assert "\n" not in one["error"]
    assert count(shared_api) == before + 2
    pages, cut = io.BytesIO(), io.BytesIO()
    good, bad = (Image.open(io.BytesIO(one)).convert("RGB") for one in (parts[0], parts[-1]))
    good.save(pages, "TIFF", save_all=True, append_images=[bad])
    good.save(cut, "JPEG", quality=95)
    half = cut.getvalue()[: len(cut.getvalue()) // 2] + b"\xff\xd9"
    for data, why in ((b"no picture", ""), (pages.getvalue(), "2 pictures"), (half, "pixels are missing")):
        one = shared_api.post(INSPECTIONS, files=[("files", ("x.png", data))])
        assert (one.status_code, one.json()["code"]) == (422, "invalid")
        assert why in one.json()["error"]
    assert count(shared_api) == before + 2


def test_what_is_too_large_is_refused_before_it_is_read(shared_api, common):
    """limits: upload is 8 MB here; a length that is announced, one that is not, and a form."""
    before = count(shared_api), files_in(common)
    large = b"\x89PNG" + b"\0" * (9 << 20)

    def chunks() -> Iterator[bytes]:
        for begin in range(0, len(large), 1 << 16):
            yield large[begin : begin + (1 << 16)]

    for sent in ({"content": large}, {"content": chunks()}, {"files": [("files", ("a.png", large))]}):
        answer = shared_api.post(INSPECTIONS, **sent)
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
        assert "8 MB" in answer.json()["error"]
    assert count(shared_api) == before[0]
    assert not {*files_in(common)} - {*before[1]}, "refused ones of earlier tests may still go"


def test_too_many_pixels_are_refused_before_they_are_decoded(shared_api):
    before = count(shared_api)
    for size in ((2001, 2000), (65_000, 65_000)):
        header = png(4, 4)
        large = header[:16] + size[0].to_bytes(4, "big") + size[1].to_bytes(4, "big") + header[24:]
        response = send(shared_api, large, "large.png")
        assert response.status_code == 422
        assert response.json()["code"] in ("too_many_pixels", "invalid")
    assert send(shared_api, png(2001, 2000), "large.png").json()["code"] == "too_many_pixels"
    assert send(shared_api, png(2000, 2000)).status_code == 201
    assert count(shared_api) == before + 1


NO_PICTURES: tuple[tuple[str, bytes, int, str | None], ...] = (
    ("text/plain", b"hello", 422, "invalid"),
    ("application/json", b"{}", 422, "invalid"),
    ("application/x-www-form-urlencoded", b"file=a.png", 422, "invalid"),  # curl's own
    ("image/png", b"", 422, "empty"),
    ("image/png", b"\x89PNG\r\n\x1a\n", 422, "invalid"),
    ("image/png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", 422, "invalid"),
    ("application/octet-stream", b"%!PS-Adobe-3.0 EPSF-3.0\n", 422, "invalid"),
    ("multipart/form-data", b"no boundary", 422, "broken_form"),
    ("multipart/form-data; boundary=x", b"--x\r\nbroken", 422, None),
    ("multipart/form-data; boundary=x", b"--x--\r\n", 422, "empty"),
)


def test_what_is_no_picture_or_no_key_is_refused(shared_api, parts):
    before = count(shared_api)
    for kind, body, status, code in NO_PICTURES:
        response = shared_api.post(INSPECTIONS, content=body, headers={"Content-Type": kind})
        assert response.status_code == status, (kind, body)
        assert response.json()["code"] == code or code is None
        assert "\n" not in response.json()["error"]
    for key in ("", "x" * 191, "x" * 5000, "ä\u0085"):
        sent = {b"Idempotency-Key": key.encode("latin-1")}
        response = shared_api.post(INSPECTIONS, content=parts[0], headers=sent)
        assert (response.status_code, response.json()["code"]) == (422, "bad_key"), key
    assert count(shared_api) == before


def test_when_the_queue_is_full_nothing_is_taken(open_station, parts, monkeypatch):
    """503 with Retry-After at once, whole forms too; the others are answered when there is room."""
    running = open_station(limits=Limits(queue=4))
    going, store = threading.Event(), running.station.store
    monkeypatch.setattr(store, "record", delayed(store.record, going))
    with httpx.Client(base_url=f"{running.url}/api/v1/", timeout=60) as api, ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(send, api, parts[0], f"{k}.png") for k in range(3)]
        until(lambda: running.station.inspector.backlog() == 3)
        form = api.post(INSPECTIONS, files=[("files", (f"f{k}.png", parts[1])) for k in range(2)])
        waiting.append(pool.submit(send, api, parts[0], "3.png"))
        until(lambda: running.station.inspector.backlog() == 4)
        begun = time.monotonic()
        refused = send(api, parts[0], "4.png", Idempotency_Key="later")
        assert time.monotonic() - begun < PATIENCE / 2, "at once"
        for answer in (form, refused):
            assert (answer.status_code, answer.json()["code"]) == (503, "busy")
            assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert api.get("status").json()["queue"] == {"waiting": 4, "most": 4}
        assert api.get(PRODUCT).json()["backlog"] == 4
        going.set()
        assert [one.result().status_code for one in waiting] == [201] * 4
        found = api.get(INSPECTIONS).json()["inspections"]
        assert sorted(one["name"] for one in found) == ["0.png", "1.png", "2.png", "3.png"]
        assert send(api, parts[0], "4.png", Idempotency_Key="later").status_code == 201


def test_the_search_has_pages_and_filters(api, some):
    found: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        page = api.get(INSPECTIONS, params={"limit": 4, "cursor": cursor}).json()
        found, cursor = found + page["inspections"], page["next"]
    assert found == some[::-1]

    def names(**query: Any) -> list[str]:
        return [one["name"] for one in api.get(INSPECTIONS, params=query).json()["inspections"]]

    assert names(verdict="good") == ["p1.png"]
    assert names(verdict="none", decision="good", since=some[2]["at"]) == [
        one["name"] for one in some[:1:-1] if one["decision"] == "good" and not one["verdict"]
    ]
    assert names(file="p3*") == names(file="p3.png") == ["p3.png"]
    assert names(until=some[2]["at"]) == ["p1.png", "p0.png"]
    assert names(review="done") == ["p4.png", "p1.png"]
    assert names(score_min=some[5]["score"], score_max=some[5]["score"], limit=1) == ["p5.png"]
    assert names(version=99) == []
    wrong = {"limit": "0", "since": "soon", "decision": "bad", "score_min": "nan", "cursor": "x"}
    for name, value in wrong.items():
        response = api.get(INSPECTIONS, params={name: value})
        assert response.status_code == 422
        assert name in response.json()["error"] or value in response.json()["error"]


def test_the_export_is_what_the_search_finds(api, some):
    whole = api.get(f"{PRODUCT}/export")
    assert whole.headers["content-type"] == "text/csv; charset=utf-8"
    assert "attachment" in whole.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(whole.content.decode("utf-8-sig"))))
    assert [int(row["id"]) for row in rows] == [one["id"] for one in some[::-1]]
    for row, one in zip(rows, some[::-1], strict=True):
        for name in ("name", "decision", "verdict"):
            assert row[name] == (one[name] or "")
        assert float(row["score"]) == one["score"]
        assert json.loads(row["regions"]) == one["regions"]
        assert row["picture"] == one["picture"]
    assert rows[1]["note"] == '\'=1+1 "x", ä\n;', "a spreadsheet must not compute it"
    filtered = api.get(f"{PRODUCT}/export", params={"verdict": "defect"}).content.decode("utf-8-sig")
    assert [row["id"] for row in csv.DictReader(io.StringIO(filtered))] == [str(some[4]["id"])]
    empty = api.get(f"{PRODUCT}/export", params={"version": 99}).content.decode("utf-8-sig")
    assert len(empty.splitlines()) == 1
    assert api.get(f"{PRODUCT}/export", params={"format": "parquet"}).status_code == 422
    assert [int(row["places"]) for row in rows] == [len(one["regions"]) for one in some[::-1]]
    book = load_workbook(io.BytesIO(api.get(f"{PRODUCT}/export", params={"format": "xlsx"}).content))
    judged = book["Judged"]
    header, *lines = judged.iter_rows(values_only=True)
    found = [dict(zip(header, line, strict=True)) for line in lines]
    assert [one["No."] for one in found] == [one["id"] for one in some[::-1]]
    severities = [one["severity"] for one in some[::-1]]
    assert [one["Severity"] for one in found] == pytest.approx(severities, rel=1e-12)
    assert found[1]["Note"] == '=1+1 "x", ä\n;'
    note = judged.cell(3, header.index("Note") + 1)
    assert (note.data_type, note.quotePrefix) == ("s", True), "Excel must not compute it"
    assert found[1]["A person says"] == some[4]["verdict"] == "defect"
    places = sum(len(one["regions"]) for one in some)
    assert book["Places"].max_row == 1 + places == 1 + sum(one["Places"] for one in found)
    address = judged.cell(2, header.index("File") + 1).hyperlink.target
    assert api.get(address).status_code == 200, "its page"
    totals = dict(book["Totals"].iter_rows(min_row=2, values_only=True))
    assert totals["Inspections"] == len(some)
    assert totals["Promise"] == api.get(f"{PRODUCT}/versions").json()["versions"][0]["promise"]
    assert api.get(f"{PRODUCT}/export", params={"format": "xls"}).status_code == 422


def test_trends_and_review(api, some):
    trends = api.get(f"{PRODUCT}/trends").json()
    assert [(point[1], point[3], point[4]) for point in trends["points"]] == [
        (one["score"], one["verdict"], one["id"]) for one in some
    ]
    assert (trends["unit"], trends["threshold"]) == ("inspection", some[0]["score_threshold"])
    waiting = [one for one in some if one["review"] == "waiting"]
    found = api.get(f"{PRODUCT}/review").json()
    assert (found["inspections"], found["waiting"]) == (waiting, len(waiting))
    if waiting:
        rest = api.get(f"{PRODUCT}/review", params={"after": waiting[0]["id"]}).json()["inspections"]
        assert rest == waiting[1:]
    assert api.get(PRODUCT).json()["waiting"] == len(waiting)


MISSING = ("plat", "plat/inspections", "plate%00", "plate/%2e%2e/%2e%2e/etc/passwd", "plate/versions/99/file")
INVALID = ("inspections/one", "inspections/1/view?side=1", "inspections/1/view?side=100000")
WRONG: tuple[tuple[str, str, int], ...] = (
    *(("GET", f"products/{path}", 404) for path in MISSING),
    *(("GET", f"{INSPECTIONS}/{path}", 404) for path in ("999", "-1", 10**30, "999/overlay")),
    *(("GET", f"{PRODUCT}/{path}", 422) for path in (*INVALID, "trends?since=x", "review?after=-1")),
    ("POST", "products/plat/inspections", 404),
    ("POST", f"{PRODUCT}/versions/99/activate", 404),
    ("PUT", f"{PRODUCT}", 405),
    ("GET", "nothing", 404),
)


def test_what_is_wrong_is_one_line_with_a_code(shared_api):
    for method, path, status in WRONG:
        body = b"x" if method == "POST" and not path.endswith("/activate") else None
        response = shared_api.request(method, path, content=body)
        assert response.status_code == status, path
        said = response.json()
        assert set(said) == {"error", "code"}, path
        assert said["code"]
        assert "\n" not in said["error"]
        assert 0 < len(said["error"]) < 400

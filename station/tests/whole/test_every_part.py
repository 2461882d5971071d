"""Every part is inspected, whatever its number holds, whatever type its picture has, and wherever a slash or
a proxy stands; strangers are told no names."""

import csv
import io
import json

import httpx
import pytest

from flawscope_station import Client
from flawscope_station.settings.station import read_settings
from flawscope_station.store.inspection import label_text
from station_helpers import NAME, Listening, again, free_port, opened

NUMBERS = (
    "\x1d0104012345678901\x1d21A7",
    "A\x1e\x04B",
    "P1\0\0",
    "\0",
    "a\0b",
    "9" * 101,
    "9" * 4000,
    "\u200b7\u00a0",
)
TYPES = (
    "text/plain",
    "application/octet-stream",
    "binary/octet-stream",
    "application/json",
    "image/x-foo",
    "x",
    None,
)
INSPECTIONS = f"/api/v1/products/{NAME}/inspections"


def test_by_http(running, parts):
    with httpx.Client(base_url=running.url, timeout=60) as http:
        sent = [
            *((number, "image/png") for number in NUMBERS),
            *((f"T{k}", kind) for k, kind in enumerate(TYPES)),
        ]
        for number, kind in sent:
            headers = {} if kind is None else {"Content-Type": kind}
            answer = http.post(INSPECTIONS, params={"part": number}, content=again(parts[0]), headers=headers)
            assert answer.status_code == 201, (number, kind, answer.text)
            kept = label_text(number)
            assert answer.json()["part"] == (kept or None)
            for asked in {number, kept, f"{kept[:5]}*"} if kept else ():
                found = http.get(INSPECTIONS, params={"part": asked}).json()["inspections"]
                assert kept in [one["part"] for one in found], asked
            page = http.get(f"/{NAME}/inspections/{answer.json()['id']}").text
            assert kept[:40] in page
        for kind in ("multipart/related", "Multipart/Mixed", "multipart/form-data"):
            name = b'Content-Disposition: form-data; name=files; filename="a.png"'
            form = b"--x\r\n%s\r\n\r\n%s\r\n--x--\r\n" % (name, again(parts[0]))
            answer = http.post(INSPECTIONS, content=form, headers={"Content-Type": f"{kind}; boundary=x"})
            assert answer.status_code == 201, (kind, answer.text)
        for encoding in ("gzip", "deflate", "br"):
            headers = {"Content-Encoding": encoding}
            answer = http.post(INSPECTIONS, content=again(parts[0]), headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (415, "encoded")
            assert f"encoded as {encoding}: send it as it is" in answer.json()["error"]
        table = http.get(f"/api/v1/products/{NAME}/export").text
        rows = list(csv.DictReader(io.StringIO(table.removeprefix("\ufeff"))))
        assert {row["part"] for row in rows} == {label_text(number) for number, _ in sent}
        for path in (
            f"{INSPECTIONS}/",
            f"{INSPECTIONS}//",
            "/healthz/",
            f"/api/v1/products/{NAME}/",
            f"/{NAME}/history/",
        ):
            assert http.get(path).status_code == 200, path
        answer = http.post(f"{INSPECTIONS}/", content=again(parts[0]), headers={"Content-Type": ""})
        assert answer.status_code == 201
        assert (
            http.post(INSPECTIONS, content=b"hello", headers={"Content-Type": "text/plain"}).status_code
            == 422
        )


def test_strangers_are_told_no_names(running):
    running.station.report(
        "camera_away_1", "anna: rtsp://cam7.plant.example gives no frame of P4711", stops=True
    )
    answer = httpx.get(f"{running.url}/readyz")
    assert answer.status_code == 503
    (told,) = (one for one in answer.json()["problems"] if one["kind"] == "camera_away")
    assert told.keys() == {"code", "kind", "since"}
    assert not any(word in answer.text for word in ("anna", "cam7", "P4711", NAME))


@pytest.mark.listens
@pytest.mark.parametrize(
    "variables", [{"ALL_PROXY": "socks5://127.0.0.1:9"}, {"http_proxy": "http://127.0.0.1:9"}]
)
def test_a_companys_proxy_stops_nobody(settings, parts, tmp_path, monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("no_proxy", "[::1],10.0.0.0/8,.local;x")
    hook = {"webhook": f"http://127.0.0.1:{free_port()}/in"}
    given = {
        "store": settings.store,
        "port": free_port(),
        "products": {NAME: {"model": settings.products[NAME].model, "sinks": [hook]}},
    }
    path = tmp_path / "station.yaml"
    path.write_text(json.dumps(given))
    running = opened(read_settings(path), Listening)
    try:
        with Client(running.url) as client:
            assert client.inspect(parts[0], part="\x1d1").part == "␝1"
    finally:
        running.close()

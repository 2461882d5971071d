"""Webhooks and folders: what was inspected arrives, whatever happens to the other side or the station."""

import base64
import errno
import hmac
import json
import os
import re
import signal
import ssl
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from flawscope_station.client import Client
from flawscope_station.settings.station import RetentionSettings
from flawscope_station.settings.values import redact_address as hiding
from flawscope_station.sinks import UNDELIVERED, delivery, webhook
from flawscope_station.sinks import folder as folder_sink
from flawscope_station.store.backup import backup, restore
from flawscope_station.store.retention import Retention
from sink_fixtures import soon_fixture, with_sinks_fixture  # noqa: F401
from sink_helpers import KEY, SECRET, certified_folder, codes, make_sink, numbers, send
from station_helpers import NAME, Load, aged, failing, free_port, until

ROOT = Path(__file__).parents[3]


def receiver_of_the_docs() -> Callable[..., bool]:
    """The check of signatures that docs/station-mqtt.md shows."""
    text = (ROOT / "docs/station-mqtt.md").read_text(encoding="utf-8")
    code = next(one for one in re.findall(r"```python\n(.*?)```", text, re.S) if "webhook-signature" in one)
    space: dict[str, Any] = {"__name__": "receiver"}
    exec(compile(code, "station-mqtt.md", "exec"), space)
    return space["is_genuine"]


def signed(id: str, stamp: str, body: bytes) -> str:
    """As Standard Webhooks says."""
    return "v1," + base64.b64encode(hmac.digest(KEY, f"{id}.{stamp}.".encode() + body, "sha256")).decode()


def test_a_webhook_gets_what_the_api_shows_and_can_check_it(receive, with_sinks, parts, tmp_path):
    other = SECRET.replace("A", "B")
    (tmp_path / "secret").write_text(f"{SECRET}\n{other}\n")
    receiver, genuine = receive(), receiver_of_the_docs()
    sink = make_sink(webhook=receiver.url, secret_file=str(tmp_path / "secret"))
    running = with_sinks(sink, public=("line3.example",))
    with Client(running.url) as client:
        several = [client.inspect(parts[0], name="good.png"), client.inspect(parts[-1], name="bad ü.png")]
        until(lambda: len(receiver.taken) == 2)
        client.verdict(several[1].id, "defect", note="a dent")
        client.verdict(several[1].id, "undo")
    until(lambda: len(receiver.taken) == 4)
    good, bad, said, undone = (one.json["data"] for one in receiver.taken)
    assert [one.json["type"] for one in receiver.taken] == ["inspection.created"] * 2 + ["verdict.given"] * 2
    with httpx.Client(base_url=f"{running.url}/api/v1/products/") as api:
        shown = api.get(f"{NAME}/inspections/{several[1].id}").json()
        (facts,) = api.get(NAME).json()["sinks"]
    assert {name: bad[name] for name in shown} == shown
    assert bad["link"] == f"http://line3.example/{NAME}/inspections/{several[1].id}"
    assert (bad["station"], "images" in good) == ("station", False)
    assert said["said"] == {**said["said"], "verdict": "defect", "note": "a dent", "has_mask": False}
    assert undone["said"]["verdict"] == "undo"
    assert len({one.headers["webhook-id"] for one in receiver.taken}) == 4
    for one in receiver.taken:
        id, stamp = one.headers["webhook-id"], one.headers["webhook-timestamp"]
        assert id == one.headers["idempotency-key"] == one.json["id"]
        assert one.headers["content-type"] == "application/json"
        assert abs(time.time() - int(stamp)) < 60
        first, second = one.headers["webhook-signature"].split(" ")
        assert first == signed(id, stamp, one.body) != second
        assert genuine(one.headers, one.body, SECRET)
        assert genuine(one.headers, one.body, other)
        assert not genuine(one.headers, one.body + b" ", SECRET)
        assert not genuine({**one.headers, "webhook-id": "inspection-1"}, one.body, SECRET)
        old = str(int(stamp) - 3600)
        stale = {"webhook-timestamp": old, "webhook-signature": signed(id, old, one.body)}
        assert not genuine({**one.headers, **stale}, one.body, SECRET)
    counts = {"delivered": 4, "refused": 0, "waiting": 0, "error": None}
    assert facts == {"name": hiding(receiver.url), "kind": "webhook", **counts}


def test_a_webhook_trusts_a_certificate_of_the_plants_own(receive, with_sinks, parts):
    folder, receiver = certified_folder(), receive()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    receiver.server.socket = context.wrap_socket(receiver.server.socket, server_side=True)
    url = receiver.url.replace("http://127.0.0.1", "https://localhost")
    unknown = make_sink(webhook=url, name="unknown")
    running = with_sinks(make_sink(webhook=url, ca_file=str(folder / "cert.pem")), unknown)
    with Client(running.url) as client:
        client.inspect(parts[0], name="good.png")
    until(lambda: len(receiver.taken) == 1)
    until(lambda: any("certificate verify failed" in one.text for one in running.station.problems()))
    assert len(receiver.taken) == 1


def test_a_receiver_that_fails_in_every_way_gets_all_in_order(receive, with_sinks, parts, monkeypatch):
    monkeypatch.setattr(webhook, "TIMEOUTS", httpx.Timeout(2.0))
    away = {"Location": "http://127.0.0.1:9/elsewhere"}
    endless = (500, {"body": b"x" * 50_000_000})  # which nobody reads
    answers = 500, "cut", (302, away), 401, "hang", 204, (429, {"Retry-After": "1"}), 404, 503, endless
    receiver = receive(*answers)
    running = with_sinks(make_sink(webhook=receiver.url))
    sent = send(running.url, parts, range(5))
    until(lambda: f"sink_{running.station.products[NAME]}_1" in codes(running))
    until(lambda: len(receiver.taken) == 5)
    assert numbers(receiver) == sent
    ids = [one.headers["webhook-id"] for one in receiver.requests]
    assert len(ids) == 5 + 9
    assert list(dict.fromkeys(ids)) == [one.headers["webhook-id"] for one in receiver.taken], "in order"
    waited = receiver.times[7] - receiver.times[6]
    assert waited >= 1.0, "Retry-After"
    until(lambda: not codes(running))
    text = httpx.get(f"{running.url}/metrics").text
    for what, count in {"delivered_total": 5, "delivery_failures_total": 9, "sink_backlog": 0}.items():
        assert f'flawscope_{what}{{product="{NAME}",sink="{hiding(receiver.url)}"}} {count}.0' in text


def test_what_is_refused_for_itself_is_noted_and_the_next_one_comes(receive, with_sinks, parts):
    no = (422, {"body": b"no such part\n<b>more</b>"})
    receiver = receive(*[(422, dict(no[1])) for _ in range(delivery.MAX_REFUSALS)])
    running = with_sinks(make_sink(webhook=receiver.url))
    first, second = send(running.url, parts, range(2))
    until(lambda: numbers(receiver) == [second])
    station = running.station
    (event,) = station.store.events(UNDELIVERED, station.products[NAME])
    assert f"inspection.created {first}" in event.text
    assert event.text.endswith("it answered 422 no such part")
    until(lambda: station.sinks.facts(NAME)[0]["refused"] == 1)
    refused = f'flawscope_undelivered_total{{product="{NAME}",sink="{hiding(receiver.url)}"}} 1.0'
    assert refused in httpx.get(f"{running.url}/metrics").text


def test_it_goes_on_after_a_restart_and_a_new_one_begins_with_what_comes(receive, with_sinks, parts):
    dead = f"http://127.0.0.1:{free_port()}/hook"
    running = with_sinks()
    send(running.url, parts, range(2))
    running.close()
    running = with_sinks(make_sink(webhook=dead, name="mes"))
    waiting = send(running.url, parts, range(2, 27))
    with Client(running.url) as client:
        client.verdict(waiting[0], "defect")
    until(lambda: any("26 messages wait for mes: " in one.text for one in running.station.problems()))
    facts = running.station.sinks.facts(NAME)[0]
    assert facts["waiting"] == 26
    assert "cannot be reached" in facts["error"]
    running.close()
    receiver, second = receive(), receive()
    running = with_sinks(make_sink(webhook=receiver.url, name="mes"), make_sink(webhook=second.url))
    until(lambda: len(receiver.taken) == 26)
    assert numbers(receiver) == [*waiting, waiting[0]], "those before it was there are not its"
    assert receiver.taken[-1].json["type"] == "verdict.given"
    waiting = send(running.url, parts, range(30, 31))
    until(lambda: numbers(second) == waiting)
    running.close()
    with_sinks().close()
    running = with_sinks(make_sink(webhook=receiver.url, name="mes"))
    (last,) = send(running.url, parts, range(31, 32))
    until(lambda: numbers(receiver)[-1] == last)
    assert len(receiver.taken) == 28, "one that was taken out begins anew"


def test_only_anomalous_ones_and_what_people_say_of_all(receive, with_sinks, parts):
    receiver, silent = receive(), receive()
    running = with_sinks(
        make_sink(webhook=receiver.url, only="anomalous"), make_sink(webhook=silent.url, verdicts=False)
    )
    with Client(running.url) as client:
        several = [client.inspect(data) for data in parts]
        client.verdict(several[0].id, "defect")
    bad = [one.id for one in several if one.decision == "anomalous"]
    assert 0 < len(bad) < len(several)
    until(lambda: len(receiver.taken) == len(bad) + 1)
    assert numbers(receiver) == [*bad, several[0].id]
    last = send(running.url, parts, range(1))
    until(lambda: numbers(silent) == [*(one.id for one in several), *last])


def test_a_slow_one_holds_nothing_up(receive, with_sinks, parts):
    """Inspections are answered, and another sink gets all, while it has not answered the first."""
    slow, fast = receive(), receive()
    slow.delay = 60.0
    running = with_sinks(make_sink(webhook=slow.url), make_sink(webhook=fast.url))
    sent = send(running.url, parts, range(20))
    until(lambda: numbers(fast) == sent)
    assert (len(slow.requests), slow.taken) == (1, [])
    slow.ended.set()
    until(lambda: numbers(slow) == sent)


def test_a_station_that_is_killed_loses_nothing(receive, serve, model_file, tmp_path, parts):
    """What comes again has the same id."""
    receiver = receive()
    sinks = [{"webhook": receiver.url}, {"folder": "found"}]
    served = serve({"model": str(model_file), "sinks": sinks})
    served.start()
    load = Load(served.url, parts, clients=2)
    load.start()
    until(lambda: len(load.taken) > 20)
    served.kill()
    served.start()
    count = len(load.taken)
    until(lambda: len(load.taken) > count + 5)
    load.end()
    wanted = {number for number, _ in load.taken.values()}
    until(lambda: set(numbers(receiver)) >= wanted, "lost")
    ids = {one.json["data"]["id"]: one.headers["webhook-id"] for one in receiver.taken}
    assert all(ids[one.json["data"]["id"]] == one.headers["webhook-id"] for one in receiver.taken)
    folder = tmp_path / "found"
    until(lambda: len(list(folder.glob("*/*.json"))) >= len(wanted), "lost")
    served.kill(signal.SIGTERM)
    written = Counter(json.loads(one.read_bytes())["data"]["id"] for one in folder.glob("*/*.json"))
    assert set(written) >= wanted
    assert set(written.values()) == {1}, "twice"


def test_a_restored_station_says_nothing_under_an_id_that_was_used(receive, with_sinks, parts, tmp_path):
    """Its numbers begin again at the backup: who has had the first ones takes the others for new."""
    receiver = receive()
    sinks = make_sink(webhook=receiver.url), make_sink(folder=str(tmp_path / "found"), picture="none")
    running = with_sinks(*sinks)
    send(running.url, parts, range(1))
    until(lambda: [one["delivered"] for one in running.station.sinks.facts(NAME)] == [1, 1])
    settings = running.station.settings
    backup(settings, tmp_path / "backup.tar")
    send(running.url, parts, range(1, 2))
    until(lambda: len(said(receiver)) == 2 and len(list((tmp_path / "found").glob("*/*.json"))) == 2)
    running.close()
    restore(tmp_path / "backup.tar", replace(settings, store=str(tmp_path / "restored")))
    running = with_sinks(*sinks, store=str(tmp_path / "restored"))
    send(running.url, parts, range(2, 3))
    until(lambda: len(said(receiver)) == 3 and len(list((tmp_path / "found").glob("*/*.json"))) == 3)
    assert sorted(said(receiver).values()) == [1, 2, 2]


def said(receiver):
    """Numbers of the inspections of which it was told, by the messages' ids: one may come twice."""
    return {one.headers["webhook-id"]: one.json["data"]["id"] for one in receiver.taken}


def test_a_full_disk_is_waited_for(with_sinks, parts, tmp_path, monkeypatch):
    running = with_sinks(make_sink(folder=str(tmp_path / "found"), picture="none"))
    said = {errno.ENOSPC: "its disk is full", errno.EDQUOT: "its disk is full", errno.EROFS: "is read-only"}
    for count, (number, words) in enumerate(said.items(), 1):
        with monkeypatch.context() as patch:
            patch.setattr(
                folder_sink, "rename_without_overwrite", failing(OSError(number, os.strerror(number)))
            )
            send(running.url, parts, range(count, count + 1))
            until(lambda words=words: any(words in one.text for one in running.station.problems()))
        until(lambda count=count: len(list((tmp_path / "found").glob("*/*.json"))) == count)
    assert not list((tmp_path / "found").rglob(".*")), "nothing is left of what was begun"


def test_the_page_shows_where_inspections_go(receive, with_sinks, parts):
    url = receive(*[500] * 100_000).url.removesuffix("/hook")
    running = with_sinks(*(make_sink(webhook=f"{url}/services/secret{n}?token=secret") for n in range(2)))
    send(running.url, parts, range(2))
    until(lambda: codes(running))
    for language, words in (("en", ("Delivered to", "2 waiting")), ("de", ("Geliefert an", "2 warten"))):
        page = httpx.get(f"{running.url}/{NAME}/live", headers={"Accept-Language": language}).text
        for word in words:
            assert word in page
        assert "secret" not in page
    metrics = httpx.get(f"{running.url}/metrics").text
    assert "secret" not in metrics
    assert f'"{url}/…"' in metrics
    assert f'"{url}/… (2)"' in metrics, "two at a host are told apart"


def test_pictures_go_along_and_those_that_are_gone_do_not_hold_up(receive, with_sinks, parts):
    receiver = receive(*[503] * 100_000)
    running = with_sinks(make_sink(webhook=receiver.url, picture="both"))
    with Client(running.url) as client:
        several = [client.inspect(parts[0], name="good.png"), client.inspect(parts[-1], name="bad.png")]
    assert [one.decision for one in several] == ["good", "anomalous"]
    station = running.station
    clock = aged(station.database)
    retention = Retention(
        station.database, station.files, RetentionSettings(good="1 hour", anomalous=None), clock
    )
    assert retention.run().pictures == 1
    receiver.answers.clear()
    until(lambda: len(receiver.taken) == 2)
    gone, there = (one.json["data"] for one in receiver.taken)
    assert gone["picture"] is None
    assert gone["images"] == {"picture": None, "overlay": None}
    assert gone["missing"] == "the picture was removed, as `keep` says"
    for name in ("picture", "overlay"):
        head, data = there["images"][name].split(",")
        assert head == "data:image/webp;base64"
        assert base64.b64decode(data)[8:12] == b"WEBP"
    assert "missing" not in there


def test_of_a_further_product_a_sink_that_cannot_be_used_is_a_problem_and_the_others_deliver(
    receive, with_sinks, parts, tmp_path
):
    running, receiver = with_sinks(), receive()
    (tmp_path / "file").touch()
    wrong, right = make_sink(folder=str(tmp_path / "file" / "found")), make_sink(webhook=receiver.url)
    sinks = running.station.sinks
    product = replace(sinks.settings.products[NAME], sinks=(wrong, right))
    sinks.add_product(sinks.products[NAME], NAME, product)
    assert codes(running) == [f"sink_{sinks.products[NAME]}_1"]
    sent = send(running.url, parts, range(2))
    until(lambda: numbers(receiver) == sent)

"""The station's broker: a real Mosquitto, cut, killed and started again."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from flawscope_station.client import Client
from flawscope_station.settings.station import ProductSettings
from flawscope_station.sinks import UNDELIVERED
from flawscope_station.sinks.delivery import POLL_INTERVAL
from flawscope_station.sinks.mqtt import MqttSink
from sink_helpers import Cable, Listener, Mosquitto, certified_folder, listens, make_broker, new_folder
from station_helpers import NAME, Load, Running, free_port, until

ROOT = Path(__file__).parents[3]
BEGIN = "plant/hall 2/station"
TOPIC, STATE = (f"{BEGIN}/{NAME}/{kind}" for kind in ("inspection", "state"))
STATUS, PROBLEM = f"{BEGIN}/status", f"{BEGIN}/problem"

needs_mosquitto = pytest.mark.skipif(
    Mosquitto.program() is None, reason="no Mosquitto: apt-get install mosquitto"
)


@contextmanager
def listening(folder: Path, settings: str = "") -> Iterator[Mosquitto]:
    """A broker, and its folder until it ends."""
    made = Mosquitto(folder, settings)
    made.start()
    try:
        yield made
    finally:
        made.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def broker():
    with listening(new_folder()) as made:
        yield made


@pytest.fixture
def listen():
    with ExitStack() as stack:
        yield lambda *words, **more: stack.enter_context(closing(Listener(*words, **more)))


def send(url: str, parts: list[bytes], names: range | list[str]) -> list[int]:
    """Numbers of the inspections."""
    with Client(url) as client:
        return [client.inspect(parts[0] + str(name).encode(), name=str(name)).id for name in names]


def broker_of(running: Running) -> MqttSink:
    """As the station sees it."""
    (delivery,) = running.station.sinks.deliveries
    assert isinstance(delivery.sink, MqttSink)
    return delivery.sink


def online(listener: Listener) -> bool:
    return listener.last(STATUS) == "online"


@needs_mosquitto
def test_inspections_verdicts_states_and_problems_are_there(broker, open_station, listen, parts):
    """On both databases."""
    running = open_station(
        mqtt=make_broker(broker=broker.url, topic="plant/hall 2"), public=("line3.example",)
    )
    listener = listen(broker.port, "plant/#")
    until(lambda: online(listener))
    with Client(running.url) as client:
        good = client.inspect(parts[0], name="good.png")
        begun = time.monotonic()
        bad = client.inspect(parts[-1], name="bad.png")
        until(lambda: listener.numbers(TOPIC)[bad.id])
        took = time.monotonic() - begun
        client.verdict(bad.id, "defect")
        client.verdict(bad.id, "undo")
        verdicts = f"{BEGIN}/{NAME}/verdict"
        until(lambda: len(listener.of(verdicts)) == 2)
        shown = httpx.get(f"{running.url}/api/v1/products/{NAME}/inspections/{bad.id}").json()
    assert took < POLL_INTERVAL / 2, "it was woken"
    sent = listener.of(TOPIC)[1]
    assert (sent["type"], sent["timestamp"]) == ("inspection.created", shown["at"])
    assert {name: sent["data"][name] for name in shown} == shown
    assert [one["data"]["said"]["verdict"] for one in listener.of(verdicts)] == ["defect", "undo"]
    assert [one["data"]["id"] for one in listener.of(TOPIC)] == [good.id, bad.id]
    until(lambda: (listener.last(STATE) or {}).get("inspections") == 2)
    state = listener.last(STATE)
    assert (state["id"], state["decision"], state["score"]) == (bad.id, bad.decision, bad.score)
    assert state["version"] == bad.version
    assert state["share_24_hours"] == state["anomalous"] / 2
    nothing = {"count": 0, "problems": []}
    until(lambda: listener.last(PROBLEM) == nothing, lambda: listener.last(PROBLEM))
    running.station.report("camera_lost_1", "no picture for 10 s")
    until(lambda: listener.last(PROBLEM)["count"] == 1)
    assert listener.last(PROBLEM)["problems"][0]["code"] == "camera_lost_1"
    (facts,) = running.station.sinks.facts(NAME)
    assert (facts["name"], facts["kind"], facts["delivered"]) == (broker.url, "mqtt", 4)
    late = listen(broker.port, "plant/#", name="late", clean=True)
    until(lambda: online(late) and late.last(STATE), "states are retained")
    assert late.of(TOPIC) == [], "inspections are not"
    running.close()
    until(lambda: listener.last(STATUS) == "offline")


def first_ones(listener: Listener) -> list[int]:
    """Numbers of the inspections in the order in which they came; one that comes again has the same id."""
    ids = {one["id"]: one["data"]["id"] for one in listener.of(TOPIC)}
    assert len(set(ids.values())) == len(ids)
    return list(ids.values())


@needs_mosquitto
def test_a_cable_that_is_cut_again_and_again(broker, open_station, listen, parts):
    """Nothing is lost, all comes in order, what comes twice has the same id; the page says that the broker is
    away."""
    cable = Cable(broker.port)
    running = open_station(mqtt=make_broker(broker=f"mqtt://127.0.0.1:{cable.port}", topic="plant/hall 2"))
    listener = listen(broker.port, TOPIC, STATUS)
    until(lambda: online(listener))
    load = Load(running.url, parts, clients=2)
    load.start()
    for pause in (0.05, 0.21, 0.33):
        before = len(load.taken)
        until(lambda before=before: len(load.taken) >= before + 3)
        time.sleep(pause)
        cable.cut()
        until(lambda: any(one.code == "mqtt_away" for one in running.station.problems()))
        until(lambda: listener.last(STATUS) == "offline", "the broker says so")
        cable.plug()
        until(lambda: broker_of(running).is_connected)
    load.end()
    numbers = sorted(number for number, _ in load.taken.values())
    until(lambda: len(listener.numbers(TOPIC)) == len(numbers))
    assert first_ones(listener) == numbers
    until(lambda: not [one for one in running.station.problems() if one.code == "mqtt_away"])
    assert not load.odd
    cable.close()


@needs_mosquitto
def test_a_broker_that_is_killed_in_the_middle_of_it_loses_nothing(broker, open_station, listen, parts):
    """What was on its way may come again, under the same id."""
    running = open_station(mqtt=make_broker(broker=broker.url, topic="plant/hall 2"))
    listener = listen(broker.port, TOPIC, STATUS)
    until(lambda: online(listener))
    time.sleep(0.5)  # Mosquitto writes down a moment later who listens: else what comes first has no reader
    load = Load(running.url, parts, clients=2)
    load.start()
    until(lambda: len(load.taken) > 10)
    broker.kill()
    before = len(load.taken)
    until(lambda: len(load.taken) > before + 10)
    broker.start()
    until(lambda: broker_of(running).is_connected)
    load.end()
    numbers = {number for number, _ in load.taken.values()}
    until(lambda: set(listener.numbers(TOPIC)) >= numbers, "lost")
    first_ones(listener)


@needs_mosquitto
def test_a_password_and_rights(open_station, listen, tmp_path, parts):
    """The broker's refusal is shown, and ends when it is mended; nothing shows the password."""
    if shutil.which("mosquitto_passwd") is None:
        pytest.skip("no mosquitto_passwd: apt-get install mosquitto")
    folder = new_folder()
    subprocess.run(
        ["mosquitto_passwd", "-b", "-c", str(folder / "words"), "line", "sesame"], check=True, timeout=20
    )
    rights = folder / "rights"
    rights.write_text("user line\ntopic write plant/#\n")
    (folder / "words").chmod(0o600)
    secret = tmp_path / "mqtt.password"
    secret.write_text("open\n")
    with listening(folder, f"password_file {folder}/words\nacl_file {rights}") as broker:
        running = open_station(
            mqtt=make_broker(broker=broker.url, topic="plant/hall 2", user="line", password_file=str(secret))
        )
        until(lambda: any("refuses" in one.text for one in running.station.problems()))
        (problem,) = running.station.problems()
        assert "Not authorized" in problem.text
        assert "open" not in problem.text.replace("openssl", "")
        secret.write_text("sesame\n")
        until(lambda: broker_of(running).is_connected)
        send(running.url, parts, range(3))
        until(lambda: running.station.sinks.facts(NAME)[0]["delivered"] == 3)


@needs_mosquitto
def test_tls_with_a_certificate_of_ones_own(open_station, parts, tmp_path):
    folder = certified_folder()
    with listening(folder, f"certfile {folder}/cert.pem\nkeyfile {folder}/key.pem") as broker:
        url = f"mqtts://localhost:{broker.port}"
        unknown = open_station(mqtt=make_broker(broker=url), store=str(tmp_path / "other"), database=None)
        until(lambda: any("certificate verify failed" in one.text for one in unknown.station.problems()))
        running = open_station(mqtt=make_broker(broker=url, ca_file=str(folder / "cert.pem")))
        until(lambda: broker_of(running).is_connected)
        send(running.url, parts, range(3))
        until(lambda: running.station.sinks.facts(NAME)[0]["delivered"] == 3)


def test_a_broker_that_never_was_harms_nothing(running, open_station, parts):
    running.close()
    there = open_station(mqtt=make_broker(broker=f"mqtt://127.0.0.1:{free_port()}"))
    assert len(send(there.url, parts, range(3))) == 3
    until(lambda: any("3 messages wait" in one.text for one in there.station.problems()))
    begun = time.monotonic()
    there.close()
    assert time.monotonic() - begun < 15


@needs_mosquitto
def test_mosquitto_takes_the_file_of_the_container(tmp_path):
    """With folders of this machine in the place of the container's."""
    text = (ROOT / "deploy/mosquitto.conf").read_text()
    folder = new_folder()
    (folder / "users").write_text("")
    (folder / "users").chmod(0o600)
    port = free_port()
    for old, new in (
        ("listener 1883", f"listener {port} 127.0.0.1"),
        ("/run/secrets/mosquitto_users", str(folder / "users")),
        ("/mosquitto/data/", f"{folder}/"),
    ):
        assert old in text
        text = text.replace(old, new)
    (folder / "conf").write_text(text + "user root\n")
    program = Mosquitto.program()
    assert program
    process = subprocess.Popen(
        [program, "-c", str(folder / "conf")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        until(lambda: process.poll() is not None or listens(port))
        assert process.poll() is None
    finally:
        process.kill()
        said = process.communicate()[0].decode()
        shutil.rmtree(folder, ignore_errors=True)
    assert "Error" not in said, said


def states(broker: Mosquitto, listen: Any, name: str) -> set[str]:
    """Products whose states the broker keeps for one who comes now."""
    late = listen(broker.port, "plant/#", name=name, clean=True)
    until(lambda: online(late))
    until(lambda: late.last(PROBLEM) is not None, "what is kept has come")
    return {topic.split("/")[-2] for topic, text in late.messages if text and topic.endswith("/state")}


@needs_mosquitto
def test_the_state_of_a_product_that_was_removed_is_kept_no_more(broker, open_station, listen, model_file):
    """On the pages, and in the settings between two starts; one that comes back has its state again."""
    settings = {"mqtt": make_broker(broker=broker.url, topic="plant/hall 2")}
    running = open_station(**settings)
    addresses = running.station.addresses
    addresses.add_product("flask", ProductSettings(model=str(model_file)), "pages", "anna", {})
    until(lambda: states(broker, listen, "a") == {NAME, "flask"})
    addresses.remove_product("flask", "anna")
    until(lambda: states(broker, listen, "b") == {NAME})
    addresses.add_product("flask", ProductSettings(model=str(model_file)), "pages", "anna", {})
    until(lambda: states(broker, listen, "c") == {NAME, "flask"})
    running.close()
    again = open_station(**settings)
    assert "flask" not in again.station.products, "neither the settings nor a draft name it"
    until(lambda: states(broker, listen, "d") == {NAME})


@needs_mosquitto
def test_one_message_that_is_too_large_for_the_broker_holds_up_no_later_one(
    open_station, listen, parts, monkeypatch
):
    """Mosquitto ends the connection at a packet above its limit, again at each try."""
    monkeypatch.setattr("flawscope_station.sinks.delivery.MIN_RETRY_DELAY", 0.1)
    with listening(new_folder(), "max_packet_size 1500\n") as broker:
        running = open_station(mqtt=make_broker(broker=broker.url, topic="plant/hall 2"))
        listener = listen(broker.port, TOPIC, STATUS)
        until(lambda: online(listener))
        with Client(running.url) as client:
            first = client.inspect(parts[0], name="a.png")
            until(lambda: listener.numbers(TOPIC)[first.id])
            large = client.inspect(parts[1], name="b.png", part="ä" * 450)
            later = client.inspect(parts[2], name="c.png", part="4711")
        until(lambda: listener.numbers(TOPIC)[later.id], "it waits behind one that nobody takes")
        assert not listener.numbers(TOPIC)[large.id]
        (facts,) = running.station.sinks.facts(NAME)
        assert facts["refused"] == 1
        until(lambda: broker_of(running).is_connected)
        until(lambda: online(listener))
        (product,) = {box.product_id for one in running.station.sinks.deliveries for box in one.outboxes}
        (event,) = running.station.store.events(UNDELIVERED, product)
        assert "let it take larger ones" in event.text


@needs_mosquitto
def test_two_stations_of_one_name_are_told(broker, open_station, listen, tmp_path):
    """A copied settings file. The one that ends says that it is offline: the other one is not."""
    settings = {"mqtt": make_broker(broker=broker.url, topic="plant/hall 2")}
    running = open_station(**settings)
    listener = listen(broker.port, STATUS)
    until(lambda: online(listener))
    other = open_station(store=str(tmp_path / "other"), **settings)
    for one in (running, other):
        until(lambda one=one: "two stations have one name" in str(broker_of(one).remark))
    other.close()
    until(lambda: online(listener) and broker_of(running).is_connected)

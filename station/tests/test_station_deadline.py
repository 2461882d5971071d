"""Deadlines, turns of products, and large pictures: nobody waits for long behind others."""

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image

from flawscope import load
from flawscope.errors import FlawscopeError
from flawscope_station.client import Client
from flawscope_station.inspecting import memory as memory_module
from flawscope_station.inspecting.memory import BusyError, MemoryBudget
from flawscope_station.inspecting.queues import TURN_LENGTH, FairQueue
from flawscope_station.settings.station import Limits, ProductSettings
from station_helpers import INSPECTIONS, NAME, held, png, post, recorded, until


def test_products_take_turns():
    queue: FairQueue[str] = FairQueue()
    for place in range(2 * TURN_LENGTH):
        queue.put(1, f"a{place}")
    queue.put(2, "b")
    assert queue.pop() == "a0"
    turn = [queue.pop_same_turn(1, taken) for taken in range(1, TURN_LENGTH + 1)]
    assert turn == [*(f"a{place}" for place in range(1, TURN_LENGTH)), None], "the other one waits"
    assert [queue.pop(), queue.pop_same_turn(2, 1), queue.pop()] == ["b", None, f"a{TURN_LENGTH}"]
    assert queue.pop_same_turn(1, TURN_LENGTH) == f"a{TURN_LENGTH + 1}", "nobody else waits"
    queue.put(1, "gone")
    left = len(queue)
    assert queue.remove(lambda job: job == "gone") == ["gone"]
    assert len(queue) == left - 1


def test_the_delay_is_that_of_those_before_in_turns():
    queue: FairQueue[str] = FairQueue()
    assert queue.expected_delay(1, {1: 50, 2: 50}) == 0.0, "nobody knows yet"
    for seconds in (0.1, 0.1, 60.0):  # one that was long counts for nothing
        queue.add_time(1, seconds)
        queue.add_time(2, 2 * seconds)
    assert queue.expected_delay(1, {}) == 0.0, "it is tried"
    assert queue.expected_delay(1, {1: 3}) == pytest.approx(0.4)
    assert queue.expected_delay(1, {1: 1, 2: 50}) == pytest.approx(0.2 + 0.2 * TURN_LENGTH)
    assert queue.expected_delay(2, {1: 50}) == pytest.approx(0.2 + 0.1 * TURN_LENGTH)


def test_what_is_not_judged_in_time_is_said_and_not_judged(running, parts):
    with held(running.station):
        answer = post(running.url, parts[0], deadline=100)
        assert (answer.status_code, answer.json()["code"]) == (504, "late")
        assert running.station.inspector.backlog() == 0, "its place is free"
        answer = httpx.post(
            f"{running.url}/api/v1/{INSPECTIONS}",
            params={"deadline": 100},
            files=[("files", (f"{k}.png", parts[k])) for k in range(2)],
            timeout=60,
        )
        assert answer.status_code == 504
        assert [one["code"] for one in answer.json()["results"]] == ["late", "late"]
    assert post(running.url, parts[0], deadline=60_000).status_code == 201
    assert len(recorded(running.station)) == 1
    number = running.station.products[NAME]
    problems = {one["code"] for one in httpx.get(f"{running.url}/api/v1/status").json()["problems"]}
    assert f"late_{number}" in problems or until(
        lambda: f"late_{number}" in {one.code for one in running.station.problems()}
    )
    counted = f'flawscope_refused_total{{product="{NAME}",reason="late"}} 3.0'
    assert counted in httpx.get(f"{running.url}/metrics").text


def test_what_cannot_be_in_time_is_refused_at_once(running, parts):
    inspector, number = running.station.inspector, running.station.products[NAME]
    with ThreadPoolExecutor(1) as pool, held(running.station):
        waiting = pool.submit(post, running.url, parts[0])
        until(lambda: inspector.backlog() == 1)
        inspector.judge._queue.add_time(number, 50.0)
        begun = time.monotonic()
        answer = post(running.url, parts[1], deadline=30_000)
        assert (answer.status_code, answer.json()["code"]) == (504, "late")
        assert time.monotonic() - begun < 20
        assert inspector.backlog() == 1
        held_back = waiting
    assert held_back.result().status_code == 201
    assert post(running.url, parts[1], deadline=30_000).status_code == 201, "none is before it: it is tried"


def test_a_product_has_a_deadline_and_a_client_asks_once(open_station, settings, parts):
    running = open_station(products={NAME: ProductSettings(settings.products[NAME].model, deadline="100 ms")})
    with held(running.station), Client(running.url) as client:
        with pytest.raises(FlawscopeError, match="not judged in time"):
            client.inspect(parts[0], deadline=200)
        assert running.station.metrics.refused.labels(NAME, "late")._value.get() == 1
        assert post(running.url, parts[0]).json()["code"] == "late"
    with Client(running.url) as client:
        assert client.inspect(parts[0], deadline=60_000).id


def test_a_flood_leaves_room_and_turns(open_station, settings, parts):
    model = ProductSettings(settings.products[NAME].model)
    running = open_station(products={NAME: model, "other": model}, limits=Limits(queue=16))
    inspector = running.station.inspector
    with ThreadPoolExecutor(20) as pool:
        with held(running.station):
            flood = [pool.submit(post, running.url, parts[k % len(parts)] + bytes([k])) for k in range(20)]
            until(lambda: sum(one.done() for one in flood) == 8)
            assert {one.result().status_code for one in flood if one.done()} == {503}
            other = pool.submit(post, running.url, parts[0], "other")
            until(lambda: inspector.backlog(running.station.products["other"]) == 1)
            until(lambda: len(inspector.judge._queue) == 13)
        assert other.result().status_code == 201
        assert sum(one.result().status_code == 201 for one in flood) == 12
    (found,) = recorded(running.station, "other")
    assert found["id"] <= TURN_LENGTH + 1


def test_a_product_that_was_removed_keeps_no_places(open_station, settings):
    model = ProductSettings(settings.products[NAME].model)
    running = open_station(products={NAME: model, "other": model}, limits=Limits(queue=4))
    station = running.station
    assert station.inspector.intake._is_full(station.products[NAME], 4), "one place is the other's"
    station.addresses.remove_product("other", "anna")
    assert not station.inspector.intake._is_full(station.products[NAME], 4)


def test_memory_is_given_in_the_order_in_which_it_was_asked_for():
    memory, got = MemoryBudget(100), []
    assert memory.acquire(60)

    def ask(count: int) -> None:
        memory.acquire(count)
        got.append(count)

    threads = []
    for count in (500, 30):
        threads.append(threading.Thread(target=ask, args=(count,)))
        threads[-1].start()
        until(lambda: len(memory._claims) == len(threads))
    assert not memory.acquire(10, 0.01), "two are before"
    assert got == []
    assert len(memory._claims) == 2
    memory.release(60)
    until(lambda: got == [500])  # more than all of it: alone
    memory.release(500)
    until(lambda: got == [500, 30])
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_large_picture_waits_for_memory_and_an_ordinary_one_does_not(
    open_station, model_file, parts, monkeypatch, mode
):
    monkeypatch.setattr(memory_module, "LARGE_PIXELS", 500_000)
    monkeypatch.setattr(memory_module, "MEMORY_TIMEOUT", 0.1)
    data = png(Image.open(io.BytesIO(parts[-1])).resize((1000, 700)).convert(mode))
    running = open_station()
    memory = running.station.inspector.memory
    memory.acquire(memory.limit)
    with ThreadPoolExecutor(1) as pool:
        large = pool.submit(post, running.url, data)
        until(lambda: memory._claims)
        assert post(running.url, parts[0]).status_code == 201
        assert not large.done()
        with pytest.raises(BusyError), memory.hold(data, "large"):
            pass
        memory.release(memory.limit)
        found = large.result().json()
    expected = load(model_file, device="cpu", threads=1).predict(data)
    assert found["score"] == expected.score
    until(lambda: memory.used == 0)
    view = httpx.get(f"{running.url}/api/v1/{INSPECTIONS}/{found['id']}/view?side=100")
    assert Image.open(io.BytesIO(view.content)).size == (100, 70)


def test_transparency_in_tall_pictures_is_as_in_one_piece():
    from flawscope.pictures.decoding import decode

    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (600, 7, 4), np.uint8)
    image = Image.fromarray(values)
    paper = Image.new("RGB", image.size, "white")
    paper.paste(image.convert("RGB"), mask=image.getchannel("A"))
    np.testing.assert_array_equal(decode(image), np.asarray(paper))

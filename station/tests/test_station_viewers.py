"""People who look do not stop the line: pictures go first, and what is drawn for people is bounded."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from flawscope_station.core.event_broadcaster import EventBroadcaster
from flawscope_station.core.station import Station
from flawscope_station.inspecting import judge
from flawscope_station.inspecting import renderings as renderings_module
from flawscope_station.inspecting.memory import BusyError, Turns
from flawscope_station.inspecting.picture import Part
from flawscope_station.setup.drafts import Drafts
from flawscope_station.store.files import MAPS
from flawscope_station.web.app import create_app
from station_helpers import INSPECTIONS, NAME, held, inspect, one_part, started, until


def picture(station: Station, data: bytes, name: str = "a.png") -> Part:
    return one_part(station.products[NAME], data, name)


def forget_maps(station: Station) -> None:
    """As of pictures that were inspected long ago."""
    until(lambda: station.renderer._recent)  # an answer goes before its map is kept
    until(lambda: station.renderer._unwritten._value == renderings_module.MAX_UNWRITTEN)
    station.renderer._recent.clear()
    station.renderer._recent_bytes = 0
    for path in (station.files.folder / MAPS).rglob("*.npz"):
        path.unlink()


def ask(station: Station, work: Callable[[httpx.AsyncClient], Any]) -> Any:
    """Call the application in this process."""

    async def run() -> Any:
        transport = httpx.ASGITransport(create_app(station), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1/api/v1") as client:
            return await work(client)

    return asyncio.run(run())


def test_pictures_that_wait_go_before_what_is_drawn(station, parts):
    inspector, done = station.inspector, list[str]()
    add = inspector.judge.recorder.add
    inspector.judge.recorder.add = lambda judged: (done.append("judged"), add(judged))[1]
    with held(station):
        drawn = [inspector.judge.run_between(lambda: done.append("drawn")) for _ in range(3)]
        answers = inspector.submit_all([picture(station, data) for data in parts[:3]])
        until(lambda: len(inspector.judge._queue) == 3)
    for future in (*drawn, *answers):
        future.result(60)
    assert done == ["judged"] * 3 + ["drawn"] * 3


def test_a_new_picture_waits_for_one_that_is_drawn_at_most(station, parts):
    inspector, done = station.inspector, list[str]()
    add = inspector.judge.recorder.add
    inspector.judge.recorder.add = lambda judged: (done.append("judged"), add(judged))[1]

    def draw() -> None:
        answers.append(inspector.submit(picture(station, parts[len(answers)])))
        until(lambda: len(inspector.judge._queue) == 1)
        done.append("drawn")

    answers: list[Any] = []
    with held(station):
        drawn = [inspector.judge.run_between(draw) for _ in range(3)]
    for future in drawn:
        future.result(60)
    for answer in answers:
        answer.result(60)
    assert done == ["drawn", "judged"] * 3


@pytest.mark.parametrize("what", ["overlay", "map", "mask"])
def test_too_many_are_refused_at_once_and_one_that_waited_in_vain_is_no_fault(
    station, parts, monkeypatch, what
):
    monkeypatch.setattr(renderings_module, "REDRAW_TIMEOUT", 0.05)
    number = inspect(station, parts[0])
    forget_maps(station)
    address = f"/{INSPECTIONS}/{number}/{what}"
    with held(station):
        late = ask(station, lambda client: client.get(address))
        assert not station.inspector.judge._model_calls, "nobody waits for it any more"
        for _ in range(judge.MAX_MODEL_CALLS):
            station.inspector.judge.run_between(int)
        monkeypatch.setattr(renderings_module, "REDRAW_TIMEOUT", 60.0)
        refused = ask(station, lambda client: client.get(address))
    for answer in (late, refused):
        assert (answer.status_code, answer.json()["code"]) == (503, "busy")
        assert int(answer.headers["Retry-After"]) >= 1
    until(lambda: ask(station, lambda client: client.get(address)).status_code == 200)  # those calls go first


def test_a_large_picture_that_is_drawn_holds_no_memory_while_it_waits(station, parts, monkeypatch):
    monkeypatch.setattr("flawscope_station.inspecting.memory.LARGE_PIXELS", 100)
    number = inspect(station, parts[0])
    forget_maps(station)
    with held(station):
        thread = threading.Thread(
            target=station.renderer.overlay, args=(station.products[NAME], number, 320), daemon=True
        )
        thread.start()
        until(lambda: station.inspector.judge._model_calls)
        assert station.inspector.memory.used == 0
    thread.join(60)
    assert not thread.is_alive()


def test_what_is_drawn_again_is_forgotten_again(station, parts, monkeypatch):
    numbers = [inspect(station, data) for data in parts[:6]]
    size = next(iter(station.renderer._recent.values())).map.nbytes
    monkeypatch.setattr(renderings_module, "CACHE_BYTES", 3 * size)
    forget_maps(station)
    for number in numbers:
        station.renderer.overlay(station.products[NAME], number, 320)
    assert len(station.renderer._recent) == 3
    assert station.renderer._recent_bytes == 3 * size


def test_maps_that_cannot_be_written_soon_enough_are_computed_again(settings, parts, monkeypatch):
    monkeypatch.setattr(renderings_module, "MAX_UNWRITTEN", 2)
    station = started(settings)
    try:
        going, write = threading.Event(), station.files.write

        def slow(path: Any, data: bytes, **how: Any) -> None:
            assert MAPS not in path.parts or going.wait(600)  # on a busy machine, too
            write(path, data, **how)

        monkeypatch.setattr(station.files, "write", slow)
        numbers = [inspect(station, parts[-1] + bytes([k])) for k in range(6)]
        going.set()
        until(lambda: station.renderer._unwritten._value == 2)
        assert len(list((station.files.folder / MAPS).rglob("*.npz"))) == 2
        station.renderer._recent.clear()
        assert all(station.renderer.overlay(station.products[NAME], one, 320) for one in numbers)
    finally:
        station.close()


def test_turns_are_few_and_those_that_wait_too():
    turns, idle = Turns(1, 2), list[float]()
    turns.wait_idle = idle.append
    inside, most = 0, 0

    def look() -> None:
        nonlocal inside, most
        with turns.take():
            inside += 1
            most = max(most, inside)
            inside -= 1

    threads = [threading.Thread(target=look) for _ in range(2)]
    with turns.take():
        for thread in threads:
            thread.start()
        until(lambda: turns._waiting_count == 2)
        begun = time.monotonic()
        with pytest.raises(BusyError), turns.take():
            pass
        assert time.monotonic() - begun < 10, "at once"
        patient = threading.Thread(target=lambda: turns.take(patient=True).__enter__())
        patient.start()
        until(lambda: turns._waiting_count == 3)
    for thread in (*threads, patient):
        thread.join(60)
    assert (most, len(idle), turns._waiting_count) == (1, 4, 0)


def test_a_turn_waits_until_pictures_are_answered(station, parts):
    inspector = station.inspector
    with held(station), ExitStack() as stack:
        inspector.submit(picture(station, parts[0]))
        until(lambda: len(inspector.judge._queue) == 1)
        waited = list[float]()
        station.records.turns.wait_idle = lambda seconds: waited.append(inspector.backlog())
        stack.enter_context(station.records.turns.take())
        assert waited == [1]
    until(lambda: not inspector.backlog())
    begun = time.monotonic()
    inspector.intake.wait_idle(60.0)
    assert time.monotonic() - begun < 30


LOOKS = (
    f"/{INSPECTIONS}/1/view",
    f"/{INSPECTIONS}/1/overlay",
    f"/{INSPECTIONS}/1/map",
    f"/{INSPECTIONS}/1/mask",
    f"/{INSPECTIONS}",
    f"/products/{NAME}/trends",
    f"/products/{NAME}/export",
    f"/products/{NAME}/export?format=xlsx",
    f"/products/{NAME}/learning",
    f"/products/{NAME}/shift-report?since=2020-01-01&until=2021-01-01",
)


def test_viewers_that_wait_take_nothing_an_inspection_needs(station, parts):
    """More than the server has threads, all of which wait; the inspection has a key and a deadline."""
    inspect(station, parts[0])

    async def work(client: httpx.AsyncClient) -> Any:
        with ExitStack() as stack:
            for _ in range(station.records.turns.most):
                stack.enter_context(station.records.turns.take())
            looks = [asyncio.create_task(client.get(path, timeout=60)) for path in LOOKS * 6]
            while station.records.turns._waiting_count < 10:
                await asyncio.sleep(0.01)
            loop = asyncio.get_running_loop()
            going = threading.Event()  # try-outs, uploads and streams wait in the loop's own threads
            blocked = [loop.run_in_executor(None, going.wait, 60) for _ in range(40)]
            answers = []
            for k, data in enumerate(parts[1:4]):
                headers = {"Idempotency-Key": f"k{k}", "Content-Type": "image/png"}
                query = {"deadline": 30_000}
                answers.append(await client.post(INSPECTIONS, params=query, content=data, headers=headers))
                answers.append(await client.post(INSPECTIONS, params=query, content=data, headers=headers))
            going.set()
            await asyncio.gather(*blocked)
        return answers, await asyncio.gather(*looks)

    answers, seen = ask(station, work)
    assert [one.status_code for one in answers] == [201, 200] * 3
    assert {one.status_code for one in seen} <= {200, 503}
    assert all("Retry-After" in one.headers for one in seen if one.status_code == 503)
    assert any(one.status_code == 200 for one in seen)


def test_an_export_is_the_same_whatever_its_pages(station, parts, monkeypatch):
    for data in parts[:5]:
        inspect(station, data)
    address = f"/products/{NAME}/export"
    whole = ask(station, lambda client: client.get(address)).text
    monkeypatch.setattr("flawscope_station.store.search.MAX_PAGE_SIZE", 2)
    taken = list[bool]()
    take = station.records.turns.take
    monkeypatch.setattr(
        station.records.turns,
        "take",
        lambda *, patient=False: (taken.append(patient), take(patient=patient))[1],
    )
    assert ask(station, lambda client: client.get(address)).text == whole
    assert whole.count("\r\n") == 6
    assert taken == [False, True, True, True], "a turn for each page"


def test_trials_wait_in_a_bounded_row(station, monkeypatch):
    drafts, going, begun = station.components[Drafts], threading.Event(), threading.Event()
    facts = {"stage": "ready", "name": "new", "model": "none", "result": {}}
    draft: Any = type("Draft", (), facts)()

    def run(work: Any, job: Any, step: Any) -> dict[str, Any]:
        begun.set()
        assert going.wait(60)
        return {"results": []}

    monkeypatch.setattr(drafts.trier, "run", run)
    threads = [
        threading.Thread(target=drafts.try_model, args=(draft, [("a.png", b"")]))
        for _ in range(1 + drafts._trials.most_waiting)
    ]
    for thread in threads:
        thread.start()
    assert begun.wait(60)
    until(lambda: drafts._trials._waiting_count == drafts._trials.most_waiting)
    with pytest.raises(BusyError):
        drafts.try_model(draft, [("a.png", b"")])
    going.set()
    for thread in threads:
        thread.join(60)


def test_a_message_for_many_pages_is_written_once(monkeypatch):
    """The recorder waits for it."""
    pages, written = EventBroadcaster(), list[str]()
    monkeypatch.setattr(
        "flawscope_station.core.event_broadcaster._format_event",
        lambda *message: written.append(message[0]) or message[0],
    )

    async def listen() -> None:
        streams = [pages.stream([1], lambda: [{}]) for _ in range(5)]
        for stream in streams:
            await anext(stream)  # the state
        written.clear()
        pages.publish(1, {"id": 1})
        pages.publish(2, {"id": 2})
        assert [await anext(stream) for stream in streams] == ["inspection"] * 5
        for stream in streams:
            await stream.aclose()

    asyncio.run(listen())
    assert written == ["inspection"]

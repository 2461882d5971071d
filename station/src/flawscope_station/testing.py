"""Checks of a plugin's sources, sinks and pages, each in a real station on generated pictures."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
from PIL import Image
from typing_extensions import override

from flawscope import testing

if TYPE_CHECKING:
    from flawscope_station.core.station import Station
    from flawscope_station.settings.plugins import ConfiguredPlugin, Plugin
    from flawscope_station.settings.sinks import SinkSettings

WAIT_TIMEOUT = 60.0  # seconds that `_wait_for` waits
STOP_TIMEOUT = 35.0  # seconds in which a source or sink must end
PRODUCT = "plate"


def check_source(
    plugin: Plugin,
    settings: Mapping[str, object],
    model: Path,
    away: Callable[[], None] | None = None,
    back: Callable[[], None] | None = None,
) -> None:
    """Check a source: it gives pictures, or one for each trigger, and ends when it is stopped.

    With `away` and `back`, a camera that is away is checked, too: its state, its problem, and that a trigger
    is refused meanwhile.

    Args:
        plugin: of the source.
        settings: as below its name in `station.yaml`; paths are absolute.
        model: exported, small: it judges the pictures.
        away: takes the camera away.
        back: brings the camera back.

    Raises:
        AssertionError: what does not hold.
    """
    from flawscope_station.sources.source import RUNNING, TriggeredSource
    from flawscope_station.store.search import Filters

    sources = (_read_settings(plugin, settings),)
    with (
        tempfile.TemporaryDirectory() as folder,
        _station(Path(folder), model, sources=sources) as station,
    ):
        (source,), product = station.sources[PRODUCT], station.products[PRODUCT]
        state = source.state.to_dict()
        json.dumps(state)  # raises an error if the state is no JSON
        testing.must(all(state[name] for name in ("kind", "name", "place")), "an empty state")
        if isinstance(source, TriggeredSource):
            _check_triggers(station)
        _wait_for(lambda: station.store.totals(product)["inspections"], "it gives no picture")
        _wait_for(
            lambda: source.state.state == RUNNING, f"its state is {source.state.state} and not {RUNNING}"
        )
        testing.must(source.state.last is not None, "its state has no time of the last picture")
        if away and back:
            _check_disconnection(station, away, back)
        begun = time.monotonic()
        source.stop()
        testing.must(time.monotonic() - begun < STOP_TIMEOUT, f"it does not stop within {STOP_TIMEOUT:.0f} s")
        count_at_stop = station.store.totals(product)["inspections"]
        time.sleep(1.0)
        count_now = station.store.totals(product)["inspections"]
        testing.must(count_now == count_at_stop, "it gives pictures after it was stopped")
        names = [inspection["name"] for inspection in station.records.search(product, Filters()).inspections]
        testing.must(all(names), "a picture without a name")


def _check_triggers(station: Station) -> None:
    """Check that each of several triggers is an inspection of its own, and can be withdrawn without harm."""
    from flawscope_station.sources.trigger import shoot
    from flawscope_station.store.inspection import make_label

    find = partial(station.context.cameras, PRODUCT)
    (camera,) = find()
    camera.forget(camera.next_shot())

    async def shoot_all() -> list[Any]:
        due = time.monotonic() + WAIT_TIMEOUT
        labels = [make_label(f"P{number}", None) for number in range(4)]
        return await asyncio.gather(*(shoot(station.context, PRODUCT, find, label, due) for label in labels))

    inspections = asyncio.run(shoot_all())
    testing.must(len({inspection.number for inspection in inspections}) == 4, "triggers share an inspection")
    testing.must(
        {inspection.inspection.part for inspection in inspections} == {"P0", "P1", "P2", "P3"},
        "a part's number is lost",
    )


def _check_disconnection(station: Station, away: Callable[[], None], back: Callable[[], None]) -> None:
    """Check that a camera, while it is away, says so and refuses triggers, and comes back by itself."""
    from flawscope_station.sources.source import AWAY, RUNNING, AwayError, NoFrameError, TriggeredSource

    (source,) = station.sources[PRODUCT]

    def is_refused() -> bool:
        assert isinstance(source, TriggeredSource)
        try:
            source.next_shot().result(WAIT_TIMEOUT)
        except (AwayError, NoFrameError):
            return True
        return False

    away()
    if isinstance(source, TriggeredSource):
        _wait_for(is_refused, "a trigger is not refused with AwayError while the camera is away")
    _wait_for(lambda: source.state.state == AWAY, f"its state is not {AWAY} while the camera is away")
    testing.must(bool(source.state.why), "its state does not say why it is away")
    problem_codes = {problem.code for problem in station.problems()}
    testing.must(
        any(code.startswith("camera_away") for code in problem_codes), "it reports no problem camera_away"
    )
    back()
    _wait_for(lambda: source.state.state == RUNNING, "it does not come back by itself")
    # a proper subset: at least one of the problems is over
    _wait_for(
        lambda: {problem.code for problem in station.problems()} < problem_codes, "the problem does not end"
    )


def check_sink(
    plugin: Plugin, settings: Mapping[str, object], model: Path, received: Callable[[], Sequence[str]]
) -> None:
    """Check a sink: it gets every inspection in order, and none counts twice for the other side.

    A station that was killed sends a message again where it does not know whether the message was taken.

    Args:
        plugin: of the sink.
        settings: as below its name in `station.yaml`; paths are absolute.
        model: exported, small: it judges the pictures.
        received: returns the ids of the messages about inspections that the other side has, the first first.

    Raises:
        AssertionError: what does not hold.
    """
    from flawscope_station.inspecting.picture import Part, Picture
    from flawscope_station.settings.sinks import SinkSettings

    sinks = (SinkSettings(_read_settings(plugin, settings)),)
    rng = np.random.default_rng(0)
    received_before = list(received())
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            with _station(Path(folder), model, sinks=sinks) as station:
                ((delivery, box),) = station.sinks.for_product(PRODUCT)
                number = station.products[PRODUCT]
                pictures = [_draw_png(rng, Path(folder)) for _ in range(3)]
                sent = [
                    Part(number, (Picture(pixels, "Größe 7.png"),), "http", "4711") for pixels in pictures
                ]
                for answer in station.inspector.submit_all(sent):
                    inspection = answer.result(WAIT_TIMEOUT).number
                    station.store.add_verdict(number, inspection, "good", "anna")
                    station.records.note_verdict(number, inspection)
                _wait_for(lambda box=box: not box.waiting(), f"messages wait: {delivery.error}")  # type: ignore[misc]
                testing.must(delivery.error is None, f"an error stays: {delivery.error}")
                testing.must(box.refused == 0, "it refuses messages")
                # as if the station had been killed before it wrote down what was taken
                box.advance(box.cursor._replace(inspection=0, verdict=0))
                station.sinks.wake(number)
                _wait_for(lambda box=box: not box.waiting(), "messages wait that came before")  # type: ignore[misc]
                # saved, so that the next station sends these messages once more
                box.advance(box.cursor._replace(inspection=0, verdict=0))
                box.save()
        message_ids = list(received())[len(received_before) :]
    testing.must(len(message_ids) == len(set(message_ids)), f"a message counts twice: {message_ids}")
    testing.must(len(message_ids) == 6, f"{len(message_ids)} of 6 inspections arrived")
    # an id is `inspection-SENDER-NUMBER-TIME`
    numbers = [int(message_id.split("-")[2]) for message_id in message_ids]
    testing.must(numbers == sorted(numbers), "their order is lost")


def check_page(plugin: Plugin, settings: Mapping[str, object], model: Path) -> None:
    """Check a page, with parts and without, in each language, and that browsers refuse nothing of it.

    The roles that may see it get the page, and no others.

    Args:
        plugin: of the page.
        settings: as below its name in `station.yaml`; paths are absolute.
        model: exported, small: it judges the pictures.

    Raises:
        AssertionError: what does not hold.
    """
    from flawscope_station.inspecting.picture import Part, Picture

    pages = (_read_settings(plugin, settings),)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder, _station(Path(folder), model, pages=pages) as station:
        asyncio.run(_check_answers(station, plugin.name))
        number = station.products[PRODUCT]
        pictures = [_draw_png(rng, Path(folder)) for _ in range(3)]
        sent = [Part(number, (Picture(pixels, "Größe 7.png"),), "http", "4711") for pixels in pictures]
        for answer in station.inspector.submit_all(
            [*sent, Part(number, (Picture(pictures[0], ""),), "http")]
        ):
            answer.result(WAIT_TIMEOUT)
        asyncio.run(_check_answers(station, plugin.name))
        failed = [problem.text for problem in station.problems() if problem.code == "page_failed"]
    testing.must(not failed, f"it raises: {failed}")


async def _check_answers(station: Station, name: str) -> None:
    """Ask for the page as people of each role, in each language."""
    from flawscope_station.access.roles import ROLES, Person, has_role
    from flawscope_station.web.app import create_app
    from flawscope_station.web.templates import PAGES

    (link,) = (entry for entry in station.menu if entry.address.partition("?")[0] == f"/-/pages/{name}")
    address = link.href(PRODUCT)
    transport = httpx.ASGITransport(create_app(station))
    testing.must(has_role(Person("", ROLES[-1]), link.role), f"nobody has the role {link.role}")
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        tokens = {role: station.access.tokens.add(f"{role}{time.time()}", role) for role in ROLES}
        answer = await client.get(address)
        testing.must(answer.status_code == 303, f"who is not signed in gets {answer.status_code}")
        for role, token in tokens.items():
            answer = await client.get(address, headers={"Authorization": f"Bearer {token}"})
            expected = 200 if has_role(Person("", role), link.role) else 403
            testing.must(answer.status_code == expected, f"{role}: {answer.status_code} and not {expected}")
        client.headers["Authorization"] = f"Bearer {tokens[ROLES[-1]]}"
        for language, texts in PAGES.texts.items():
            headers = {"Accept-Language": language}
            answer = await client.get(address, headers=headers)
            page = _PageReader(answer.text)
            testing.must(answer.headers["Content-Language"] == language, f"it is not in {language}")
            testing.must(page.has_main, "it does not stand in the station's frame: extend base.html.j2")
            testing.must(not page.refused, f"browsers refuse this: {page.refused}")
            testing.must(link.text(texts) in answer.text, f"the menu lacks its link in {language}")
            for file in page.files:
                status = (await client.get(file)).status_code
                testing.must(status == 200, f"{file}: {status}")
        answer = await client.get(f"/-/pages/{name}?product=no-such-product")
        testing.must(answer.status_code in (200, 404), f"an unknown product: {answer.status_code}")


class _PageReader(HTMLParser):
    """Reader of the addresses that a page asks for.

    Attributes:
        files: addresses of the station.
        refused: what the Content-Security-Policy forbids, in words.
        has_main: the page has an element with the id `main`.
    """

    def __init__(self, text: str):
        super().__init__()
        self.files: list[str] = []
        self.refused: list[str] = []
        self.has_main = False
        self.feed(text)

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.has_main |= attributes.get("id") == "main"
        is_data = attributes.get("type") == "application/json"
        is_inline_script = tag == "script" and "src" not in attributes and not is_data
        if is_inline_script or tag == "style":
            self.refused.append(f"<{tag}> within the page: a file of its own")
        for name in attributes:
            if name.startswith("on") or name == "style":
                self.refused.append(f"{name}= of <{tag}>")
        address = attributes.get("src") or (attributes.get("href") if tag == "link" else None)
        if not address or address.startswith(("data:", "blob:")):
            return
        if "://" in address or address.startswith("//"):
            self.refused.append(f"{address} of another server")
            return
        self.files.append(address)


def _read_settings(plugin: Plugin, settings: Mapping[str, object]) -> ConfiguredPlugin:
    """Check a plugin's settings, and return them as a station reads them."""
    from flawscope_station.settings.plugins import Plugin as Wanted

    testing.must(isinstance(plugin, Wanted), "it is not a `Plugin`")
    testing.must(dataclasses.is_dataclass(plugin.settings), "its settings are not a dataclass")
    testing.must(plugin.settings.__dataclass_params__.frozen, "its settings are not frozen")
    names = {field.name for field in dataclasses.fields(plugin.settings)}
    testing.must(set(plugin.paths) <= names, f"paths names {set(plugin.paths) - names}, which is no setting")
    testing.must_refuse(lambda: plugin.read({**settings, "no_setting": 1}, Path()), "an unknown setting")
    return plugin.read(settings, Path())


@contextmanager
def _station(
    folder: Path,
    model: Path,
    *,
    pages: tuple[ConfiguredPlugin, ...] = (),
    sources: tuple[ConfiguredPlugin, ...] = (),
    sinks: tuple[SinkSettings, ...] = (),
) -> Iterator[Station]:
    """Run a station with one product, which has these sources and sinks, and without a web server."""
    from flawscope_station.assembly import open_station
    from flawscope_station.settings.station import ProductSettings, Settings

    product = ProductSettings(str(model), drift=None, camera_checks=False, sources=sources, sinks=sinks)
    store = str(folder / "store")
    station = open_station(Settings({PRODUCT: product}, store=store, device="cpu", threads=1, pages=pages))
    try:
        station.start()
        yield station
    finally:
        begun = time.monotonic()
        station.close()
    testing.must(
        time.monotonic() - begun < STOP_TIMEOUT, f"the station does not end within {STOP_TIMEOUT:.0f} s"
    )


def _draw_png(rng: np.random.Generator, folder: Path) -> bytes:
    path = folder / "drawn.png"
    Image.fromarray(testing.draw_good_part(rng)).save(path)
    return path.read_bytes()


def _wait_for(condition: Callable[[], object], message: str) -> None:
    end = time.monotonic() + WAIT_TIMEOUT
    while not condition():
        testing.must(time.monotonic() < end, message)
        time.sleep(0.02)

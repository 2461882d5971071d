"""What others need is kept, `keep: space` holds while pictures come, and a restart does not do all again."""

from __future__ import annotations

import hashlib
import os
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import select

from flawscope.artefact.files import PARTIAL_SUFFIX
from flawscope.pictures import decoding
from flawscope.pictures.decoding import HashedPicture, decode, load_picture, pixel_hash
from flawscope_station.access.authenticator import Access
from flawscope_station.core.extension import Extension
from flawscope_station.core.housekeeping import Housekeeping
from flawscope_station.core.station import Station
from flawscope_station.settings.shifts import ShiftSettings
from flawscope_station.settings.sources import FolderSourceSettings
from flawscope_station.settings.station import ProductSettings, RetentionSettings, Settings
from flawscope_station.sinks import Sinks
from flawscope_station.sinks import delivery as delivery_module
from flawscope_station.sinks import outbox as outbox_module
from flawscope_station.sinks.delivery import Delivery, UndeliveredError
from flawscope_station.sinks.outbox import Outbox
from flawscope_station.store import model_registry as registry_module
from flawscope_station.store.database import Database, now
from flawscope_station.store.files import PICTURES, Files
from flawscope_station.store.model_registry import ModelRegistry
from flawscope_station.store.records import Store
from flawscope_station.store.retention import KEEP_CONFIRMED, Retention
from flawscope_station.store.schema import (
    deliveries,
    inspections,
    removed_files,
    versions,
)
from keeping_helpers import (
    HOUR_OLD,
    count,
    learn_from,
    open_one_fixture,  # noqa: F401
)
from setup_helpers import encoded
from station_helpers import (
    NAME,
    add_version,
    aged,
    delayed,
    inspect,
    png,
    started,
    taken,
    taken_file,
    until,
)


@pytest.fixture(autouse=True)
def without_rest(monkeypatch):
    """Nobody waits for the others' half of the time."""
    pause = Retention._pause
    monkeypatch.setattr(Retention, "_pause", lambda self, seconds: pause(self, 0.0))


def kinds_of_pictures() -> dict[str, bytes]:
    rng = np.random.default_rng(3)
    colour = Image.fromarray(rng.integers(0, 256, (30, 41, 3), np.uint8))
    deep = Image.fromarray(rng.integers(0, 65536, (30, 41)).astype(np.uint16))
    turned = Image.Exif()
    turned[0x0112] = 6
    return {
        "colour": encoded(colour, "PNG"),
        "grey": encoded(colour.convert("L"), "PNG"),
        "one bit": encoded(colour.convert("1"), "PNG"),
        "palette": encoded(colour.convert("P"), "PNG"),
        "see-through": encoded(colour.convert("RGBA"), "PNG"),
        "deep": encoded(deep, "PNG"),
        "floats": encoded(Image.fromarray(rng.random((30, 41), np.float32)), "TIFF"),
        "turned": encoded(colour, "JPEG", exif=turned),
        "wide": encoded(Image.new("L", (700_000, 2), 7), "PNG"),
    }


@pytest.mark.parametrize("kind", kinds_of_pictures())
def test_pixels_are_hashed_as_they_are_decoded(kind):
    data = kinds_of_pictures()[kind]
    source = HashedPicture(data)
    loaded, plain = load_picture(source, "a"), load_picture(data, "a")
    assert source.pixels == pixel_hash(decode(data))
    assert np.array_equal(np.asarray(loaded), np.asarray(plain))
    assert pixel_hash(decode(HashedPicture(data))) == source.pixels


@pytest.mark.both_databases
def test_removal_decodes_nothing(database, tmp_path, monkeypatch):
    files, store = Files(tmp_path / "files"), Store(database)
    product, version = add_version(database)
    learn_from(database, version, "learnt")
    several = [png(np.full((4, 4, 3), shade, np.uint8)) for shade in range(5)]
    for place, data in enumerate(several):
        pixels = "learnt" if place == 2 else f"others {place}"
        store.record([taken_file(files, product, version, data, 0, pixels=pixels)])
    monkeypatch.setattr(decoding, "decode", lambda path: pytest.fail("it is decoded"))
    summary = Retention(database, files, RetentionSettings(good="1 hour"), aged(database)).run()
    assert (summary.pictures, summary.kept) == (4, 1)
    (left,) = (files.folder / PICTURES).glob("*/*")
    assert left.read_bytes() == several[2]


def outbox(database: Database, product: int, **how: Any) -> Outbox:
    return Outbox(database, product, NAME, "webhook:1", station="s", sender="1", address=None, **how)


@pytest.mark.both_databases
@pytest.mark.parametrize("kind", ["inspection", "verdict"])
def test_records_stay_until_a_lost_sink_has_them(database, tmp_path, kind):
    files, store = Files(tmp_path / "files"), Store(database)
    product, version = add_version(database)
    box = outbox(database, product)
    first = [taken_file(files, product, version, f"{k}".encode(), 0) for k in range(4)]
    numbers = [number for number, _ in store.record(first)]
    if kind != "inspection":
        box.advance(box.read_batch(20).end)
        box.save()
        store.add_verdict(product, numbers[1], "good", "anna")
    store.record([taken_file(files, product, version, b"newest", 0)])
    store.add_verdict(product, numbers[-1] + 1, "good", "anna")  # its inspection stays anyway
    retention = Retention(database, files, HOUR_OLD, aged(database))
    removed = retention.run().records
    waits = {"inspection": 4, "verdict": 1}[kind]
    assert removed == 4 - waits
    found = box.read_batch(20)
    ours = [one for one in found.messages if one.number != numbers[-1] + 1]
    assert [one.type.partition(".")[0] for one in ours] == [kind] * waits
    box.advance(found.end)
    box.save()
    retention._checked.clear()
    retention.run()
    with database.reading() as connection:
        assert list(connection.execute(select(inspections.c.id)).scalars()) == [numbers[-1] + 1]


@pytest.mark.both_databases
def test_records_no_sink_wants_wait_for_nobody(database, monkeypatch):
    """A cursor that passes unwanted records is stored, too, though not each time."""
    store, (product, version) = Store(database), add_version(database)
    box = outbox(database, product, only="anomalous", verdicts=False)
    number = store.record([taken(product, version)])[0][0]
    store.add_verdict(product, number, "good", "anna")

    def stored() -> tuple[int, int]:
        with database.reading() as connection:
            row = connection.execute(select(deliveries)).one()
        return row.inspection_id, row.verdict_id

    sink: Any = SimpleNamespace(kind="webhook", label="mes", refresh=lambda: 1.0, send=pytest.fail)
    delivery = Delivery(sink, [box], lambda why: None)
    delivery._deliver_pages()
    assert stored() == (0, 0)
    monkeypatch.setattr(outbox_module, "SAVE_INTERVAL", 0.0)
    delivery._polled_at -= delivery_module.POLL_INTERVAL
    delivery._deliver_pages()
    assert stored() == (number, 1)
    assert delivery_module.POLL_INTERVAL <= 60.0, "it looks that often"


def test_a_sink_of_many_products_reads_those_that_have_something(database, monkeypatch):
    """A broker is told of problems every two seconds: nothing is read for it."""
    store = Store(database)
    several = [add_version(database, f"p{k}", f"{k}" * 64) for k in range(3)]
    boxes = [outbox(database, product) for product, _ in several]
    read, sent, fails = list[int](), list[int](), [UndeliveredError("away")]
    for box in boxes:
        monkeypatch.setattr(box, "read_batch", partial(_noted, box.read_batch, read, box.product_id))

    def send(message: Any) -> None:
        if fails:
            raise fails.pop()
        sent.append(message.product_id)

    sink: Any = SimpleNamespace(kind="mqtt", label="broker", refresh=lambda: 2.0, send=send)
    delivery = Delivery(sink, boxes, lambda why: None)
    sinks = SimpleNamespace(deliveries=[delivery])
    assert delivery._deliver_pages() == 2.0
    assert read == [1, 2, 3], "a new one is read once"
    delivery._deliver_pages()
    assert read == [1, 2, 3]
    store.record([taken(*several[1])])
    Sinks.wake(sinks, 2)  # type: ignore[arg-type]
    with pytest.raises(UndeliveredError):
        delivery._deliver_pages()
    delivery._deliver_pages()
    delivery._deliver_pages()
    assert (read[3:], sent) == ([2, 2], [2]), "again after a failure, and then no more"
    store.record([taken(*several[2])])  # nobody told of it
    delivery._polled_at -= delivery_module.POLL_INTERVAL
    delivery._deliver_pages()
    assert sent == [2, 3]


def _noted(read: Any, noted: list[int], product_id: int, limit: int) -> Any:
    noted.append(product_id)
    return read(limit)


def test_a_folder_that_looks_empty_is_no_evidence(open_one, settings, parts, tmp_path):
    """A share that is away looks like one."""
    folder = tmp_path / "incoming"
    folder.mkdir()
    (folder / "a.png").write_bytes(parts[0])
    products = {
        NAME: ProductSettings(
            settings.products[NAME].model, sources=(FolderSourceSettings(str(folder), then="keep"),)
        )
    }
    station = open_one(products=products)
    until(lambda: count(station.database, inspections) == 1)
    inspect(station, parts[1])
    Retention(station.database, station.files, HOUR_OLD, aged(station.database)).run()
    station.close()
    folder.rename(tmp_path / "away")
    folder.mkdir()
    station = open_one(products=products)
    source: Any = station.sources[NAME][0]
    (watched,) = source.folders
    until(lambda: watched._arrivals is not None)
    watched._forget_removed(watched.arrivals)
    assert count(station.database, removed_files) == 1


def test_records_stay_for_the_reports_of_shifts(open_one, parts):
    station = open_one(shifts=ShiftSettings({"day": "06:00"}), keep=HOUR_OLD)
    retention = station.housekeeping._retention
    retention.clock = aged(station.database)
    for data in parts[:3]:
        inspect(station, data)
    retention.clock = aged(station.database)
    retention._checked.clear()
    assert retention.run().records == 0
    assert count(station.database, inspections) == 3


@pytest.mark.both_databases
@pytest.mark.parametrize(
    ("keep", "asked"),
    [
        (RetentionSettings(good=None, space=3000), True),  # of 7,200 bytes
        (RetentionSettings(good=1.0), True),
        (RetentionSettings(good=None, space=7000), False),
        (RetentionSettings(), False),
    ],
)
def test_much_that_a_start_would_remove_waits_for_a_person(database, tmp_path, keep, asked):
    """A bound may be wrong by a letter. The answer holds for the same bounds, also after a restart."""
    files, problems = Files(tmp_path / "files"), dict[str, str]()
    product, version = add_version(database)
    store = Store(database)
    store.record([taken_file(files, product, version, f"{k:03}".encode() * 60, now()) for k in range(40)])

    def begun() -> Housekeeping:
        def report(code: str, why: str | None, *action: object, stops: bool = False) -> None:
            problems[code] = why or ""

        made = Housekeeping(store, files, keep, Access(database), report)
        made.clock = made._retention.clock = aged(database)
        return made

    asking = begun()
    assert asking._may_remove() is not asked
    assert ("`keep` would remove" in problems["keep_asks"]) is asked
    for _ in range(2):  # pressed twice
        asking.confirm_keep("anna")
    assert len(store.events(KEEP_CONFIRMED)) == asked, "an answer without a question is none"
    assert (asking._may_remove(), problems) == (True, {"keep_asks": ""})
    assert begun()._may_remove()


@pytest.mark.parametrize(("keep", "makes"), [({"good": 1.0, "space": 7500}, True), ({"space": 3000}, False)])
def test_a_question_about_ages_fills_no_disk(database, tmp_path, keep, makes):
    files = Files(tmp_path / "files")
    product, version = add_version(database)
    store = Store(database)
    store.record([taken_file(files, product, version, f"{k:03}".encode() * 60, now()) for k in range(40)])
    bounds = RetentionSettings(**{"good": None, **keep})
    house = Housekeeping(store, files, bounds, Access(database), lambda *_, **__: None)
    house.clock = house._retention.clock = aged(database)
    assert not house._may_remove()
    assert house._may_make_room() is makes


def test_a_start_waits_for_no_walk_through_files(settings, monkeypatch):
    Files(settings.store)
    left = Path(settings.store) / PICTURES / "abc" / f".a.png.1{PARTIAL_SUFFIX}"
    folder = Path(settings.store) / "models" / f".1{PARTIAL_SUFFIX}"
    for path in (left.parent, folder):
        path.mkdir()
    for path in (left, folder / "model.onnx"):
        path.write_bytes(b"cut off")
    for path in (left, folder):
        os.utime(path, (1, 1))
    going = threading.Event()
    monkeypatch.setattr("flawscope_station.store.files.os.walk", delayed(os.walk, going))
    station = started(settings)
    try:
        mine = left.with_name(f".b.png.2{PARTIAL_SUFFIX}")
        mine.write_bytes(b"being written")
        assert left.exists()
        going.set()
        until(lambda: not left.exists() and not folder.exists())
        assert mine.exists()
    finally:
        going.set()
        station.close()


def test_two_reviewers_that_ask_at_once_get_different_pictures(open_one, parts, monkeypatch):
    station = open_one()
    for k in range(4):
        inspect(station, parts[-1] + bytes([k]))
    meeting, waiting = threading.Barrier(2), station.store.waiting

    def slow(*what: Any, **how: Any) -> Any:
        found = waiting(*what, **how)
        with suppress(threading.BrokenBarrierError):
            meeting.wait(0.3)  # both have looked; nobody has taken anything
        return found

    monkeypatch.setattr(station.store, "waiting", slow)
    given: dict[str, set[int]] = {}

    def ask(reader: str) -> None:
        found = station.records.waiting(station.products[NAME], 2, reader=reader)["inspections"]
        given[reader] = {one["id"] for one in found}

    threads = [threading.Thread(target=ask, args=(name,)) for name in ("anna", "bob")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(given["anna"] | given["bob"]) == 3, "two of four, and one of the other two"


def test_a_model_that_is_replaced_while_it_is_kept_is_one_of_both(
    database, tmp_path, model_file, other_model, monkeypatch
):
    path, files = tmp_path / "new.onnx", Files(tmp_path / "files")
    path.write_bytes(model_file.read_bytes())
    read = registry_module.files.file_sha256

    def then_replaced(one: Path) -> str:
        digest = read(one)
        path.write_bytes(other_model.read_bytes())
        return digest

    monkeypatch.setattr(registry_module.files, "file_sha256", then_replaced)
    product = Store(database).add_product(NAME)
    number = ModelRegistry(database, files).add(product, path, "by hand", "anna")
    with database.reading() as connection:
        row = connection.execute(select(versions).where(versions.c.id == number)).one()
    kept = files.folder / row.file
    assert row.hash == hashlib.sha256(kept.read_bytes()).hexdigest()
    assert kept.parent == files.model_folder(row.hash)
    assert kept.read_bytes() == other_model.read_bytes()
    assert not list(files.folder.rglob(f"*{PARTIAL_SUFFIX}"))


class Noting:
    """Service that notes what becomes of it."""

    threads = ()

    def __init__(self, name: str, noted: list[str]):
        self.start = lambda: noted.append(f"{name} starts")
        self.end = lambda: noted.append(f"{name} is to end")
        self.stop = lambda: noted.append(f"{name} has ended")


def test_what_was_made_last_ends_first(tmp_path):
    noted: list[str] = []

    def feature(name: str) -> Any:
        return lambda core: Extension(
            services=(Noting(name, noted),),
            inputs=(Noting(f"input of {name}", noted),),
            ends=(lambda: noted.append(f"end of {name}"),),
        )

    station = Station(Settings(store=str(tmp_path)), features=[feature("one"), feature("two")])
    station.start()
    station.close()
    assert noted == [
        *("one starts", "two starts", "input of one starts", "input of two starts"),
        *("two is to end", "one is to end", "input of two has ended", "input of one has ended"),
        *("two has ended", "end of two", "one has ended", "end of one"),
    ]

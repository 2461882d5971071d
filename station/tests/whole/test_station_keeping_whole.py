"""What others need is kept, `keep: space` holds while pictures come, and a restart does not do all again."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import select

from flawscope.pictures import decoding
from flawscope.pictures.decoding import decode, pixel_hash
from flawscope_station.core.housekeeping import Housekeeping
from flawscope_station.inspecting.inspector import Inspector
from flawscope_station.settings.sources import FolderSourceSettings
from flawscope_station.settings.station import ProductSettings, RetentionSettings
from flawscope_station.sinks import Sinks
from flawscope_station.store.database import now
from flawscope_station.store.files import PICTURES, Files, StrayFiles
from flawscope_station.store.records import Store
from flawscope_station.store.retention import Retention
from flawscope_station.store.schema import (
    inspections,
    pictures,
    removed_files,
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
    inspect,
    recorded,
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


@pytest.mark.parametrize("large", [False, True])
def test_a_judged_picture_is_recorded_with_the_hash_of_its_pixels(open_one, parts, large, monkeypatch):
    if large:  # decoded beside the others
        monkeypatch.setattr("flawscope_station.inspecting.memory.LARGE_PIXELS", 100)
    station, decoded = open_one(), list[str]()
    upright = decoding._load_upright
    monkeypatch.setattr(decoding, "_load_upright", lambda *one: (decoded.append(""), upright(*one))[1])
    grey = encoded(Image.open(io.BytesIO(parts[0])).convert("L"), "PNG")
    several = [parts[0], grey, encoded(Image.open(io.BytesIO(parts[1])), "BMP")]
    for data in several:
        inspect(station, data)
    with station.database.reading() as connection:
        found = dict(map(tuple, connection.execute(select(pictures.c.hash, pictures.c.pixels))))
    assert len(decoded) == len(several), "each once"
    assert found == {hashlib.sha256(data).hexdigest(): pixel_hash(decode(data)) for data in several}


def bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_space_is_never_exceeded_while_pictures_come(database, tmp_path):
    """As at a station: files are written first, some of them wait, and are recorded then."""
    files, store = Files(tmp_path / "files"), Store(database)
    product, version = add_version(database)
    learn_from(database, version, "learnt")
    size, most, waiting = 10_000, 40 * 10_000, 4
    keep = RetentionSettings(None, None, None, None, f"{most / 1024} KB")
    retention, rng = Retention(database, files, keep, aged(database)), np.random.default_rng(0)
    retention.run()
    held: list[tuple[str, bytes]] = []
    removals, highest = 0, 0
    for _ in range(120):
        data = rng.bytes(size)
        held.append((files.keep(PICTURES, data, ".png", hold=True), data))
        if len(held) > waiting:
            digest, data = held.pop(0)
            store.record([taken(product, version, picture=digest, bytes=size, pixels="")])
            files.release(digest)
        highest = max(highest, bytes_below(files.folder / PICTURES))
        if retention.is_full:
            assert retention.make_room().pictures
            removals += 1
    assert most * 0.8 < highest <= most
    assert removals < 100, "not for each of them"


@pytest.mark.parametrize("busy", ["_remove_by_age", "_remove_records", "sweep"])
def test_space_is_made_whatever_else_is_being_removed(database, tmp_path, busy, monkeypatch):
    files, store = Files(tmp_path / "files"), Store(database)
    product, version = add_version(database)
    keep = RetentionSettings(None, None, None, None, "100 KB")
    retention = Retention(database, files, keep, aged(database))

    def long(*of: Any) -> int:
        for _ in range(30):
            data = os.urandom(10_000)
            store.record([taken_file(files, product, version, data, now(), pixels="")])
            retention._pause(0.0)
        assert bytes_below(files.folder / PICTURES) <= 100 * 1024
        return 0

    monkeypatch.setattr(StrayFiles if busy == "sweep" else Retention, busy, long)
    assert retention.run().pictures >= 20, "they are counted"


@pytest.mark.parametrize("change", ["nothing", "moved"])
def test_files_that_stay_in_a_folder_are_inspected_once(open_one, settings, parts, tmp_path, change):
    """Also after their records were removed, and a restart."""
    folder = tmp_path / "incoming"
    (folder / "sub").mkdir(parents=True)
    for place in range(3):
        (folder / f"{place}.png").write_bytes(parts[place])
    source = FolderSourceSettings(str(folder), then="keep")
    products = {NAME: ProductSettings(settings.products[NAME].model, sources=(source,))}
    station = open_one(products=products)

    def inspected() -> int:
        return station.store.totals(station.products[NAME])["inspections"]

    until(lambda: inspected() == 3)
    inspect(station, parts[5], "newest")
    Retention(station.database, station.files, HOUR_OLD, aged(station.database)).run()
    assert count(station.database, inspections) == 1
    if change == "moved":
        station.close()  # else the running station sees that it is the same file
        (folder / "1.png").rename(folder / "sub" / "other.png")
        (folder / "2.png").rename(folder / "sub" / "2.png")
    station = open_one(products=products)
    (folder / "new.png").write_bytes(parts[4])
    until(lambda: inspected() == 5)
    assert sorted(one["name"] for one in recorded(station)) == ["new.png", "newest"]
    until(lambda: station.sources[NAME][0].folders[0]._forget_at)
    assert count(station.database, removed_files) == 3, "all are there"
    (folder / "0.png").unlink()
    station = open_one(products=products)
    until(lambda: count(station.database, removed_files) == 2)


@pytest.mark.parametrize(
    ("part", "name"),
    [(Housekeeping, "end"), (Sinks, "stop"), (Inspector, "close"), (Inspector, "close_pools")],
)
def test_an_error_of_one_part_lets_others_end(settings, parts, part, name, monkeypatch):
    stop = getattr(part, name)

    def broken(self: Any) -> None:
        stop(self)
        raise OSError("it is broken")

    with monkeypatch.context() as patch:
        patch.setattr(part, name, broken)
        station = started(settings)
        number = inspect(station, parts[0])
        with pytest.raises(OSError, match="it is broken"):
            station.close()
    again = started(settings)  # the folder is free
    try:
        assert again.store.inspection(again.products[NAME], number)["id"] == number
    finally:
        again.close()

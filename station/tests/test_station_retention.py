"""What is removed, what never is, and that nothing is lost where one is cut off."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text

from flawscope.artefact.files import PARTIAL_SUFFIX
from flawscope.pictures.decoding import decode, pixel_hash
from flawscope_station.settings.station import RetentionSettings, Settings
from flawscope_station.store import insert as recording
from flawscope_station.store import retention as module
from flawscope_station.store.database import Database, now
from flawscope_station.store.files import MAPS, MASKS, MODELS, PICTURES, STRAY_AGE, Files, StrayFiles
from flawscope_station.store.model_registry import ModelRegistry
from flawscope_station.store.records import DEFECT, GOOD, SKIP, NewInspection, Store
from flawscope_station.store.retention import RemovalSummary, Retention
from flawscope_station.store.schema import events, hours, inspections, learnt, pictures, products, verdicts
from station_helpers import PATIENCE, add_version, taken

DAY = 86_400_000_000
NOW = now()
FOR_EVER = RetentionSettings(good=None, anomalous=None, reviewed=None)


@dataclass
class Ages:
    """A station's clock: what is recorded in this test is as old as it says, in days before now."""

    marks: list[tuple[int, int]] = field(default_factory=list)  # age in microseconds, inspection
    at: int = 0  # after now
    jump: int = 0

    def note(self, age: int, number: int) -> None:
        """Older ones come first, as at a station."""
        assert not self.marks or age >= self.marks[-1][0], "add the oldest first"
        self.marks.append((age, number))

    def newest_older_than(self, age: int) -> int:
        return max((number for before, number in self.marks if before <= self.at - age), default=0)


@dataclass
class World:
    """A store without a station. Pictures are a few bytes each: nobody decodes them here, unless a test says
    what a model was learnt from."""

    database: Database
    store: Store
    files: Files
    product: int
    version: int
    clock: Ages = field(default_factory=Ages)

    def there(self, kind: str) -> Iterator[Path]:
        """Every file of a kind, whole ones only."""
        files = (path for path in (self.files.folder / kind).rglob("*") if path.is_file())
        return (path for path in files if not path.name.endswith(PARTIAL_SUFFIX))

    def add(self, days: float, data: bytes | str, anomalous: bool = False, product: int | None = None) -> int:
        """An inspection of so many days ago."""
        number = self.store.record([self.taken(days, data, anomalous, product)])[0][0]
        self.clock.note(-round(days * DAY), number)
        return number

    def taken(
        self, days: float, data: bytes | str, anomalous: bool = False, product: int | None = None
    ) -> NewInspection:
        content = data.encode() if isinstance(data, str) else data
        digest = self.files.keep(PICTURES, content, ".png")
        self.files.write(self.files.map_path(digest, self.version), b"map")
        facts = {"picture": digest, "bytes": len(content), "at": NOW - round(days * DAY)}
        return taken(product or self.product, self.version, **facts, anomalous=anomalous)

    def decide(self, number: int, word: str, mask: str | None = None) -> None:
        kept = self.files.keep(MASKS, mask.encode(), ".png") if mask else None
        self.store.add_verdict(self.product, number, word, "anna", kept)

    def path(self, data: str | bytes) -> Path:
        digest = hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()
        return self.files.path(PICTURES, digest, ".png")

    def kept(self, *names: str) -> str:
        """Those whose file is there; the database must say the same."""
        there = [name for name in names if self.path(name).exists()]
        with self.database.reading() as connection:
            query = select(pictures.c.hash).where(pictures.c.removed_at.is_(None))
            known = set(connection.execute(query).scalars())
        for name in names:
            assert (self.path(name).stem in known) == (name in there), name
            maps = list(
                self.files.path(MAPS, self.path(name).stem, "").parent.glob(f"{self.path(name).stem}*")
            )
            assert len(maps) == (name in there), name
        return "".join(there)

    def retention(self, keep: RetentionSettings, ended: threading.Event | None = None) -> Retention:
        return Retention(self.database, self.files, keep, self.clock, ended)

    def run(self, keep: RetentionSettings) -> RemovalSummary:
        return self.retention(keep).run()

    def count(self, table: object) -> int:
        with self.database.reading() as connection:
            return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


@pytest.fixture(autouse=True)
def without_rest(monkeypatch):
    monkeypatch.setattr(Retention, "_pause", lambda self, seconds: None)


@pytest.fixture
def world(database, tmp_path):
    return World(database, Store(database), Files(tmp_path / "files"), *add_version(database))


def test_a_shared_picture_stays_as_long_as_the_longest_of_them(world):
    other = world.store.add_product("other")
    world.add(100, "again")
    world.add(100, "flagged", product=other)
    world.add(100, "old")
    world.add(99, "old", product=other)
    world.add(90, "flagged", anomalous=True)
    world.add(2, "again")
    retention = world.retention(RetentionSettings())
    for days, kept in ((0, "againflagged"), (27, "againflagged"), (29, "flagged"), (276, "")):
        world.clock.at = days * DAY
        retention.run()
        assert world.kept("again", "flagged", "old") == kept, days


def test_many_are_removed_in_several_transactions(world, monkeypatch):
    monkeypatch.setattr(module, "PICTURES_PER_TRANSACTION", 3)
    monkeypatch.setattr(module, "ROWS_PER_QUERY", 5)
    names = [f"n{k}" for k in range(17)]
    world.decide(world.add(45, "kept"), GOOD)
    for k, name in enumerate(names):
        world.add(40 - k / 10, name)
    assert world.run(RetentionSettings(good="39 days")).pictures == 11
    assert world.kept(*names) == "".join(names[11:])
    assert world.run(RetentionSettings(good="1 day")).pictures == 6
    assert world.kept("kept", *names) == "kept"


def test_a_clock_that_jumped_removes_nothing_but_what_is_too_much(world):
    for name in "abc":
        world.add(4000, name * 1000)
    world.clock.jump = DAY
    keep = RetentionSettings("1 day", "1 day", "1 day", "1 day", "2.5 KB")
    summary = world.run(keep)
    assert (summary.pictures, summary.records) == (1, 0)
    world.clock.jump = 0
    summary = world.run(keep)
    assert (summary.pictures, summary.records) == (2, 2)


@pytest.mark.both_databases
def test_space_takes_the_oldest_good_ones_first_and_reviewed_ones_last(world):
    other = world.store.add_product("other")
    size = 1000
    names = {name: name * size for name in "abcdefgh"}
    world.decide(world.add(30, names["g"]), DEFECT, mask="m")
    world.decide(world.add(20, names["f"]), GOOD)
    world.add(9, names["d"], anomalous=True)
    world.add(8, names["e"], anomalous=True, product=other)
    world.add(6, names["h"])
    world.add(5, names["a"])
    world.add(4, names["b"], product=other)
    world.add(3, names["c"])
    world.add(1, names["h"])  # seen again: not the oldest

    def left(kilobytes: float) -> str:
        text = f"{kilobytes * size / 1024 + 0.01:.4f} KB"
        world.run(RetentionSettings(None, None, None, None, text))
        return "".join(name for name in names if world.path(names[name]).exists())

    assert left(8) == "abcdefgh"
    assert left(7.5) == "bcdefgh"
    assert left(6) == "cdefgh"
    assert left(4) == "defg"
    assert left(2.5) == "fg"
    assert left(1) == "g"
    assert left(0) == "g"  # a person drew a mask
    assert "0 MB more" in world.run(RetentionSettings(None, None, None, None, "0.01 KB")).problem


def test_a_picture_of_two_products_takes_its_space_once(world):
    other = world.store.add_product("other")
    for name in "abc":
        for product in (world.product, other):
            world.add(5, name * 1000, product=product)
    assert world.run(RetentionSettings(None, None, None, None, "3.1 KB")).pictures == 0
    summary = world.run(RetentionSettings(None, None, None, None, "2.5 KB"))
    assert (summary.pictures, summary.bytes, summary.problem) == (1, 1000, "")
    assert len(world.kept(*(name * 1000 for name in "abc"))) == 2000


def test_what_the_table_names_stays(world):
    for name in "abc":
        world.add(9999, name)
    with world.database.writing() as connection:
        row = {"version_id": world.version, "product_id": world.product, "picture": world.path("a").stem}
        connection.execute(learnt.insert().values(**row))
    world.run(RetentionSettings("1 day", "1 day", "1 day", "1 day", "0.001 KB"))
    assert world.kept("a", "b", "c") == "a"
    assert world.count(inspections) == 2, "that of the picture, and the last one"


def test_what_a_model_names_stays_whoever_sent_it(world, drawn, model_file):
    """Copies of training pictures, one of them encoded otherwise."""
    import io

    from PIL import Image

    train = sorted((drawn / "plate/train/good").iterdir())
    encoded = io.BytesIO()
    Image.open(train[1]).save(encoded, "BMP")
    new = (drawn / "plate/test/good").iterdir()
    same, again, others = train[0].read_bytes(), encoded.getvalue(), [path.read_bytes() for path in new]
    for data in (same, again, *others):
        new_one = replace(world.taken(99, data), pixels=pixel_hash(decode(data)))
        world.clock.note(-99 * DAY, world.store.record([new_one])[0][0])
    ModelRegistry(world.database, world.files).add(world.product, model_file, "by hand", "anna")
    retention = world.retention(RetentionSettings())
    summary = retention.run()
    assert (summary.kept, summary.pictures, summary.problem) == (2, len(others), "")
    assert world.path(same).exists()
    assert world.path(again).exists()
    assert not any(world.path(data).exists() for data in others)


@pytest.mark.both_databases
def test_records_go_with_verdicts_and_masks_and_hours_stay(world):
    gone, reviewed = world.add(400, "a"), world.add(400, "b")
    late, fresh, last = world.add(399, "c", anomalous=True), world.add(1, "a"), world.add(0.5, "last")
    world.decide(gone, SKIP, mask="m")
    world.decide(late, SKIP, mask="n")
    world.decide(fresh, SKIP, mask="n")
    world.decide(reviewed, DEFECT)
    before = world.count(hours)
    summary = world.run(RetentionSettings(good=None, anomalous=None, reviewed=None, records="1 year"))
    # the picture of the first one is still there, for the sake of a later one
    assert summary.records == 1
    with world.database.reading() as connection:
        assert set(connection.execute(select(inspections.c.id)).scalars()) == {gone, reviewed, fresh, last}
        assert late not in connection.execute(select(verdicts.c.inspection_id)).scalars().all()
        assert world.path("c").stem not in connection.execute(select(pictures.c.hash)).scalars().all()
    assert world.count(hours) == before
    assert len(list(world.there(MASKS))) == 2, "another verdict has the same one"
    world.clock.at = 366 * DAY
    world.run(RetentionSettings(good=None, anomalous=None, reviewed="1 year", records="1 year"))
    assert (world.count(inspections), world.count(verdicts), world.count(pictures)) == (1, 0, 1)
    assert not [*world.there(PICTURES), *world.there(MASKS), *world.there(MAPS)]
    assert world.store.totals(world.product)["inspections"] == 5


def test_a_number_is_never_given_again(world):
    for name in "abc":
        last = world.add(400, name)
    assert world.run(RetentionSettings("1 day", "1 day", "1 day", "1 day")).records == 2
    assert world.add(0, "d") > last
    assert world.run(RetentionSettings("1 day", "1 day", "1 day", "1 day")).records == 1, (
        "it is not the last one any more"
    )


def test_an_earlier_removal_for_space_is_told_with_the_next(world):
    before, after = RemovalSummary(pictures=2, bytes=30, problem="before"), RemovalSummary(1, records=3)
    assert after + before == RemovalSummary(3, 30, 3)


def test_files_lie_where_earlier_stations_look_for_them(world):
    digest = world.files.keep(PICTURES, b"a picture", ".png")
    folder = world.files.folder / "pictures" / digest[:3]
    assert world.files.path(PICTURES, digest, ".png") == folder / f"{digest}.png"


class Cut(BaseException):
    """Nobody catches it: as if the process had been killed."""


@pytest.mark.parametrize("where", ["before the file", "before the row"])
def test_a_run_finishes_what_was_cut_off(world, where, monkeypatch):
    world.add(99, "a")
    world.add(1, "b")
    with monkeypatch.context() as patch:
        if where == "before the file":
            patch.setattr(Files, "discard", lambda *_: (_ for _ in ()).throw(Cut))
        else:
            patch.setattr(module, "removable_keys", lambda *_: (_ for _ in ()).throw(Cut))
        with pytest.raises(Cut):
            world.run(RetentionSettings())
    assert world.path("a").exists()
    os.utime(world.path("a"), (0, 0))
    world.run(RetentionSettings())
    assert world.kept("a", "b") == "b"


def test_strays_go_after_an_hour_and_only_then(world, model_file):
    named, at = world.add(1, "named"), now()
    world.decide(named, DEFECT, mask="mask")
    world.files.keep(PICTURES, b"stray", ".png")
    world.files.keep(MASKS, b"stray mask", ".png")
    sent, never_added = (
        world.files.folder / MODELS / name for name in (f".{'a' * 16}{PARTIAL_SUFFIX}", "b" * 16)
    )
    for folder in (sent, never_added):
        folder.mkdir()
        (folder / "part.onnx").write_bytes(b"a model")
    added = ModelRegistry(world.database, world.files).add(world.product, model_file, "by hand", "anna")
    seconds = at / 1e6 - STRAY_AGE
    every = [*world.files.folder.rglob("*.png"), *world.files.folder.rglob("*.npz")]
    every += [one for one in (world.files.folder / MODELS).iterdir() if one.is_dir()]
    for path in every:
        os.utime(path, (seconds + 600, seconds + 600))
    assert world.run(RetentionSettings()).strays == 0
    assert all(path.exists() for path in every)
    for path in every:
        os.utime(path, (seconds - 60, seconds - 60))
    assert world.run(RetentionSettings()).strays == 4
    kept = ModelRegistry(world.database, world.files).path(world.product, added)
    assert kept.exists()
    assert {path.name for path in every if path.exists()} == {
        kept.parent.name,
        *(f"{hashlib.sha256(name).hexdigest()}.png" for name in (b"named", b"mask")),
        world.files.map_path(hashlib.sha256(b"named").hexdigest(), world.version).name,
    }


def test_a_model_that_is_just_being_added_again_is_no_stray(world, model_file, monkeypatch):
    """It was cut off long ago; the sweep looks at its folder, and then somebody sends it again."""
    made = ModelRegistry(world.database, world.files)
    folder = world.files.model_folder(hashlib.sha256(model_file.read_bytes()).hexdigest())
    folder.mkdir()
    os.utime(folder, (0, 0))
    added, held, needed, move = list[int](), list[bool](), StrayFiles.needed_hashes, world.files.move

    def then_sent(self: StrayFiles, kind: str, digests: list[str]) -> set[str]:
        found = needed(self, kind, digests)
        if not added:
            added.append(made.add(world.product, model_file, "by hand", "anna"))
            os.utime(folder, (0, 0))  # as if it had been looked at before
        return found

    def meanwhile(copy: Path, path: Path) -> None:
        move(copy, path)
        held.append(not world.files.discard(path.parent, path.parent.name, lambda: True))

    monkeypatch.setattr(StrayFiles, "needed_hashes", then_sent)
    monkeypatch.setattr(world.files, "move", meanwhile)
    assert world.run(FOR_EVER).strays == 0
    assert made.path(world.product, added[0]).exists()
    assert held == [True], "while it is added"


def test_a_picture_that_is_being_recorded_again_stays(world):
    world.add(99, "a")
    digest = world.files.keep(PICTURES, b"a", ".png", hold=True)
    assert world.run(RetentionSettings()).pictures == 0
    world.files.release(digest)
    world.add(0, "a")
    world.run(RetentionSettings())
    assert world.kept("a") == "a"


def test_a_picture_that_was_recorded_again_before_its_file_goes_stays(world, monkeypatch):
    world.add(99, "a")
    discard = Files.discard

    def again(*args: Any) -> bool:
        assert world.store.inspection(world.product, 1)["picture"] is None, "the database is told first"
        world.add(0, "a")
        return discard(*args)

    monkeypatch.setattr(Files, "discard", again)
    assert world.run(RetentionSettings()).pictures == 0
    assert world.kept("a") == "a"


@pytest.mark.both_databases
def test_a_record_that_is_being_written_is_waited_for(world):
    world.add(99, "a")
    with ThreadPoolExecutor(1) as pool:
        with world.database.writing() as connection:
            recording.lock_products(connection, [world.product])
            removing = pool.submit(world.run, RetentionSettings())
            time.sleep(0.2)
            assert not removing.done()
            recording.insert_inspections(connection, [world.taken(0, "a")])
        assert removing.result(PATIENCE).pictures == 0
    assert world.kept("a") == "a"


@pytest.mark.both_databases
def test_nothing_is_missing_while_the_same_pictures_come_again_and_again(world):
    """What a record of today names has its file, whatever is removed at the same moment."""
    names = [f"p{k}" for k in range(12)]
    for name in names:
        world.add(99, name)
    ended, together = threading.Event(), threading.Barrier(4)

    def send(seed: int) -> None:
        for k in range(20):
            if k == 19:
                together.wait(60)
            data = names[(seed + 5 * k) % len(names)].encode()
            digest = world.files.keep(PICTURES, data, ".png", hold=True)
            try:
                days = 0 if k == 19 else 50  # those before the last one are old at once
                number = world.store.record([world.taken(days, data)])[0][0]
                if days:
                    world.clock.marks.append((-days * DAY, number))
            finally:
                world.files.release(digest)

    def remove() -> None:
        while not ended.is_set():
            world.run(RetentionSettings())

    with ThreadPoolExecutor(5) as pool:
        removing = pool.submit(remove)
        sending = [pool.submit(send, seed) for seed in range(4)]
        try:
            for one in sending:
                one.result(60)
        finally:
            ended.set()
        removing.result(60)
    with world.database.reading() as connection:
        query = select(pictures.c.hash).where(pictures.c.removed_at.is_(None))
        for digest in connection.execute(query).scalars():
            assert world.files.path(PICTURES, digest, ".png").exists()
        fresh = select(pictures.c.removed_at).join(inspections).where(inspections.c.at == NOW)
        assert set(connection.execute(fresh).scalars()) == {None}


def test_it_leaves_off_when_the_station_ends(world, monkeypatch):
    monkeypatch.undo()
    world.add(99, "a")
    ended = threading.Event()
    ended.set()
    retention = world.retention(RetentionSettings(), ended)
    assert retention.run().pictures == 0


def test_what_is_gone_is_passed_over_and_not_read_again(world, monkeypatch):
    for k in range(15):
        world.add(99 - k / 10, f"n{k}")
    reviewed = world.add(97.55, "reviewed")
    for k in range(15, 30):
        world.add(99 - k / 10, f"n{k}")
    world.decide(reviewed, GOOD)
    retention = world.retention(RetentionSettings())
    assert retention.run().pictures == 30
    world.decide(reviewed, "undo")
    seen: list[int] = []
    several = module._take_group

    def counted(*args: Any) -> Any:
        found = several(*args)
        seen.append(len(found))
        return found

    monkeypatch.setattr(module, "_take_group", counted)
    world.clock.at = DAY // 24
    retention.run()
    assert sum(seen) == 0
    world.clock.at = DAY
    assert retention.run().pictures == 1, "once a day from the oldest picture on"
    assert sum(seen) == 16
    assert world.count(products) == 1


def test_sqlite_gives_the_space_of_what_was_removed_back(tmp_path):
    database = Database(Settings(store=str(tmp_path)).url)
    database.migrate()
    Store(database).note_events("much", "anna", ["x" * 500] * 5000)

    def pages() -> int:
        row = database.row(text("PRAGMA page_count"))
        assert row is not None
        return int(row[0])

    full = pages()
    database.change(events.delete())
    rounds = 1
    while database.give_space_back():
        rounds += 1
    assert rounds > 2, "a few at a time: others write between"
    assert pages() < full / 5
    database.close()

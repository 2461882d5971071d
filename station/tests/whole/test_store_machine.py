"""Store, retention and outbox do what a dictionary says, in any order of events, on both databases."""

from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select

from flawscope.errors import InputError
from flawscope_station.settings.station import RetentionSettings
from flawscope_station.sinks.outbox import Outbox
from flawscope_station.store.database import Database
from flawscope_station.store.files import Files
from flawscope_station.store.records import DEFECT, GOOD, SKIP, UNDO, NewInspection, Store
from flawscope_station.store.retention import Retention
from flawscope_station.store.schema import HOUR, hours, versions
from flawscope_station.store.search import Filters, search
from station_helpers import add_version
from test_station_retention import DAY, NOW, Ages, World

pytestmark = pytest.mark.both_databases
KEYS, NAMES, WORDS = ("a", "b", None), ("x", "y", "z"), (GOOD, DEFECT, SKIP, UNDO)
COUNTED = ("inspected", "anomalous", "score_sum", "score_min", "score_max")
COUNTED += ("reviewed", "defects", "false_alarms", "misses", "within_tolerance")


@dataclass
class Known:
    """An inspection, as the dictionary has it. since: days on the clock. words: verdicts that stand."""

    picture: str
    anomalous: bool
    score: float
    hour: int
    since: int
    tolerated: bool = False
    words: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str | None:
        return self.words[-1] if self.words and self.words[-1] != SKIP else None

    @property
    def review(self) -> str:
        if self.words:
            return "skipped" if self.words[-1] == SKIP else "done"
        return "waiting" if self.decision == "anomalous" else "none"

    @property
    def decision(self) -> str:
        return "within tolerance" if self.tolerated else "anomalous" if self.anomalous else "good"

    @property
    def kind(self) -> str:
        return "reviewed" if self.verdict else "anomalous" if self.anomalous else "good"


class Machine(RuleBasedStateMachine):
    """A product of its own in each run."""

    url: ClassVar[str]
    folder: ClassVar[Path]
    numbers: ClassVar[Any] = count()

    def __init__(self) -> None:
        super().__init__()
        self.name = f"p{next(self.numbers)}"
        self.clock = Ages()
        self.days = 0
        self.inspections: dict[int, Known] = {}
        self.keys: dict[str | None, tuple[int, NewInspection]] = {}
        self.there: set[str] = set()  # pictures whose file is kept
        self.said = 0  # verdicts, ever
        self.delivered: list[tuple[int, bool]] = []
        self.open()

    def open(self) -> None:
        self.database = Database(self.url)
        self.database.migrate()
        store = Store(self.database)
        product = store.add_product(self.name)
        with self.database.reading() as connection:
            version = connection.scalar(select(versions.c.id).filter_by(product_id=product))
        version = version or add_version(self.database, self.name)[1]
        self.world = World(self.database, store, Files(self.folder), product, version, self.clock)
        given = {"station": "s", "sender": "s", "address": None}
        self.outbox = Outbox(self.database, product, self.name, "folder:x", **given)

    def teardown(self) -> None:
        self.database.close()

    # ---- what happens

    @rule(
        key=st.sampled_from(KEYS),
        name=st.sampled_from(NAMES),
        score=st.sampled_from([0.5, 1.0, 2.0, 3.0]),
        hours_ago=st.integers(0, 1),
    )
    def record(self, key: str | None, name: str, score: float, hours_ago: int) -> None:
        if key in self.keys:
            number, one = self.keys[key]
            assert self.world.store.record([one]) == [(number, False)]
            return
        picture = f"{self.name}/{name}"
        anomalous, at = score > 1, NOW - hours_ago * HOUR
        one = replace(self.world.taken(0, picture, anomalous), key=key, score=score, at=at)
        one = replace(one, tolerated=score > 2)
        ((number, is_new),) = self.world.store.record([one])
        assert is_new
        assert number > max(self.inspections, default=0)
        self.clock.note(self.clock.at, number)
        self.inspections[number] = Known(picture, anomalous, score, at // HOUR, self.days, score > 2)
        self.there.add(picture)
        if key is not None:
            self.keys[key] = number, one

    @precondition(lambda self: self.inspections)
    @rule(data=st.data(), word=st.sampled_from(WORDS))
    def decide(self, data: st.DataObject, word: str) -> None:
        number = data.draw(st.sampled_from(sorted(self.inspections)))
        words = self.inspections[number].words
        if word == UNDO and not words:
            with pytest.raises(InputError, match="no verdict to take back"):
                self.world.decide(number, word)
            return
        self.world.decide(number, word)
        self.said += 1
        if word == UNDO:
            words.pop()
        else:
            words.append(word)

    @rule(days=st.integers(1, 40))
    def wait(self, days: int) -> None:
        self.days += days
        self.clock.at += days * DAY

    @rule(
        good=st.integers(1, 60),
        anomalous=st.integers(1, 60),
        reviewed=st.one_of(st.none(), st.integers(1, 60)),
    )
    def retain(self, good: int, anomalous: int, reviewed: int | None) -> None:
        limits = {"good": good, "anomalous": anomalous, "reviewed": reviewed}
        given = {kind: None if days is None else f"{days} days" for kind, days in limits.items()}
        self.world.run(RetentionSettings(**given, records=None))
        for picture in list(self.there):
            of = [one for one in self.inspections.values() if one.picture == picture]
            ages = [(limits[one.kind], self.days - one.since) for one in of]
            if all(limit is not None and age >= limit for limit, age in ages):
                self.there.remove(picture)

    @rule()
    def restart(self) -> None:
        self.database.close()
        self.open()

    @rule(limit=st.integers(1, 4), is_kept=st.booleans())
    def deliver(self, limit: int, is_kept: bool) -> None:
        """What is not noted comes again."""
        batch = self.outbox.read_batch(limit)
        if is_kept:
            self.delivered += [(one.verdict or one.number, one.verdict is not None) for one in batch.messages]
            self.outbox.advance(batch.end)
            self.outbox.save()

    # ---- what holds

    def recounted(self) -> list[tuple[float, ...]]:
        """What `hours` must hold."""
        found = []
        for hour in sorted({one.hour for one in self.inspections.values()}):
            here = [one for one in self.inspections.values() if one.hour == hour]
            bad = [one for one in here if one.decision == "anomalous"]
            tolerated = sum(one.tolerated for one in here)
            scores = [one.score for one in here]
            defects = sum(one.verdict == DEFECT for one in here)
            alarms = sum(one.verdict == GOOD for one in bad)
            misses = defects - sum(one.verdict == DEFECT for one in bad)
            reviewed = sum(one.verdict is not None for one in here)
            counts = (len(here), len(bad), sum(scores), min(scores), max(scores))
            found.append((hour, *counts, reviewed, defects, alarms, misses, tolerated))
        return found

    @invariant()
    def everything_is_as_it_was_said(self) -> None:
        world, known = self.world, self.inspections
        shown = {
            one["id"]: one for one in search(self.database, world.product, Filters(limit=200)).inspections
        }
        assert list(shown) == sorted(known, reverse=True)
        for number, one in known.items():
            facts = shown[number]
            assert (facts["verdict"], facts["review"]) == (one.verdict, one.review)
            assert facts["decision"] == one.decision
            assert (facts["picture"] is not None) == (one.picture in self.there)
            assert (facts["score"], facts["verdict_by"]) == (one.score, one.verdict and "anna")
            assert world.path(one.picture).exists() == (one.picture in self.there)
            assert world.store.inspection(world.product, number) == facts
        waiting = sorted(number for number, one in known.items() if one.review == "waiting")
        queue: list[int] = []
        while part := world.store.waiting(world.product, 2, max(queue, default=0))["inspections"]:
            queue += [one["id"] for one in part]
        assert queue == waiting, "the oldest first"
        assert world.store.totals(world.product) == {"inspections": len(known), "waiting": len(waiting)}
        with self.database.reading() as connection:
            rows = connection.execute(select(hours).filter_by(product_id=world.product)).mappings().all()
        assert sorted((row["hour"], *(row[name] for name in COUNTED)) for row in rows) == self.recounted()
        sent = [number for number, is_verdict in self.delivered if not is_verdict]
        assert sent == sorted(known)[: len(sent)], "each once, in their order"
        assert self.outbox.waiting() == len(known) + self.said - len(self.delivered)


def test_store_retention_and_outbox_keep_what_they_were_told(database_url, tmp_path, monkeypatch):
    monkeypatch.setattr(Retention, "_pause", lambda self, seconds: None)
    monkeypatch.setattr(
        Machine, "url", database_url or f"sqlite:///{tmp_path / 'station.sqlite'}", raising=False
    )
    monkeypatch.setattr(Machine, "folder", tmp_path / "files", raising=False)
    given = settings(
        max_examples=6 if database_url is None else 3,
        stateful_step_count=25,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Machine, settings=given)

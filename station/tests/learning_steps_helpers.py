"""What unit and end-to-end tests need: test_learning_steps.py, whole/test_learning_steps_whole.py."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import select

from flawscope.artefact.judgement import DecisionCounts, Judgement
from flawscope.errors import InputError
from flawscope_station.learning import candidates
from flawscope_station.learning import jobs as jobs_module
from flawscope_station.learning.candidate_records import status_of
from flawscope_station.learning.candidates import CannotLearnError, Learning
from flawscope_station.learning.jobs import EVENT_QUEUED, JobQueue, Jobs
from flawscope_station.settings.station import LearningSettings
from flawscope_station.store.database import Database, StoreError
from flawscope_station.store.schema import events, jobs, versions
from station_helpers import add_version

COUNTS = DecisionCounts(9, [3, 0.1, 0.7], [0, 0.0, 0.3])
FOUND = Judgement(how="extended", learnt=[5], good=COUNTS, defects=COUNTS)


class Kept(Jobs):
    """In the database. fail: is asked before each change, and raises where it shall not happen."""

    def __init__(self, database: Database):
        super().__init__(database)
        self.fail: Callable[[str], None] = lambda status: None

    def change(self, number: int, status: str, **given: Any) -> bool:
        self.fail(status)
        return super().change(number, status, **given)

    def rows(self) -> list[Any]:
        """The oldest first."""
        with self.database.reading() as connection:
            return list(connection.execute(select(jobs).order_by(jobs.c.id)))

    def statuses(self) -> list[str]:
        """As candidates are shown, the oldest first."""
        return [status_of(self.row(row.product_id, row.id)) for row in self.rows()]

    def facts(self, number: int) -> dict[str, Any]:
        return dict(json.loads(self.rows()[number - 1].facts))

    def events(self) -> list[tuple[str, str]]:
        """What became of candidates."""
        query = select(events.c.kind, events.c.text).where(events.c.kind != EVENT_QUEUED)
        with self.database.reading() as connection:
            return [(row.kind, row.text) for row in connection.execute(query.order_by(events.c.id))]


class Versions:
    """Of each product the version of its number is active."""

    device = "cpu"

    def engine_for(self, path: Path) -> str | None:
        return None

    def __init__(self, database: Database, folder: Path) -> None:
        self.database, self.made = database, 0
        self.files = SimpleNamespace(
            temporary_path=lambda name: folder / name, remove_temporary=lambda path: None
        )

    def is_open(self, product_id: int) -> bool:
        return False  # no room is looked for

    def path(self, product_id: int, number: int) -> Path:
        return Path("model.safetensors")

    def number(self, product_id: int) -> int:
        return product_id

    def add(self, product_id: int, *told: Any, is_ready: bool) -> int:
        self.made += 1
        name = "one" if product_id == 1 else "two"
        return add_version(self.database, name, f"{self.made:064}", "ready" if is_ready else "making")[1]

    def state(self, number: int) -> str:
        (row,) = self.database.rows(select(versions.c.state).where(versions.c.id == number))
        return str(row.state)

    def put(self, number: int, state: str) -> None:
        self.database.change(versions.update().where(versions.c.id == number).values(state=state))


class Made:
    """Learning of two products, with as many corrections as are asked for. said, reported: what it tells."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database: Database):
        self.said: list[str] = []
        self.reported: dict[str, str | None] = {}
        self.unreadable: set[int] = set()
        self.asked = 0  # for all verdicts of a product
        self.unable = False
        self.full: StoreError | None = None
        self.versions, self.candidates = Versions(database, tmp_path), Kept(database)
        for name in ("one", "two"):
            add_version(database, name, state="active")
        learn = LearningSettings(after=1)
        self.queue = JobQueue(database)
        self.queue.jobs = self.candidates
        self.learning = Learning(
            self.queue,
            self.versions,
            {"one": 1, "two": 2},
            {"one": learn, "two": learn},
            self.reported.__setitem__,
            self.said.append,
        )
        correction = SimpleNamespace(number=5, verdict="good", verdict_id=1)
        words = SimpleNamespace(corrections=[correction], verdicts=[1], removed=[], contradictory=[])

        def words_of(product_id: int) -> Any:
            self.asked += 1
            return words

        def able(product_id: int) -> Any:
            if self.unable:
                raise CannotLearnError("version 1 is an export")
            if product_id in self.unreadable:
                raise InputError("model.safetensors is damaged; copy it again")
            return SimpleNamespace(number=product_id, file=Path("model.safetensors"), is_trained=True)

        plan = SimpleNamespace(learnt=[], start=1, verdicts=words, pictures=[])
        monkeypatch.setattr(jobs_module, "RETRY_SECONDS", 0.01)
        monkeypatch.setattr(candidates, "make_plan", lambda *told, **named: plan)
        monkeypatch.setattr(self.learning, "_read_verdicts", words_of)
        monkeypatch.setattr(self.learning, "_learning_version", able)
        monkeypatch.setattr(self.learning, "_disk_full_error", lambda product_id: self.full)
        monkeypatch.setattr(self.queue.worker, "run", lambda work, job, step: FOUND)

    def look(self, times: int = 1) -> None:
        """As often as in so many times ten seconds."""
        waits = iter([False] * times)
        self.queue._wait = lambda seconds=None: next(waits, True)
        self.queue._work()

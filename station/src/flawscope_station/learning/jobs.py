"""Models that are made one after another in a process beside the inspections.

They are versions from corrections, and models of new products. Each is a row, so that a station that was
killed goes on where it was.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, Field
from sqlalchemy import Connection, Select, delete, func, or_, select, update
from typing_extensions import override

from flawscope_station.learning.process import STEP_SECONDS, JobFunction, StoppedError, Worker
from flawscope_station.monitoring.background import BackgroundThread
from flawscope_station.store.database import Database, StoreError, now
from flawscope_station.store.model_registry import make_ready
from flawscope_station.store.records import NotFoundError, add_event
from flawscope_station.store.rows import CandidateRow, JobRow
from flawscope_station.store.schema import (
    IS_UNFINISHED,
    QUEUED,
    REMOVED,
    RUNNING,
    active_version,
    jobs,
    verdicts,
    versions,
)

T = TypeVar("T")

# kinds: a version from corrections, the model of a new product
CORRECTIONS = "corrections"
FIT = "fit"
# of the work; what became of the model is the state of its version
DONE = "done"
STOPPED = "stopped"
REJECTED = "rejected"
FAILED = "failed"
UNFINISHED = (QUEUED, RUNNING)
MAX_JOBS = 1000  # of a product, that became no version: older ones are removed
MAX_LATEST = 50  # jobs of a product that are looked at
CHECK_INTERVAL = 60.0  # seconds between two looks at what is to be made
LATE_SECONDS = 5.0  # after a step, at least, before the time that it told is no longer believed
RETRY_SECONDS = 2.0  # seconds between two tries where the data base is away
EVENT_QUEUED = "learning asked"


class JobStep(BaseModel):
    """State of a job: how far it is."""

    stage: str
    done: int
    total: int
    left: float | None = Field(None, description="seconds until this stage is done, about")


class Jobs:
    """Jobs in the data base. Every method is one transaction and raises `StoreError` where it fails."""

    def __init__(self, database: Database):
        self.database = database

    def add(
        self,
        kind: str,
        who: str,
        facts: Mapping[str, object],
        *,
        product_id: int | None = None,
        start: int | None = None,
        draft: str | None = None,
    ) -> int:
        """Queue a job and return its number.

        Args:
            kind: of the job.
            who: asked for it.
            facts: stored with it, as JSON.
            product_id: number of the product; None: it is a new one.
            start: version that it begins with.
            draft: name of the new product, of which the last job of a kind is kept.
        """
        at = now()
        row = {"kind": kind, "product_id": product_id, "draft": draft, "start_version_id": start}
        row |= {"who": who, "created_at": at, "changed_at": at, "status": QUEUED, "facts": json.dumps(facts)}
        with self.database.writing() as connection:
            if draft is not None:
                connection.execute(delete(jobs).where(jobs.c.draft == draft, jobs.c.kind == kind))
            number = int(connection.execute(jobs.insert().values(row).returning(jobs.c.id)).scalar_one())
            if product_id is not None:
                text = f"candidate {number} on version {start}"
                add_event(connection, EVENT_QUEUED, who, text, product_id)
                gone = select(versions.c.id)
                gone = gone.where(versions.c.product_id == product_id, versions.c.state == REMOVED)
                has_none = or_(jobs.c.version_id.is_(None), jobs.c.version_id.in_(gone))
                is_of_product = jobs.c.product_id == product_id, has_none
                kept = (
                    select(jobs.c.id)
                    .where(*is_of_product)
                    .order_by(jobs.c.id.desc())
                    .offset(MAX_JOBS)
                    .limit(1)
                )
                if (last := connection.scalar(kept)) is not None:
                    connection.execute(delete(jobs).where(*is_of_product, jobs.c.id <= last, ~IS_UNFINISHED))
        return number

    def change(
        self,
        number: int,
        status: str,
        *,
        kind: str = "",
        who: str = "",
        text: str = "",
        facts: Mapping[str, object] | None = None,
        only: tuple[str, ...] = (),
        **columns: int | None,
    ) -> bool:
        """Set a job's status and note an event; return whether that was done.

        Nothing is changed where the job was removed, or has another status than `only` allows. With DONE, the
        version that it became is ready by that.

        Args:
            number: of the job.
            status: from now on.
            kind: of the event; "": none is noted.
            who: of the event.
            text: of the event, after the candidate's number.
            facts: added to those of the job.
            only: statuses that it may have before; empty: any.
            columns: further values of its row, such as `version_id`.
        """
        with self.database.writing() as connection:
            row = connection.execute(select(jobs).where(jobs.c.id == number).with_for_update()).one_or_none()
            if row is None or (only and row.status not in only):
                return False
            known = {**json.loads(row.facts), **(facts or {})}
            values = {"status": status, "changed_at": now(), "facts": json.dumps(known), **columns}
            connection.execute(update(jobs).where(jobs.c.id == number).values(values))
            if status == DONE and (version := columns.get("version_id")) is not None:
                make_ready(connection, version, who)
            if kind:
                add_event(connection, kind, who, f"candidate {number}{text}", row.product_id)
        return True

    def replace_version(self, number: int, version: int) -> None:
        """Note that a job's version was made anew as another one."""
        self.database.change(update(jobs).where(jobs.c.id == number).values(version_id=version))

    def state(self, product_id: int) -> tuple[object, ...]:
        """Return the active version, the last verdict, and the status of the latest jobs.

        What is learnt depends on them alone.
        """
        last = select(verdicts.c.id).where(verdicts.c.product_id == product_id)
        last = last.order_by(verdicts.c.id.desc()).limit(1)
        active = select(active_version(product_id), last.scalar_subquery())
        latest = select(jobs.c.id, jobs.c.status).where(jobs.c.product_id == product_id)
        latest = latest.order_by(jobs.c.id.desc()).limit(MAX_LATEST)
        with self.database.reading() as connection:
            return *connection.execute(active).one(), *map(tuple, connection.execute(latest))

    def next_unfinished(self) -> JobRow | None:
        """Return the oldest job that is to be made, or that was being made when something ended it."""
        return self.database.row(select(jobs).where(IS_UNFINISHED).order_by(jobs.c.id).limit(1))

    def before(self, number: int) -> int:
        """Count the models that are made before this one."""
        ours = IS_UNFINISHED, jobs.c.id < number
        with self.database.reading() as connection:
            return int(connection.execute(select(func.count()).where(*ours)).scalar_one())

    def of_version(self, product_id: int, version: int) -> JobRow | None:
        """Return the job that became a version."""
        with self.database.reading() as connection:
            return job_of_version(connection, product_id, version)

    def by_version(self, product_id: int) -> dict[int, CandidateRow]:
        """Return the last job that became each version."""
        ours = jobs.c.product_id == product_id, jobs.c.version_id.is_not(None)
        rows = self.database.rows(_with_version_state().where(*ours).order_by(jobs.c.id))
        return {int(row.version_id): row for row in rows}

    def row(self, product_id: int, number: int) -> CandidateRow:
        """Return a product's job, with the state of its version. NotFoundError."""
        row = self.database.row(
            _with_version_state().where(jobs.c.product_id == product_id, jobs.c.id == number)
        )
        if row is None:
            raise NotFoundError(f"there is no candidate {number} of this product")
        return row

    def latest(self, product_id: int, most: int = MAX_LATEST) -> Sequence[CandidateRow]:
        """Return a product's latest jobs, newest first, each with the state of its version."""
        query = _with_version_state().where(jobs.c.product_id == product_id)
        return self.database.rows(query.order_by(jobs.c.id.desc()).limit(most))

    def of_draft(self, name: str) -> JobRow | None:
        """Return the fit of a new product; None: there is none."""
        return self.database.row(select(jobs).where(jobs.c.draft == name, jobs.c.kind == FIT))

    def forget(self, number: int) -> None:
        """Remove a job."""
        self.database.change(delete(jobs).where(jobs.c.id == number))

    def forget_draft(self, name: str) -> None:
        """Remove the jobs of a new product."""
        self.database.change(delete(jobs).where(jobs.c.draft == name))


def _with_version_state() -> Select[tuple[object, ...]]:
    """Return the query of jobs, each with the state of the version that it became; NULL: it became none."""
    became = jobs.outerjoin(versions, versions.c.id == jobs.c.version_id)
    return select(jobs, versions.c.state.label("version_state")).select_from(became)


def job_of_version(connection: Connection, product_id: int, version: int) -> JobRow | None:
    """Return the last job that became a version; None: it was made otherwise."""
    ours = jobs.c.product_id == product_id, jobs.c.version_id == version
    return connection.execute(select(jobs).where(*ours).order_by(jobs.c.id.desc()).limit(1)).one_or_none()


class Maker(Protocol):
    """Makes the jobs of a kind."""

    def __call__(self, row: JobRow) -> object:
        """Make a job by `JobQueue.run` and set its status. StoreError: it is made later; StoppedError."""


class JobQueue(BackgroundThread):
    """Makes one job after the other.

    Attributes:
        makers: by kind.
        looks: called before each look for jobs: they may add some.
    """

    def __init__(self, database: Database):
        super().__init__("learning")
        self.jobs, self.worker = Jobs(database), Worker()
        self.makers: dict[str, Maker] = {}
        self.looks: list[Callable[[], object]] = []
        self._lock = threading.Lock()
        self._current: JobRow | None = None
        self._step: JobStep | None = None
        self._begun = 0.0  # when the present stage did
        self._due = 0.0  # until when the present step's time holds

    @override
    def start(self) -> None:
        """Start the thread, which looks for unfinished jobs at once."""
        self.wake()
        super().start()

    @override
    def end(self) -> None:
        """End; a job that is being made is made anew at the next start."""
        super().end()
        self.worker.close()

    def add(
        self,
        kind: str,
        who: str,
        facts: Mapping[str, object],
        *,
        product_id: int | None = None,
        start: int | None = None,
        draft: str | None = None,
    ) -> int:
        """Queue a job, and return its number.

        Args:
            kind: of the job, for which there is a maker.
            who: asked for it.
            facts: stored with it, as JSON.
            product_id: number of the product; None: it is a new one.
            start: version that it begins with.
            draft: name of the new product, of which the last job of a kind is kept.
        """
        number = self.jobs.add(kind, who, facts, product_id=product_id, start=start, draft=draft)
        self.wake()
        return number

    def step(self, number: int) -> JobStep | None:
        """Return how far a job is; None: it is not being made.

        What was to be done by now says nothing of the rest: then `left` is None.
        """
        with self._lock:
            step = self._step if self._current is not None and self._current.id == number else None
            is_late = step is not None and step.left is not None and time.monotonic() > self._due
        return step.model_copy(update={"left": None}) if step is not None and is_late else step

    def stop_job(
        self,
        number: int,
        status: str = STOPPED,
        *,
        only: tuple[str, ...] = UNFINISHED,
        kind: str = "",
        who: str = "",
    ) -> bool:
        """Give a job this status, and end its work; return False where it has none of the statuses `only`.

        Args:
            number: of the job.
            status: from now on.
            only: statuses that it may have before.
            kind: of the event that is noted; "": none is.
            who: of the event.
        """
        is_changed = self.jobs.change(number, status, kind=kind, who=who, only=only)
        if is_changed:
            self._if_current(number, self.worker.stop)
        return is_changed

    def interrupt(self, number: int, stages: str) -> None:
        """End the stages of a job whose names begin so (`Worker.interrupt`)."""
        self._if_current(number, lambda: self.worker.interrupt(stages))

    def _if_current(self, number: int, do: Callable[[], object]) -> None:
        with self._lock:
            if self._current is not None and self._current.id == number:
                do()

    def run(self, work: JobFunction[T], job: dict[str, Any]) -> T:
        """Return the result of a job's work. WorkerError: it cannot be done, or the process ended."""
        return self.worker.run(work, job, self._note_step)

    def pause(self, seconds: float) -> bool:
        """Wait for so long; return whether the station ends."""
        return self._pause(seconds)

    @override
    def _work(self) -> None:
        while not self._wait(CHECK_INTERVAL):
            try:
                with self.threads[0].call(STEP_SECONDS):
                    self._make_all()
            except StoreError:  # reported by the station; jobs that are to be made are found at the next look
                self._pause(RETRY_SECONDS)
                self.wake()

    def _make_all(self) -> None:
        self.worker.end_if_idle()
        for look in self.looks:
            look()
        while not self._ended.is_set() and (row := self.jobs.next_unfinished()) is not None:
            self._make(row)

    def _make(self, row: JobRow) -> None:
        if row.kind not in self.makers:  # queued by an earlier version of the station
            return self.jobs.forget(row.id)
        with self._lock:
            self._current = row
        try:
            if self.jobs.change(row.id, RUNNING, only=UNFINISHED):  # else it was stopped a moment ago
                self.makers[row.kind](row)
        except StoppedError:  # by a person, who said so in the row; else it goes on later
            pass
        finally:
            with self._lock:
                self._current = self._step = None

    def _note_step(self, stage: str, done: int, total: int) -> None:
        self.threads[0].go_on()
        name = stage.partition(",")[0]
        at = time.monotonic()
        with self._lock:
            if self._step is None or self._step.stage != name:
                self._begun = at
            left = (at - self._begun) / done * (total - done) if done else None
            self._due = at + max(LATE_SECONDS, 2 * (left or 0.0))
            self._step = JobStep(stage=name, done=done, total=total, left=left)

"""Candidates made from corrections one after another, beside the inspections. A person activates them.

Each is made and compared with the active version in `flawscope.fitting.candidate`, which runs in the process
of `process.Worker`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from flawscope import machine
from flawscope.artefact import judgement as judgements
from flawscope.errors import InputError, message_with_type, pluralize
from flawscope_station.learning import candidate_records as records
from flawscope_station.learning import jobs
from flawscope_station.learning.candidate_plan import (
    ActiveVersion,
    LearningWay,
    Plan,
    ValidVerdicts,
    find_unsure,
    make_plan,
    read_verdicts,
    reason_not_to_learn,
)
from flawscope_station.learning.jobs import JobQueue
from flawscope_station.learning.process import StoppedError, make_candidate
from flawscope_station.settings.station import LearningSettings
from flawscope_station.store.addresses import CANNOT_LEARN
from flawscope_station.store.database import StoreError
from flawscope_station.store.model_registry import ModelRegistry, is_of_joint_model
from flawscope_station.store.open_models import NoModelError
from flawscope_station.store.rows import JobRow
from flawscope_station.store.schema import QUEUED, READY, RUNNING

T = TypeVar("T")
STATION = "station"  # user name in events: the station queued it, no person


class DefectsLostError(InputError):
    """A version would lose known defects, or too many simulated ones.

    Attributes:
        lost: inspections of these defects, or of the corrections that are responsible.
    """

    status = 409
    code = "loses_defects"

    def __init__(self, version: int, lost: Sequence[int]):
        named = ", ".join(map(str, lost[:20])) + (" ..." if len(lost) > 20 else "")
        super().__init__(
            f"version {version} finds fewer defects: look at inspections {named}, which it does not find any "
            "more or which are responsible, and name all of them as `losing` to use it all the same"
        )
        self.lost = list(lost)


class CannotLearnError(InputError):
    """The product cannot learn, or not in the way that was asked for."""


class Learning:
    """Makes candidates, and activates them for a person.

    Args:
        products: name -> number.
        settings: name -> settings of learning; None: a candidate is made only on request.
        report: reports a product's problem, None when it is over.
        say: gets a line for the log.
    """

    def __init__(
        self,
        queue: JobQueue,
        versions: ModelRegistry,
        products: Mapping[str, int],
        settings: Mapping[str, LearningSettings | None],
        report: Callable[[str, str | None], None],
        say: Callable[[str], None],
    ):
        self.database = versions.database
        self.files = versions.files
        self.versions = versions
        self.settings = {products[name]: learn for name, learn in settings.items()}
        self.report = report
        self.say = say
        self.queue = queue
        self.candidates = queue.jobs
        # by product: all that the last look depended on, and whether it was done
        self._looked: dict[int, tuple[object, bool]] = {}
        queue.makers[jobs.CORRECTIONS] = self._make
        queue.looks.append(self._look)

    def wake(self) -> None:
        """Look for corrections to learn from, soon."""
        self.queue.wake()

    def candidate(self, product_id: int, number: int) -> records.Candidate:
        """Return a candidate of a product, with how far it is where it is being made. NotFoundError."""
        return records.Candidate.of(self.candidates.row(product_id, number), self.queue.step(number))

    # ---- requests of people

    def request_candidate(self, product_id: int, who: str, how: LearningWay = "") -> records.Candidate:
        """Return the candidate that is queued, or queue a new one.

        InputError where no candidate can be made.
        """
        active = self._learning_version(product_id, how)
        for row in self.candidates.latest(product_id):
            if row.status == QUEUED:
                return records.Candidate.of(row)
        if not self._read_verdicts(product_id).judged:
            raise InputError("nobody has said what a picture is: review some first")
        number = self._queue(product_id, active.number, who, how)
        self.report(f"learning_{product_id}", None)
        return self.candidate(product_id, number)

    def reject(self, product_id: int, number: int, who: str) -> records.Candidate:
        """Reject a candidate that is not done, is ready or failed. InputError for any other."""
        status = records.status_of(self.candidates.row(product_id, number))
        only = (*jobs.UNFINISHED, jobs.DONE, jobs.FAILED)
        is_open = status in (*jobs.UNFINISHED, READY, jobs.FAILED)
        rejected = {"kind": records.EVENT_REJECTED, "who": who}
        if not is_open or not self.queue.stop_job(number, jobs.REJECTED, only=only, **rejected):
            raise InputError(f"candidate {number} is {status}: it cannot be rejected any more")
        self.report(f"learning_{product_id}", None)
        return self.candidate(product_id, number)

    def activate(self, product_id: int, number: int, who: str, losing: Sequence[int] = ()) -> int:
        """Activate a version and return its number.

        Open questions of a version are accepted by that, which makes a version with a new number.

        Args:
            product_id: number of the product.
            number: of the version.
            who: activates it.
            losing: inspections of which the person knows that they are at risk.

        Raises:
            DefectsLostError: `losing` does not name all inspections that are at risk.
        """
        at_risk = self.losses(product_id, [self.versions.version(product_id, number)])[number]
        if missing := sorted({*at_risk} - {*losing}):
            raise DefectsLostError(number, missing)
        used = self.versions.accept_questions(product_id, number, who)
        self.versions.activate(product_id, used, who)
        if (candidate := self.candidates.of_version(product_id, number)) is not None:
            self.candidates.replace_version(candidate.id, used)
        return used

    def losses(self, product_id: int, versions: Sequence[Mapping[str, Any]]) -> dict[int, list[int]]:
        """Return for each version, as the API shows it, the inspections that must be named to activate it.

        There are none where it judged before, for a person agreed then.
        """
        made = self.candidates.by_version(product_id)
        return {
            version["id"]: []
            if version["switches"] or version["id"] not in made
            else records.Candidate.of(made[version["id"]]).at_risk
            for version in versions
        }

    # ---- for the API

    def facts(self, product_id: int) -> dict[str, Any]:
        """Return how a product learns, as the API shows it."""
        learn = self.settings.get(product_id)
        rows = self.candidates.latest(product_id)
        valid = self._read_verdicts(product_id)
        why = None
        unsure: list[int] = []
        try:
            active = self._learning_version(product_id)
            last = json.loads(rows[0].facts).get("judgement") if rows else None
            unsure = find_unsure(valid, active, (last or {}).get("unsure", ()))
        except InputError as error:
            why = str(error)
        return {
            "why_not": why,
            "after": None if learn is None else learn.after,
            "keep": (learn or LearningSettings()).keep,
            "false_alarms": sum(verdict.verdict == "good" for verdict in valid.corrections),
            "misses": sum(verdict.verdict == "defect" for verdict in valid.corrections),
            "new": self._count_new(valid, rows),
            "contradictory": valid.contradictory,
            "unsure": unsure,
            "candidates": [records.Candidate.of(row, self.queue.step(row.id)) for row in rows],
        }

    @staticmethod
    def _count_new(valid: ValidVerdicts, rows: Sequence[JobRow]) -> int:
        """Count the corrections that were given or taken back since the last candidate."""
        learnt = (json.loads(row.facts).get("verdicts") for row in rows)
        last: list[int] = next((verdicts for verdicts in learnt if verdicts is not None), [])
        return len({*valid.verdicts} ^ {*last})

    def _read_verdicts(self, product_id: int) -> ValidVerdicts:
        with self.database.reading() as connection:
            return read_verdicts(connection, product_id)

    def _learning_version(self, product_id: int, how: LearningWay = "") -> ActiveVersion:
        """Return the active version, from which the product learns.

        Args:
            product_id: Number of the product.
            how: Way of making a candidate.

        Raises:
            CannotLearnError: the product cannot learn, or not in this way.
            InputError: the model cannot be read.
        """
        try:
            number = self.versions.number(product_id)
            if is_of_joint_model(self.versions.active_facts(product_id)):
                raise CannotLearnError(CANNOT_LEARN)
            active = ActiveVersion.read(number, self.versions.path(product_id, number))
        except NoModelError:
            raise CannotLearnError("no model is open: activate a version") from None
        why = reason_not_to_learn(active, self.settings.get(product_id) or LearningSettings(), how)
        if why is not None:
            raise CannotLearnError(why)
        return active

    # ---- the work

    def _look(self) -> None:
        """Look at products about which a verdict was given, or a model made, since the last look.

        Reading all corrections of a product takes long.
        """
        for product_id, learn in self.settings.items():
            state = self.candidates.state(product_id)
            known, is_done = self._looked.get(product_id, (None, False))
            if state != known or not is_done:
                is_done = learn is None or self._queue_if_enough(product_id, learn)
            self._looked[product_id] = state, is_done

    def _queue(self, product_id: int, start: int, who: str, how: LearningWay = "") -> int:
        facts = {"asked": how}
        return self.queue.add(jobs.CORRECTIONS, who, facts, product_id=product_id, start=start)

    def _queue_if_enough(self, product_id: int, learn: LearningSettings) -> bool:
        """Queue a candidate where enough was corrected; report a model that cannot be read.

        Return whether the corrections could be counted.
        """
        why = None
        is_counted = True
        try:
            rows = self.candidates.latest(product_id)
            if not any(row.status in jobs.UNFINISHED for row in rows):
                active = self._learning_version(product_id)  # first: reading all verdicts takes longer
                if self._count_new(self._read_verdicts(product_id), rows) >= learn.after:
                    self._queue(product_id, active.number, STATION)
        except StoreError:
            raise
        except CannotLearnError:
            is_counted = False
        except Exception as error:
            is_counted = False
            why = f"no version can be made from corrections: {message_with_type(error)}"
        # a code of its own: `learning_` is the problem of the last candidate, which may still hold
        self.report(f"learning_model_{product_id}", why)
        return is_counted

    def _make(self, row: JobRow) -> None:
        """Make a candidate. StoreError: it waits, and is made later; StoppedError."""
        product_id = row.product_id
        number = row.id
        learn = self.settings.get(product_id) or LearningSettings()
        begun = time.monotonic()
        out = self.files.temporary_path("model")
        try:
            if (full := self._disk_full_error(product_id)) is not None:
                raise full
            active = self._learning_version(product_id)
            with self.database.reading() as connection:
                plan = make_plan(connection, product_id, active, self.files, number)
            out = out.with_name(active.file.name)
            start = str(self.versions.path(product_id, plan.start))
            how = json.loads(row.facts).get("asked", "")
            job = {
                "active": str(active.file),
                "trained": start if active.is_trained else learn.trained,
                "out": str(out),
                "how": how,
                "pictures": plan.pictures,
                "good": learn.pictures if how == "retrained" else None,
                "threads": max(1, machine.usable_cores() // 2),
                "engine": self.versions.engine_for(active.file),
                "device": self.versions.device,
            }
            found: judgements.Judgement = self.queue.run(make_candidate, job)
            gone = plan.verdicts.gone
            contradictory = {*found.contradictory, *plan.verdicts.contradictory}
            found = replace(found, contradictory=sorted(contradictory), gone=gone)
            self._add_version(row, plan, active, learn.keep, found, out, begun)
        except StoppedError:
            raise
        except Exception as error:  # any: else the candidate would be running for ever
            store_error = error if isinstance(error, StoreError) else self._disk_full_error(product_id)
            if store_error is None:
                self._note_failure(row, error, message_with_type(error).replace(str(out.parent), ""))
                return
            if store_error.code == "disk_full":
                why = f"a version waits to be made from corrections: {store_error}"
                self._report(product_id, why)
            raise store_error from None
        finally:
            self.files.remove_temporary(out)

    def _disk_full_error(self, product_id: int) -> StoreError | None:
        """Return the error of a disk without room for a version and its temporary file; None: it has room."""
        try:
            path = self.versions.path(product_id, self.versions.number(product_id))
            self.files.check_free_space(2 * path.stat().st_size)
        except StoreError as error:
            return error
        except (NoModelError, OSError):  # its file is gone: reading it says so
            pass
        return None

    def _note_failure(self, row: JobRow, error: Exception, why: str) -> None:
        facts = {"error": why, "verdicts": self._read_verdicts(row.product_id).verdicts}
        is_changed = self.candidates.change(
            row.id, jobs.FAILED, kind=records.EVENT_FAILED, text=f": {why}", facts=facts, only=(RUNNING,)
        )
        if not is_changed:
            if self.candidates.row(row.product_id, row.id).status != jobs.REJECTED:
                raise error  # it is ready by now, and stays so
            return
        self._report(row.product_id, f"no version could be made from corrections: {why}")

    def _report(self, product_id: int, why: str | None) -> None:
        """Report the problem of a product's last candidate; a product that was removed has none."""
        try:
            self.versions.number(product_id)
        except NoModelError:
            why = None
        self.report(f"learning_{product_id}", why)

    def _retry_write(self, write: Callable[[], T]) -> T:
        """Repeat a write until the data base is back: a candidate took long to make."""
        while True:
            try:
                return write()
            except StoreError as error:
                if error.code == "disk_full":  # the version would fill it, too
                    raise
                if self.queue.pause(jobs.RETRY_SECONDS):
                    raise StoppedError("the station ends") from None

    def _add_version(
        self,
        row: JobRow,
        plan: Plan,
        active: ActiveVersion,
        keep: int,
        judgement: judgements.Judgement,
        out: Path,
        begun: float,
    ) -> None:
        """Add the worker's model as a version, and remove unused versions beyond `keep`.

        The version is ready once the candidate's row says what it learnt from.
        """
        product_id = row.product_id
        valid = plan.verdicts
        learnt = sorted({*plan.learnt, *judgement.learnt})
        text = f"{pluralize(len(learnt), 'correction')}, on version {plan.start}"
        self.versions.number(product_id)  # first: the product may be removed
        version = self._retry_write(lambda: self.versions.add(product_id, out, text, row.who, is_ready=False))
        seconds = round(time.monotonic() - begun, 2)
        facts: dict[str, object] = {
            "how": judgement.how,
            "learnt": learnt,
            "verdicts": valid.verdicts,
            "corrections": [
                {"id": verdict.number, "verdict": verdict.verdict, "verdict_id": verdict.verdict_id}
                for verdict in valid.corrections
            ],
            "compared_with": active.number,
            "judgement": asdict(judgement),
            "seconds": {"total": seconds},
            "error": None,
        }
        note_done = partial(
            self.candidates.change,
            row.id,
            jobs.DONE,
            kind=records.EVENT_READY,
            who=row.who,
            text=f" became version {version}",
            facts=facts,
            # a person may have rejected it meanwhile; DONE: written a moment ago
            only=(RUNNING, jobs.DONE),
            version_id=version,
            start_version_id=plan.start,
        )
        if not self._retry_write(note_done):
            self.versions.remove(product_id, version)
            return
        self._report(product_id, None)
        self.say(f"version {version} was made from corrections in {seconds:.1f} s")
        with suppress(NoModelError):  # the product was removed meanwhile
            current = self.versions.number(product_id)
            if current not in (active.number, version):
                self._queue(product_id, current, STATION)
        self._remove_unused(product_id, keep)

    def _remove_unused(self, product_id: int, keep: int) -> None:
        """Remove the versions beyond the latest `keep` that nobody used."""
        unused: list[int] = []  # numbers of versions
        for candidate in self.candidates.latest(product_id, 1000):
            if candidate.version_id is not None and records.status_of(candidate) in records.UNUSED:
                unused.append(candidate.version_id)
        for number in unused[keep:]:
            self.versions.remove(product_id, number)

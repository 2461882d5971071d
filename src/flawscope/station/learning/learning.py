"""Candidates made from corrections one after another, beside the inspections, and their activation."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Row

from flawscope.errors import FlawscopeError, InputError, pluralize, with_kind
from flawscope.machine import cores
from flawscope.station.background import Background
from flawscope.station.learning import candidates as of
from flawscope.station.learning.candidates import NOT_OPENED, SWITCHED, Candidates, at_risk, waits
from flawscope.station.learning.plan import Active, Plan, Words, planned, why_not, words_of
from flawscope.station.learning.process import StoppedError, Worker, work
from flawscope.station.settings.station import Learn
from flawscope.station.store.addresses import CANNOT_LEARN
from flawscope.station.store.database import StoreError
from flawscope.station.store.model_registry import Versions
from flawscope.station.store.open_models import NoModelError

T = TypeVar("T")
EVERY = 60.0  # seconds after which verdicts are looked at although nobody gave one
AGAIN = 2.0  # seconds after which a data base that is away is asked again
RULE = "rule"  # who did it


class LosesError(InputError):
    """A version would lose known defects, or too many simulated ones.

    Attributes:
        lost: inspections of these defects, or of the corrections that are responsible.
    """

    def __init__(self, version: int, lost: Sequence[int]):
        named = ", ".join(map(str, lost[:20])) + (" ..." if len(lost) > 20 else "")
        super().__init__(
            f"version {version} finds fewer defects: look at inspections {named}, which it does not find any "
            "more or which are responsible, and name all of them as `losing` to use it all the same"
        )
        self.lost = list(lost)


class UnableError(InputError):
    """The product cannot learn, or not so."""


class Learning(Background):
    """Makes candidates, and activates them by the rule.

    Args:
        products: name -> number.
        settings: name -> settings of learning; None: a candidate is made only on request.
        report: reports a product's problem, None when it is over.
        say: gets a line for the log.
    """

    def __init__(
        self,
        versions: Versions,
        products: Mapping[str, int],
        settings: Mapping[str, Learn | None],
        report: Callable[[str, str | None], None],
        say: Callable[[str], None],
    ):
        super().__init__("learning")
        self.database, self.files, self.versions = versions.database, versions.files, versions
        self.settings = {products[name]: learn for name, learn in settings.items()}
        self.report, self.say = report, say
        self.candidates = Candidates(self.database)
        self.worker = Worker(work)
        self._steps: dict[int, tuple[str, int, int]] = {}  # by candidate

    def start(self) -> None:
        self.wake()
        super().start()

    def end(self) -> None:
        """End; a candidate that is being made is made anew at the next start."""
        super().end()
        self.worker.close()

    # ---- what people ask for

    def ask(self, product_id: int, who: str, how: str = "") -> dict[str, Any]:
        """Queue a candidate and return it, or the one that is queued already. InputError where none can be
        made."""
        active = self._able(product_id, how)
        for row in self.candidates.listed(product_id):
            if row.status == of.QUEUED:
                return of.shown(row)
        if not self._words(product_id).judged:
            raise InputError("nobody has said what a picture is: review some first")
        number = self.candidates.add(product_id, active.number, who, {"asked": how})
        self.report(f"learning_{product_id}", None)
        self.wake()
        return of.shown(self.candidates.row(product_id, number))

    def reject(self, product_id: int, number: int, who: str) -> dict[str, Any]:
        """Reject a candidate that is queued, ready or failed. InputError for any other."""
        row = self.candidates.row(product_id, number)
        allowed = of.QUEUED, of.READY, of.FAILED
        if not self.candidates.change(number, of.REJECTED, kind=of.REFUSED, who=who, only=allowed):
            raise InputError(f"candidate {number} is {row.status}: it cannot be rejected any more")
        self.report(f"learning_{product_id}", None)
        return of.shown(self.candidates.row(product_id, number))

    def activate(self, product_id: int, number: int, who: str, losing: Sequence[int] = ()) -> None:
        """Activate a version.

        Raises:
            LosesError: `losing` does not name all inspections that are at risk.
        """
        made = self.candidates.of_version(product_id, number)
        judged = {} if made is None else json.loads(made.facts).get("judgement") or {}
        missing = sorted(set(at_risk(judged)) - set(losing))
        if missing and not self.versions.version(product_id, number)["switches"]:  # else a person agreed
            raise LosesError(number, missing)
        self.versions.activate(product_id, number, who)
        if made is not None:
            self.candidates.change(made.id, of.LIVE, only=(of.READY, of.REJECTED))

    # ---- what is shown

    def facts(self, product_id: int) -> dict[str, Any]:
        """Return how a product learns, as the API shows it."""
        learn = self.settings.get(product_id)
        rows, words, why = self.candidates.listed(product_id), self._words(product_id), None
        try:
            self._able(product_id)
        except InputError as error:
            why = str(error)
        return {
            "why_not": why,
            "rule": "click" if learn is None else learn.rule,
            "after": None if learn is None else learn.after,
            "false_alarms": sum(word.verdict == "good" for word in words.corrections),
            "misses": sum(word.verdict == "defect" for word in words.corrections),
            "new": self._new(words, rows),
            "contradictory": words.contradictory,
            "candidates": [of.shown(row, self._steps.get(row.id)) for row in rows],
        }

    @staticmethod
    def _new(words: Words, rows: Sequence[Row[Any]]) -> int:
        """Count the corrections that were given or taken back since the last candidate."""
        told = (json.loads(row.facts).get("verdicts") for row in rows)
        last: list[int] = next((verdicts for verdicts in told if verdicts is not None), [])
        return len({*words.verdicts} ^ {*last})

    def _words(self, product_id: int) -> Words:
        with self.database.reading() as connection:
            return words_of(connection, product_id)

    def _able(self, product_id: int, how: str = "") -> Active:
        """Return the version that judges. UnableError where the product cannot learn, or not by `how`;
        InputError where the model cannot be read."""
        active = None
        with suppress(NoModelError):
            number = self.versions.number(product_id)
            if "product" in self.versions.active_facts(product_id):
                raise UnableError(CANNOT_LEARN)
            active = Active.of(number, self.versions.path(product_id, number))
        why = why_not(active, self.settings.get(product_id) or Learn(), how)
        if active is None or why is not None:
            raise UnableError(why)
        return active

    # ---- the work

    def _work(self) -> None:
        while not self._wait(EVERY):
            try:
                self.worker.rest()
                self.candidates.settle()
                for product_id, learn in self.settings.items():
                    if learn is not None:
                        self._look(product_id, learn)
                while not self._ended.is_set() and (row := self.candidates.next()) is not None:
                    self._make(row)
            except StoreError:  # reported by the station; what is to be made is found at the next look
                self._ended.wait(AGAIN)
                self.wake()
            except Exception as error:  # later corrections are learnt all the same
                self.say(f"learning: {with_kind(error)}")

    def _look(self, product_id: int, learn: Learn) -> None:
        """Queue a candidate where enough was corrected. A model that cannot be read is this product's problem
        alone."""
        why = None
        try:
            rows = self.candidates.listed(product_id)
            if not any(row.status in of.UNMADE for row in rows):
                active = self._able(product_id)  # first, for to read all verdicts takes longer
                if self._new(self._words(product_id), rows) >= learn.after:
                    self.candidates.add(product_id, active.number, RULE, {"asked": ""})
        except StoreError:
            raise
        except UnableError:
            pass
        except Exception as error:
            why = f"no version can be made from corrections: {with_kind(error)}"
        # a code of its own: `learning_` tells of the last candidate, and that may still hold
        self.report(f"learning_model_{product_id}", why)

    def _make(self, row: Row[Any]) -> None:
        """Make a queued candidate. StoreError: it waits, and is made later."""
        product_id, number = row.product_id, row.id
        if not self.candidates.change(number, of.RUNNING, only=of.UNMADE):
            return  # it was rejected
        learn = self.settings.get(product_id) or Learn()
        begun, out = time.monotonic(), self.files.temporary("model")
        try:
            if (full := self._no_room(product_id)) is not None:
                raise full
            active = self._able(product_id)
            with self.database.reading() as connection:
                plan = planned(connection, product_id, active, self.files, number)
            out = out.with_name(active.file.name)
            start = str(self.versions.path(product_id, plan.start))
            asked = json.loads(row.facts).get("asked", "")
            job = {
                "active": str(active.file),
                "trained": start if active.is_trained else learn.trained,
                "out": str(out),
                "how": asked,
                "strict": learn.rule == "auto",
                "pictures": plan.pictures,
                "good": learn.pictures if asked == "retrained" else None,
                "threads": max(1, cores() // 2),
                "engine": self.versions.engine_for(active.file),
                "device": self.versions.device,
            }
            judgement = self.worker.run(job, lambda *step: self._steps.__setitem__(number, step))
            self._ready(row, plan, active, learn, judgement, out, begun)
        except StoppedError:
            return  # still running in the data base: made anew when the station starts
        except Exception as error:  # any: else the candidate would be running for ever
            waits_for = error if isinstance(error, StoreError) else self._no_room(product_id)
            if waits_for is None:
                self._failed(row, error, with_kind(error).replace(str(out.parent), ""))
                return
            if waits_for.code == "disk_full":
                why = f"a version waits to be made from corrections: {waits_for}"
                self.report(f"learning_{product_id}", why)
            raise waits_for from None
        finally:
            self._steps.pop(number, None)
            self.files.drop(out)

    def _no_room(self, product_id: int) -> StoreError | None:
        """Error where the disk has no room for another version and its temporary file."""
        try:
            path = self.versions.path(product_id, self.versions.number(product_id))
            self.files.check_room(2 * path.stat().st_size)
        except StoreError as error:
            return error
        except (NoModelError, OSError):  # its file is gone: reading it says so
            pass
        return None

    def _failed(self, row: Row[Any], error: Exception, why: str) -> None:
        facts = {"error": why, "verdicts": self._words(row.product_id).verdicts}
        how: dict[str, Any] = {"kind": of.NOT_MADE, "text": f": {why}", "facts": facts}
        if not self.candidates.change(row.id, of.FAILED, only=(of.RUNNING,), **how):
            raise error  # it is ready by now, and stays so
        self.report(f"learning_{row.product_id}", f"no version could be made from corrections: {why}")

    def _kept(self, write: Callable[[], T]) -> T:
        """Repeat a write until the data base is back: a candidate took long to make."""
        while True:
            try:
                return write()
            except StoreError as error:
                if error.code == "disk_full":  # the version would fill it, too
                    raise
                if self._ended.wait(AGAIN):
                    raise StoppedError("the station ends") from None

    def _ready(
        self,
        row: Row[Any],
        plan: Plan,
        active: Active,
        learn: Learn,
        judgement: dict[str, Any],
        out: Path,
        begun: float,
    ) -> None:
        """Add the worker's model as a version, and activate it if the rule says so."""
        product_id, words = row.product_id, plan.words
        learnt = sorted({*plan.learnt, *judgement["learnt"]})
        text = f"{pluralize(len(learnt), 'correction')}, on version {plan.start}"
        version = self._kept(lambda: self.versions.add(product_id, out, text, row.who))
        seconds = round(time.monotonic() - begun, 2)
        is_active = self.versions.number(product_id) == active.number
        contradictory = sorted({*judgement["contradictory"], *words.contradictory})
        facts = {
            "how": judgement["how"],
            "learnt": learnt,
            "verdicts": words.verdicts,
            "corrections": [
                {"id": word.number, "verdict": word.verdict, "verdict_id": word.verdict_id}
                for word in words.corrections
            ],
            "compared_with": active.number,
            "judgement": {**judgement, "contradictory": contradictory, "gone": words.gone},
            "seconds": {"total": seconds},
            "error": None,
            "waits": waits(judgement, len(words.corrections), learn.after, is_active),
        }
        said: dict[str, Any] = {"kind": of.MADE, "who": row.who, "text": f" became version {version}"}
        said |= {"version_id": version, "start_version_id": plan.start}
        self._kept(lambda: self.candidates.change(row.id, of.READY, facts=facts, **said))
        self.report(f"learning_{product_id}", None)
        self.say(f"version {version} was made from corrections in {seconds:.1f} s")
        if learn.rule == "auto" and self.settings.get(product_id) is not None:
            self._by_rule(row, version, active.number, facts["waits"])
        current = self.versions.number(product_id)
        if current not in (active.number, version):
            self.candidates.add(product_id, current, RULE, {"asked": ""})
        unused = [one for one in self.candidates.listed(product_id, 1000) if one.status in of.UNUSED]
        for one in [one for one in unused if one.version_id is not None][learn.keep :]:
            said = {"kind": of.FORGOTTEN, "text": f": version {one.version_id}", "version_id": None}
            self.candidates.change(one.id, of.REMOVED, **said)
            self.versions.remove(product_id, one.version_id)

    def _by_rule(self, row: Row[Any], version: int, instead_of: int, reasons: list[str]) -> None:
        """Activate a version that need not wait; else note why it waits."""
        error = ""
        if not reasons:
            try:
                if self.versions.activate(row.product_id, version, RULE, instead_of):
                    self.candidates.settle()
                    return
                reasons = [SWITCHED]  # by a person, while it was opened
            except StoreError:
                raise
            except FlawscopeError as why:  # kept, so that a person may try again
                reasons, error = [NOT_OPENED], f": {why}"
        text = f": version {version} does not go live by the rule ({', '.join(reasons)}){error}"
        said: dict[str, Any] = {"kind": of.REFUSED_BY_RULE, "who": RULE, "text": text}
        only = (of.READY,)  # a person may have activated or rejected it meanwhile
        self.candidates.change(row.id, of.READY, facts={"waits": reasons}, only=only, **said)

"""Candidates made from corrections one after another, beside the inspections, and their activation."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Row

from flawscope.errors import FlawscopeError, InputError, pluralize, with_kind
from flawscope.station.background import Background
from flawscope.station.learning import candidates as of
from flawscope.station.learning import plan as plans
from flawscope.station.learning.candidates import NOT_OPENED, SWITCHED, Candidates, at_risk
from flawscope.station.learning.candidates import waits as waits_for
from flawscope.station.learning.plan import Words, latest_verdict, words_of
from flawscope.station.learning.process import StoppedError, Worker
from flawscope.station.settings.station import Learn
from flawscope.station.store.database import Database, StoreError
from flawscope.station.store.files import Files
from flawscope.station.store.model_registry import NoModelError, Versions

T = TypeVar("T")
EVERY = 10.0  # seconds between two looks for new corrections
AGAIN = 2.0  # seconds after which a data base that is away is asked again
RULE = "rule"  # who did it
HOWS = ("", "extended", "recalibrated", "retrained")


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
        database: Database,
        files: Files,
        versions: Versions,
        products: Mapping[str, int],
        settings: Mapping[str, Learn | None],
        report: Callable[[str, str | None], None],
        say: Callable[[str], None],
    ):
        super().__init__("learning")
        self.database, self.files, self.versions = database, files, versions
        self.settings = {products[name]: learn for name, learn in settings.items()}
        self.report, self.say = report, say
        self.candidates = Candidates(database)
        self.worker = Worker()
        self._steps: dict[int, tuple[str, int, int]] = {}  # by candidate
        self._left = False  # a candidate was left: the data base may still call it running
        # by product: the last verdict and the candidates, when too little was corrected
        self._few: dict[int, tuple[int, list[tuple[int, str]]]] = {}

    def start(self) -> None:
        self.candidates.again()
        super().start()

    def end(self) -> None:
        """End; a candidate that is being made is made anew at the next start."""
        super().end()
        self.worker.close()

    # ---- what people ask for

    def ask(self, product_id: int, who: str, how: str = "") -> dict[str, Any]:
        """Queue a candidate and return it, or the one that is queued already. InputError where none can be
        made."""
        if how not in HOWS:
            raise InputError(f"{how!r:.40} is no way to learn: extended, recalibrated or retrained")
        active = self._active(product_id)
        learn = self.settings[product_id] or Learn()
        if (why := plans.why_not(active, learn)) is not None:
            raise InputError(why)
        assert active is not None
        if how == "retrained" and learn.pictures is None:
            raise InputError(
                "a training needs the pictures that the model was fitted on: name their folder as "
                "`learn: pictures` of the product"
            )
        for row in self.candidates.listed(product_id):
            if row.status == of.QUEUED:
                return of.shown(row)
        with self.database.reading() as connection:
            words = words_of(connection, product_id)
        if not words.judged:
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
        if made is not None and made.status in (of.READY, of.REJECTED):
            self.candidates.change(made.id, of.LIVE)

    # ---- what is shown

    def facts(self, product_id: int) -> dict[str, Any]:
        """Return how a product learns, as the API shows it."""
        learn = self.settings[product_id]
        rows = self.candidates.listed(product_id)
        with self.database.reading() as connection:
            words = words_of(connection, product_id)
        try:
            why = plans.why_not(self._active(product_id), learn or Learn())
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
        return len({word.verdict_id for word in words.corrections} ^ set(last))

    def _active(self, product_id: int) -> plans.Active | None:
        try:
            number, _ = self.versions.active(product_id)
        except NoModelError:
            return None
        return plans.active_of(number, self.versions.path(product_id, number))

    # ---- the work

    def _work(self) -> None:
        while not self._wait(EVERY):
            try:
                if self._left:
                    self.candidates.again()
                    self._left = False
                for product_id, learn in self.settings.items():
                    if learn is not None:
                        self._look(product_id, learn)
                while not self._ended.is_set() and (row := self.candidates.next()) is not None:
                    self._make(row)
            except StoreError:  # reported by the station; queued candidates are found at the next look
                self._left = True
                self._ended.wait(AGAIN)
                self.wake()
            except Exception as error:  # later corrections are learnt all the same
                self.say(f"learning: {with_kind(error)}")

    def _look(self, product_id: int, learn: Learn) -> None:
        """Call `_by_itself`; an error of one product does not keep the others from learning."""
        why = None
        try:
            self._by_itself(product_id, learn)
        except StoreError:
            raise
        except Exception as error:
            why = f"no version can be made from corrections: {with_kind(error)}"
        # a code of its own: `learning_` tells of the last candidate, and that may still hold
        self.report(f"learning_model_{product_id}", why)

    def _by_itself(self, product_id: int, learn: Learn) -> None:
        """Queue a candidate where enough was corrected."""
        rows = self.candidates.listed(product_id)
        if any(row.status in (of.QUEUED, of.RUNNING) for row in rows):
            return
        with self.database.reading() as connection:
            state = latest_verdict(connection, product_id), [(row.id, row.status) for row in rows]
        if self._few.get(product_id) == state:
            return
        active = self._active(product_id)  # before all verdicts are read, which takes longer
        if active is None or plans.why_not(active, learn) is not None:
            return
        with self.database.reading() as connection:
            words = words_of(connection, product_id)
        if self._new(words, rows) < learn.after:
            self._few[product_id] = state
        else:
            self.candidates.add(product_id, active.number, RULE, {"asked": ""})

    def _make(self, row: Row[Any]) -> None:
        """Make a queued candidate. StoreError: it is made again later."""
        try:
            self._try(row)
        except StoreError as error:
            if error.code == "disk_full":
                why = f"a version waits to be made from corrections: {error}"
                self.report(f"learning_{row.product_id}", why)
            raise

    def _check_room(self, product_id: int) -> None:
        """Raise StoreError where the disk has no room for another version and its temporary file."""
        if not self.versions.is_open(product_id):
            return
        folder = self.versions.path(product_id, self.versions.number(product_id)).parent
        if not folder.is_dir():
            return  # its file is gone: reading it says so
        needed = 2 * sum(part.stat().st_size for part in folder.iterdir())
        if self.files.free_bytes() < needed:
            where = f"the disk of {self.files.folder} is full: it wants {max(needed, 1e6) / 1e6:.0f} MB"
            raise StoreError(f"{where}; free some space", "disk_full")

    def _try(self, row: Row[Any]) -> None:
        product_id, number = row.product_id, row.id
        learn = self.settings.get(product_id) or Learn()
        if not self.candidates.change(number, of.RUNNING, only=(of.QUEUED,)):
            return
        begun = time.monotonic()
        out = self.files.temporary("model")
        try:
            self._check_room(product_id)
            active = self._active(product_id)
            if (why := plans.why_not(active, learn)) is not None or active is None:
                raise InputError(why or "no model is open")
            with self.database.reading() as connection:
                plan = plans.planned(connection, product_id, active, number)
            out = out.with_name(active.file.name)
            job = plans.job_of(
                plan,
                active,
                self.versions.path(product_id, plan.start),
                learn,
                self.files,
                json.loads(row.facts).get("asked", ""),
                out,
            )
            job |= {"engine": self.versions.engine_for(active.file), "device": self.versions.device}
            found = self.worker.run(job, lambda *step: self._steps.__setitem__(number, step))
            self._ready(row, plan, active, learn, found, out, begun)
        except StoppedError:
            return  # still running in the data base: made anew when the station starts
        except StoreError:
            raise
        except Exception as error:  # any: else the candidate would be running for ever
            why = with_kind(error).replace(str(out.parent), "")
            facts = {"error": why, "verdicts": self._verdicts(product_id)}
            how: dict[str, Any] = {"kind": of.NOT_MADE, "text": f": {why}", "facts": facts}
            only = of.RUNNING, of.FAILED  # one that is ready by now stays so
            if not self._kept(partial(self.candidates.change, number, of.FAILED, only=only, **how)):
                raise
            self.report(f"learning_{product_id}", f"no version could be made from corrections: {why}")
        finally:
            self._steps.pop(number, None)
            self.files.drop(out)

    def _verdicts(self, product_id: int) -> list[int]:
        with self.database.reading() as connection:
            return sorted(word.verdict_id for word in words_of(connection, product_id).corrections)

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
        plan: plans.Plan,
        active: plans.Active,
        learn: Learn,
        found: dict[str, Any],
        out: Path,
        begun: float,
    ) -> None:
        """Add the worker's model as a version. Each step is repeated alone while the data base is away: a
        repeated comparison would find another active version after the switch."""
        product_id = row.product_id
        learnt = sorted({*plan.learnt, *found["learnt"]})
        text = f"{pluralize(len(learnt), 'correction')}, on version {plan.start}"
        version = self._kept(lambda: self.versions.add(product_id, out, text, row.who))
        corrections = [
            {"id": word.number, "verdict": word.verdict, "verdict_id": word.verdict_id}
            for word in plan.words.corrections
        ]
        seconds = {**found["seconds"], "total": round(time.monotonic() - begun, 2)}
        facts = {
            "how": found["how"],
            "learnt": learnt,
            "verdicts": plan.verdicts,
            "corrections": corrections,
            "gone": plan.words.gone,
            "compared_with": active.number,
            "judgement": {
                **{name: value for name, value in found.items() if name != "seconds"},
                "contradictory": sorted({*found["contradictory"], *plan.words.contradictory}),
                "gone": plan.words.gone,
            },
            "seconds": seconds,
            "error": None,
        }
        current = self.versions.number(product_id)
        waits = waits_for(found, len(corrections), learn.after, current == active.number)
        facts["waits"] = waits
        self._kept(
            lambda: self.candidates.change(
                row.id,
                of.READY,
                kind=of.MADE,
                who=row.who,
                text=f" became version {version}",
                facts=facts,
                version_id=version,
                start_version_id=plan.start,
            )
        )
        self.report(f"learning_{product_id}", None)
        self.say(f"version {version} was made from corrections in {seconds['total']:.1f} s")
        if learn.rule == "auto" and self.settings.get(product_id) is not None:
            self._by_rule(row, version, active.number, waits)
        current = self.versions.number(product_id)
        if current not in (active.number, version):
            self._kept(lambda: self.candidates.add(product_id, current, RULE, {"asked": ""}))
        self._forget(product_id, learn.keep)

    def _by_rule(self, row: Row[Any], version: int, instead_of: int, waits: list[str]) -> None:
        """Activate a version that need not wait; else note why it waits."""
        error = ""
        if not waits:
            activate = partial(self.versions.activate, row.product_id, version, RULE, instead_of)
            try:
                waits = [] if self._kept(activate) else [SWITCHED]  # by a person, while it was opened
            except (StoreError, StoppedError):
                raise
            except FlawscopeError as why:  # kept, so that a person may try again
                waits, error = [NOT_OPENED], f": {why}"
        if not waits:
            self._kept(lambda: self.candidates.change(row.id, of.LIVE))
            return
        text = f": version {version} does not go live by the rule ({', '.join(waits)}){error}"
        said: dict[str, Any] = {"kind": of.REFUSED_BY_RULE, "who": RULE, "text": text}
        only = (of.READY,)  # a person may have activated or rejected it meanwhile
        facts = {"waits": waits}
        self._kept(lambda: self.candidates.change(row.id, of.READY, only=only, facts=facts, **said))

    def _forget(self, product_id: int, keep: int) -> None:
        """Remove the versions that were made and never used, except the latest `keep`."""
        for row in self.candidates.never_used(product_id)[keep:]:
            number = row.version_id
            text = f": version {number}"
            said: dict[str, Any] = {"kind": of.FORGOTTEN, "text": text, "version_id": None}
            self._kept(partial(self.candidates.change, row.id, of.REMOVED, **said))
            self._kept(partial(self.versions.remove, product_id, number))

"""Versions of a product against a dictionary: learning, activation, removal and kills in any order.

What tests of both tiers need: test_version_machine.py, whole/test_version_machine_whole.py.
"""

from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import select

from flawscope import Predictor
from flawscope.errors import FlawscopeError
from flawscope_station.store.database import Database, StoreError
from flawscope_station.store.files import Files
from flawscope_station.store.model_registry import ModelRegistry, make_ready
from flawscope_station.store.open_models import NoModelError
from flawscope_station.store.schema import versions
from station_helpers import add_version

NEVER, BEFORE, AFTER = "never", "before the commit", "after the commit"


class KilledError(BaseException):
    """The station is killed."""


class Registry(ModelRegistry):
    """Versions whose files are no models, which open at once."""

    def _load_model(self, row: Any) -> Predictor:
        return object.__new__(Predictor)


class KilledDatabase(Database):
    """A data base whose writer is killed, where it is to be."""

    kill = NEVER

    @contextmanager
    def writing(self) -> Any:
        with super().writing() as connection:
            yield connection
            if self.kill == BEFORE:
                raise KilledError
        if self.kill == AFTER:
            raise KilledError


class Machine(RuleBasedStateMachine):
    """A product of its own in each run."""

    url: ClassVar[str]
    folder: ClassVar[Path]
    numbers: ClassVar[Any] = count()

    def __init__(self) -> None:
        super().__init__()
        self.name = f"p{next(self.numbers)}"
        self.states: dict[int, str] = {}
        self.database = KilledDatabase(self.url)
        self.database.migrate()
        self.product, first = add_version(self.database, self.name, self.content())
        self.states[first] = "ready"
        self.registry = self.opened()
        self.registry.activate(self.product, first, "anna")
        self.states[first] = "active"

    def opened(self) -> Registry:
        return Registry(self.database, Files(self.folder))

    def content(self) -> str:
        return f"{next(self.numbers):064}"

    def teardown(self) -> None:
        self.database.close()

    def do(self, kill: str, act: Any) -> bool:
        """Do this, killed or not, after which the station starts again; return whether it has an effect."""
        self.database.kill = kill
        try:
            act()
        except KilledError:
            self.database.kill = NEVER
            self.restart()
            return kill == AFTER
        finally:
            self.database.kill = NEVER
        return True

    def pick(self, data: st.DataObject) -> int:
        return int(data.draw(st.sampled_from(sorted(self.states))))

    # ---- what happens

    @rule(kill=st.sampled_from([NEVER, BEFORE, AFTER]))
    def learn(self, kill: str) -> None:
        """A version is being made, then ready with its candidate; a kill between leaves it unfinished."""
        _, number = add_version(self.database, self.name, self.content(), "making")
        self.states[number] = "making"

        def finish() -> None:
            with self.database.writing() as connection:
                make_ready(connection, number, "anna")

        if self.do(kill, finish):
            self.states[number] = "ready"
        elif self.states[number] == "making":
            self.states[number] = "removed"

    @rule(data=st.data(), kill=st.sampled_from([NEVER, BEFORE, AFTER]))
    def activate(self, data: st.DataObject, kill: str) -> None:
        number = self.pick(data)
        may = self.states[number] in ("ready", "active", "retired")
        try:
            is_done = self.do(kill, lambda: self.registry.activate(self.product, number, "anna"))
        except StoreError:
            raise
        except FlawscopeError:
            assert not may, "what is there may be activated"
            return
        assert may, "what is gone does not judge"
        if is_done:
            for other, state in self.states.items():
                if state == "active":
                    self.states[other] = "retired"
            self.states[number] = "active"

    @rule(data=st.data(), kill=st.sampled_from([NEVER, BEFORE, AFTER]))
    def remove(self, data: st.DataObject, kill: str) -> None:
        number, removed = self.pick(data), list[bool]()
        may = self.states[number] == "ready"
        is_done = self.do(kill, lambda: removed.append(self.registry.remove(self.product, number)))
        assert removed in ([], [may])
        if may and is_done:
            self.states[number] = "removed"

    @precondition(lambda self: "active" in self.states.values())
    @rule(kill=st.sampled_from([NEVER, BEFORE, AFTER]))
    def remove_product(self, kill: str) -> None:
        if self.do(kill, lambda: self.registry.deactivate(self.product, "anna", "no longer made")):
            active = next(one for one, state in self.states.items() if state == "active")
            self.states[active] = "retired"

    @rule()
    def restart(self) -> None:
        self.registry = self.opened()
        self.registry.remove_unfinished()
        for number, state in self.states.items():
            if state == "making":
                self.states[number] = "removed"
        self.registry.resume(self.product)

    # ---- what holds

    @invariant()
    def the_page_names_the_judge(self) -> None:
        page = self.registry.list_versions(self.product)
        active = [number for number, state in self.states.items() if state == "active"]
        assert [page["active"]] == (active or [None])
        try:
            judging = [self.registry.number(self.product)]
        except NoModelError:
            judging = []
        assert judging == active
        there = {number for number, state in self.states.items() if state not in ("making", "removed")}
        assert {one["id"] for one in page["versions"]} == there

    @invariant()
    def states_are_those_of_the_table(self) -> None:
        query = select(versions.c.id, versions.c.state).where(versions.c.product_id == self.product)
        assert {row.id: row.state for row in self.database.rows(query)} == self.states

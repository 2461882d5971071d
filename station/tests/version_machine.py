"""Versions of a product of the pages against a dictionary: learning, activation, going live, removal of a
version and of the product, at once and with kills, in any order.

What tests of both tiers and `bench/histories.py` need: test_version_machine.py,
whole/test_version_machine_whole.py.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import Connection, Row, select

from flawscope import Predictor
from flawscope.errors import FlawscopeError
from flawscope_station.core.page_products import MADE_ON_PAGES, page_products
from flawscope_station.settings.station import ProductSettings, Settings
from flawscope_station.store.addresses import Addresses
from flawscope_station.store.database import Database, StoreError
from flawscope_station.store.files import Files
from flawscope_station.store.model_registry import ModelRegistry, make_ready
from flawscope_station.store.open_models import NoModelError
from flawscope_station.store.records import Store
from flawscope_station.store.schema import versions
from station_helpers import add_version

NEVER, BEFORE, AFTER = "never", "before the commit", "after the commit"
KILLS = st.sampled_from([NEVER, BEFORE, AFTER])
MAY_BE_ACTIVE = ("ready", "active", "retired")
DRAFTS = Path("/drafts")  # where a model lies that goes live: nowhere


class KilledError(BaseException):
    """The station is killed."""


class OpenModel(Predictor):
    """Stands for the open model of one product, with which nothing is judged."""

    kind = ""
    facts = SimpleNamespace(is_joint=False)

    def __init__(self) -> None:
        pass


class Registry(ModelRegistry):
    """Versions whose files are no models, which open at once.

    Attributes:
        meanwhile: what somebody else does while a model is opened.
    """

    meanwhile: Callable[[], object] | None = None

    def _load_model(self, row: Any) -> Predictor:
        act, self.meanwhile = self.meanwhile, None
        if act is not None:
            act()
        return OpenModel()

    def add(
        self,
        product_id: int,
        model: Any,
        origin: str,
        who: str,
        facts: Mapping[str, Any] = MappingProxyType({}),
        *,
        is_ready: bool = True,
    ) -> int:
        """Add a version, whose content is its file's name; in the transactions of the real one."""
        if Path(model).parent != DRAFTS:  # of the settings, whose file is gone
            return super().add(product_id, model, origin, who, facts, is_ready=is_ready)
        file = {"hash": Path(model).name, "file": f"models/{Path(model).name}", "origin": origin}
        with self.database.writing() as connection:
            number = self._insert(connection, product_id, file, {**facts, "score_threshold": 1.0})
        if is_ready:
            with self.database.writing() as connection:
                make_ready(connection, number, who)
        return number

    def accept_questions(self, product_id: int, number: int, who: str) -> int:
        """None is open."""
        return number


class KilledDatabase(Database):
    """A database whose writer is killed, where it is to be, in one of the transactions to come.

    Attributes:
        kill: when. left: transactions before that one.
    """

    kill, left = NEVER, 0

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        kill = self.kill if self.left == 0 else NEVER
        self.left -= 1
        with super().writing() as connection:
            yield connection
            if kill == BEFORE:
                raise KilledError
        if kill == AFTER:
            raise KilledError


class Machine(RuleBasedStateMachine):
    """A product of its own in each run.

    Attributes:
        states: of its versions, by number.
        is_served: the station takes parts of it. was_served: it has done so since its start, so that somebody
            may still ask for an activation.
        is_killed: it starts again at the end of the rule.
    """

    url: ClassVar[str]
    folder: ClassVar[Path]
    numbers: ClassVar[Any] = count()
    is_killed = False

    def __init__(self) -> None:
        super().__init__()
        self.name = f"p{next(self.numbers)}"
        self.database = KilledDatabase(self.url)
        self.database.migrate()
        self.product, first = add_version(self.database, self.name, self.content())
        with self.database.writing() as connection:
            made = versions.update().where(versions.c.id == first).values(origin=MADE_ON_PAGES)
            connection.execute(made)
        self.states = {first: "ready"}
        Registry(self.database, Files(self.folder)).activate(self.product, first, "anna")
        self.states[first] = "active"
        self.restart()

    def content(self) -> str:
        return f"{next(self.numbers):064}"

    def teardown(self) -> None:
        self.database.close()

    def act(self, kill: str, act: Callable[[], object], transactions: int = 0) -> bool:
        """Do this, killed or not in the transaction after so many; return whether it was not killed."""
        self.database.kill, self.database.left = kill, transactions
        try:
            act()
        except KilledError:
            return False
        finally:
            self.database.kill = NEVER
        return True

    def commit(self, kill: str, act: Callable[[], object]) -> bool:
        """Do what is one transaction, killed or not; return whether it has an effect."""
        if self.act(kill, act):
            return True
        self.is_killed = True
        return kill == AFTER

    def beside(self, step: Callable[[], object]) -> Callable[[], object]:
        """Return a step of somebody else, who is not killed."""

        def take() -> None:
            kill, left = self.database.kill, self.database.left
            self.database.kill = NEVER
            step()
            self.database.kill, self.database.left = kill, left

        return take

    def pick(self, data: st.DataObject) -> int:
        return int(data.draw(st.sampled_from(sorted(self.states))))

    def meanwhile(self, data: st.DataObject, *, may_remove_product: bool) -> Callable[[], object]:
        """Draw what somebody else does while a model is opened."""
        number = self.pick(data)
        steps: dict[str, Callable[[], object]] = {
            "nothing": lambda: None,
            "learn": lambda: self.learn_one(NEVER),
            "activate": lambda: self.was_served and self.activate_one(number, NEVER),
            "remove": lambda: self.remove_one(number, NEVER),
        }
        if may_remove_product:
            steps["remove the product"] = lambda: self.remove_served_product(NEVER)
        return self.beside(steps[data.draw(st.sampled_from([*steps]))])

    def note_active(self, number: int) -> None:
        for other, state in self.states.items():
            if state == "active":
                self.states[other] = "retired"
        self.states[number] = "active"

    # ---- steps, whose effects are noted

    def learn_one(self, kill: str) -> None:
        """A version is being made, then ready with its candidate; a kill between leaves it unfinished."""
        _, number = add_version(self.database, self.name, self.content(), "making")
        self.states[number] = "making"

        def make() -> None:
            with self.database.writing() as connection:
                make_ready(connection, number, "anna")

        if self.commit(kill, make):
            self.states[number] = "ready"

    def activate_one(self, number: int, kill: str) -> None:
        """As a person asks for it, who saw the product."""
        try:
            is_done = self.commit(kill, lambda: self.registry.activate(self.product, number, "anna"))
        except StoreError:
            raise
        except FlawscopeError:
            is_refused = True
        else:
            is_refused = False
        may = self.states[number] in MAY_BE_ACTIVE and self.is_served
        assert is_refused != may, "what is there may be activated, and what is gone does not judge"
        if may and is_done:
            self.note_active(number)

    def remove_one(self, number: int, kill: str) -> None:
        removed = list[bool]()
        may = self.states[number] in ("making", "ready")
        is_done = self.commit(kill, lambda: removed.append(self.registry.remove(self.product, number)))
        assert removed in ([], [may])
        if may and is_done:
            self.states[number] = "removed"

    def remove_served_product(self, kill: str) -> None:
        if not self.is_served:
            return
        is_done = self.commit(kill, lambda: self.addresses.remove_product(self.name, "anna"))
        if is_done:
            self.is_served = False
            active = [one for one, state in self.states.items() if state == "active"]
            self.states[active[0]] = "retired"

    # ---- what happens

    @rule(kill=KILLS)
    def learn(self, kill: str) -> None:
        self.learn_one(kill)
        self.restart_if_killed()

    @precondition(lambda self: self.was_served)
    @rule(data=st.data(), kill=KILLS)
    def activate(self, data: st.DataObject, kill: str) -> None:
        number = self.pick(data)
        self.registry.meanwhile = self.meanwhile(data, may_remove_product=True)
        self.activate_one(number, kill)
        self.registry.meanwhile = None
        self.restart_if_killed()

    @rule(data=st.data(), kill=KILLS)
    def remove(self, data: st.DataObject, kill: str) -> None:
        self.remove_one(self.pick(data), kill)
        self.restart_if_killed()

    @precondition(lambda self: self.is_served)
    @rule(kill=KILLS)
    def remove_product(self, kill: str) -> None:
        self.remove_served_product(kill)
        self.restart_if_killed()

    @rule(data=st.data(), kill=KILLS, transactions=st.integers(0, 3))
    def go_live(self, data: st.DataObject, kill: str, transactions: int) -> None:
        """New pictures of the product: another model, or the first one after its removal. The transactions:
        its name, the version that is being made, its end, the activation."""
        self.registry.meanwhile = self.meanwhile(data, may_remove_product=False)
        digest = self.content()
        model = ProductSettings(str(DRAFTS / digest))

        def go() -> None:
            self.addresses.add_product(self.name, model, MADE_ON_PAGES, "anna")

        is_whole = self.act(kill, go, transactions)
        self.registry.meanwhile = None
        written = 4 if is_whole else transactions + (kill == AFTER)
        if written > 1:
            number = next(row.id for row in self.rows() if row.hash == digest)
            self.states[number] = "making" if written == 2 else "ready"
            if written == 4:
                self.note_active(number)
                self.is_served = self.was_served = True
        self.is_killed = not is_whole
        self.restart_if_killed()

    def restart_if_killed(self) -> None:
        if self.is_killed:
            self.is_killed = False
            self.restart()

    @rule()
    def restart(self) -> None:
        """As `Station` does it: what was being made goes, and products of the pages are those that judge."""
        store, files = Store(self.database), Files(self.folder)
        self.registry = Registry(self.database, files)
        self.registry.remove_unfinished()
        for number, state in self.states.items():
            if state == "making":
                self.states[number] = "removed"
        found = page_products(store, files, ())
        own = {name: product for name, product in found.items() if name == self.name}
        settings = Settings(products=own, store=str(self.folder))
        self.addresses = Addresses(settings, store, self.registry, lambda line: None)
        self.addresses.open()
        self.is_served = self.was_served = "active" in self.states.values()

    def rows(self) -> list[Row[Any]]:
        query = select(versions).where(versions.c.product_id == self.product).order_by(versions.c.id)
        return [*self.database.rows(query)]

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
        there = {number for number, state in self.states.items() if state in MAY_BE_ACTIVE}
        assert {one["id"] for one in page["versions"]} == there

    @invariant()
    def a_product_is_served_while_it_has_a_judge(self) -> None:
        assert (self.name in self.addresses.products) == self.is_served
        assert self.is_served == ("active" in self.states.values())

    @invariant()
    def states_are_those_of_the_table(self) -> None:
        assert {row.id: row.state for row in self.rows()} == self.states

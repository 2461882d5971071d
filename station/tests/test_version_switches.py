"""Versions that two people activate and remove at once: a product never loses its judge by it."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from sqlalchemy import select

from flawscope_station.core.page_products import MADE_ON_PAGES
from flawscope_station.inspecting.memory import MemoryBudget
from flawscope_station.learning.jobs import JobQueue
from flawscope_station.settings.station import Limits, ProductSettings
from flawscope_station.setup.draft import DRAFTS_FOLDER, STATE_FILE
from flawscope_station.setup.drafts import Drafts
from flawscope_station.setup.live_products import LiveProducts
from flawscope_station.store import model_registry
from flawscope_station.store.addresses import Addresses
from flawscope_station.store.files import Files
from flawscope_station.store.model_registry import ModelRegistry
from flawscope_station.store.open_models import NoModelError
from flawscope_station.store.records import REMOVED_EVENT, NotFoundError, Store
from flawscope_station.store.schema import versions
from station_helpers import PATIENCE, add_version
from version_machine import DRAFTS, Machine, OpenModel

pytestmark = pytest.mark.both_databases


@pytest.fixture(name="registry")
def registry_fixture(database, tmp_path, monkeypatch):
    """Three versions of a product, whose files are no models; the first one judges."""
    made = ModelRegistry(database, Files(tmp_path / "files"))
    monkeypatch.setattr(made, "_load_model", lambda row: OpenModel())
    for k in range(3):
        add_version(database, content=f"{k:064}")
    made.activate(1, 1, "anna")
    return made


def judge_and_page(registry: ModelRegistry) -> tuple[int, int]:
    return registry.number(1), registry.list_versions(1)["active"]


def test_a_version_that_is_removed_while_it_is_opened_does_not_judge(registry, monkeypatch):
    load, opened, goes_on = registry._load_models, threading.Event(), threading.Event()

    def load_slowly(rows):
        models = load(rows)
        opened.set()
        goes_on.wait(PATIENCE)
        return models

    monkeypatch.setattr(registry, "_load_models", load_slowly)
    errors = []

    def activate() -> None:
        try:
            registry.activate(1, 2, "anna")
        except NotFoundError as error:
            errors.append(str(error))

    thread = threading.Thread(target=activate)
    thread.start()
    assert opened.wait(PATIENCE)
    assert registry.remove(1, 2, "berta")
    goes_on.set()
    thread.join(PATIENCE)
    assert errors == ["version 2 was removed while it was opened: choose another one"]
    assert judge_and_page(registry) == (1, 1)
    assert registry.resume(1) == 1


def test_a_version_that_judges_cannot_be_removed(registry):
    registry.activate(1, 2, "anna")
    assert not registry.remove(1, 2, "berta")
    assert judge_and_page(registry) == (2, 2)


def test_what_was_activated_is_not_removed_before_its_model_judges(registry, monkeypatch):
    """Between the end of the transaction and the change of the open models the row says that it is active."""
    activate, removed = registry.models.activate, []
    thread = threading.Thread(target=lambda: removed.append(registry.remove(1, 2, "berta")))

    def remove_meanwhile(models):
        thread.start()
        thread.join(PATIENCE)
        activate(models)

    monkeypatch.setattr(registry.models, "activate", remove_meanwhile)
    registry.activate(1, 2, "anna")
    thread.join(PATIENCE)
    assert removed == [False]
    assert judge_and_page(registry) == (2, 2)


def test_one_version_judges_whatever_is_asked_at_once(registry):
    """Eight people, each another version; the index would refuse a second one."""
    for k in range(3, 9):
        add_version(registry.database, content=f"{k:064}")

    def activate(number):
        registry.activate(1, number, "anna")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(activate, [2, 3, 4, 5, 6, 7, 8, 9] * 3))
    states = [row.state for row in registry.database.rows(select(versions.c.state))]
    assert states.count("active") == 1
    assert judge_and_page(registry)[0] == judge_and_page(registry)[1] == registry.resume(1)


def test_a_removed_version_keeps_its_number_and_its_content_may_come_again(registry, monkeypatch):
    monkeypatch.setattr(model_registry, "MAX_REMOVED", 2)
    assert registry.removable(1) == [2, 3]
    assert registry.remove(1, 3)
    assert not registry.remove(1, 3), "it is gone"
    with pytest.raises(NotFoundError, match="there is no version 3 of this product"):
        registry.activate(1, 3, "anna")
    _, again = add_version(registry.database, content=f"{2:064}")
    assert again == 4
    for k in range(3):
        registry.remove(1, add_version(registry.database, content=f"{9 + k:064}")[1])
    rows = registry.database.rows(select(versions.c.id).order_by(versions.c.id))
    assert [row.id for row in rows] == [1, 2, 4, 6, 7], "of the removed ones the newest two are kept"


def test_what_was_being_made_when_the_station_ended_is_removed(registry):
    _, number = add_version(registry.database, content="a" * 64, state="making")
    assert number not in [one["id"] for one in registry.list_versions(1)["versions"]]
    with pytest.raises(NotFoundError):
        registry.activate(1, number, "anna")
    registry.remove_unfinished()
    (row,) = registry.database.rows(select(versions.c.state).where(versions.c.id == number))
    assert row.state == "removed"


def test_a_product_is_removed_by_one_transaction(registry):
    """Whoever starts again after it has no judge for it, and the event that says who removed it."""
    registry.deactivate(1, "anna", "product plate; its records are kept")
    assert 1 not in registry.models.active
    assert (registry.resume(1), registry.list_versions(1)["active"]) == (None, None)
    (event,) = Store(registry.database).events(REMOVED_EVENT, 1)
    assert (event.who, event.text) == ("anna", "product plate; its records are kept")


def test_a_removed_product_judges_again_only_when_it_goes_live(registry, tmp_path):
    """Somebody asked for an activation before another one removed the product: else the next start would
    have it again, with nobody having wished so."""
    registry.deactivate(1, "anna", "product plate; its records are kept")
    with pytest.raises(NotFoundError, match="the product was removed: version 2 was not activated"):
        registry.activate(1, 2, "berta")
    started_again = ModelRegistry(registry.database, Files(tmp_path / "files"))
    assert (started_again.resume(1), registry.list_versions(1)["active"]) == (None, None)
    registry.activate(1, 2, "anna", goes_live=True)
    registry.activate(1, 1, "berta")
    assert judge_and_page(registry) == (1, 1)


def addresses_of(registry: ModelRegistry) -> Addresses:
    """Addresses with one product, of which no settings are known."""
    addresses = object.__new__(Addresses)
    addresses.configured, addresses.entries, addresses._entry_of = {}, {}, {}
    addresses.products, addresses.names = {"plate": 1}, {1: "plate"}
    addresses.versions, addresses._product_lock = registry, threading.Lock()
    return addresses


def test_a_product_that_two_people_remove_at_once_is_removed_by_one(registry, monkeypatch):
    """The other one is told that it is not there."""
    addresses, both = addresses_of(registry), threading.Barrier(2)
    deactivate = registry.deactivate

    def slow(*given):
        with suppress(threading.BrokenBarrierError):
            both.wait(0.1)
        deactivate(*given)

    def remove(who):
        try:
            addresses.remove_product("plate", who)
        except NotFoundError:
            return "not found"
        return "removed"

    monkeypatch.setattr(registry, "deactivate", slow)
    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(remove, ("anna", "berta"))) == ["not found", "removed"]
    assert len(Store(registry.database).events(REMOVED_EVENT, 1)) == 1


def test_a_product_that_is_being_removed_is_not_found(registry):
    """Between two steps of it: an answer in one line, and no fault of the program."""
    addresses = addresses_of(registry)
    with pytest.raises(NotFoundError, match="product plate is removed"):
        addresses.settings_of("plate")
    assert addresses.configured_numbers() == {}


def test_a_product_that_is_removed_while_it_goes_live_is_removed_after_it(database, tmp_path, monkeypatch):
    """Model and page say the same at each moment, and so does the next start."""
    monkeypatch.setattr(Machine, "url", database.url, raising=False)
    monkeypatch.setattr(Machine, "folder", tmp_path, raising=False)
    played = Machine()
    opened, goes_on = threading.Event(), threading.Event()
    played.registry.meanwhile = lambda: (opened.set(), goes_on.wait(PATIENCE))
    model = ProductSettings(str(DRAFTS / played.content()))
    live = threading.Thread(
        target=played.addresses.add_product, args=(played.name, model, MADE_ON_PAGES, "anna")
    )
    live.start()
    assert opened.wait(PATIENCE)
    removal = threading.Thread(target=played.addresses.remove_product, args=(played.name, "berta"))
    removal.start()
    removal.join(0.1)
    assert removal.is_alive(), "it waits for the model, which may be opened just now"
    assert played.registry.number(played.product), "the one before judges meanwhile"
    goes_on.set()
    live.join(PATIENCE)
    removal.join(PATIENCE)
    assert played.name not in played.addresses.products
    with pytest.raises(NoModelError):
        played.registry.number(played.product)
    assert played.registry.list_versions(played.product)["active"] is None
    assert len(played.registry.list_versions(played.product)["versions"]) == 2
    played.restart()
    assert played.name not in played.addresses.products
    played.teardown()


def test_a_draft_of_an_earlier_flawscope_gives_its_version_what_it_said_itself(registry, tmp_path):
    """`.draft.json` said which version went live, by whom, and which product it is."""
    home = tmp_path / "files" / DRAFTS_FOLDER / "plate"
    home.mkdir(parents=True)
    state = {"by": "anna", "at": "2026-01-01", "result": {"asked_at": 5}, "product": 1}
    state["live"] = {"version": 1, "by": "berta", "learnt": 5}
    (home / STATE_FILE).write_text(json.dumps(state))
    registry.database.change(versions.update().values(origin=MADE_ON_PAGES))
    addresses = addresses_of(registry)
    addresses.store = Store(registry.database)
    for _ in range(2):  # the second time there is nothing to carry over
        queue, memory = JobQueue(registry.database), MemoryBudget(0)
        drafts = Drafts(queue, registry.files, Limits(), memory, "cpu", lambda: False, lambda line: None)
        live = LiveProducts([], [], addresses, {}, drafts, None)
        (draft,) = drafts
        assert live.live_of(draft) == {"version": 1, "by": "berta", "learnt": 5}
        kept = json.loads((home / STATE_FILE).read_text())
        assert kept == {"by": "anna", "at": "2026-01-01", "result": {"asked_at": 5}}
    registry.deactivate(1, "anna", "no longer made")
    del addresses.products["plate"]
    assert live.live_of(draft) is None
    live._free_name(draft, "anna")
    assert addresses.store.find_product("plate").id == 1, "its own records are taken up again"
    drafts.remove("plate")
    live._free_name(drafts.begin("plate", "anna", [], []), "anna")
    assert addresses.store.find_product("plate") is None, "another part gets the name"

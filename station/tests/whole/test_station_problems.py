"""What is wrong: as it begins, changes, is acknowledged and ends, and in which words a person reads of it."""

import re
from pathlib import Path

import httpx
import pytest

import flawscope_station
from flawscope.pages.templates import LANGUAGES
from flawscope_station.drift.camera_checks import FAULT_KINDS
from flawscope_station.monitoring.problems import Problem, Problems
from flawscope_station.store.database import Database, StoreError
from flawscope_station.store.records import NotFoundError
from flawscope_station.web.templates import PAGES
from station_helpers import failing, until

PASSWORD = "correct horse battery"
PATH = "/srv/line3/incoming"


@pytest.fixture(name="problems")
def problems_fixture():
    return Problems(lambda line: None)


def test_a_code_names_its_kind_its_product_and_its_number():
    def parts(code: str) -> tuple[str, int | None, int | None]:
        one = Problem(code, "", 0)
        return one.kind, one.product, one.number

    assert parts("camera_away_3_12") == ("camera_away", 3, 12)
    assert parts("learning_model_7") == ("learning_model", 7, None)
    assert parts("disk_full") == ("disk_full", None, None)


def test_what_was_acknowledged_stays_so_until_it_is_over(problems):
    problems.report("folder_waits_1", "3 pictures wait")
    before = problems.all()[0]
    problems.acknowledge("folder_waits_1", "emil")
    problems.report("folder_waits_1", "4 pictures wait")
    (found,) = problems.all()
    assert (found.text, found.since, found.acknowledged_by) == ("4 pictures wait", before.since, "emil")
    problems.report("folder_waits_1", None)
    with pytest.raises(NotFoundError):
        problems.acknowledge("folder_waits_1", "emil")
    problems.report("folder_waits_1", "4 pictures wait")
    problems.report("folder_away_1", "it is away")
    assert [(one.kind, one.acknowledged_by) for one in problems.all()] == [
        ("folder_waits", None),
        ("folder_away", None),
    ]


def test_every_kind_has_a_title_and_says_who_does_what():
    sources = Path(str(flawscope_station.__file__)).parent.rglob("*.py")
    code = "".join(path.read_text(encoding="utf-8") for path in sources if path.parent.name != "cli")
    kinds = {kind.rstrip("_") for kind in re.findall(r'\b_?(?:report|show)\(\s*f?"([a-z_]+)', code)}
    kinds = kinds - {"camera"} | {f"camera_{kind}" for kind in FAULT_KINDS}
    kinds |= {"drift", "sink", "learning"}
    assert len(kinds) > 20
    for language in LANGUAGES:
        known = PAGES.texts[language].flat
        assert {kind for kind in kinds if not {f"wrong.{kind}", f"remedy.{kind}"} <= known.keys()} == set()


@pytest.fixture(name="two")
def two_fixture(running):
    """An operator and an engineer."""
    found = {}
    for role in ("operator", "engineer"):
        running.station.access.users.add(role, PASSWORD, role)
        client = found[role] = httpx.Client(base_url=running.url, timeout=30)
        client.post("/sign-in", data={"name": role, "password": PASSWORD})
    yield found
    for client in found.values():
        client.close()


def bar(client: httpx.Client) -> str:
    """What it says; empty where it is not shown."""
    page = client.get("/plate/history").text
    found = re.search(r'id="problem" href="/plate/problems"( hidden)?>.*?<span>(.*?)</span>', page)
    assert bool(found[1]) == (found[2] == "")
    return found[2]


def test_operators_read_what_to_do_and_engineers_what_it_is(running, two):
    running.station.report("folder_away_1", f"{PATH} cannot be read; pictures are taken when it is back")
    operator, engineer = (two[name].get("/plate/problems").text for name in ("operator", "engineer"))
    for text in (operator, engineer):
        assert PAGES.texts["en"]("wrong.folder_away") in text
        assert "Operator:" in text
        assert ">plate<" in text
    assert (PATH in operator, PATH in engineer) == (False, True)
    assert ("data-post" in operator, "data-post" in engineer) == (False, True)
    assert PATH not in two["operator"].get("/plate/live").text
    german = two["operator"].get("/plate/problems", headers={"Accept-Language": "de"}).text
    assert PAGES.texts["de"]("wrong.folder_away") in german


def test_engineers_acknowledge_and_operators_may_not(running, two):
    running.station.report("camera_away_1_1", "away")
    running.station.report("drift_1", "darker")
    address = "/api/v1/problems/camera_away_1_1/acknowledge"
    assert two["operator"].post(address, json={}).status_code == 403
    assert bar(two["operator"]).startswith("2 problems")
    answer = two["engineer"].post(address, json={})
    assert (answer.status_code, answer.json()["acknowledged_by"]) == (200, "engineer")
    assert bar(two["operator"]) == f"1 problem: {PAGES.texts['en']('wrong.drift')}"
    assert two["operator"].get("/plate/problems").text.count("<article") == 2
    running.station.report("camera_away_1_1", None)
    assert two["operator"].get("/plate/problems").text.count("<article") == 1
    assert two["engineer"].post(address, json={}).status_code == 404
    running.station.report("camera_away_1_1", "away")
    assert bar(two["operator"]).startswith("2 problems")


def test_problems_are_shown_while_the_store_is_away(running, two, monkeypatch):
    for client in two.values():
        assert client.get("/plate/problems").status_code == 200  # it knows who asks
    away = StoreError(f"{PATH} is away", "store_unreachable")
    monkeypatch.setattr(Database, "reading", failing(away))
    monkeypatch.setattr(Database, "check_answers", failing(away))
    until(lambda: running.station.problems())
    for role, client in two.items():
        found = [client.get(f"/plate/{page}") for page in ("problems", "history")]
        assert [one.status_code for one in found] == [200, 503]
        for one in found:
            assert PAGES.texts["en"]("wrong.store_unreachable") in one.text or role == "engineer"
            assert (PATH in one.text) is (role == "engineer")

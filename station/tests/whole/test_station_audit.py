"""Who may do what at a running station, what no route takes, and what the audit says of it."""

import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from flawscope_station.access.audit import search, trim_events
from flawscope_station.access.roles import ROLES, Person, has_role
from flawscope_station.learning.candidate_records import list_history
from flawscope_station.settings.station import Settings
from flawscope_station.store.database import Database, now
from flawscope_station.store.schema import events
from sink_helpers import make_sink
from station_helpers import INSPECTIONS, NAME, until

PASSWORD = "a long pass phrase"

Signed = Callable[[str], httpx.Client]


@pytest.fixture
def by_token(running):
    """Whose token has a role, which is its name, too."""

    def made(role: str, name: str = "") -> httpx.Client:
        token = running.station.access.tokens.add(name or role, role)
        return httpx.Client(base_url=running.url, headers={"Authorization": f"Bearer {token}"}, timeout=60)

    return made


@pytest.fixture
def browser(running):
    """Signed in as a user whose role is the name."""

    def made(role: str) -> httpx.Client:
        running.station.access.users.add(role, PASSWORD, role)
        client = httpx.Client(base_url=running.url, timeout=60)
        answer = client.post("/sign-in", data={"name": role, "password": PASSWORD})
        assert answer.status_code == 303
        return client

    return made


# Parts of addresses
GIVEN: dict[str, str | int] = {"name": NAME, "number": 1, "kind": "sinks", "place": 1, "section": "keep"}
GIVEN |= dict.fromkeys(("code", "picture", "file", "user", "token"), "x")


def test_a_sender_gets_the_answers_to_what_it_sends_and_nothing_else(running, by_token, parts):
    camera, other, admin = by_token("sender"), by_token("sender", "other"), by_token("admin")
    keyed = {"Idempotency-Key": "one"}
    first = camera.post(f"/api/v1/{INSPECTIONS}", content=parts[0], headers=keyed)
    assert first.status_code == 201
    assert camera.post(f"/api/v1/{INSPECTIONS}", content=parts[0], headers=keyed).json() == first.json()
    assert (
        other.post(f"/api/v1/{INSPECTIONS}", content=parts[0], headers=keyed).json()["id"]
        != first.json()["id"]
    )
    assert camera.post(f"/api/v1/products/{NAME}/trigger").json()["code"] == "invalid", "there is no camera"
    paths = admin.get("/api/v1/openapi.json").json()["paths"]
    asked = {(method, path) for path, methods in paths.items() for method in methods}
    sends = {("post", f"/api/v1/products/{{name}}/{what}") for what in ("inspections", "trigger")}
    assert sends < asked
    pages = ["/", "/metrics", "/sign-in", "/-/audit", "/-/new", "/api/v1/openapi.json"]
    pages += [f"/{NAME}/{tab}" for tab in ("live", "review", "history", "trends", "models", "inspections/1")]
    for method, path in (asked - sends) | {("get", path) for path in pages}:
        answer = camera.request(method, path.format(**GIVEN))
        assert answer.status_code == 403, (method, path)
        words = ("this needs", "Your account may not do that")  # to programs, on pages
        assert any(one in answer.text for one in words), path
        assert "p_value" not in answer.text


def test_a_viewer_looks_and_changes_nothing(running, by_token, browser, parts):
    operator, viewer = by_token("operator", "line"), browser("viewer")
    for part in parts:
        assert operator.post(f"/api/v1/{INSPECTIONS}", content=part).status_code == 201
    assert viewer.get("/metrics").status_code == 200
    assert viewer.get(f"/api/v1/products/{NAME}/export").status_code == 403
    review = f"/api/v1/products/{NAME}/review"
    seen = viewer.get(review, params={"reader": "v"}).json()["inspections"]
    assert seen
    given = operator.get(review, params={"reader": "o", "limit": 1}).json()["inspections"]
    assert given == seen[:1], "none was taken away"
    assert viewer.get("/-/audit").status_code == viewer.get("/api/v1/audit").status_code == 403


# of routes that change something, by their last part; of all others: engineer
LEAST_ROLES = {"inspections": "sender", "trigger": "sender", "verdict": "operator", "challenge": "operator"}
LEAST_ROLES["release"] = "operator"  # what a reviewer was lent
LEAST_ROLES |= {"pause": "operator", "resume": "operator"}


def test_what_changes_something_wants_a_role(by_token):
    """All routes that the description lists, so that one that comes later is among them."""
    asked = {role: by_token(role) for role in ROLES}
    paths = asked["admin"].get("/api/v1/openapi.json").json()["paths"]
    for method, path in [(m, there) for there in paths for m in paths[there] if m != "get"]:
        is_account = path.startswith(("/api/v1/users", "/api/v1/tokens"))
        least = "admin" if is_account else LEAST_ROLES.get(path.rpartition("/")[2], "engineer")
        for role, client in asked.items():
            answer = client.request(method, path.format(**GIVEN), json={})
            assert (answer.status_code != 403) == has_role(Person("x", role), least), (method, path, role)
            assert answer.status_code != 403 or answer.json()["code"] == "role_too_small"
    for path in ("/api/v1/new", "/-/new"):
        assert [asked[role].get(path).status_code for role in ("operator", "engineer")] == [403, 200]


@pytest.mark.listens
def test_a_stream_ends_with_the_right_to_look(running, browser):
    viewer = browser("viewer")
    running.station.access.tokens.add("other", "admin")
    with viewer.stream("GET", f"/api/v1/products/{NAME}/live") as answer:
        running.station.access.users.remove("viewer")
        ended = time.monotonic() + 20
        for _ in answer.iter_lines():
            assert time.monotonic() < ended
    assert viewer.get(f"/{NAME}/live").headers["location"].startswith("/sign-in")


def test_users_and_tokens_are_kept_by_a_program(running, by_token):
    """As on the command line, by an admin alone; the audit says who."""
    admin = by_token("admin", "keeper")
    made = admin.post("/api/v1/tokens", json={"name": "cam1", "role": "sender", "expires": "90 days"})
    assert (made.status_code, made.json()["name"]) == (201, "cam1")
    (shown,) = [one for one in admin.get("/api/v1/tokens").json()["tokens"] if one["name"] == "cam1"]
    assert shown["expires_at"] > shown["created_at"]
    assert made.json()["token"] not in admin.get("/api/v1/tokens").text
    sender = httpx.Client(base_url=running.url, headers={"Authorization": f"Bearer {made.json()['token']}"})
    assert sender.get("/api/v1/tokens").status_code == 403
    assert admin.post("/api/v1/users", json={"name": "Anna", "password": "short"}).status_code == 422
    new = {"name": "Anna", "password": "a long enough password"}
    assert admin.post("/api/v1/users", json=new).json()["users"][0]["name"] == "anna"
    word = "another long password"
    assert admin.post("/api/v1/users/anna/password", json={"password": word}).status_code == 200
    assert running.station.access.sign_in("anna", word, "127.0.0.1")
    assert admin.delete("/api/v1/users/anna").json() == {"users": []}
    assert "cam1" not in admin.delete("/api/v1/tokens/cam1").text
    assert sender.post(f"/api/v1/{INSPECTIONS}", content=b"x").status_code == 401
    assert admin.delete("/api/v1/tokens/cam1").status_code == 422
    told = admin.get("/api/v1/audit").json()["entries"]
    kinds = {"user_added", "password_changed", "user_removed", "token_removed"}
    assert kinds <= {one["kind"] for one in told if one["who"] == "keeper"}


def test_a_token_that_expired_is_told_so(running, parts):
    token = running.station.access.tokens.add("camera1", "sender", expires=1.0)
    camera = httpx.Client(base_url=running.url, headers={"Authorization": f"Bearer {token}"})
    assert camera.post(f"/api/v1/{INSPECTIONS}", content=parts[0]).status_code == 201

    def refused() -> httpx.Response | None:
        answer = camera.post(f"/api/v1/{INSPECTIONS}", content=parts[0])
        return answer if answer.status_code == 401 else None

    answer = until(refused)
    assert answer.json()["code"] == "token_expired"
    assert answer.json()["error"].startswith("token camera1 expired on ")
    assert "\n" not in answer.json()["error"]
    assert camera.get(f"/{NAME}/live").status_code == 401


def test_every_route_refuses_what_it_does_not_know(running, parts):
    """Those that the description lists, so that a route that comes later is among them."""
    with httpx.Client(base_url=running.url, timeout=30) as api:
        paths = api.get("/api/v1/openapi.json").json()["paths"]
        asked = [(method, path) for path, methods in paths.items() for method in methods]
        assert len(asked) > 20
        for method, path in asked:
            there = re.sub("{[a-z]+}", "1", path.replace("{name}", "plate"))
            answer = api.request(method, there, params={"serial_nr": "77"})
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid"), (method, path)
            assert "serial_nr" in answer.json()["error"], (method, path)
        found = api.get("/api/v1/products/plate/inspections", params={"verdikt": "good"})
        assert "did you mean verdict?" in found.json()["error"]
        assert api.get("/api/v1/products/plate/inspections?name=serial-77").status_code == 422
        sent = api.post("/api/v1/products/plate/inspections?serial=77", content=parts[0])
        assert sent.status_code == 422
        twice = api.post("/api/v1/products/plate/inspections?part=1&part=2", content=parts[0])
        assert twice.status_code == 422
        assert api.get("/api/v1/products/plate").json()["inspections"] == 0


def test_the_audit_says_who_did_what_and_from_where(running, browser, by_token, parts, other_model):
    admin, operator = browser("admin"), by_token("operator", "line")
    wrong = httpx.post(f"{running.url}/sign-in", data={"name": "admin", "password": "wrong pass phrase"})
    assert wrong.status_code == 401
    assert (
        httpx.get(f"{running.url}/api/v1/products", headers={"Authorization": "Bearer no"}).status_code == 401
    )
    operator.post(f"/api/v1/{INSPECTIONS}", content=parts[0])
    operator.post(f"/api/v1/{INSPECTIONS}/1/verdict", json={"verdict": "defect"})
    engineer = by_token("engineer")
    added = engineer.post(
        f"/api/v1/products/{NAME}/versions", params={"name": "b.onnx"}, content=other_model.read_bytes()
    ).json()["id"]
    engineer.post(f"/api/v1/products/{NAME}/versions/{added}/activate")
    running.station.access.tokens.remove("engineer")
    entries = admin.get("/api/v1/audit").json()["entries"]
    found = [(one["kind"], one["who"], one["address"], one["product"]) for one in entries]
    here = "127.0.0.1"
    assert found == [
        ("token_removed", "command line", None, None),
        ("version activated", "engineer", here, NAME),
        ("version added", "engineer", here, NAME),
        ("token_added", "command line", None, None),
        ("verdict", "line", here, NAME),
        ("sign_in_failed", "", here, None),
        ("sign_in_failed", "admin", here, None),
        ("token_added", "command line", None, None),
        ("sign_in", "admin", here, None),
        ("user_added", "command line", None, None),
        ("version activated", "station", None, NAME),
        ("version added", "station", None, NAME),
    ]
    for about, many in {"sign-ins": 3, "users": 1, "tokens": 3, "versions": 4, "verdicts": 1}.items():
        assert len(admin.get("/api/v1/audit", params={"about": about}).json()["entries"]) == many
    assert [one["kind"] for one in search(running.station.database, text="DEFECT ON")] == ["verdict"]
    page = admin.get("/-/audit", params={"text": "defect"})
    assert "defect on inspection 1" in page.text
    assert "wrong sign-in" not in page.text
    assert 'href="/-/audit"' in admin.get(f"/{NAME}/live").text
    trail = list_history(running.station.database, 1, 100)
    assert [one["kind"] for one in trail].count("verdict") == 1


@pytest.mark.both_databases
def test_records_are_searched_paged_and_bounded(database):
    row = {"at": now(), "kind": "verdict", "who": "anna", "text": "100 % good", "address": "::1"}
    guesses = [{**row, "kind": "sign_in_failed", "text": f"wrong {k}"} for k in range(2000)]
    with database.writing() as connection:
        connection.execute(events.insert(), [row, *guesses])
    assert [one["text"] for one in search(database, text="WRONG 777")] == ["wrong 777"]
    assert [one["text"] for one in search(database, text="0 % g")] == ["100 % good"], "no wildcard"
    assert [one["kind"] for one in search(database, about="verdicts")] == ["verdict"]
    seen: list[int] = []
    while page := search(database, text="wrong 19", before=seen[-1] if seen else None, limit=100):
        seen += [one["id"] for one in page]
    assert seen == sorted(set(seen), reverse=True)
    assert len(seen) == 1 + 10 + 100
    trim_events(database, [(events.c.kind == "sign_in_failed", 1000), (events.c.kind == "verdict", 1)])
    left = [one["text"] for one in search(database, limit=5000)]
    assert left == [f"wrong {k}" for k in range(1999, 999, -1)] + ["100 % good"], "guesses push out guesses"


def test_changed_settings_are_named_when_the_station_starts(open_station, settings):
    hook = make_sink(webhook="https://mes.example/hunter2")
    product = settings.products[NAME]
    for changed in (
        {},
        {},
        {"near": 3.0, "products": {NAME: replace(product, sinks=(hook,))}},
        {"near": 3.0},
    ):
        open_station(**changed).close()
    folder = Path(settings.store)
    database = Database(Settings(store=str(folder)).url)
    texts = [one["text"] for one in reversed(search(database, about="settings"))]
    named = [re.findall(r"[\w.]+\.(?:webhook|verdicts)|\bnear\b", text) for text in texts]
    hooked = ["products.plate.sinks.1.verdicts", "products.plate.sinks.1.webhook"]
    assert named == [["near", *hooked], hooked]
    assert b"hunter2" not in (folder / "station.sqlite").read_bytes()

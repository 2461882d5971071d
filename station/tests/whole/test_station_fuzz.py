"""Whatever comes, the station answers with something else than 500."""

import errno
import gc
import http.client
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import httpx
import hypothesis
import psutil
import pytest
import schemathesis

from flawscope.errors import FlawscopeError
from flawscope_station.inspecting.picture import Picture
from flawscope_station.inspecting.ticket import Ticket
from flawscope_station.store.database import StoreError
from flawscope_station.web.uploads import Upload
from station_helpers import broken, everything, originals, until

pytestmark = pytest.mark.listens
ENDLESS = ("/api/v1/products/{name}/live", "/api/v1/live")  # streams that go on
DRAFT = "disc"
EXAMPLES = 4  # of an operation
UPLOADS = 150
SETTINGS = hypothesis.settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[hypothesis.Phase.generate],
    suppress_health_check=list(hypothesis.HealthCheck),
)


@pytest.fixture
def api(running, parts):
    """With an inspection that can be asked for."""
    with httpx.Client(base_url=running.url, timeout=60) as made:
        there = "/api/v1/products/plate/inspections"
        for part in (parts[0], parts[-1]):
            assert made.post(there, content=part).status_code == 201
        yield made


def operations(schema: Any) -> Iterator[Any]:
    for found in schema.get_all_operations():
        operation = found.ok()
        # with an account the station is no longer open to whoever asks here
        if not operation.path.startswith((*ENDLESS, "/api/v1/users", "/api/v1/tokens")):
            yield operation


def asked(operation: Any, kind: str) -> list[Any]:
    """Answers to requests.

    kind: known: as the description allows them, of a product and an inspection that there are, every fourth
    time of other ones; wrong: as it does not allow them.
    """
    from schemathesis import GenerationMode

    answers: list[Any] = []
    mode = GenerationMode.NEGATIVE if kind == "wrong" else GenerationMode.POSITIVE

    @SETTINGS
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        draft = case.path.startswith("/api/v1/new/")
        for name, value in {"name": DRAFT if draft else "plate", "number": 1}.items():
            if (kind == "wrong" or len(answers) % 4 < 3) and name in case.path_parameters:
                case.path_parameters[name] = value
        with suppress(ValueError, UnicodeError):  # no client can send that
            answers.append(case.call())

    with suppress(hypothesis.errors.Unsatisfiable):  # nothing about it can be wrong
        ask()
    return answers


@pytest.mark.parametrize("kind", ["known", "wrong"])
def test_no_request_is_answered_with_500(running, api, kind):
    schema = schemathesis.openapi.from_url(f"{running.url}/api/v1/openapi.json")
    statuses: dict[str, Counter[int]] = {}
    wrong: list[str] = []
    for operation in operations(schema):
        label = f"{operation.method.upper()} {operation.path}"
        seen = statuses.setdefault(label, Counter())
        api.post("/api/v1/new", json={"name": DRAFT})  # the operation before may have removed it
        for response in asked(operation, kind):
            seen[response.status_code] += 1
            if response.status_code >= 500 and response.status_code != 503:
                wrong.append(f"{label}: {response.status_code} {response.text[:200]} {response.request.url}")
    assert wrong == []
    assert sum(sum(seen.values()) for seen in statuses.values()) > EXAMPLES / 2 * len(statuses)
    if kind == "known":
        reached = [label for label, seen in statuses.items() if any(status < 300 for status in seen)]
        assert len(reached) > len(statuses) / 2, f"hardly anything is reached: {statuses}"
    assert api.get("/healthz").status_code == 200
    assert running.station.inspector.backlog() == 0


def test_broken_pictures_are_refused_or_judged_and_leave_nothing(running, api, parts):
    rng, given = random.Random(0), originals(parts)
    process = psutil.Process()
    statuses: Counter[int] = Counter()
    before = 0
    for number in range(UPLOADS):
        if number == UPLOADS // 3:  # what is loaded once is loaded
            gc.collect()
            before = process.memory_info().rss
        data = broken(rng, rng.choice(given))
        response = api.post("/api/v1/products/plate/inspections", content=data, params={"name": f"{number}"})
        statuses[response.status_code] += 1
        assert response.status_code in (201, 422), (number, response.status_code, response.text)
        if response.status_code == 422:
            assert "\n" not in response.json()["error"]
            assert len(response.json()["error"]) < 500
    assert statuses[422] > UPLOADS / 3
    assert statuses[201] > UPLOADS / 20
    gc.collect()
    assert process.memory_info().rss - before < 64 << 20
    assert running.station.inspector.backlog() == 0
    found = everything(running.url)
    assert len(found) == statuses[201] + 2
    known = {one["picture"] for one in found}
    folder = running.station.files.folder / "pictures"
    # a refusal is answered before the recorder's thread removes the picture
    until(lambda: {path.stem for path in folder.rglob("*") if path.is_file()} == known)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_refusals_are_freed_at_once(running, parts, monkeypatch):
    """Not only when Python looks for circles: until then the pictures of thousands would be held."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def away(_: Any) -> None:
        raise StoreError("the database is away; wait", "store_unreachable")

    def held() -> list[Any]:
        kinds = (FlawscopeError, Picture, Upload, Ticket)
        return [one for one in gc.get_objects() if issubclass(type(one), kinds)]

    def left() -> list[Any]:
        return [one for one in held() if id(one) not in others]

    def send(data: bytes) -> int:  # a client whose own circles hold nothing
        with closing(http.client.HTTPConnection(running.url.removeprefix("http://"), timeout=30)) as client:
            client.request("POST", "/api/v1/products/plate/inspections", data)
            return client.getresponse().status

    spoilt = (parts[0][:100], parts[0][:-200], b"no picture", b"\xff\xd8\xff\xe0" + bytes(50), b"")
    send(parts[0])  # what is loaded once is loaded
    gc.collect()
    before = held()  # by whatever ran in this process earlier; kept, so that no id is given again
    others = {id(one) for one in before}
    gc.disable()
    try:
        assert [send(data) for data in (*spoilt, parts[1])] == [422] * 5 + [201]
        monkeypatch.setattr(os, "fsync", full)
        assert [send(data) for data in parts[2:5]] == [507] * 3
        monkeypatch.undo()
        monkeypatch.setattr(running.station.store, "record", away)
        assert [send(data) for data in parts[2:5]] == [503] * 3
        end = time.monotonic() + 10
        while left() and time.monotonic() < end:  # a thread may just be ending its work
            time.sleep(0.05)
        assert left() == []
    finally:
        gc.enable()

"""What a request has to pass before the station sees it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest

pytest.importorskip("argon2")
pytest.importorskip("sqlalchemy")
pytest.importorskip("fastapi")
pytest.importorskip("httpx")

import httpx
from argon2 import PasswordHasher
from fastapi import Depends, FastAPI, Request
from fastapi.responses import PlainTextResponse, Response

from flawscope.errors import InputError
from flawscope.station.access.roles import LOCAL, Person
from flawscope.station.access.sign_in import Attempts, SignInError
from flawscope.station.access.users import Access
from flawscope.station.settings.station import Settings
from flawscope.station.store.database import Database, StoreError
from flawscope.station.web.middleware import (
    Guard,
    Refused,
    address_of,
    answer_refused,
    check_bind,
    drop_cookie,
    local_path,
    needs,
    set_cookie,
)

PASSWORD = "a long pass phrase"
HERE = "http://127.0.0.1:8080"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture
def access(tmp_path: Path) -> Iterator[Access]:
    """What is asked of the data base is told in test_access.py, for both: here one is enough."""
    database = Database(f"sqlite:///{tmp_path / 'station.sqlite'}")
    database.migrate()
    access = Access(database)
    access.passwords.hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    access._attempts = Attempts(lambda: 0.0)  # what must wait waits for ever
    yield access
    database.close()


@pytest.fixture
def app(access: Access) -> FastAPI:
    """A station in small."""
    app = FastAPI()
    app.add_exception_handler(Refused, answer_refused)

    @app.api_route("/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"])
    async def whoever(request: Request) -> Response:
        person = access.person(request)
        status = 404 if request.url.path.endswith("/missing.js") else 200
        return PlainTextResponse(person.name if person else "nobody", status)

    async def engineer(person: Annotated[Person, Depends(needs("engineer"))]) -> str:
        return person.name

    def enter(request: Request, name: str, password: str) -> Response:
        response = PlainTextResponse("in")
        set_cookie(response, request, access, access.sign_in(name, password, address_of(request)))
        return response

    def leave(request: Request) -> Response:
        response = PlainTextResponse("out")
        access.sign_out(request)
        drop_cookie(response, request, access)
        return response

    async def headers() -> Response:
        own = {"Cache-Control": "private, max-age=60", "Content-Security-Policy": "sandbox"}
        return PlainTextResponse("x", headers=own)

    app.post("/api/v1/engineer")(engineer)
    app.post("/sign-in")(enter)
    app.post("/leave")(leave)
    app.get("/api/v1/own")(headers)
    app.router.routes.insert(0, app.router.routes.pop())
    routes = app.router.routes
    routes.append(
        routes.pop(next(i for i, r in enumerate(routes) if getattr(r, "path", "") == "/{path:path}"))
    )
    return app


class Client:
    """Sends requests from an address; keeps cookies as a browser does."""

    def __init__(self, guard: Any):
        self.guard = guard
        self.cookies: dict[str, str] = {}

    def ask(
        self, method: str, url: str, *, client: str = "127.0.0.1", site: str = HERE, **rest: Any
    ) -> httpx.Response:
        async def asked() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.guard, client=(client, 50_000))
            async with httpx.AsyncClient(transport=transport, base_url=site) as http:
                headers = dict(rest.pop("headers", {}))
                if self.cookies:
                    headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
                return await http.request(method, url, headers=headers, **rest)

        response = asyncio.run(asked())
        for name, value in response.cookies.items():
            self.cookies[name] = value
        return response

    def get(self, url: str, **rest: Any) -> httpx.Response:
        return self.ask("GET", url, **rest)

    def post(self, url: str, **rest: Any) -> httpx.Response:
        return self.ask("POST", url, **rest)


@pytest.fixture
def client(app: FastAPI, access: Access) -> Client:
    return Client(Guard(app, access, Settings(public=("https://flaw.example.org", "10.1.2.3:9000"))))


@pytest.fixture
def signed_in(client: Client, access: Access) -> Client:
    """As anna, an operator."""
    access.add_user("anna", PASSWORD, "operator")
    client.post("/sign-in", params={"name": "anna", "password": PASSWORD})
    return client


# ------------------------------------------------------------------------------------------------------- host


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:8080", 200),
        ("LOCALHOST:1", 200),
        ("[::1]:8080", 200),
        ("[::1]", 200),
        ("flaw.example.org", 200),
        ("flaw.example.org:443", 200),
        ("10.1.2.3", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("evil.example:8080@127.0.0.1", 421),
        ("localhost.", 421),
        ("", 421),
        ("0.0.0.0", 421),
        ("flaw.example.org.", 421),
        ("::1", 200),
        ("127.0.0.1:8080:80", 421),
    ],
)
def test_only_requests_to_its_own_names_are_served(client: Client, host: str, status: int) -> None:
    response = client.get("/healthz", headers={"Host": host})
    assert response.status_code == status
    if status == 421:
        assert response.text.count("\n") == 1
        assert "setting `public`" in response.text


def test_the_host_that_it_listens_on_is_a_name_but_every_host_is_none(app: FastAPI, access: Access) -> None:
    for host, status in {"10.0.0.7": 200, "0.0.0.0": 421, "": 421, "::": 421}.items():
        client = Client(Guard(app, access, Settings(host=host)))
        assert client.get("/healthz", headers={"Host": host or "x"}).status_code == status
        assert client.get("/healthz", headers={"Host": ""}).status_code == 421


@pytest.mark.parametrize(
    ("host", "server", "status"),
    [
        ("10.0.0.7:8080", "10.0.0.7", 200),
        ("10.0.0.7", "::ffff:10.0.0.7", 200),
        ("[fd00:0::7]:8080", "fd00::7", 200),
        ("10.0.0.8:8080", "10.0.0.7", 421),
        ("0.0.0.0", "0.0.0.0", 421),
        ("line.example", "line.example", 421),
        ("", "", 421),
    ],
)
def test_the_address_that_a_request_arrived_at_needs_no_setting(
    app: FastAPI, access: Access, host: str, server: str, status: int
) -> None:
    """`--host 0.0.0.0`, and somebody types the machine's address."""
    guard = Guard(app, access, Settings(host="0.0.0.0"))
    asked = {"server": (server, 8080), "path": "/healthz"}
    assert raw(guard, [(b"host", host.encode())], **asked)[0]["status"] == status


def test_what_is_no_name_in_the_settings_lets_nobody_in(app: FastAPI, access: Access) -> None:
    client = Client(Guard(app, access, Settings(public=("not a name!", ""))))
    for host in ("", "not a name!", "another one!"):
        assert client.get("/healthz", headers={"Host": host}).status_code == 421


def raw(guard: Any, headers: list[tuple[bytes, bytes]], **scope: Any) -> list[dict[str, Any]]:
    """What is sent as answer to a request that no client library would send."""
    messages: list[dict[str, Any]] = []
    base = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "scheme": "http"}
    base |= {"headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8080)}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        messages.append(message)

    asyncio.run(guard({**base, **scope}, receive, send))
    return messages


def test_a_request_without_or_with_two_hosts_is_not_served(client: Client) -> None:
    one = (b"host", b"127.0.0.1")
    assert [raw(client.guard, [one] * n)[0]["status"] for n in range(3)] == [421, 200, 421]


# -------------------------------------------------------------------------------------------- an open station


@pytest.mark.parametrize(
    ("address", "headers", "status"),
    [
        ("127.0.0.1", {}, 200),
        ("127.8.9.1", {}, 200),
        ("::1", {}, 200),
        ("::ffff:127.0.0.1", {}, 200),
        ("10.0.0.5", {}, 403),
        ("::ffff:10.0.0.5", {}, 403),
        ("testclient", {}, 403),
        ("127.0.0.1", {"X-Forwarded-For": "10.0.0.5"}, 403),
        ("127.0.0.1", {"Forwarded": "for=10.0.0.5"}, 403),
    ],
)
def test_an_open_station_serves_its_own_machine_alone(
    client: Client, access: Access, address: str, headers: dict[str, str], status: int
) -> None:
    for path in ("/", "/api/v1/products", "/metrics", "/sign-in"):
        response = client.get(path, client=address, headers=headers)
        assert response.status_code == status
        assert response.text == LOCAL.name if status == 200 else "station user add" in response.text
    assert client.get("/healthz", client=address, headers=headers).status_code == 200
    token = access.add_token("line", "operator")
    headers = {**headers, "Authorization": f"Bearer {token}"}
    assert client.get("/api/v1/products", client=address, headers=headers).text == "line"


def test_the_machines_own_address_is_of_this_machine(client: Client) -> None:
    host = [(b"host", b"10.1.2.3")]
    own = raw(client.guard, host, client=("10.1.2.3", 5), server=("10.1.2.3", 8080))
    other = raw(client.guard, host, client=("10.1.2.4", 5), server=("10.1.2.3", 8080))
    socket = raw(client.guard, host, client=None, server=("/run/station", None))
    assert [sent[0]["status"] for sent in (own, other, socket)] == [200, 403, 200]


# ---------------------------------------------------------------------------------------------- other origins

SAME = [
    {},
    {"Origin": HERE},
    {"Origin": HERE, "Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": "https://flaw.example.org"},
    {"Origin": "http://10.1.2.3:9000"},
]
FOREIGN = [
    {"Origin": "http://evil.example"},
    {"Origin": "http://127.0.0.1:9999"},
    {"Origin": "http://127.0.0.1"},
    {"Origin": "http://localhost:8080"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "ftp://127.0.0.1:8080"},
    {"Origin": "https://flaw.example.org.evil.example"},
    {"Origin": "https://flaw.example.org:8443"},
    {"Origin": "http://10.1.2.3"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": HERE, "Sec-Fetch-Site": "cross-site"},
]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_other_sites_change_nothing_on_an_open_station(client: Client, method: str) -> None:
    for headers in SAME:
        assert client.ask(method, "/api/v1/x", headers=headers).status_code == 200, headers
    for headers in FOREIGN:
        response = client.ask(method, "/api/v1/x", headers=headers)
        assert (response.status_code, response.json()["code"]) == (403, "foreign_request"), headers


def test_other_sites_may_lead_to_a_page(client: Client) -> None:
    for method in ("GET", "HEAD", "OPTIONS"):
        assert client.ask(method, "/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200


def test_other_sites_change_nothing_with_a_session_and_sign_nobody_in(
    signed_in: Client, access: Access
) -> None:
    for headers in FOREIGN:
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            answer = signed_in.ask(method, "/api/v1/x", headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (403, "foreign_request"), headers
        assert signed_in.post("/form", headers=headers | FORM, content="x=1").status_code == 403, headers
    for headers in ({}, {"Origin": HERE}, {"Sec-Fetch-Site": "same-origin"}):
        assert signed_in.post("/api/v1/x", headers=headers).text == "anna", headers
    signed_in.cookies.clear()
    for headers in FOREIGN:
        sent = signed_in.post("/sign-in", params={"name": "anna", "password": PASSWORD}, headers=headers)
        assert sent.status_code == 403, headers
    assert signed_in.cookies == {}


def test_a_token_is_sent_by_no_other_site(client: Client, access: Access) -> None:
    bearer = {"Authorization": f"bearer {access.add_token('line', 'operator')}"}
    for headers in ({}, *FOREIGN):
        assert client.post("/api/v1/x", headers=headers | bearer).text == "line"


def test_through_tls_only_the_page_that_came_through_it_is_its_own(client: Client) -> None:
    for origin, status in {"https://flaw.example.org": 200, "http://flaw.example.org": 403}.items():
        sent = client.post("/api/v1/x", site="https://flaw.example.org", headers={"Origin": origin})
        assert sent.status_code == status


# ----------------------------------------------------------------------------------------------- who and what


def test_who_is_not_signed_in_is_told_or_led_to_the_page_that_does(client: Client, access: Access) -> None:
    access.add_user("anna", PASSWORD, "operator")
    for path in ("/api/v1/products", "/metrics", "/api/v1/nothing"):
        for headers in ({}, {"Authorization": "Bearer fls_wrong"}, {"Authorization": "Basic YTpi"}):
            response = client.get(path, headers=headers)
            assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    response = client.get("/api/v1/products")
    assert response.json() == {
        "error": "sign in, or send a token: Authorization: Bearer fls_...",
        "code": "not_signed_in",
    }
    response = client.get("/plate/history?since=2026-01-01&a=1")
    assert response.status_code == 303
    assert response.headers["location"] == "/sign-in?next=/plate/history%3Fsince%3D2026-01-01%26a%3D1"
    assert client.post("/plate/x").headers["location"] == "/sign-in?next=/"
    for path in ("//api/v1/products", "/API/v1/products", "/static/../api", "/metrics/"):
        found = raw(client.guard, [(b"host", b"localhost")], path=path)
        assert found[-1]["body"] in (b"", b"nobody")
        assert (found[0]["status"] == 200) == path.startswith("/static/"), path
    for path in ("/healthz", "/readyz", "/static/a.js", "/sign-in"):
        assert client.get(path).text == "nobody"


def test_users_and_tokens_are_known_to_the_application(signed_in: Client, access: Access) -> None:
    assert signed_in.get("/api/v1/x").text == "anna"
    assert signed_in.get("/metrics").text == "anna"
    token = {"Authorization": f"Bearer {access.add_token('line', 'operator')}"}
    assert signed_in.get("/metrics", headers=token).text == "line"  # rather than the cookie
    access.remove_user("anna")
    assert signed_in.get("/api/v1/x").status_code == 401


def test_a_role_that_is_too_small_is_refused(client: Client, access: Access) -> None:
    for role, status in {"operator": 403, "engineer": 200, "admin": 200}.items():
        headers = {"Authorization": f"Bearer {access.add_token(role, role)}"}
        response = client.post("/api/v1/engineer", headers=headers)
        assert response.status_code == status
        if status == 403:
            text = "operator is operator; this needs engineer"
            assert response.json() == {"error": text, "code": "role_too_small"}


def test_without_a_guard_nobody_has_a_role(app: FastAPI) -> None:
    assert Client(app).post("/api/v1/engineer").status_code == 401


def test_the_cookie_is_out_of_reach(signed_in: Client, access: Access) -> None:
    sent = signed_in.post(
        "/sign-in",
        params={"name": "anna", "password": PASSWORD},
        site="https://flaw.example.org",
    ).headers["set-cookie"]
    value, *rest = sent.split("; ")
    assert value.startswith(f"{access.cookie}=")
    assert {one.lower() for one in rest} == {
        "httponly",
        "max-age=43200",
        "path=/",
        "samesite=strict",
        "secure",
    }
    signed_in.cookies.clear()
    plain = signed_in.post("/sign-in", params={"name": "anna", "password": PASSWORD}).headers["set-cookie"]
    assert "secure" not in plain.lower()


def test_signing_out_drops_cookie_and_session(signed_in: Client, access: Access) -> None:
    kept = dict(signed_in.cookies)
    sent = signed_in.post("/leave").headers["set-cookie"]
    assert "max-age=0" in sent.lower()
    signed_in.cookies = kept
    assert signed_in.get("/api/v1/x").status_code == 401


def test_sign_ins_are_limited_by_the_senders_address(client: Client, access: Access) -> None:
    access.add_user("anna", PASSWORD, "operator")
    for _ in range(5):
        access._attempts.begin("anna", "10.0.0.9")
    params = {"name": "anna", "password": PASSWORD}
    assert client.post("/sign-in", params=params, client="10.0.0.8").status_code == 200
    client.cookies.clear()
    with pytest.raises(SignInError, match="too many failed sign-ins"):
        client.post("/sign-in", params=params, client="10.0.0.9")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/plate/live", "/plate/live"),
        ("/plate/history?a=1&b=%20", "/plate/history?a=1&b=%20"),
        ("", "/"),
        (None, "/"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("/a\\b", "/"),
        ("https://evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("/\t/evil.example", "/"),
        ("/a\r\nSet-Cookie: b", "/"),
    ],
)
def test_after_signing_in_nobody_is_led_to_another_site(text: str | None, path: str) -> None:
    assert local_path(text) == path


# ---------------------------------------------------------------------------------------------------- answers


def test_every_answer_makes_browsers_careful(client: Client, access: Access) -> None:
    access.add_user("anna", PASSWORD, "operator")
    answers = [
        client.get("/healthz"),
        client.get("/api/v1/x"),
        client.get("/plate/live"),
        client.get("/", headers={"Host": "evil.example"}),
        client.post("/", headers={"Origin": "null"}),
        client.get("/static/a.js"),
    ]
    assert [one.status_code for one in answers] == [200, 401, 303, 421, 403, 200]
    for one in answers:
        assert one.headers["content-security-policy"] == (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
            "connect-src 'self'; font-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
        )
        assert one.headers["x-content-type-options"] == "nosniff"
        assert one.headers["x-frame-options"] == "DENY"
        assert one.headers["referrer-policy"] == "same-origin"
        assert one.headers["cross-origin-opener-policy"] == "same-origin"
        assert one.headers["cross-origin-resource-policy"] == "same-origin"
    assert {one.headers["cache-control"] for one in answers[:-1]} == {"no-store"}


def test_only_static_files_named_with_their_hash_are_kept(client: Client) -> None:
    assert client.get("/static/a.js").headers["cache-control"] == "no-cache"
    assert client.get("/static/a.js?v=1f").headers["cache-control"] == "public, max-age=31536000, immutable"
    assert client.get("/static/missing.js?v=1f").headers["cache-control"] == "no-store"


def test_what_the_application_says_itself_holds(client: Client) -> None:
    headers = client.get("/api/v1/own").headers
    assert headers.get_list("cache-control") == ["private, max-age=60"]
    assert headers.get_list("content-security-policy") == ["sandbox"]


def test_a_lost_data_base_is_said_and_health_still_answers(
    client: Client, access: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost() -> Any:
        raise StoreError("station.sqlite cannot be used", "store_unreachable")

    monkeypatch.setattr(access.database, "reading", lost)
    response = client.get("/api/v1/x")
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert response.json() == {"error": "station.sqlite cannot be used", "code": "store_unreachable"}
    assert client.get("/x").text == "station.sqlite cannot be used\n"
    assert [client.get(path).status_code for path in ("/healthz", "/readyz", "/static/a.js")] == [200] * 3


def test_streams_are_passed_on_piece_by_piece_both_ways(access: Access) -> None:
    """Something that waits for the end on the way would wait for ever: each piece is sent only after the one
    before has come back."""
    arrived: list[bytes] = []

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        more = True
        while more:
            piece = await receive()
            more = piece["more_body"]
            await send({"type": "http.response.body", "body": piece["body"], "more_body": more})

    async def run() -> None:
        sent = 0

        async def receive() -> dict[str, Any]:
            nonlocal sent
            while len(arrived) < sent:
                await asyncio.sleep(0.001)
            sent += 1
            return {"type": "http.request", "body": b"%d" % sent, "more_body": sent < 4}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                arrived.append(message["body"])

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/api/v1/echo",
            "query_string": b"",
            "scheme": "http",
        }
        scope |= {
            "headers": [(b"host", b"127.0.0.1")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        await asyncio.wait_for(Guard(echo, access, Settings())(scope, receive, send), 20)

    asyncio.run(run())
    assert arrived == [b"1", b"2", b"3", b"4"]


def test_there_are_no_web_sockets_and_starting_up_is_passed_on(access: Access) -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    guard = Guard(app, access, Settings())
    assert raw(guard, [], type="websocket") == [{"type": "websocket.close", "code": 1008}]
    raw(guard, [], type="lifespan")
    assert seen == ["lifespan"]


def test_errors_of_the_application_pass(access: Access) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("of the application")

    with pytest.raises(RuntimeError, match="of the application"):
        raw(Guard(app, access, Settings()), [(b"host", b"localhost")])


def test_refusals_are_json_below_the_api_and_a_line_elsewhere(client: Client) -> None:
    foreign = {"Origin": "null"}
    assert set(json.loads(client.post("/api/v1/x", headers=foreign).text)) == {"error", "code"}
    text = "another site made the browser send this: open the page again"
    assert client.post("/x", headers=foreign).text == f"{text}\n"


# ------------------------------------------------------------------------------------------ where it listens


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.5", "line-3.local", "[::]"])
def test_other_machines_are_served_only_with_users_or_tokens(access: Access, host: str) -> None:
    with pytest.raises(InputError, match=r"`flawscope station user add NAME --role admin`, or") as error:
        check_bind(Settings(host=host), access)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="--role admin --station /srv/shop`"):
        check_bind(Settings(host=host, store="/srv/shop"), access)
    access.add_token("line", "operator")
    check_bind(Settings(host=host), access)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.0.0.2"])
def test_this_machine_is_served_without(access: Access, host: str) -> None:
    check_bind(Settings(host=host), access)

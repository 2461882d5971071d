"""What a request has to pass before the station sees it."""

import asyncio
import re
from typing import Annotated, Any

import httpx
import pytest
from argon2 import PasswordHasher
from fastapi import Depends, FastAPI, Request
from fastapi.responses import PlainTextResponse, Response

from flawscope.errors import InputError
from flawscope_station.access.authenticator import Access
from flawscope_station.access.roles import LOCAL_PERSON, PERSON_KEY, Person
from flawscope_station.access.sign_in_throttle import SignInThrottle
from flawscope_station.monitoring.background import log_line
from flawscope_station.settings.station import Settings
from flawscope_station.store.database import Database, StoreError
from flawscope_station.web.errors import install_error_handler
from flawscope_station.web.middleware import (
    Guard,
    check_listen_address,
    client_ip,
    local_path,
    require_role,
    set_cookie,
)
from station_helpers import failing

PASSWORD = "a long pass phrase"
HERE = "http://127.0.0.1:8080"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture
def access(tmp_path):
    """What is asked of the database is told in test_access.py, for both: here one is enough."""
    database = Database(f"sqlite:///{tmp_path / 'station.sqlite'}")
    database.migrate()
    access = Access(database)
    access.users.passwords.hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    access.throttle = SignInThrottle(lambda: 0.0)  # what must wait waits for ever
    yield access
    database.close()


@pytest.fixture
def app(access):
    """A station in small."""
    app = FastAPI()
    install_error_handler(app, lambda request, status, text, error: PlainTextResponse(f"{text}\n", status))

    @app.post("/api/v1/engineer")
    async def engineer(person: Annotated[Person, Depends(require_role("engineer"))]) -> str:
        return person.name

    @app.post("/sign-in")
    def enter(request: Request, name: str, password: str) -> Response:
        response = PlainTextResponse("in")
        set_cookie(response, request, access, access.sign_in(name, password, client_ip(request)))
        return response

    @app.get("/api/v1/own")
    async def headers() -> Response:
        own = {"Cache-Control": "private, max-age=60", "Content-Security-Policy": "sandbox"}
        return PlainTextResponse("x", headers=own)

    @app.api_route("/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"])
    async def whoever(request: Request) -> Response:
        person = request.scope[PERSON_KEY]
        status = 404 if request.url.path.endswith("/missing.js") else 200
        return PlainTextResponse(person.name if person else "nobody", status)

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
def client(app, access):
    return Client(Guard(app, access, NAMED))


@pytest.fixture
def signed_in(client, access):
    """As anna, an operator."""
    access.users.add("anna", PASSWORD, "operator")
    client.post("/sign-in", params={"name": "anna", "password": PASSWORD})
    return client


NAMED = Settings(public=("https://flaw.example.org", "10.1.2.3:9000"))
EVERYWHERE = Settings(host="0.0.0.0")
HERE_NAMED = NAMED, "127.0.0.1"


@pytest.mark.parametrize(
    ("settings", "server", "host", "status"),
    [
        *((*HERE_NAMED, host, 200) for host in ("127.0.0.1", "LOCALHOST:1", "[::1]:8080", "[::1]", "::1")),
        *((*HERE_NAMED, host, 200) for host in ("flaw.example.org", "flaw.example.org:443", "10.1.2.3")),
        *((*HERE_NAMED, host, 421) for host in ("evil.example", "127.0.0.1.evil.example", "", "0.0.0.0")),
        *((*HERE_NAMED, host, 421) for host in ("evil.example:80@127.0.0.1", "localhost.", "127.0.0.1:8:8")),
        (Settings(host="10.0.0.7"), "127.0.0.1", "10.0.0.7", 200),
        *((Settings(host=host), "127.0.0.1", host or "x", 421) for host in ("0.0.0.0", "", "::")),
        *((Settings(public=("not a name!", "")), "x", host, 421) for host in ("", "not a name!", "another!")),
        # `--host 0.0.0.0`, and somebody types the machine's address: the one that the request arrived at
        (EVERYWHERE, "10.0.0.7", "10.0.0.7:8080", 200),
        (EVERYWHERE, "::ffff:10.0.0.7", "10.0.0.7", 200),
        (EVERYWHERE, "fd00::7", "[fd00:0::7]:8080", 200),
        (EVERYWHERE, "10.0.0.7", "10.0.0.8:8080", 421),
        (EVERYWHERE, "0.0.0.0", "0.0.0.0", 421),
        (EVERYWHERE, "line.example", "line.example", 421),
    ],
)  # fmt: skip
def test_only_requests_to_its_own_names_and_addresses_are_served(app, access, settings, server, host, status):
    asked = {"server": (server, 8080), "path": "/healthz"}
    first, body = raw(Guard(app, access, settings), [(b"host", host.encode())], **asked)[:2]
    assert first["status"] == status
    if status == 421:
        assert body["body"].count(b"\n") == 1
        assert b"setting `public`" in body["body"]


def test_pages_below_a_path_of_a_proxy_are_refused_in_one_line_and_programs_are_served(client):
    for prefix, status in (("/inspect", 421), ("/", 200), ("", 200)):
        found = client.get("/", headers={"X-Forwarded-Prefix": prefix}, follow_redirects=False)
        assert found.status_code == status, prefix
    refused = client.get("/plate/live", headers={"X-Forwarded-Prefix": "/inspect/"})
    assert refused.text.count("\n") == 1
    assert "below /inspect, and pages have to lie at the top: give it a name or a port" in refused.text
    for path in ("/healthz", "/static/a.js", "/api/v1/products"):
        assert client.get(path, headers={"X-Forwarded-Prefix": "/inspect"}).status_code != 421


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


def test_a_request_without_or_with_two_hosts_is_not_served(client):
    one = (b"host", b"127.0.0.1")
    assert [raw(client.guard, [one] * n)[0]["status"] for n in range(3)] == [421, 200, 421]
    old = [raw(client.guard, [one] * n, http_version="1.0")[0]["status"] for n in range(3)]
    assert old == [200, 200, 421], "a machine that speaks HTTP/1.0 names no host"
    foreign = [(b"origin", b"http://evil.example")]
    assert raw(client.guard, foreign, http_version="1.0", method="POST")[0]["status"] == 403


@pytest.mark.parametrize("path", ["/healthz", "/plate/live", "/api/v1/products", "/sign-in/", "/"])
def test_what_can_be_read_answers_head_too(access, path):
    """As monitors ask; `server` knows that the answer has no body."""
    app = FastAPI()
    app.add_api_route("/{path:path}", lambda path: PlainTextResponse(path))
    there = Client(Guard(app, access, NAMED))
    assert there.ask("HEAD", path).status_code == there.get(path).status_code == 200
    assert there.ask("HEAD", "/api/v1/products/plate/live").status_code == 405, "a stream has no end"


@pytest.mark.parametrize("site", ["http://127.0.0.1:8080", "https://station.example", "http://a"])
def test_an_address_in_full_is_the_path_of_it(client, site):
    """As sent by a client that takes the station for a proxy; the host that counts is the header's."""
    app = client.guard.app
    host = [(b"host", b"127.0.0.1")]
    for path, expected in (("/a/missing.js", 404), ("/a/b", 200), ("", 200), ("/", 200)):
        assert (
            raw(Guard(app, client.guard.access, NAMED), host, path=f"{site}{path}")[0]["status"] == expected
        )
    assert raw(client.guard, [(b"host", b"evil.example")], path=f"{site}/a")[0]["status"] == 421


@pytest.mark.parametrize(
    ("address", "headers", "status"),
    [
        *((one, {}, 200) for one in ("127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1")),
        *((one, {}, 403) for one in ("10.0.0.5", "::ffff:10.0.0.5", "testclient")),
        ("127.0.0.1", {"X-Forwarded-For": "10.0.0.5"}, 403),
        ("127.0.0.1", {"Forwarded": "for=10.0.0.5"}, 403),
    ],
)
def test_an_open_station_serves_its_own_machine_alone(client, access, address, headers, status):
    for path in ("/", "/api/v1/products", "/metrics", "/sign-in"):
        response = client.get(path, client=address, headers=headers)
        assert response.status_code == status
        assert response.text == LOCAL_PERSON.name if status == 200 else "station user add" in response.text
    assert client.get("/healthz", client=address, headers=headers).status_code == 200
    token = access.tokens.add("line", "operator")
    headers = {**headers, "Authorization": f"Bearer {token}"}
    assert client.get("/api/v1/products", client=address, headers=headers).text == "line"


def test_the_machines_own_address_is_of_this_machine(client):
    host = [(b"host", b"10.1.2.3")]
    own = raw(client.guard, host, client=("10.1.2.3", 5), server=("10.1.2.3", 8080))
    other = raw(client.guard, host, client=("10.1.2.4", 5), server=("10.1.2.3", 8080))
    socket = raw(client.guard, host, client=None, server=("/run/station", None))
    assert [sent[0]["status"] for sent in (own, other, socket)] == [200, 403, 200]


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


WRITING = ("POST", "PUT", "PATCH", "DELETE")


def foreign(answer: httpx.Response) -> bool:
    return answer.status_code == 403 and answer.json()["code"] == "foreign_request"


def test_other_sites_change_nothing_on_an_open_station_and_may_lead_to_a_page(client):
    for method in WRITING:
        for headers in SAME:
            assert client.ask(method, "/api/v1/x", headers=headers).status_code == 200, headers
        for headers in FOREIGN:
            assert foreign(client.ask(method, "/api/v1/x", headers=headers)), headers
    for method in ("GET", "HEAD", "OPTIONS"):
        assert client.ask(method, "/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200


def test_other_sites_change_nothing_with_a_session_and_sign_nobody_in(signed_in):
    for headers in FOREIGN:
        for method in WRITING:
            assert foreign(signed_in.ask(method, "/api/v1/x", headers=headers)), headers
        form = signed_in.post("/form", headers=headers | FORM, content="x=1")
        assert (form.status_code, form.text.count("\n")) == (403, 1), "a line outside of the API"
    for headers in ({}, {"Origin": HERE}, {"Sec-Fetch-Site": "same-origin"}):
        assert signed_in.post("/api/v1/x", headers=headers).text == "anna", headers
    signed_in.cookies.clear()
    for headers in FOREIGN:
        sent = signed_in.post("/sign-in", params={"name": "anna", "password": PASSWORD}, headers=headers)
        assert sent.status_code == 403, headers
    assert signed_in.cookies == {}


def test_a_token_is_sent_by_no_other_site(client, access):
    bearer = {"Authorization": f"bearer {access.tokens.add('line', 'operator')}"}
    for headers in ({}, *FOREIGN):
        assert client.post("/api/v1/x", headers=headers | bearer).text == "line"


def test_through_tls_only_the_page_that_came_through_it_is_its_own(client):
    for origin, status in {"https://flaw.example.org": 200, "http://flaw.example.org": 403}.items():
        sent = client.post("/api/v1/x", site="https://flaw.example.org", headers={"Origin": origin})
        assert sent.status_code == status


def test_who_is_not_signed_in_is_told_or_led_to_the_page_that_does(client, access):
    access.users.add("anna", PASSWORD, "operator")
    for path in ("/api/v1/products", "/metrics", "/api/v1/nothing"):
        for headers in ({}, {"Authorization": "Bearer fls_wrong"}, {"Authorization": "Basic YTpi"}):
            response = client.get(path, headers=headers)
            assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    response = client.get("/api/v1/products")
    assert response.json() == {
        "error": "sign in, or send a token of `flawscope station token add`: Authorization: Bearer fls_...",
        "code": "not_signed_in",
    }
    response = client.get("/plate/history?since=2026-01-01&a=1")
    assert response.status_code == 303
    assert response.headers["location"] == "/sign-in?next=/plate/history%3Fsince%3D2026-01-01%26a%3D1"
    assert client.post("/plate/x").headers["location"] == "/sign-in?next=/"
    assert client.get("/metrics/").status_code == 401  # a slash at the end is the same address
    for path in ("//api/v1/products", "/API/v1/products", "/static/../api"):
        found = raw(client.guard, [(b"host", b"localhost")], path=path)
        assert found[-1]["body"] in (b"", b"nobody")
        assert (found[0]["status"] == 200) == path.startswith("/static/"), path
    for path in ("/healthz", "/readyz", "/static/a.js", "/sign-in"):
        assert client.get(path).text == "nobody"


def test_a_small_role_is_refused_also_without_a_guard(client, app, access):
    for role, status in {"operator": 403, "engineer": 200, "admin": 200}.items():
        headers = {"Authorization": f"Bearer {access.tokens.add(role, role)}"}
        response = client.post("/api/v1/engineer", headers=headers)
        assert response.status_code == status
        assert status == 200 or response.json()["code"] == "role_too_small"
    assert Client(app).post("/api/v1/engineer").status_code == 401


def test_the_cookie_is_out_of_reach(signed_in, access):
    given = {"params": {"name": "anna", "password": PASSWORD}}
    sent = signed_in.post("/sign-in", site="https://flaw.example.org", **given).headers["set-cookie"]
    value, *rest = sent.split("; ")
    assert value.startswith(f"{access.cookie}=")
    wanted = {"httponly", "max-age=43200", "path=/", "samesite=strict", "secure"}
    assert {one.lower() for one in rest} == wanted
    signed_in.cookies.clear()
    plain = signed_in.post("/sign-in", **given).headers["set-cookie"]
    assert "secure" not in plain.lower()


def test_after_signing_in_nobody_is_led_to_another_site():
    for own in ("/plate/live", "/plate/history?a=1&b=%20"):
        assert local_path(own) == own
    outside = ["//evil.example", "/\\evil.example", "/a\\b", "https://evil.example", "javascript:alert(1)"]
    for other in ("", None, *outside, "/\t/evil.example", "/a\r\nSet-Cookie: b"):
        assert local_path(other) == "/"


def test_every_answer_makes_browsers_careful(client, access):
    access.users.add("anna", PASSWORD, "operator")
    answers = [
        client.get("/healthz"),
        client.get("/api/v1/x"),
        client.get("/plate/live"),
        client.get("/", headers={"Host": "evil.example"}),
        client.post("/", headers={"Origin": "null"}),
        client.get("/static/a.js"),
    ]
    assert [one.status_code for one in answers] == [200, 401, 303, 421, 403, 200]
    careful = {
        "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
        "img-src 'self' blob: data:; connect-src 'self'; font-src 'self'; form-action 'self'; "
        "frame-ancestors 'none'; base-uri 'none'",
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "same-origin",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
    }
    for one in answers:
        assert {name: one.headers[name] for name in careful} == careful
    assert {one.headers["cache-control"] for one in answers[:-1]} == {"no-store"}


def test_what_is_kept_and_what_the_application_says_itself(client):
    kept = {
        "a.js": "no-cache",
        "a.js?v=1f": "public, max-age=31536000, immutable",
        "missing.js?v=1f": "no-store",
    }
    for file, said in kept.items():
        assert client.get(f"/static/{file}").headers["cache-control"] == said, file
    headers = client.get("/api/v1/own").headers
    assert headers.get_list("cache-control") == ["private, max-age=60"]
    assert headers.get_list("content-security-policy") == ["sandbox"]


def test_a_lost_data_base_is_said_and_health_still_answers(client, access, monkeypatch):
    lost = StoreError("station.sqlite cannot be used", "store_unreachable")
    monkeypatch.setattr(access.database, "reading", failing(lost))
    response = client.get("/api/v1/x")
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert response.json() == {"error": "station.sqlite cannot be used", "code": "store_unreachable"}
    assert client.get("/x").text == "station.sqlite cannot be used\n"
    assert [client.get(path).status_code for path in ("/healthz", "/readyz", "/static/a.js")] == [200] * 3


def test_there_are_no_web_sockets_and_starting_up_is_passed_on(access):
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    guard = Guard(app, access, Settings())
    assert raw(guard, [], type="websocket") == [{"type": "websocket.close", "code": 1008}]
    raw(guard, [], type="lifespan")
    assert seen == ["lifespan"]


def test_other_machines_are_served_only_with_users_or_tokens(access):
    outside = [Settings(host=host) for host in ("0.0.0.0", "::", "", "192.168.1.5", "line-3.local", "[::]")]
    for settings in outside:
        with pytest.raises(InputError, match=r"`flawscope station user add NAME --role admin`, or"):
            check_listen_address(settings, access)
    with pytest.raises(InputError, match="--role admin --station /srv/shop`"):
        check_listen_address(Settings(host="::", store="/srv/shop"), access)
    for host in ("127.0.0.1", "localhost", "::1", "[::1]", "127.0.0.2"):
        check_listen_address(Settings(host=host), access)
    access.tokens.add("line", "operator")
    for settings in outside:
        check_listen_address(settings, access)


def test_the_log_names_a_request_that_failed_and_its_answer_has_the_number(access):
    app, said, clock = FastAPI(), list[Any](), [0.0]

    @app.get("/api/v1/busy")
    async def busy() -> Response:
        return Response(status_code=503)

    guard = Guard(app, access, NAMED, said.append)
    guard.failed._clock = lambda: clock[0]
    client = Client(guard)
    mine = client.get("/api/v1/busy", headers={"X-Request-Id": "line3-17"})
    assert (mine.status_code, mine.headers["x-request-id"]) == (503, "line3-17")
    others = [client.get("/api/v1/busy", headers={"X-Request-Id": "a b"}) for _ in range(3)]
    assert len({one.headers["x-request-id"] for one in others} - {"a b"}) == 3
    clock[0] = 2.0
    client.get("/api/v1/busy")
    assert [str(one) for one in said] == ["GET '/api/v1/busy': 503"] * 2
    assert [(one.level, one.fields["request"] == "line3-17", one.fields.get("more")) for one in said] == [
        ("warning", True, None),
        ("warning", False, 3),
    ]
    assert re.fullmatch(
        r"time=\S+Z level=warning request=line3-17 status=503 GET '/api/v1/busy': 503", log_line(said[0])
    )

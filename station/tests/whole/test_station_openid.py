"""Sign-in with a company's account, against a provider that can be made to answer wrongly."""

import base64
import functools
import hashlib
import hmac
import json
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Form, Request
from fastapi.responses import JSONResponse, RedirectResponse
from joserfc import jwt
from joserfc.jwk import RSAKey

from flawscope.errors import InputError
from flawscope_station.access.sign_in_throttle import SignInThrottle
from flawscope_station.settings.openid import OpenIdSettings
from flawscope_station.settings.station import Settings
from flawscope_station.settings.values import read_as
from flawscope_station.web.sign_in_pages import OpenIdProvider
from station_helpers import PATIENCE, until
from tablet import PHONE, SLATE, needs_chromium

pytestmark = pytest.mark.listens  # what a proxy says of the client counts
CLIENT, SECRET = "flawscope", "the client's secret"
PASSWORD = "correct horse battery"


@functools.cache
def first_key() -> Any:
    """The provider's; to make one takes a second."""
    return RSAKey.generate_key(2048, parameters={"kid": "first"})


@dataclass
class Company:
    """A provider. It signs everybody in as `who`; claims, algorithm and key say how its tokens are wrong."""

    url: str = ""
    who: str = "anna"
    groups: Any = ("quality",)
    claims: dict[str, Any] = field(default_factory=dict)
    algorithm: str = "RS256"
    key: Any = field(default_factory=first_key)
    signs_with: Any = None  # another key than it publishes
    calls: list[str] = field(default_factory=list)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/.well-known/openid-configuration")
        def configuration() -> Any:
            self.calls.append("configuration")
            return {
                "issuer": self.url,
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                "jwks_uri": f"{self.url}/keys",
                "id_token_signing_alg_values_supported": ["RS256", "HS256", "none"],
            }

        @app.get("/keys")
        def keys() -> Any:
            self.calls.append("keys")
            return {"keys": [self.key.as_dict(private=False)]}

        @app.get("/authorize")
        def authorize(request: Request) -> Any:
            asked = dict(request.query_params)
            assert (asked["response_type"], asked["code_challenge_method"]) == ("code", "S256")
            code = f"code{len(self.codes)}"
            self.codes[code] = asked
            return RedirectResponse(f"{asked['redirect_uri']}?code={code}&state={asked['state']}")

        @app.post("/token")
        def token(request: Request, code: str = Form(), code_verifier: str = Form()) -> Any:
            asked = self.codes.pop(code, None)
            if asked is None:
                return JSONResponse({"error": "invalid_grant"}, 400)
            digest = hashlib.sha256(code_verifier.encode()).digest()
            assert _base64(digest).decode() == asked["code_challenge"]
            assert request.headers["authorization"].startswith("Basic ")
            return {"access_token": "a", "token_type": "Bearer", "id_token": self._token(asked)}

        return app

    def _token(self, asked: dict[str, str]) -> str:
        now = int(time.time())
        claims = {
            "iss": self.url,
            "sub": f"id-of-{self.who}",
            "aud": asked["client_id"],
            "exp": now + 300,
            "iat": now,
            "nonce": asked["nonce"],
            "preferred_username": self.who,
            "groups": self.groups,
            **self.claims,
        }
        key = self.signs_with or self.key
        header = {"alg": self.algorithm, "kid": key.kid}
        if self.algorithm == "RS256":
            return jwt.encode(header, claims, key)
        # by hand: no library signs so
        body = b".".join(_base64(json.dumps(one).encode()) for one in (header, claims))
        public = self.key.as_pem(private=False)
        made = hmac.digest(public, body, "sha256") if self.algorithm == "HS256" else b""
        return b".".join((body, _base64(made))).decode()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


@pytest.fixture
def company():
    """At `localhost`: for a browser another site than the station's 127.0.0.1."""
    made = Company()
    server = uvicorn.Server(uvicorn.Config(made.app(), port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    made.url = f"http://localhost:{server.servers[0].sockets[0].getsockname()[1]}"
    yield made
    server.should_exit = True
    thread.join(PATIENCE)


@pytest.fixture(name="running")
def running_fixture(open_station, settings, company, tmp_path):
    (tmp_path / "secret").write_text(SECRET)
    groups = {"quality": "operator", "it": "admin"}
    given = {"issuer": company.url, "client": CLIENT, "groups": groups, "secret_file": "secret"}
    return open_station(openid=read_as(OpenIdSettings, given, tmp_path), proxy=True)


@pytest.fixture
def browse(running):
    """Makes browsers without pages: they keep cookies and follow redirects."""
    how = {"base_url": running.url, "timeout": 30, "follow_redirects": True}
    with ExitStack() as stack:
        yield lambda: stack.enter_context(httpx.Client(**how))


def enter(client: httpx.Client) -> httpx.Response:
    return client.get("/sign-in/company/", params={"next": "/plate/live"})


def role(client: httpx.Client) -> str | None:
    """Role as of the requests that it may do; None: it must sign in."""
    if client.get("/api/v1/products").status_code == 401:
        return None
    return "admin" if client.get("/api/v1/audit").status_code == 200 else "less"


def test_a_member_signs_in_with_the_role_of_the_groups(browse, company, running):
    access = running.station.access
    anna, other = browse(), browse()
    assert role(anna) is None  # nobody is let in although there are no users
    answer = enter(anna)
    assert (answer.status_code, 'url=/plate/live"' in answer.text) == (200, True)
    assert role(anna) == "less"
    assert [(one.name, one.role) for one in access.users.all()] == [("anna", "operator")]
    company.groups = ["none of ours", "it", "quality"]
    enter(other)
    assert role(other) == "admin"
    assert [(one.name, one.role) for one in access.users.all()] == [("anna", "admin")]
    anna.post("/sign-out")
    assert role(anna) is None
    company.groups = "quality"  # some providers send a single one so
    enter(anna)
    assert role(anna) == "less"
    with pytest.raises(InputError, match="company's account"):
        access.users.set_password("anna", PASSWORD)


def test_accounts_of_the_station_stay_and_cannot_be_taken_over(browse, company, running):
    running.station.access.users.add("anna", PASSWORD, "admin")
    stranger, local = browse(), browse()
    answer = enter(stranger)
    assert answer.status_code == 403
    assert "there is a user anna already" in answer.text
    assert role(stranger) is None
    local.post("/sign-in", data={"name": "anna", "password": PASSWORD})
    assert role(local) == "admin"
    company.who = "berta"
    enter(stranger)
    assert role(stranger) == "less"
    for empty in ("", "x" * 12):  # an account of the company has no password
        answer = browse().post("/sign-in", data={"name": "berta", "password": empty})
        assert answer.status_code == 401


def wrong_tokens() -> dict[str, tuple[dict[str, Any], str]]:
    """How each is made, and what is said of it."""
    return {
        "another nonce": ({"claims": {"nonce": "another"}}, "nonce"),
        "no nonce": ({"claims": {"nonce": None}}, "nonce"),
        "another audience": ({"claims": {"aud": "payroll"}}, "aud"),
        "for another party": ({"claims": {"aud": [CLIENT, "payroll"], "azp": "payroll"}}, "azp"),
        "another issuer": ({"claims": {"iss": "https://evil.example"}}, "iss"),
        "expired": ({"claims": {"exp": int(time.time()) - 3600}}, "expired"),
        "not signed": ({"algorithm": "none"}, ""),
        "a forged key": ({"signs_with": RSAKey.generate_key(2048, parameters={"kid": "first"})}, "ignature"),
        "signed with the public key": ({"algorithm": "HS256"}, ""),
        "a name that cannot be one": ({"who": "CORP\\anna"}, "cannot be a name"),
        "no name": ({"claims": {"preferred_username": None}}, "cannot be a name"),
        "groups of a wrong kind": ({"groups": 7}, ""),
        "groups without a role": ({"groups": ["canteen"]}, "no group that may use this station"),
    }


def test_wrong_tokens_let_nobody_in(browse, company, running):
    for wrong, (given, said) in wrong_tokens().items():
        with pytest.MonkeyPatch.context() as patch:
            for name, value in given.items():
                patch.setattr(company, name, value)
            running.station.access.throttle = SignInThrottle()  # else these tries wait after the fifth
            client = browse()
            answer = enter(client)
        assert answer.status_code in (401, 403), (wrong, answer.text)
        assert said in answer.text, wrong
        assert role(client) is None, wrong
        assert running.station.access.users.all() == []


def test_state_is_the_browsers_and_holds_once(browse, company):
    victim, thief = browse(), browse()
    there = victim.get("/sign-in/company/", follow_redirects=False)
    tls = browse().get("/sign-in/company/", headers={"X-Forwarded-Proto": "https"}, follow_redirects=False)
    assert ["secure" in one.headers["set-cookie"] for one in (there, tls)] == [False, True]
    asked = parse_qs(urlsplit(there.headers["location"]).query)
    assert asked["redirect_uri"] == [f"{str(victim.base_url).rstrip('/')}/sign-in/company/done"]
    back = victim.get(there.headers["location"], follow_redirects=False).headers["location"]
    assert thief.get(back).status_code == 401  # it has the code, and not the state
    assert role(thief) is None
    assert victim.get(back).status_code == 200
    assert victim.get(back).status_code == 401  # once
    assert role(victim) == "less"
    for query in ("", "?state=x", "?code=x&state=y", "?error=access_denied&error_description=No%3Cscript%3E"):
        answer = thief.get(f"/sign-in/company/done{query}")
        assert answer.status_code == 401
        assert "No<script>" not in answer.text


def test_keys_may_change_while_the_station_runs(browse, company):
    assert enter(browse()).status_code == 200
    assert enter(browse()).status_code == 200
    assert company.calls == ["configuration", "keys"]
    company.key = RSAKey.generate_key(2048, parameters={"kid": "second"})
    assert enter(browse()).status_code == 200
    assert company.calls == ["configuration", "keys", "keys"]


@pytest.mark.parametrize("said", ["did not work", "it calls itself"])
def test_a_provider_that_is_away_or_calls_itself_otherwise_keeps_nobody_out(open_station, company, said):
    """The station starts, accounts of its own sign in, and the page says it in one line."""
    other = "http://localhost:9" if said == "did not work" else company.url.replace("localhost", "127.0.0.1")
    running = open_station(openid=OpenIdSettings(other, CLIENT, {"quality": "operator"}))
    running.station.access.users.add("anna", PASSWORD, "admin")
    with httpx.Client(base_url=running.url, timeout=30, follow_redirects=True) as client:
        answer = enter(client)
        assert (answer.status_code, said in answer.text) == (502, True)
        client.post("/sign-in", data={"name": "anna", "password": PASSWORD})
        assert role(client) == "admin"
        audit = client.get("/api/v1/audit", params={"about": "sign-ins"}).json()
        assert any("was not let in" in one["text"] for one in audit["entries"])


def test_a_page_that_anybody_asks_for_writes_no_more_than_wrong_passwords_do(browse, company, running):
    """An answer of a provider that nobody gave, again and again."""
    with httpx.Client(base_url=running.url, timeout=60) as http:
        answers = [http.get("/sign-in/company/done").status_code for _ in range(30)]
    events = running.station.store.events("sign_in_failed")
    assert set(answers) == {401, 429}
    assert len(events) == answers.count(401) <= 10


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"issuer": "http://login.example"}, "https://"),
        ({"groups": {}}, "groups"),
        ({"groups": {"a": "sender"}}, "groups"),
        ({"scope": "profile"}, "openid"),
        ({"role": "admin"}, "role"),
        ({"secret_file": "none"}, "secret_file: cannot read"),
        ({"ca_file": "none"}, "ca_file: cannot read"),
    ],
)
def test_a_wrong_setting_is_one_line(given, said):
    right = {"issuer": "https://login.example", "client": CLIENT, "groups": {"quality": "operator"}}
    with pytest.raises(InputError, match=said) as caught:
        OpenIdProvider(read_as(OpenIdSettings, {**right, **given}, Path()))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="openid: setting client and groups is missing"):
        read_as(Settings, {"openid": {"issuer": "https://login.example"}}, Path())


@needs_chromium
def test_a_browser_comes_back_signed_in(tablet, company, running):
    """The provider is another site, whose redirect brings no strict cookie along."""
    tablet.driver.get(f"{tablet.url}/plate/live")
    tablet.wait(lambda: tablet.find("a[href^='/sign-in/company']"))
    assert tablet.unfit(PHONE, SLATE) == []
    tablet.find("a[href^='/sign-in/company']").click()
    tablet.wait(lambda: tablet.driver.current_url.endswith("/plate/live"))
    assert "anna" in tablet.driver.page_source

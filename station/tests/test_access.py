"""Users, sessions and tokens; and `flawscope station`, which changes them."""

import io
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from starlette.requests import HTTPConnection

from flawscope.cli import main
from flawscope.errors import InputError
from flawscope_station.access import accounts, authenticator
from flawscope_station.access import sessions as session_module
from flawscope_station.access.authenticator import CACHE_SECONDS, Access, ExpiredError
from flawscope_station.access.roles import LOCAL_PERSON, ROLES, Person, has_role
from flawscope_station.access.sessions import SESSION_SECONDS
from flawscope_station.access.sign_in_throttle import (
    ADDRESS_LIMIT,
    NAME_LIMIT,
    PAIR_LIMIT,
    SignInError,
    SignInThrottle,
)
from flawscope_station.store.database import Database, StoreError, now
from flawscope_station.store.records import SENDER_ADDRESS
from flawscope_station.store.schema import events, metadata, sessions, users
from station_helpers import failing

PASSWORD = "a long pass phrase"


class Clock:
    """Seconds that a test lets pass."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


def set_clock(monkeypatch: pytest.MonkeyPatch, now: Any) -> None:
    for module in (accounts, authenticator, session_module):
        monkeypatch.setattr(module, "now", now)


@pytest.fixture
def clock():
    return Clock()


def cheap(database: Database, clock: Clock) -> Access:
    """Hashes in no time; what waits or is remembered goes by the clock."""
    access = Access(database)
    access.users.passwords.hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    access.throttle, access.clock = SignInThrottle(clock), clock
    return access


@pytest.fixture
def access(database, clock):
    return cheap(database, clock)


@pytest.fixture
def other(database, clock):
    """The same station in another process."""
    again = Database(database.url)
    yield cheap(again, clock)
    again.close()


def request(access: Access, cookie: str = "", token: str = "") -> HTTPConnection:
    headers = [(b"host", b"127.0.0.1")]
    if cookie:
        headers.append((b"cookie", f"{access.cookie}={cookie}".encode()))
    if token:
        headers.append((b"authorization", f"Bearer {token}".encode()))
    return HTTPConnection({"type": "http", "headers": headers, "path": "/", "query_string": b""})


def rows(access: Access, table: Any) -> list[Any]:
    with access.database.reading() as connection:
        return list(connection.execute(table.select()))


def told(access: Access) -> list[tuple[str, str, str]]:
    return [(row.kind, row.who, row.text) for row in rows(access, events)]


def test_senders_send_viewers_look_and_the_others_may_do_what_those_below_them_may():
    table = {mine: [role for role in ROLES if has_role(Person("x", mine), role)] for mine in ROLES}
    assert table == {
        "sender": ["sender"],
        "viewer": ["viewer"],
        "operator": ["sender", "viewer", "operator"],
        "engineer": ["sender", "viewer", "operator", "engineer"],
        "admin": ["sender", "viewer", "operator", "engineer", "admin"],
    }
    assert not any(has_role(who, role) for who in (None, Person("x", "of a newer version")) for role in ROLES)


def test_a_station_is_open_until_it_has_a_user_or_a_token_and_again_without(access):
    assert access.is_open
    assert access.authenticate(request(access)) == LOCAL_PERSON == Person("local", "admin")
    access.users.add("anna", PASSWORD, "operator")
    assert not access.is_open
    assert access.authenticate(request(access)) is None
    access.tokens.add("line", "operator")
    access.users.remove("anna")
    assert not access.is_open
    access.tokens.remove("line")
    assert access.is_open


def test_who_cannot_be_added_is_told_in_one_line(access):
    access.users.add(" bea\n", PASSWORD, "admin")  # what surrounds a name is not of it
    access.tokens.add("line", "admin")
    before = told(access)

    def refused(said: str, change: Any, *given: Any, **more: Any) -> None:
        with pytest.raises(InputError, match=said) as error:
            change(*given, **more)
        assert "\n" not in str(error.value)
        assert PASSWORD not in str(error.value)

    for name in ("a" * 65, "<b>", "", "-a"):
        refused("cannot be a name", access.users.add, name, PASSWORD, "admin")
    refused("everybody on an open station", access.users.add, "Local", PASSWORD, "admin")
    refused("no role 'boss': choose sender, viewer", access.users.add, "anna", PASSWORD, "boss")
    refused("a sender is no person", access.users.add, "anna", PASSWORD, "sender")
    refused("has 9 characters: use 10", access.users.add, "anna", "123456789", "admin")
    refused("has 1,001 characters", access.users.add, "anna", "x" * 1001, "admin")
    for taken in ("bea", "line"):
        refused(f"there is a (user|token) {taken} already", access.users.add, taken, PASSWORD, "admin")
        refused(f"there is a (user|token) {taken} already", access.tokens.add, taken, "admin")
    for seconds in (0.0, -5.0, 101 * 365 * 86400.0):
        refused("at most 100 years", access.tokens.add, "other", "operator", expires=seconds)
    for change in (
        access.users.remove,
        access.tokens.remove,
        lambda name: access.users.set_password(name, PASSWORD),
    ):
        refused(r"there is no (user|token) anna; see `flawscope station", change, "anna")
    assert told(access) == before
    assert [one.name for one in access.users.all()] == ["bea"]


def test_every_change_is_an_event_and_tells_who_did_it(access):
    access.users.add("anna", PASSWORD, "operator", who="bea")
    access.users.set_password("anna", PASSWORD + "!", who="bea")
    access.tokens.add("line", "engineer")
    access.tokens.remove("line")
    access.users.remove("anna")
    assert told(access) == [
        ("user_added", "bea", "user anna added as operator"),
        ("password_changed", "bea", "password of user anna changed"),
        ("token_added", "command line", "token line added as engineer"),
        ("token_removed", "command line", "token line removed"),
        ("user_removed", "command line", "user anna removed"),
    ]


def test_no_secret_is_in_the_store(access):
    usual = Access(access.database).users.passwords.hasher
    assert (usual.time_cost, usual.memory_cost) == (PasswordHasher().time_cost, PasswordHasher().memory_cost)
    access.users.add("anna", PASSWORD, "operator")
    token, cookie = access.tokens.add("line", "operator"), access.sign_in("anna", PASSWORD, "::1")
    for name, password in (("anna", "not her secret word"), ("my secret word", PASSWORD)):
        with pytest.raises(SignInError):
            access.sign_in(name, password, "10.0.0.9")
    access.authenticate(request(access, token=token))
    kept = repr([rows(access, table) for table in metadata.tables.values()])
    assert told(access)[-2:] == [
        ("sign_in_failed", "anna", "wrong sign-in of user anna"),
        ("sign_in_failed", "", "wrong sign-in of an unknown name"),
    ]
    assert "anna" in kept
    assert "10.0.0.9" in kept
    for secret in (PASSWORD, token, token[4:], cookie, "secret word"):
        assert secret not in kept


def test_a_session_ends_after_twelve_hours_and_is_removed(access, clock, monkeypatch):
    access.users.add("anna", PASSWORD, "engineer")
    cookie, start = access.sign_in("anna", PASSWORD, "127.0.0.1"), now()
    assert SESSION_SECONDS == 12 * 3600
    set_clock(monkeypatch, lambda: start + 43_190_000_000)
    assert access.authenticate(request(access, cookie))
    set_clock(monkeypatch, lambda: start + 43_201_000_000)
    assert access.authenticate(request(access, cookie)) is None  # from memory
    assert len(rows(access, sessions)) == 1
    clock.at += CACHE_SECONDS + 0.1
    assert access.authenticate(request(access, cookie)) is None
    assert rows(access, sessions) == []
    access.sign_in("anna", PASSWORD, "127.0.0.1")
    set_clock(monkeypatch, lambda: start + 90_000_000_000)
    access.sign_in("anna", PASSWORD, "127.0.0.1")
    assert len(rows(access, sessions)) == 1, "signing in removes them, too"


@pytest.mark.both_databases
@pytest.mark.parametrize("change", ["remove", "password"])
def test_removing_a_user_or_changing_the_password_ends_the_sessions_at_once(access, other, clock, change):
    """At once in the process that does it; in others within seconds."""
    access.users.add("anna", PASSWORD, "engineer")
    access.users.add("bea", PASSWORD, "engineer")
    cookie, beas = (access.sign_in(name, PASSWORD, "127.0.0.1") for name in ("anna", "bea"))
    assert all(one.authenticate(request(one, cookie)) for one in (access, other))
    if change == "remove":
        access.users.remove("anna")
    else:
        access.users.set_password("anna", PASSWORD + "!")
    assert access.authenticate(request(access, cookie)) is None
    clock.at += CACHE_SECONDS + 0.1
    assert other.authenticate(request(other, cookie)) is None
    assert access.authenticate(request(access, beas))
    assert len(rows(access, sessions)) == 1


@pytest.mark.both_databases
def test_a_password_that_changes_while_it_is_checked_signs_nobody_in(access, other, monkeypatch):
    access.users.add("anna", PASSWORD, "engineer")
    check = access.users.passwords.verify

    def slow(hashed: str, *tried: Any) -> bool:
        right = check(hashed, *tried)
        other.users.set_password("anna", PASSWORD + "!")
        return right

    monkeypatch.setattr(access.users.passwords, "verify", slow)
    with pytest.raises(SignInError, match="name or password is wrong"):
        access.sign_in("anna", PASSWORD, "127.0.0.1")
    assert rows(access, sessions) == []


def test_tries_with_a_companys_account_wait_as_wrong_passwords_do(access):
    """Each address by itself; a member who signs in begins anew."""

    def tries(address: str) -> int:
        for count in range(100):
            try:
                access.count_member_try(address)
            except SignInError:
                return count
        return 100

    assert tries("127.0.0.1") == PAIR_LIMIT[0]
    access.count_member_try("10.0.0.7")
    assert access.sign_in_member("issuer 1", "anna", "operator", "10.0.0.7")
    assert tries("10.0.0.7") == PAIR_LIMIT[0]


def test_a_hash_with_other_parameters_is_made_anew_when_its_user_signs_in(access):
    access.users.add("anna", PASSWORD, "engineer")
    (before,) = rows(access, users)
    cookie = access.sign_in("anna", PASSWORD, "127.0.0.1")
    assert rows(access, users) == [before]
    access.users.passwords.hasher = PasswordHasher(time_cost=2, memory_cost=16, parallelism=1)
    access.sign_in("anna", PASSWORD, "127.0.0.1")
    (after,) = rows(access, users)
    assert "m=16,t=2" in after.password
    assert access.authenticate(request(access, cookie))
    assert access.sign_in("anna", PASSWORD, "127.0.0.1")


def test_a_cookie_is_known_until_its_session_ends(access):
    """Names are folded; letters that keyboards write in two ways are the same."""
    access.users.add("jürgen", "Schlüssel für Jürgen", "engineer")
    names, password = ("ju\u0308rgen", " Jürgen"), "Schlu\u0308ssel fu\u0308r Ju\u0308rgen"
    one, two = (access.sign_in(name, password, "127.0.0.1") for name in names)
    assert access.authenticate(request(access, one)) == access.authenticate(request(access, two))
    assert access.authenticate(request(access, one)) == Person("jürgen", "engineer")
    assert access.authenticate(request(access, one + "x")) is None
    access.sign_out(request(access, one))
    assert access.authenticate(request(access, one)) is None
    assert access.authenticate(request(access, two))
    access.sign_out(request(access))


def test_an_unknown_name_takes_as_long_for_the_answer(access, monkeypatch):
    access.users.add("anna", PASSWORD, "engineer")
    access.users.passwords.verify(None, "")  # the hash that is compared with is made once
    verify, checked = PasswordHasher.verify, []

    def spied(self: PasswordHasher, hashed: str, password: bytes) -> bool:
        checked.append(hashed.rsplit("$", 2)[0])
        return verify(self, hashed, password)

    monkeypatch.setattr(PasswordHasher, "verify", spied)
    texts = set()
    for name in ("anna", "nobody", "", "\x00", "\ud800", "x" * 10_000):
        with pytest.raises(SignInError) as error:
            access.sign_in(name, "wrong pass phrase", "127.0.0.1")
        texts.add((str(error.value), error.value.wait))
    assert texts == {("name or password is wrong", 0)}
    assert len(checked) == 6
    assert len(set(checked)) == 1


def test_who_guesses_has_to_wait_longer_and_longer_and_nobody_else_does(access, clock):
    access.users.add("anna", PASSWORD, "engineer")
    waits, failures = [], 0
    while failures < PAIR_LIMIT[0] + 9:
        with pytest.raises(SignInError) as error:
            access.sign_in("anna", "wrong pass phrase", "10.0.0.1")
        if error.value.wait:
            waits.append((failures, error.value.wait))
            clock.at += error.value.wait - 0.1
            with pytest.raises(SignInError, match=r"too many failed sign-ins: try again in 1 second$"):
                access.sign_in("ANNA", PASSWORD, "10.0.0.1")  # also with the right one
            clock.at += 0.1
        else:
            assert str(error.value) == "name or password is wrong"
            failures += 1
    assert waits == [(5, 1), (6, 2), (7, 4), (8, 8), (9, 16), (10, 32), (11, 60), (12, 60), (13, 60)]
    assert access.sign_in("anna", PASSWORD, "10.0.2.1"), "elsewhere the owner signs in at once"
    clock.at += 60
    assert access.sign_in("anna", PASSWORD, "10.0.0.1")
    with pytest.raises(SignInError, match="name or password is wrong"):  # and starts anew
        access.sign_in("anna", "wrong pass phrase", "10.0.0.1")
    assert access.sign_in("anna", PASSWORD, "10.0.0.1")


def failed(attempts: SignInThrottle, name: str, address: str) -> int:
    """Seconds to wait before it could be tried."""
    try:
        attempts.begin(name, address)
    except SignInError as error:
        return error.wait
    return 0


@pytest.mark.parametrize("address", ["10.0.0.1", "2001:db8::7"])
def test_wrong_names_from_a_shared_address_lock_nobody_out(access, clock, address):
    """The one who guesses there gets one answer a second; who signed in there is not held up."""
    access.users.add("anna", PASSWORD, "engineer")
    for i in range(ADDRESS_LIMIT[0]):
        with pytest.raises(SignInError, match="name or password is wrong"):
            access.sign_in(f"n{i}", "wrong pass phrase", address)
    assert [failed(access.throttle, f"m{i}", address) for i in range(9)] == [1] * 9
    clock.at += 1
    assert access.sign_in("anna", PASSWORD, address)
    assert [failed(access.throttle, f"m{i}", address) for i in range(3)] == [1, 1, 1]
    assert access.sign_in("anna", PASSWORD, address), "at once"
    clock.at += 1
    assert [failed(access.throttle, f"m{i}", address) for i in range(3)] == [0, 1, 1]


def test_a_name_tried_from_new_addresses_waits_but_not_at_its_owners(access, clock):
    access.users.add("anna", PASSWORD, "engineer")
    access.sign_in("anna", PASSWORD, "192.0.2.1")
    waits = [failed(access.throttle, "anna", f"10.0.0.{i}") for i in range(NAME_LIMIT[0] + 2)]
    assert waits == [0] * NAME_LIMIT[0] + [1, 1]
    assert access.sign_in("anna", PASSWORD, "192.0.2.1"), "at once"


def test_an_address_is_not_freed_by_signing_in_with_one_password(clock):
    attempts = SignInThrottle(clock)
    for i in range(ADDRESS_LIMIT[0]):
        assert failed(attempts, f"n{i}", "10.0.0.1") == 0
        if not i:
            attempts.begin("mine", "10.0.0.1")
            attempts.record_success("mine", "10.0.0.1")
    assert [failed(attempts, "x", address) for address in ("10.0.0.1", "10.0.0.2")] == [1, 0]
    clock.at += 3610
    assert [failed(attempts, "x", "10.0.0.1") for _ in range(2)] == [0, 0]  # forgotten


def test_what_is_remembered_of_guesses_has_a_bound(clock):
    attempts = SignInThrottle(clock, max_entries=100)
    for i in range(PAIR_LIMIT[0]):  # who has many addresses of version 6 has one
        assert failed(attempts, "x", f"2001:db8::{i:x}") == 0
    assert [failed(attempts, "x", f"2001:db8:0:{net}::1") for net in (0, 1)] == [1, 0]
    for i in range(1000):
        failed(attempts, f"n{i}", f"10.0.{i // 250}.{i % 250}")
    assert len(attempts._failures) == 100


def test_guesses_at_the_same_time_are_counted_before_they_are_checked(clock):
    attempts = SignInThrottle(clock)
    with ThreadPoolExecutor(16) as pool:
        waits = list(pool.map(lambda i: failed(attempts, "anna", f"10.0.0.{i}"), range(64)))
    assert waits.count(0) == NAME_LIMIT[0]


def test_a_flood_of_sign_ins_leaves_threads_free(access, monkeypatch):
    access.users.passwords.verify(None, "")
    go, inside, sent_away = threading.Event(), [], threading.Semaphore(0)

    def slow(self: PasswordHasher, hashed: str, password: bytes) -> bool:
        inside.append(1)
        assert go.wait(60)
        raise VerifyMismatchError

    monkeypatch.setattr(PasswordHasher, "verify", slow)

    def ask(i: int) -> str:
        """Ten from one address, as many from others."""
        try:
            return access.sign_in(f"n{i}", PASSWORD, f"10.0.0.{max(0, i - 9)}")
        except SignInError as error:
            if error.wait:
                sent_away.release()
            return f"{error.wait}"

    with ThreadPoolExecutor(20) as pool:
        first = [pool.submit(ask, i) for i in range(10)]
        assert all(sent_away.acquire(timeout=20) for _ in range(6)), "an address has half of the turns"
        others = [pool.submit(ask, i) for i in range(10, 20)]
        assert all(sent_away.acquire(timeout=20) for _ in range(6))
        assert len(inside) <= 2
        go.set()
        waits = [sorted(one.result() for one in several) for several in (first, others)]
    assert waits == [["0"] * 4 + ["2"] * 6] * 2
    assert len(inside) == 8
    assert not access.users.passwords.pending
    assert failed(access.throttle, "n9", "10.0.0.0") == 0, "who was sent away did not fail"


@pytest.mark.both_databases
def test_a_token_is_known_and_not_after_it_was_removed(access, other, clock):
    secret = access.tokens.add("line", "operator")
    assert secret.startswith("fls_")
    assert len(secret) > 40
    assert all(
        one.authenticate(request(one, token=secret)) == Person("line", "operator", has_token=True)
        for one in (access, other)
    )
    assert access.authenticate(request(access, token=secret[:-1])) is None
    access.tokens.remove("line")
    access.tokens.add("line", "operator")
    assert access.authenticate(request(access, token=secret)) is None
    clock.at += CACHE_SECONDS + 0.1
    assert other.authenticate(request(other, token=secret)) is None


def test_its_use_is_noted_every_minute(access, clock, monkeypatch):
    secret, start = access.tokens.add("line", "operator"), now()
    seen = []
    for seconds in (0, 5, 59, 61, 100, 122):
        set_clock(monkeypatch, lambda at=start + seconds * 1_000_000: at)
        clock.at += CACHE_SECONDS + 0.1
        access.authenticate(request(access, token=secret))
        used = access.tokens.all()[0].used_at
        seen.append((used - start) / 1e6)
    assert seen == [0, 0, 0, 61, 61, 122]


def test_a_token_that_expires_is_known_until_then(access, other, clock, monkeypatch):
    """It is told so, in other processes too; it does not open the station to everybody."""
    secret, start = access.tokens.add("line", "operator", expires=90 * 86400), now()
    assert access.tokens.all()[0].expires_at == pytest.approx(start + 90 * 86_400_000_000, abs=5e6)
    assert all(one.authenticate(request(one, token=secret)) for one in (access, other))
    set_clock(monkeypatch, lambda: start + 91 * 86_400_000_000)
    for seconds in (0.0, CACHE_SECONDS + 0.1):  # from memory, and read again
        clock.at += seconds
        for one in (access, other):
            with pytest.raises(
                ExpiredError, match=r"^token line expired on \d{4}-\d\d-\d\d: ask for a new one"
            ):
                one.authenticate(request(one, token=secret))
    assert access.authenticate(request(access)) is None
    used = access.tokens.all()[0].used_at
    assert used < start + 86_400_000_000, "a refused use is none"
    assert told(access)[-1] == ("sign_in_failed", "line", "token line has expired")


def test_unknown_tokens_are_noted_every_minute(access, monkeypatch):
    start = now()
    for seconds, address in ((0, "10.0.0.1"), (5, "10.0.0.1"), (6, "10.0.0.2"), (61, "10.0.0.1")):
        set_clock(monkeypatch, lambda at=start + seconds * 1_000_000: at)
        SENDER_ADDRESS.set(address)
        access.authenticate(request(access, token="fls_guess"))
    SENDER_ADDRESS.set(None)
    noted = [(row.kind, row.address) for row in rows(access, events)]
    assert noted == [("sign_in_failed", one) for one in ("10.0.0.1", "10.0.0.2", "10.0.0.1")]


def test_a_token_is_no_cookie_and_a_cookie_no_token(access):
    """Also where both have been seen: what comes with a cookie may be another site's, with a token not."""
    access.users.add("anna", PASSWORD, "operator")
    token, cookie = access.tokens.add("line", "operator"), access.sign_in("anna", PASSWORD, "127.0.0.1")
    assert access.authenticate(request(access, token=token))
    assert access.authenticate(request(access, cookie=cookie))
    assert access.authenticate(request(access, cookie=token)) is None
    assert access.authenticate(request(access, token=cookie)) is None
    assert access.authenticate(request(access, cookie=cookie, token="fls_wrong")) is None


def test_for_seconds_nobody_asks_the_data_base_and_while_it_is_lost_nobody_is_known(
    access, clock, monkeypatch
):
    asked = request(access, token=access.tokens.add("line", "operator"))
    found = access.authenticate(asked)

    lost = StoreError("it cannot be used", "store_unreachable")
    monkeypatch.setattr(access.database, "reading", failing(lost))
    assert access.authenticate(asked) == found == Person("line", "operator", has_token=True)
    clock.at += CACHE_SECONDS + 0.1
    with pytest.raises(StoreError):
        access.authenticate(asked)


def test_two_stations_on_a_machine_have_two_cookies(access, other, tmp_path):
    assert access.cookie == other.cookie
    assert access.cookie != Access(Database(f"sqlite:///{tmp_path / 'two.sqlite'}")).cookie


@pytest.fixture
def call(monkeypatch, tmp_path):
    """call("user", "list", typed="a line") is the exit code of `flawscope station`."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def called(*argv: str, typed: str | None = "") -> int:
        monkeypatch.setattr("sys.stdin", Terminal() if typed is None else io.StringIO(typed))
        return main(["station", *argv, "--station", str(tmp_path / "shop")])

    return called


def station(tmp_path: Path) -> Access:
    return Access(Database(f"sqlite:///{tmp_path / 'shop' / 'station.sqlite'}"))


def test_users_and_tokens_by_command(call, tmp_path, capsys):
    """Before the station first runs, and while it does."""
    assert call("user", "add", "Anna", "--role", "engineer", typed=f"{PASSWORD}\r\n") == 0
    said = capsys.readouterr().err
    assert "this is a new station" in said
    assert "from now on everybody signs in" in said
    assert "nobody is an administrator yet: `flawscope station user add NAME --role admin`" in said
    assert call("user", "add", "boss", "--role", "admin", typed=f"{PASSWORD}\n") == 0
    said = capsys.readouterr().err
    assert "everybody signs in" not in said
    assert "nobody is an administrator" not in said
    assert call("user", "remove", "boss") == 0
    capsys.readouterr()
    access = station(tmp_path)
    assert access.sign_in("anna", PASSWORD, "127.0.0.1")
    assert (tmp_path / "shop").stat().st_mode & 0o077 == 0
    assert call("user", "list") == 0
    header, _, line = capsys.readouterr().out.splitlines()
    assert (header.split(), line.split()[:2]) == (["user", "role", "since"], ["anna", "engineer"])
    assert call("user", "password", "anna", typed="another pass phrase\n") == 0
    assert rows(access, sessions) == []
    assert access.sign_in("anna", "another pass phrase", "127.0.0.1")
    assert call("token", "add", "line-3", "--expires", "90 days") == 0
    secret = capsys.readouterr().out.strip()
    assert access.authenticate(request(access, token=secret)) == Person("line-3", "operator", has_token=True)
    assert call("token", "list") == 0
    out = capsys.readouterr().out
    assert "line-3" in out
    assert secret not in out
    assert call("token", "remove", "line-3") == call("user", "remove", "anna") == 0
    assert "everybody on the station's machine may do everything" in capsys.readouterr().err
    assert access.users.all() == access.tokens.all() == rows(access, sessions) == []


def test_commands_leave_a_store_of_another_version_as_it_is(call, tmp_path, capsys):
    """A newer program beside an older station that runs: it says so in a line."""
    (tmp_path / "shop").mkdir()
    path = tmp_path / "shop" / "station.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        script = (Path(__file__).parent / "store" / "tables-0002.sqlite.sql").read_text()
        connection.executescript(f"PRAGMA foreign_keys = OFF;\n{script}")
    for argv in (["user", "list"], ["token", "add", "line-3"], ["user", "add", "anna"]):
        assert call(*argv, typed=f"{PASSWORD}\n") == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert "is a store of another version of flawscope, which may be running on it" in said
    with closing(sqlite3.connect(path)) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    assert "parts" in names
    assert not [*path.parent.glob("station.sqlite.0*")]


def test_in_a_terminal_the_password_is_asked_twice(call, tmp_path, capsys, monkeypatch):
    typed = iter([PASSWORD, "a long pass phrasé", PASSWORD, PASSWORD])
    monkeypatch.setattr("flawscope_station.cli.station.getpass", lambda prompt: next(typed))
    assert call("user", "add", "anna", typed=None) == 2
    assert "the two passwords differ" in capsys.readouterr().err
    assert station(tmp_path).users.all() == []
    assert call("user", "add", "anna", typed=None) == 0
    assert station(tmp_path).sign_in("anna", PASSWORD, "127.0.0.1")


@pytest.mark.parametrize(
    ("argv", "typed", "text"),
    [
        (["user", "list"], "", "there is no station in"),
        (["user", "add", "x"], "", "no password: write it as one line"),
        (["user", "add", "x"], "short\n", "has 5 characters: use 10"),
        (["token", "add", "x", "--expires", "soon"], "", "--expires: 'soon' is not a time"),
        (["user", "list", "--settings", "x.yaml"], "", "not allowed with"),
    ],
)
def test_a_wrong_call_is_one_line(call, tmp_path, capsys, argv, typed, text):
    assert call(*argv, typed=typed) == 2
    lines = capsys.readouterr().err.splitlines()
    (line,) = [one for one in lines if not one.startswith("this is a new station, in ")]
    assert text in line
    assert not (tmp_path / "shop").exists() or station(tmp_path).users.all() == []

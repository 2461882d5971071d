"""The pages as the server sends them, their texts, and the files that others wrote."""

import html
import re
from contextlib import suppress

import httpx
import pytest

from flawscope_station.access.sign_in_throttle import SignInError, SignInThrottle
from flawscope_station.web import pages
from station_helpers import inspected

PASSWORD = "correct horse battery"


@pytest.fixture
def browser(running):
    """Not a real one: what it is sent is looked at here."""
    with httpx.Client(base_url=running.url, timeout=30) as client:
        yield client


def test_the_history_filters_and_turns_pages(browser, parts):
    count = pages.PER_PAGE + 3
    for k in range(count):
        inspected(browser, parts[k % 2], f"{k:03}.png")
    names = r'<span class="name"><bdi>(.*?)</bdi>'
    first = browser.get("/plate/history").text
    assert re.findall(names, first) == [f"{k:03}.png" for k in reversed(range(3, count))]
    older = html.unescape(re.findall(r'href="(/plate/history\?[^"]*cursor[^"]*)"', first)[0])
    second = browser.get(older).text
    assert re.findall(names, second) == ["002.png", "001.png", "000.png"]
    assert 'href="/plate/history?"' in second or 'href="/plate/history"' in second
    tens = [f"{k:03}.png" for k in range(19, 9, -1)]
    assert re.findall(names, browser.get("/plate/history?name=01*").text) == tens
    browser.post("/api/v1/products/plate/inspections/5/verdict", json={"verdict": "defect"})
    assert re.findall(names, browser.get("/plate/history?verdict=defect&decision=").text) == ["004.png"]
    assert re.findall(names, browser.get("/plate/history?until=2001-01-01T10:00").text) == []
    assert "No picture matches" in browser.get("/plate/history?score_min=1e9").text
    assert len(re.findall(names, browser.get("/plate/history?score_max=99999,5").text)) == pages.PER_PAGE


@pytest.fixture
def users(running):
    running.station.access.users.add("anna", PASSWORD, "operator")
    running.station.access.users.add("emil", PASSWORD, "engineer")


def sign_in(browser: httpx.Client, name: str, password: str = PASSWORD, next: str = "/") -> httpx.Response:
    return browser.post("/sign-in", data={"name": name, "password": password, "next": next})


def test_signing_in_leads_to_where_one_wanted(browser, users):
    asked = browser.get("/plate/history?verdict=good")
    assert asked.status_code == 303
    form = browser.get(asked.headers["location"])
    assert 'name="next" value="/plate/history?verdict=good"' in html.unescape(form.text)
    assert 'name="next" value="/"' in browser.get("/sign-in?next=//elsewhere.example").text
    wrong = sign_in(browser, "anna", "wrong horse battery", "/plate/history")
    assert wrong.status_code == 401
    assert "Name or password is wrong." in wrong.text
    assert 'value="anna"' in wrong.text
    assert "wrong horse" not in wrong.text
    right = sign_in(browser, "anna", next="/plate/history?verdict=good")
    assert (right.status_code, right.headers["location"]) == (303, "/plate/history?verdict=good")
    page = browser.get("/plate/history").text
    assert "Signed in as anna" in page
    assert browser.get("/sign-in").headers["location"] == "/"


def test_too_many_tries_have_to_wait(browser, running, users):
    attempts = running.station.access.throttle = SignInThrottle(lambda: 0.0)  # what must wait waits for ever
    for _ in range(10):
        with suppress(SignInError):
            attempts.begin("anna", "127.0.0.1")
    answer = sign_in(browser, "anna")
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert "Too many tries" in answer.text


def test_signing_out_ends_the_session_from_its_own_page_alone(browser, users):
    sign_in(browser, "anna")
    other_site = {"Sec-Fetch-Site": "cross-site"}
    assert browser.post("/sign-out", headers=other_site).status_code == 403
    assert browser.get("/plate/live").status_code == 200
    cookies = dict(browser.cookies)
    answer = browser.post("/sign-out")
    assert (answer.headers["location"], "max-age=0" in answer.headers["set-cookie"].lower()) == (
        "/sign-in",
        True,
    )
    browser.cookies.update(cookies)
    assert browser.get("/plate/live").status_code == 303


def test_operators_see_no_engineers_buttons(browser, users, parts):
    sign_in(browser, "emil")
    inspected(browser, parts[0])
    assert 'id="upload"' in browser.get("/plate/models").text
    assert "/export?" in browser.get("/plate/history").text
    assert 'id="drift-normal"' in browser.get("/plate/trends").text
    browser.cookies.clear()
    sign_in(browser, "anna")
    text = browser.get("/plate/models").text
    assert 'id="upload"' not in text
    assert "Engineers add versions" in text
    assert "/export?" not in browser.get("/plate/history").text
    assert 'id="drift-normal"' not in browser.get("/plate/trends").text

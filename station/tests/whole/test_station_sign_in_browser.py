"""Signing in in a real browser: by the keyboard alone, on small screens, and when a session ends."""

import pytest
from selenium.webdriver.common.keys import Keys

from flawscope.pages.templates import LANGUAGES
from tablet import PHONE, Tablet, needs_chromium, tablet_at

pytestmark = needs_chromium
PASSWORD = "correct horse battery"
TABLET = (768, 1024, True)


@pytest.fixture
def visitor(open_station, driver):
    """A browser that nobody has signed in with, at a station that has an operator and an administrator."""
    running = open_station()
    running.station.access.users.add("anna", PASSWORD, "operator")
    running.station.access.users.add("root", PASSWORD, "admin")
    driver.delete_all_cookies()
    with tablet_at(running, driver) as tablet:
        yield tablet


def come(tablet: Tablet, page: str = "live") -> None:
    tablet.driver.get(f"{tablet.url}/plate/{page}")
    tablet.wait(lambda: tablet.all("form.entry"))


def enter(tablet: Tablet, *keys: str) -> None:
    """By keys alone, from where the page puts the cursor."""
    tablet.press(*keys, Keys.ENTER)


def test_by_the_keyboard_alone_after_wrong_passwords(visitor):
    come(visitor, "history")
    enter(visitor, "anna", Keys.TAB, "wrong")
    for _ in range(2):
        visitor.wait(lambda: visitor.text("#error") == "Name or password is wrong.")
        old = visitor.find("#error")
        enter(visitor, "wrong")  # the cursor is where the password goes; the name stands there
        visitor.wait(lambda old=old: visitor.find("#error") != old)
    assert "`" not in visitor.text("form.entry")
    assert visitor.text("form.entry code") == "flawscope station user password NAME"
    enter(visitor, PASSWORD)
    visitor.wait(lambda: visitor.driver.current_url.endswith("/plate/history"))


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_new_person_reads_who_helps_on_every_screen(visitor, language):
    come(visitor)
    visitor.driver.add_cookie({"name": "language", "value": language})
    come(visitor)
    assert visitor.find("html").get_attribute("lang") == language
    assert visitor.find("form.entry code").is_displayed()
    assert visitor.unfit(PHONE, TABLET) == []


def test_a_session_that_ends_is_told_from_a_lost_station_and_leads_back(visitor):
    come(visitor)
    enter(visitor, "anna", Keys.TAB, PASSWORD)
    visitor.wait(lambda: visitor.driver.current_url.endswith("/plate/live"))
    visitor.wait(lambda: visitor.js("return document.documentElement.dataset.ready") == "yes")
    visitor.station.access.users.set_password("anna", PASSWORD + "2")  # which ends the sessions
    visitor.wait(lambda: visitor.text("#word") == "Signed out")
    assert visitor.text("#lost span") == "You are signed out. Sign in again; nothing is lost."
    visitor.click("#sign-in-again")
    visitor.wait(lambda: visitor.all("form.entry"))
    enter(visitor, "anna", Keys.TAB, PASSWORD + "2")
    visitor.wait(lambda: visitor.driver.current_url.endswith("/plate/live"))


def test_an_administrator_reads_how_people_are_helped(visitor):
    come(visitor)
    enter(visitor, "root", Keys.TAB, PASSWORD)
    visitor.wait(lambda: visitor.driver.current_url.endswith("/plate/live"))
    said = visitor.text(".sheet details")
    for words in ("user add NAME --role operator", "user password NAME", "user remove NAME"):
        assert f"flawscope station {words}" in said
    assert "Until there is one" not in said

"""The page in a real browser: headless Chromium, driven by the keyboard."""

import shutil
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from flawscope.pages.report import write_page
from flawscope.pages.report.pages import predictions_page
from flawscope.pages.review.server import ReviewServer
from flawscope.pages.review.session import ReviewPicture, ReviewSession
from flawscope.results.table import ResultRow

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no Chromium: apt-get install chromium chromium-driver"
)


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{argument}")
    options.add_argument("--window-size=1440,900")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser, report_path):
    browser.get(report_path.as_uri())
    assert browser.execute_script("return document.documentElement.dataset.ready") == "yes"
    return browser


def names(driver):
    """Of the rows that are shown, from the top."""
    rows = driver.find_elements(By.CSS_SELECTOR, "#all tbody tr:not([hidden]) .open")
    return [row.text for row in rows]


def press(driver, *keys):
    for key in keys:
        driver.switch_to.active_element.send_keys(key)


def sort_by(driver, key):
    button = driver.find_element(By.CSS_SELECTOR, f"[data-sort={key}]")
    driver.execute_script("arguments[0].focus()", button)
    press(driver, Keys.ENTER)
    return button.find_element(By.XPATH, "..").get_attribute("aria-sort")


def choose(driver, field, value):
    script = "const f = document.querySelector(`[data-filter=${arguments[0]}], #${arguments[0]}`);"
    script += "f.value = arguments[1];"
    driver.execute_script(script + "f.dispatchEvent(new Event('input', {bubbles: true}))", field, value)


def viewer_name(driver):
    """The name of the picture that is open, if one is."""
    viewer = driver.find_element(By.ID, "viewer")
    return driver.find_element(By.ID, "viewer-name").text if viewer.get_attribute("open") else None


@pytest.mark.smoke
def test_it_loads_without_a_complaint_and_without_the_network(opened):
    assert opened.get_log("browser") == []
    asked = opened.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in asked if not name.startswith("data:")] == []


def test_the_worst_mistake_is_first_and_headers_sort_and_say_so(opened):
    """0.95 on a good one, 0.45 above the threshold, then 0.3 on a defect."""
    assert names(opened)[:2] == ["good/g4.png", "dent/d0.png"]
    cards = [e.text for e in opened.find_elements(By.CSS_SELECTOR, "#mistakes .open")]
    assert cards == names(opened)[:4]
    assert sort_by(opened, "severity") == "descending"
    first = names(opened)
    assert first[0] == "good/g4.png"
    assert sort_by(opened, "severity") == "ascending"
    assert names(opened) != first
    assert sort_by(opened, "name") == "ascending"
    assert [n for n in names(opened) if n.startswith("dent")] == [f"dent/d{k}.png" for k in range(3)]
    others = opened.find_elements(By.CSS_SELECTOR, "#all th[aria-sort]")
    assert len(others) == 1


def test_filters_combine_and_reset(opened):
    total = len(names(opened))
    choose(opened, "kind", "dent")
    assert len(names(opened)) == 3
    choose(opened, "outcome", "!right")
    assert names(opened) == ["dent/d0.png"]
    assert opened.find_element(By.ID, "shown").text == f"1 of {total} shown"
    choose(opened, "by-name", "no such picture")
    assert names(opened) == []
    assert opened.find_element(By.ID, "none").is_displayed()
    opened.find_element(By.ID, "clear").click()
    assert WebDriverWait(opened, 5).until(lambda d: len(names(d)) == total)


def test_a_picture_opens_turns_and_closes_by_keyboard(opened):
    order = names(opened)
    button = opened.find_element(By.CSS_SELECTOR, "#all tbody .open")
    opened.execute_script("arguments[0].focus()", button)
    press(opened, Keys.ARROW_DOWN, Keys.ENTER)
    assert viewer_name(opened) == order[1]
    press(opened, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    assert viewer_name(opened) == order[2]
    press(opened, Keys.END, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)  # nothing follows the last one
    assert viewer_name(opened) == order[-2]
    press(opened, Keys.HOME, Keys.ARROW_LEFT)
    assert viewer_name(opened) == order[0]
    press(opened, Keys.END, Keys.ESCAPE)
    assert viewer_name(opened) is None
    assert opened.switch_to.active_element.text == order[-1]  # one is where one was


DECODED = """
const images = [...document.querySelectorAll('#viewer-panels img')];
return Promise.all(images.map(async (image) => {
  await image.decode();
  const box = image.getBoundingClientRect();
  return [image.naturalWidth, box.width, box.height];
}));"""


def test_panels_lie_over_each_other_and_all_decode(opened):
    for name in ("dent/d1.png", "good/flat.png", "good/tiny.png", "good/deep.png"):
        choose(opened, "by-name", name)
        opened.find_element(By.CSS_SELECTOR, "#all tbody tr:not([hidden]) .open").click()
        found = opened.execute_script(DECODED)
        assert len(found) == (6 if name.startswith("dent") else 5)  # photo twice, line, heat, map; truth
        assert all(min(sizes) >= 1 for sizes in found)
        press(opened, Keys.ESCAPE)


@contextmanager
def screen(driver, width, height):
    """A browser with a screen of this size; narrow ones are those of phones."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        yield
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def check_first_screen(driver, place, width, height):
    """The pictures are there as a whole; returns where."""
    WebDriverWait(driver, 5).until(lambda d: d.find_elements(By.CSS_SELECTOR, place))
    box = driver.execute_script(f"return document.querySelector('{place}').getBoundingClientRect()")
    assert 0 < box["top"] < box["bottom"] < height
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    return box


@pytest.mark.parametrize(("width", "height"), [(1400, 900), (390, 844)])
def test_the_worst_mistake_is_in_the_first_screen(opened, width, height):
    with screen(opened, width, height):
        opened.refresh()
        assert check_first_screen(opened, "#mistakes .stage", width, height)["height"] > 80
        assert opened.find_element(By.CSS_SELECTOR, "[data-sort=severity]").is_displayed()


def test_layers_are_switched_off_by_button_and_by_key_everywhere(opened):
    shown = "return [...document.querySelectorAll(arguments[0])].some(e => e.checkVisibility())"
    opened.find_element(By.CSS_SELECTOR, "#mistakes .open").click()
    for place in ("#mistakes img.heat", "#viewer img.heat", "#viewer img.line"):
        assert opened.execute_script(shown, place)
    press(opened, "h")
    for place in ("#mistakes img.heat", "#viewer img.heat"):
        assert not opened.execute_script(shown, place)
    assert opened.execute_script(shown, "#viewer img.line")
    buttons = opened.find_elements(By.CSS_SELECTOR, "[data-layer=heat]")
    assert [button.get_attribute("aria-pressed") for button in buttons] == ["false", "false"]
    buttons[1].click()
    assert opened.execute_script(shown, "#mistakes img.heat")
    press(opened, Keys.ESCAPE)


def test_the_slider_shows_what_other_rates_would_have_made(opened):
    """20 calibration scores, the threshold at 0.5, the largest of them."""

    def text(name):
        return opened.find_element(By.ID, f"rate-{name}").text

    assert text("missed-small").startswith("2 of 4,")
    assert (text("value"), text("day")) == ("4.8 %", "48")
    opened.find_element(By.ID, "rate-slider").send_keys(Keys.END)
    assert text("missed-small").startswith("1 of 4,")  # 0.3 lies below the tenth largest, 0.45 above
    assert (text("day"), text("option")) == ("476", "--false-alarm-rate 47.62%")
    changed = opened.find_elements(By.CSS_SELECTOR, "#rate-names .open")
    assert ["onerror" in button.text for button in changed] == [True]
    assert text("names").endswith("anomalous, right")
    parts = opened.find_element(By.ID, "rate-parts")
    parts.clear()
    parts.send_keys("10000")
    assert text("day") == "4,762"
    opened.find_element(By.ID, "rate-back").click()
    assert text("day") == "476"


def test_the_page_of_predictions_fits_a_phone_and_complains_of_nothing(browser, hostile, tmp_path):
    predictions = [one.prediction for one in hostile.result.pictures]
    facts = {"category": "thing", "expected_rate": 0.05, "promise": "score threshold 0.5: 5 % expected"}
    rows = [*map(ResultRow.from_result, predictions)]
    with screen(browser, 390, 844):
        text = predictions_page(rows, predictions, facts)
        browser.get(write_page(tmp_path / "page.html", text).as_uri())
        assert browser.execute_script("return document.documentElement.dataset.ready") == "yes"
        check_first_screen(browser, ".stage", 390, 844)
        assert browser.get_log("browser") == []


def test_a_review_is_done_by_keys_and_by_buttons(browser, hostile, tmp_path):
    """Each decision is kept at once, and the page ends the review."""
    rows = [ResultRow.from_result(seen.prediction) for seen in hostile.result.pictures]
    pictures = [ReviewPicture(row, Path(row.path), Path(row.path).stem) for row in rows[:4]]
    session = ReviewSession(pictures, tmp_path / "review")
    review = ReviewServer(session, "results")
    thread = threading.Thread(target=review.serve)
    thread.start()
    try:
        browser.get(review.url)
        browser.get_log("browser")
        place = browser.find_element(By.ID, "name")
        page = browser.find_element(By.TAG_NAME, "body")

        def decided(wanted, shown=None):
            WebDriverWait(browser, 5).until(lambda _: session.decisions() == wanted)
            if shown is not None:
                seen = "return document.getElementById('layers').dataset.id"
                WebDriverWait(browser, 5).until(lambda d: d.execute_script(seen) == str(shown + 1))
                assert place.text == pictures[shown].name

        def press_keys(*steps):
            """Each key, what is decided then, and which picture is shown."""
            for key, wanted, shown in steps:
                page.send_keys(key)
                decided(wanted, shown)

        good, bad = "good", "defect"
        decided({}, 0)
        press_keys(("f", {0: good}, 1), ("d", {0: good, 1: bad}, 2), ("u", {0: good}, 1))
        browser.find_element(By.ID, "good").click()
        decided({0: good, 1: good}, 2)
        press_keys((Keys.ARROW_LEFT, {0: good, 1: good}, 1))
        assert browser.find_element(By.ID, "good").get_attribute("aria-pressed") == "true"
        browser.find_element(By.ID, "defect").click()  # decided otherwise
        decided({0: good, 1: bad}, 2)
        press_keys((Keys.ARROW_RIGHT, {0: good, 1: bad}, 3))
        press_keys(("g", {0: good, 1: bad, 3: good}, 2))  # what was passed comes again
        press_keys(("d", {0: good, 1: bad, 2: bad, 3: good}, None))
        browser.get(review.url)
        WebDriverWait(browser, 5).until(lambda d: d.find_element(By.ID, "end").is_displayed())
        browser.find_element(By.TAG_NAME, "body").send_keys(Keys.ARROW_LEFT)
        assert browser.find_element(By.ID, "name").text == pictures[2].name, "of the session before"
        browser.find_element(By.CLASS_NAME, "finish").click()
        thread.join(5)
        assert not thread.is_alive()
        assert browser.get_log("browser") == []
    finally:
        if thread.is_alive():
            review.stop()

"""History, trends, models and the sign-in in a real browser; and what holds for every page: it fits, it is
accessible, it keeps to the policy."""

from importlib import import_module
from typing import Any

import numpy as np
from selenium.webdriver.common.keys import Keys

from flawscope_station.drift.assembly import Drift
from tablet import API, PHONE, SLATE, needs_chromium

pytestmark = needs_chromium

PAGES = ("live", "review", "history", "trends", "models", "problems", "inspections/1")
PASSWORD = "correct horse battery"


def test_the_history_by_hand(tablet, judged):
    good, bad = judged
    for k in range(50):
        tablet.post(bad if k == 1 else good, f"{k}.png")
    tablet.open("history")
    assert len(tablet.all(".grid .card")) == 48
    tablet.click(".paging a[rel=next]")
    tablet.wait(lambda: len(tablet.all(".grid .card")) == 2)
    tablet.open("history")
    tablet.click(".filters summary")
    tablet.js("document.querySelector('[name=decision]').value = 'anomalous'")
    tablet.click("#filters button")
    tablet.wait(lambda: len(tablet.all(".grid .card")) == 1)
    assert "since" not in tablet.driver.current_url
    since = "document.querySelector('[name=since]')"
    assert tablet.js(f"{since}.value = '2001-02-03T04:05'; return {since}.value") == "2001-02-03T04:05"
    tablet.click("#filters button")
    tablet.wait(lambda: "since=2001-02-0" in tablet.driver.current_url)
    assert tablet.js(f"return {since}.value") == "2001-02-03T04:05"  # in the browser's zone again
    tablet.click(".grid .thumb")
    tablet.wait(lambda: tablet.all("[data-verdict=defect]"))
    tablet.click("[data-verdict=defect]")
    tablet.wait(lambda: tablet.find("[data-verdict=defect]").get_attribute("aria-pressed") == "true")
    assert tablet.known(2)["verdict"] == "defect"
    assert tablet.complaints() == []


def test_trends_draw_every_point(tablet, judged):
    numbers = [tablet.post(part)["id"] for part in (*judged, judged[1])]
    tablet.http.post(f"{API}/inspections/{numbers[1]}/verdict", json={"verdict": "good"})
    tablet.open("trends?range=hour")
    tablet.wait(lambda: tablet.js("return document.documentElement.dataset.drawn") == "1")
    tablet.js(LISTEN)
    tablet.screen(1000, 760)
    tablet.wait(lambda: "Severity" in tablet.js("return window.said"))  # the axis
    assert "Score" not in tablet.js("return window.said")
    ink = """
    const canvas = document.querySelector("#chart canvas");
    const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    const near = (k, colour) => colour.every((c, i) => Math.abs(pixels[k + i] - c) < 30);
    const counts = arguments[0].map(() => 0);
    for (let k = 0; k < pixels.length; k += 4)
      if (pixels[k + 3] > 200) arguments[0].forEach((colour, n) => (counts[n] += near(k, colour)));
    return counts;
    """
    green, vermilion, black = tablet.js(ink, [[0, 105, 75], [184, 74, 0], [28, 31, 36]])
    assert green > 15  # a dot
    assert vermilion > 100  # a triangle or two, and the threshold
    assert black > 15  # the cross of the false alarm
    totals = {name: tablet.text(f"#total-{name}") for name in ("inspections", "anomalous", "false_alarms")}
    assert totals == {"inspections": "3", "anomalous": "2", "false_alarms": "1"}
    tablet.click("#as-table summary")
    rows = [row.text for row in tablet.all("#rows tr")]
    assert len(rows) == 3
    assert "False alarm" in rows[1]
    worst = tablet.known(numbers[2])["severity"]
    assert f"{worst:.4g}" in rows[0], "as it stands beside the part"
    for name in ("day", "week", "month", "all"):
        tablet.open(f"trends?range={name}")
        tablet.wait(lambda: tablet.js("return document.documentElement.dataset.drawn") == "1")
    assert tablet.complaints() == []


def test_language_and_colours_are_kept(tablet):
    tablet.open("live")
    paper = "return getComputedStyle(document.body).backgroundColor"
    light = tablet.js(paper)
    tablet.click(".settings summary")
    tablet.find("#themes [value=dark]").click()
    dark = tablet.js(paper)
    assert dark != light
    tablet.find("button[value=de]").click()
    tablet.wait(lambda: tablet.js("return document.documentElement.lang") == "de")
    assert tablet.text("#word") == "Wartet"
    assert tablet.js(paper) == dark
    tablet.open("review")
    tablet.wait(lambda: tablet.text("#end-title") == "Nichts zu prüfen")


def test_every_page_fits_is_accessible_and_keeps_to_the_policy(tablet, running, judged):
    tablet.post(judged[0], "a-very-long-name-of-a-part-without-any-room-to-break-0123456789.png")
    tablet.post(judged[1])
    for page in PAGES:
        tablet.open(page)
        assert tablet.unfit(PHONE, SLATE) == [], page
        tablet.js("document.querySelectorAll('main details').forEach((one) => { one.open = true; })")
        assert tablet.unfit(PHONE) == [], page
        asked = tablet.js("return performance.getEntriesByType('resource').map((one) => one.name)")
        assert [name for name in asked if not name.startswith((tablet.url, "data:", "blob:"))] == []
    assert tablet.complaints() == []
    running.station.access.users.add("anna", PASSWORD, "operator")
    tablet.driver.get(f"{tablet.url}/sign-in")
    assert tablet.unfit(PHONE, SLATE) == []
    assert tablet.js("return document.querySelector('header').getBoundingClientRect().width") == SLATE[0]


HEADER = """
document.querySelector('.product bdi').textContent = 'Mutter-M8-Groesse-8';
const badge = document.querySelector('#waiting');
badge.hidden = false;
badge.firstElementChild.textContent = '999+';
const box = (element) => element.getBoundingClientRect();
const menu = box(document.querySelector('.settings summary'));
const tabs = [...document.querySelectorAll('.tabs a')].filter((one) => one.offsetParent);
const wrong = [];
for (const tab of tabs) {
  const words = tab.querySelector('span');
  const isBeside = box(tab).bottom < innerHeight / 2; // on a phone they are at the bottom
  if (isBeside && box(tab).right > menu.left + 1) wrong.push(`${words.textContent} lies upon the menu`);
  if (words.scrollWidth > words.clientWidth + 1) wrong.push(`${words.textContent} is cut`);
}
const isWide = menu.right > innerWidth || document.documentElement.scrollWidth > innerWidth;
if (isWide) wrong.push('it is wider than the window');
return wrong;
"""


def test_the_menu_lies_upon_no_tab_on_a_tablet_upright(tablet, judged):
    """With a long name, a badge, and the words of each language."""
    tablet.post(judged[1])
    found = []
    for language in ("en", "de", "fr"):
        tablet.open("problems")
        tablet.driver.add_cookie({"name": "language", "value": language, "path": "/"})
        tablet.open("problems")
        for width in (705, 768, 820, 900, 1024, 1100):
            tablet.screen(width, 1024)
            found += [f"{language} {width}: {one}" for one in tablet.js(HEADER)]
    assert found == []


def test_trends_show_drift_and_an_engineer_says_what_is_normal(tablet, running):
    record = import_module("test_station_drift_whole").record
    scores = np.random.default_rng(5).standard_normal(900)
    scores[700:] += 1.5
    record(running.station, scores)
    number = running.station.products["plate"]
    tablet.wait(lambda: running.station.components[Drift].monitor.facts(number)["alarm"])
    tablet.open("trends?range=hour")
    tablet.wait(lambda: tablet.js("return document.documentElement.dataset.drift") == "drawn")
    assert tablet.text("#drift-state") == "Something changed"
    assert "good parts look less like" in tablet.text("#drift-said")
    assert "ever says otherwise is 1 in 100 at most" in tablet.text("#drift-said")
    assert "%" not in tablet.text("#drift-said")
    tablet.js("document.querySelector('#drift-more').open = true")
    assert "of the earlier ones" in tablet.text("#drift-rank")
    assert tablet.all("#drift-chart canvas")
    assert tablet.unfit(PHONE, SLATE) == []
    tablet.click("#drift-normal")
    tablet.wait(lambda: tablet.find("#drift-sure").get_attribute("open"))
    tablet.press(Keys.ENTER)
    tablet.wait(lambda: tablet.text("#drift-said") == "Begun anew.")
    tablet.wait(lambda: not tablet.find("#drift-normal").is_displayed())
    assert running.station.components[Drift].monitor.facts(number)["alarm"] is None
    assert tablet.complaints() == []


LISTEN = """
window.said = [];
const write = CanvasRenderingContext2D.prototype.fillText;
CanvasRenderingContext2D.prototype.fillText = function (text, ...more) {
  window.said.push(text);
  return write.call(this, text, ...more);
};
window.dispatchEvent(new Event("resize"));
"""


def test_times_of_a_short_range_differ(tablet, parts):
    """Pictures of a few seconds, as when a line is set up."""
    for data in parts[:5]:
        tablet.post(data)
    tablet.screen(1400, 900)
    tablet.open("trends")
    tablet.wait(lambda: tablet.all("#chart canvas"))
    tablet.js(LISTEN)
    tablet.screen(1300, 900)
    times: Any = tablet.wait(
        lambda: [one for one in tablet.js("return window.said") if one.count(":") and one[0].isdigit()]
    )
    assert len(set(times)) > 2, times

"""Pages in a real browser: what axes of charts say, and that what is folded away fits, too."""

from __future__ import annotations

from typing import Any

from tablet import PHONE, Tablet, needs_chromium
from tablet import driver_fixture as driver_fixture
from tablet import tablet_fixture as tablet_fixture

LISTEN = """
window.said = [];
const write = CanvasRenderingContext2D.prototype.fillText;
CanvasRenderingContext2D.prototype.fillText = function (text, ...more) {
  window.said.push(text);
  return write.call(this, text, ...more);
};
window.dispatchEvent(new Event("resize"));
"""


@needs_chromium
def test_times_of_a_short_range_differ(tablet: Tablet, parts: list[bytes]) -> None:
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


@needs_chromium
def test_details_of_a_version_fit_on_a_phone(tablet: Tablet) -> None:
    """Also its hash, which is one long word."""
    tablet.screen(*PHONE[:2])
    tablet.open("models")
    tablet.js("document.querySelectorAll('main details').forEach((one) => { one.open = true; })")
    assert tablet.js("return document.documentElement.scrollWidth") <= PHONE[0]

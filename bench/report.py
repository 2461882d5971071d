"""The report of many pictures in headless Chromium: until it can be used, and what sorting, filtering and
opening a picture take then.

    python bench/report.py
    python bench/report.py --pictures 500 --rounds 10

PatchCore is fitted on drawn pictures (the report does not care) and evaluated with a report on --pictures of
them. The page is opened from disk, --rounds times in a fresh tab of one browser, on a desk (1440 x 900) and
on a phone (390 x 844, the processor four times as slow, as browsers' tools imitate one). They take turns.

ready    milliseconds from the start of navigation until the page's own script has set up everything that can
         be clicked; loaded: until the load event has ended
sort, filter, open
         from the click or the typed letters until two frames have been painted after it
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import common
from common import Args, Cell
from flawscope.demo.dataset import CATEGORIES

VIEWS = {
    "desk": ({"width": 1440, "height": 900, "deviceScaleFactor": 1, "mobile": False}, 1),
    "phone": ({"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}, 4),
}
LIMIT = 2000  # milliseconds until it can be used, on a desk
WATCH = """
new MutationObserver((_, self) => {
  if (document.documentElement?.dataset.ready) { window.readyAt = performance.now(); self.disconnect(); }
}).observe(document, {attributes: true, subtree: true, attributeFilter: ['data-ready']});
"""
TIMES = """
const t = performance.timing;
return {ready: window.readyAt, loaded: t.loadEventEnd - t.navigationStart};
"""
ACT = """
const act = arguments[0], done = arguments[arguments.length - 1];
const field = document.getElementById('by-name');
const start = performance.now();
if (act === 'sort') document.querySelector('[data-sort=name]').click();
if (act === 'filter') { field.value = '7'; field.dispatchEvent(new Event('input', {bubbles: true})); }
if (act === 'open') document.querySelector('#all tbody tr:not([hidden]) .open').click();
requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - start)));
"""
ACTS = ("sort", "filter", "open")


@contextmanager
def chromium() -> Iterator[Any]:
    from selenium import webdriver

    names = ("chromium", "chromium-browser", "google-chrome")
    binary, driver = next(filter(None, map(shutil.which, names)), None), shutil.which("chromedriver")
    if not (binary and driver):
        raise SystemExit("Chromium and its chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield browser
    finally:
        browser.quit()


def visit(browser: Any, page: Path, view: str) -> dict[str, float]:
    """Milliseconds of everything, in a fresh tab."""
    size, slower = VIEWS[view]
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    try:
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.execute_cdp_cmd("Emulation.setCPUThrottlingRate", {"rate": slower})
        browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
        browser.get(page.as_uri())
        found = browser.execute_script(TIMES)
        complaints = browser.get_log("browser")
        if complaints or not found["ready"]:
            raise SystemExit(f"the page complains: {complaints or 'it is never ready'}")
        return found | {act: browser.execute_async_script(ACT, act) for act in ACTS}
    finally:
        browser.close()
        browser.switch_to.window(first)


def measure(args: Args, folder: Path) -> Cell:
    kinds = len(CATEGORIES["plate"].defects)
    good = args.pictures // 2
    data = common.draw(folder, train=20, good=good, bad=(args.pictures - good) // kinds, size=args.side)
    model, out = folder / "model.safetensors", folder / "out"
    common.flawscope("fit", "--data", data, "--size", "64", "--out", model, "--quiet")
    took = common.flawscope("evaluate", model, "--data", data, "--out", out, "--animation", "none").seconds
    page = out / "report.html"
    times: dict[str, list[dict[str, float]]] = {view: [] for view in VIEWS}
    with chromium() as browser:
        version = browser.capabilities["browserVersion"]
        for _ in range(args.rounds + 1):
            for view, found in times.items():
                found.append(visit(browser, page, view))
    views = {}
    for view, (_, *found) in times.items():  # the first visit also starts the browser's own processes
        views[view] = {k: common.spread([one[k] for one in found]) for k in ("ready", "loaded", *ACTS)}
    return {
        "pictures": args.pictures,
        "page_mib": common.sig(page.stat().st_size / common.MIB, 4),
        "seconds_evaluate": common.sig(took, 4),
        "chromium": version,
        "milliseconds": views,
    }


def main() -> int:
    parser = common.parser(__doc__, "report", data=False)
    parser.add_argument("--pictures", type=int, default=500, help="default: %(default)s")
    parser.add_argument("--side", type=int, default=512, help="of the pictures (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=10, help="default: %(default)s")
    args = common.arguments(parser, pictures=20, side=96, rounds=1)
    record = common.Record(args, "the report in a browser")
    with common.workspace(args.work) as folder:
        cell = record.attempt(f"{args.pictures} pictures of {args.side} px", lambda: measure(args, folder))
    if cell is None:
        return 1
    rows = [
        {"on": view, "what": what, "median ms": found["median"], "slowest ms": found["p99"]}
        for view, times in cell["milliseconds"].items()
        for what, found in times.items()
    ]
    common.table(f"{args.pictures} pictures, {cell['page_mib']} MiB", rows)
    return 0 if cell["milliseconds"]["desk"]["ready"]["median"] <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(common.start(main))

"""The report of many pictures in headless Chromium: until it can be used, and what sorting, filtering and
opening a picture take then.

    python bench/report.py
    python bench/report.py --pictures 500 --rounds 10

PatchCore is fitted on the category's good pictures (--set, by default at 128 px: the report does not care),
and evaluated with a report on the test pictures, each several times under other names until there are
--pictures. The page is opened from disk, --rounds times in a fresh tab of one browser, on a desk (1440 x 900)
and on a phone (390 x 844, the processor four times as slow, as browsers' tools imitate one). They take turns.

ready    milliseconds from the start of navigation until the page's own script has set up everything that can
         be clicked; loaded: until the load event has ended
sort, filter, open
         from the click or the typed letters until two frames have been painted after it
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import common

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


def many(root: Path, out: Path, count: int) -> None:
    """The category with its test pictures, each as often as it takes until there are `count` of them."""
    shutil.copytree(root / "train", out / "train")
    pictures = [p for p in sorted((root / "test").rglob("*")) if p.is_file()]
    for number in range(count):
        turn, place = divmod(number, len(pictures))
        path = pictures[place]
        kind, name = path.parent.name, f"{turn}-{path.name}"
        copies = {path: out / "test" / kind / name}
        if kind != "good":
            mask = root / "ground_truth" / kind / f"{path.stem}_mask.png"
            copies[mask] = out / "ground_truth" / kind / f"{turn}-{mask.name}"
        for old, new in copies.items():
            new.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(old, new)


def measure(args: argparse.Namespace, root: Path, folder: Path) -> dict[str, Any]:
    data, model, out = folder / root.name, folder / "model.safetensors", folder / "out"
    many(root, data, args.pictures)
    given = [word for one in args.set or ["size=128"] for word in ("--set", one)]
    common.flawscope("fit", "--data", data, *given, "--out", model)
    start = time.perf_counter()
    common.flawscope("evaluate", model, "--data", data, "--out", out, "--animation", "none")
    took = time.perf_counter() - start
    page = out / "report.html"
    times: dict[str, list[dict[str, float]]] = {view: [] for view in VIEWS}
    with chromium() as browser:
        version = browser.capabilities["browserVersion"]
        for _ in range(args.rounds + 1):
            for view, found in times.items():
                found.append(visit(browser, page, view))
    views = {}
    for view, (_, *found) in times.items():  # the first visit also starts the browser's own processes
        views[view] = {
            what: common.spread([one[what] for one in found]) for what in ("ready", "loaded", *ACTS)
        }
    return {
        "pictures": args.pictures,
        "page_mib": common.sig(page.stat().st_size / common.MIB, 4),
        "seconds_evaluate": common.sig(took, 4),
        "chromium": version,
        "milliseconds": views,
    }


def main() -> int:
    parser = common.parser(__doc__, "report")
    common.add_settings(parser)
    parser.add_argument("--category", default="transistor", help="default: %(default)s")
    parser.add_argument("--pictures", type=int, default=500, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=10, help="default: %(default)s")
    args = parser.parse_args()
    root = common.mvtec(args, args.category)
    if root is None:
        return 1
    record = common.Record(args, "the report in a browser", {})
    common.headline("the report")
    name = f"report/{args.category}/{args.pictures} pictures"
    with common.workspace() as folder:
        cell = record.attempt(name, lambda: measure(args, root, folder))
    if cell is None:
        return 1
    rows = [
        (view, what, f"{found['median']:.0f}", f"{found['p99']:.0f}")
        for view, times in cell["milliseconds"].items()
        for what, found in times.items()
    ]
    title = f"{args.pictures} pictures, {cell['page_mib']} MiB"
    common.table(title, rows, ("on", "what", "median ms", "slowest ms"))
    return 0 if cell["milliseconds"]["desk"]["ready"]["median"] <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())

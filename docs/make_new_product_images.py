"""Make the images of docs/station-new-product.md from a station that begins with nothing:
`python docs/make_new_product_images.py`.

A headless Chromium begins a product, drags 40 drawn pictures of good parts in, has it learn, tries parts with
defects, and lets it go live.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from make_station_images import served
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By

from flawscope.synthesis.demo.dataset import draw_dataset
from flawscope_station.assembly import open_station
from flawscope_station.settings.station import Settings

IMAGES = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "images"
SIZE = (1200, 800)
TEXT = "return document.querySelector(arguments[0])?.textContent ?? ''"


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = draw_dataset(folder / "drawn", category="plate", train=39)
        good = sorted((root / "train" / "good").glob("*.png"))
        Image.open(good[7]).save(copy := folder / "copy.bmp")  # the check finds it
        tried = [*sorted((root / "test").glob("[!g]*/*.png"))[::9][:3]]
        tried += sorted((root / "test" / "good").glob("*.png"))[:1]
        with served(open_station(Settings(store=str(folder / "station"), port=0, device="cpu"))) as (_, url):
            photograph(url, [*good, copy], tried)


def photograph(url: str, good: list[Path], tried: list[Path]) -> None:
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars", "--lang=en"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options)
    try:
        screen(browser, *SIZE)
        browser.get(f"{url}/")
        take(browser, "begin")
        browser.find_element(By.ID, "name").send_keys("Plate\n")
        until(lambda: browser.current_url.endswith("/-/new/Plate"))
        until(lambda: browser.execute_script("return document.documentElement.dataset.ready"))
        drag(browser, "#drop", good)
        until(lambda: text(browser, "#count").startswith("40 "))
        until(lambda: not text(browser, "#check-said").endswith("…"))
        time.sleep(1)
        take(browser, "pictures")
        take(browser, "check", "#check")
        browser.find_element(By.ID, "start").click()
        until(lambda: text(browser, "#progress-words").startswith("Tries"))
        take(browser, "learn", "#learn")
        until(lambda: browser.find_element(By.ID, "result").is_displayed())
        take(browser, "result", "#result")
        take(browser, "odd", "#rates-part")
        drag(browser, "#try-drop", tried)
        until(lambda: browser.find_elements(By.CSS_SELECTOR, "#tried li"))
        time.sleep(1)
        take(browser, "try", "#try-drop")
        browser.find_element(By.ID, "go-live").click()
        until(lambda: browser.find_element(By.ID, "open").is_displayed())
        take(browser, "live", "#live")
        screen(browser, 390, 844, dark=True)
        take(browser, "phone", "#result")
    finally:
        browser.quit()


def screen(browser: Any, width: int, height: int, *, dark: bool = False) -> None:
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 900}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def drag(browser: Any, selector: str, paths: list[Path]) -> None:
    """Drag files from outside of the browser onto a place."""
    place = "const e = document.querySelector(arguments[0]); e.scrollIntoView({block: 'center'}); "
    x, y, width, height = browser.execute_script(
        f"{place} const r = e.getBoundingClientRect(); return [r.x, r.y, r.width, r.height]", selector
    )
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        at = {"type": kind, "x": x + width / 2, "y": y + height / 2, "data": data}
        browser.execute_cdp_cmd("Input.dispatchDragEvent", at)


def text(browser: Any, selector: str) -> str:
    return str(browser.execute_script(TEXT, selector))


def until(true: Callable[[], Any], seconds: float = 900) -> None:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError("it did not come true")
        time.sleep(0.1)


def take(browser: Any, name: str, top: str = "body") -> None:
    browser.execute_script("document.querySelector(arguments[0]).scrollIntoView()", top)
    time.sleep(0.5)
    shown = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    path = IMAGES / f"new-product-{name}.png"
    shown.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=4, dither=Image.Dither.NONE).save(
        path, optimize=True
    )
    print(path.name, f"{path.stat().st_size / 1e3:.0f} kB", flush=True)


if __name__ == "__main__":
    main()

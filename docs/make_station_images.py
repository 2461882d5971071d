"""Make the images of the station's pages from one that runs: `python docs/make_station_images.py`.

It learns a drawn part, inspects a shift of drawn pictures (by a clock of its own: two minutes a part), has
some of them reviewed, and takes pictures of the pages in a headless Chromium. Some parts carry a stamp that
is new and no defect: they are false alarms, from which a version is learnt. At last two challenge parts are
kept, and one is shown.
"""

from __future__ import annotations

import dataclasses
import io
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
from make_parts_image import shown as screenshot
from PIL import Image, ImageDraw
from selenium import webdriver

import flawscope
from flawscope.synthesis.demo.dataset import draw_dataset, draw_picture
from flawscope_station.assembly import open_station
from flawscope_station.client import Client
from flawscope_station.core.station import Station
from flawscope_station.inspecting import intake
from flawscope_station.learning.candidates import Learning
from flawscope_station.settings.station import Settings, override_settings, single_product_settings
from flawscope_station.web.app import StationServer

IMAGES = Path(__file__).parent / "images"
PRODUCT = "plate"
PARTS, EVERY = 180, 120  # pictures of a shift, seconds between two
DEFECTS = ("scratch", "missing_part", "dent", "contamination")
PAGES = {
    "live": ("live", (1280, 800), False),
    "review": ("review", (1024, 768), False),
    "trends": ("trends?range=day", (1280, 800), False),
    "history": ("history", (1280, 800), False),
    "models": ("models", (1280, 1000), False),
    "phone": ("live", (390, 844), True),
}
CHALLENGE = {"challenge": ("challenge", (1100, 620), False)}
REPORT = "api/v1/products/plate/shift-report?since={}&until={}"


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "plate.safetensors"
        root = draw_dataset(folder / "learnt", category=PRODUCT)
        flawscope.fit(root, size=256, device="cpu").save(model)
        store = folder / "station"
        with served(open_station(settings_of(model, store))) as (station, url):
            begun = work(url)
            learn(station)
            photograph(url, PAGES)
            report(url, begun, folder)
        with served(open_station(settings_of(model, store, challenge=()))) as (_, url):
            challenge_it(url)
            photograph(url, CHALLENGE)


def settings_of(model: Path, store: Path, *, challenge: tuple[str, ...] | None = None) -> Settings:
    """Settings of a station with one product."""
    settings = override_settings(single_product_settings(str(model), PRODUCT), store=str(store), port=0)
    product = dataclasses.replace(settings.products[PRODUCT], challenge=challenge)
    return dataclasses.replace(settings, products={PRODUCT: product})


@contextmanager
def served(station: Station) -> Iterator[tuple[Station, str]]:
    """The station, started, and its address."""
    station.start()
    server = StationServer(station)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.1)
        yield station, server.url
    finally:
        server.should_exit = True
        thread.join()
        station.close()


def work(url: str) -> float:
    """A shift: every tenth part has a defect, some have a stamp, and somebody reviews the first half.

    Returns when it began, in seconds since 1970.
    """
    rng, clock = np.random.default_rng(19), intake.now
    begun = time.time() - PARTS * EVERY
    with Client(url) as client:
        for k in range(PARTS):
            defect = DEFECTS[k // 10 % len(DEFECTS)] if k % 10 == 6 or k == PARTS - 1 else None
            picture, _ = draw_picture(PRODUCT, rng, defect, 0.5)
            shown, file = Image.fromarray(picture), io.BytesIO()
            if defect is None and k % 15 == 4:
                stamp(shown, rng)
            shown.save(file, "PNG")
            moment = round((begun + k * EVERY) * 1e6)
            intake.now = lambda moment=moment: moment
            found = client.inspect(file.getvalue(), name=f"part-{k:04d}.png")
            if found.review == "waiting" and k < PARTS // 2:
                client.verdict(found.id, "defect" if defect else "good")
                if defect is None:  # what looks like a defect is asked for once more
                    client.verdict(found.id, "good")
    intake.now = clock
    return begun


def stamp(picture: Image.Image, rng: np.random.Generator) -> None:
    """A letter in ink near the middle."""
    middle = np.array(picture.size) / 2 + rng.uniform(-4, 4, 2)
    draw = ImageDraw.Draw(picture)
    size = picture.width / 14
    draw.text(tuple(middle - size / 2), "K", fill=(40, 40, 70), font_size=size)


def learn(station: Station) -> None:
    """A version from the corrections, which waits for a click."""
    number = station.products[PRODUCT]
    learning = station.components[Learning]
    learning.request_candidate(number, "anna")
    while learning.facts(number)["candidates"][0].status in ("queued", "running"):
        time.sleep(0.5)
    print(learning.facts(number)["candidates"][0].status)


def challenge_it(url: str) -> None:
    """A good and a defective part are kept as challenge parts; the good one is shown again, and passes."""
    rng = np.random.default_rng(23)
    at = f"{url}/api/v1/products/{PRODUCT}"
    parts = {"plate-good": ("good", None), "plate-scratch": ("anomalous", "scratch")}
    for number, (name, (expected, defect)) in enumerate(parts.items()):
        picture, _ = draw_picture(PRODUCT, np.random.default_rng([29, number]), defect, 0.9)
        wish = {"name": name, "expected": expected}
        httpx.post(f"{at}/challenge/parts", json=wish).raise_for_status()
        for _ in range(2 if defect is None else 1):  # the first picture is kept, further ones are shown
            taken = np.clip(picture + rng.normal(0, 1, picture.shape), 0, 255).astype(np.uint8)
            file = io.BytesIO()
            Image.fromarray(taken).save(file, "PNG")
            answer = httpx.post(f"{at}/inspections?part={name}", content=file.getvalue(), timeout=60)
            print(name, answer.status_code, answer.json().get("detail"))


def report(url: str, begun: float, folder: Path) -> None:
    """The report of the shift, a file that a browser saves."""
    times = [datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for at in (begun, time.time())]
    saved = folder / "report.html"
    saved.write_text(httpx.get(f"{url}/{REPORT.format(*times)}", timeout=60).text, encoding="utf-8")
    screenshot(saved.as_uri(), IMAGES / "station-shift.png", (1000, 760))


def photograph(url: str, pages: dict[str, tuple[str, tuple[int, int], bool]]) -> None:
    """Take a picture of each page: its address, width and height, and whether it is dark."""
    for name, (page, size, dark) in pages.items():
        options = webdriver.ChromeOptions()
        for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars", "--lang=en"):
            options.add_argument(argument)
        if dark:
            options.add_argument("--force-dark-mode")
            options.add_argument("--blink-settings=preferredColorScheme=0")
        browser = webdriver.Chrome(options=options)
        try:
            width, height = size
            metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            browser.get(f"{url}/{PRODUCT}/{page}")
            time.sleep(3)
            if name == "models":
                browser.execute_script("document.getElementById('learn').scrollIntoView()")
            data = browser.get_screenshot_as_png()
        finally:
            browser.quit()
        path = IMAGES / f"station-{name}.png"
        shown = Image.open(io.BytesIO(data)).convert("RGB")
        shown.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=4, dither=Image.Dither.NONE).save(
            path, optimize=True
        )
        print(path.name, f"{path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()

"""A person at a browser, and a program, on the same station."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
from selenium import webdriver
from selenium.common.exceptions import TimeoutException, WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from station_helpers import PATIENCE, inspected

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
needs_chromium = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no Chromium: apt-get install chromium chromium-driver"
)

API = "/api/v1/products/plate"
AXE = """
const done = arguments[0];
const grave = ({impact}) => ["serious", "critical"].includes(impact);
const where = (node) => node.target.join(" ");
axe.run().then(({violations}) =>
  done(violations.filter(grave).map((one) => `${one.id}: ${one.nodes.map(where).join(", ")}`)));
"""
PHONE, SLATE = (390, 844, False), (820, 1180, True)


@pytest.fixture(scope="module", name="driver")
def driver_fixture():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield made
    made.quit()


@dataclass
class Tablet:
    """A browser on a station, and a program that talks to the same one."""

    driver: Any
    url: str
    http: httpx.Client
    station: Any = None

    # ---- what the program does

    def post(self, data: bytes, name: str = "part.png") -> dict[str, Any]:
        return inspected(self.http, data, name)

    def known(self, number: int) -> dict[str, Any]:
        return dict(self.http.get(f"{API}/inspections/{number}").json())

    # ---- what the person does and sees

    def open(self, page: str) -> None:
        self.driver.get(f"{self.url}/plate/{page}")
        self.wait(lambda: self.js("return document.documentElement.dataset.ready") == "yes")

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements(By.CSS_SELECTOR, selector))

    def text(self, selector: str) -> str:
        return str(self.js("return document.querySelector(arguments[0]).textContent.trim()", selector))

    def press(self, *keys: str) -> None:
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def click(self, selector: str) -> None:
        self.js(
            "const e = document.querySelector(arguments[0]); e.scrollIntoView({block: 'center'}); e.click()",
            selector,
        )

    def wait(self, until: Callable[[], Any], seconds: float = PATIENCE) -> Any:
        return WebDriverWait(self.driver, seconds, 0.1, (WebDriverException,)).until(lambda _: until())

    def screen(self, width: int, height: int, dark: bool = False) -> None:
        sizes = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 900}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", sizes)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def unfit(self, *screens: tuple[int, int, bool]) -> list[str]:
        """On these screens (width, height, dark): what stands outside of the page, and violations of
        accessibility that are serious or worse, when colours do not fade into others any more."""
        spec = find_spec("axe_core_python")
        script = (Path(str(spec.origin)).parent / "axe.min.js").read_text(encoding="utf-8") if spec else ""
        wrong: list[str] = []
        for width, height, dark in screens:
            self.screen(width, height, dark)
            self.wait(lambda: self.js("return document.getAnimations().length") == 0)
            try:  # curves are drawn anew a moment later
                self.wait(lambda w=width: self.js("return document.documentElement.scrollWidth") <= w, 30)
            except TimeoutException:
                wrong.append(f"it scrolls sideways at {width}")
            if script:
                self.js(script)
                wrong += self.driver.execute_async_script(AXE)
        return wrong

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]


@contextmanager
def tablet_at(running: Any, driver: Any) -> Iterator[Tablet]:
    driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
    with httpx.Client(base_url=running.url, timeout=30) as http:
        made = Tablet(driver, running.url, http, running.station)
        made.screen(1024, 768)
        driver.get_log("browser")
        yield made
        driver.get("about:blank")  # its stream would outlive the station


@pytest.fixture(name="tablet")
def tablet_fixture(running, driver):
    with tablet_at(running, driver) as made:
        yield made

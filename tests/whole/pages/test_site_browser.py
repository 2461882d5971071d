"""The built guide in a real browser: what copy buttons give, options that stay whole, readers' ways."""

import os
import shutil
import subprocess
import sys
from itertools import pairwise

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

from page_helpers import ROOT

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no Chromium: apt-get install chromium chromium-driver"
)

# what somebody looks for, the pages that lead there, each one link from the one before, and what stands there
WAYS = {
    "Windows, up to the browser": (["windows.html"], "flawscope serve"),
    "from anomalib": (["coming-from.html"], "anomalib train --model Patchcore"),
    "the papers' tables": (["benchmark.html"], "--methods patchcore,efficientad,prnet --seeds 0,1,2"),
    "packaging: licences": (["releasing.html"], "SBOM"),
    "packaging: an archive without internet": (["releasing.html", "station-install.html"], "make bundle"),
    "packaging: containers": (["releasing.html", "install.html"], "docker build --target runtime"),
    "a new layout": (["testing.html"], "_LAYOUTS"),
}
LISTEN = """
document.addEventListener("copy", () => {
  window.copied = document.activeElement.value ?? document.getSelection().toString();
}, true);
"""
SPLIT_OPTIONS = """
const found = [];
for (const code of document.querySelectorAll("article code")) {
  if (code.closest("pre")) continue;
  const walker = document.createTreeWalker(code, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode())
    for (const match of node.data.matchAll(/--[a-z][a-z-]*/g)) {
      const range = document.createRange();
      range.setStart(node, match.index);
      range.setEnd(node, match.index + match[0].length);
      const tops = new Set([...range.getClientRects()].map((box) => Math.round(box.top)));
      if (tops.size > 1) found.push(match[0]);
    }
}
return found;
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    call = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    done = subprocess.run(
        call, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{argument}")
    options.add_argument("--window-size=1280,900")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def test_a_copy_button_gives_the_command_without_its_prompt_and_output(browser, site):
    browser.get((site / "light.html").as_uri())
    browser.execute_script(LISTEN)
    block = browser.find_element(By.CSS_SELECTOR, ".highlight")
    ActionChains(browser).move_to_element(block).perform()
    block.find_element(By.CSS_SELECTOR, "button").click()
    copied = browser.execute_script("return window.copied")
    assert copied.strip() == "flawscope evaluate part.safetensors --data pictures --robustness"


@pytest.mark.parametrize("page", ["automatic-settings", "command-line", "resolution", "troubleshooting"])
def test_no_option_is_broken_at_its_hyphens(browser, site, page):
    browser.get((site / f"{page}.html").as_uri())
    assert browser.find_elements(By.CSS_SELECTOR, "article code")
    assert browser.execute_script(SPLIT_OPTIONS) == []


@pytest.mark.parametrize("aim", WAYS)
def test_a_reader_gets_there_by_three_clicks(browser, site, aim):
    pages, words = WAYS[aim]
    assert len(pages) <= 3
    for here, there in pairwise(["index.html", *pages]):
        browser.get((site / here).as_uri())
        links = browser.find_elements(By.CSS_SELECTOR, "article a[href]")
        wanted = (site / there).as_uri()
        assert wanted in {link.get_attribute("href").split("#")[0] for link in links}
    browser.get((site / pages[-1]).as_uri())
    assert words in browser.find_element(By.CSS_SELECTOR, "article").text

"""Make the image of a report's parts: `python docs/make_parts_image.py`.

Drawn plates, photographed from three sides; it takes a picture of the page in a headless Chromium.
"""

from __future__ import annotations

import io
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from selenium import webdriver

import flawscope
from flawscope.cli import main as run
from flawscope.synthesis.demo.dataset import draw_picture

IMAGE = Path(__file__).parent / "images" / "report-parts.png"
VIEWS = {"left": (0, 40, 190, 230), "right": (130, 90, 320, 280), "whole": (0, 0, 320, 320)}
SIDE = 192


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in range(20):
            photograph(folder / "plates/train/good", part, None)
        for part in range(30, 34):
            photograph(folder / "plates/test/good", part, None)
        for part in range(40, 44):
            photograph(folder / "plates/test/scratch", part, "scratch")
        (folder / "plates/test/scratch/p43_whole.png").unlink()  # a camera that failed
        model = folder / "plates.safetensors"
        flawscope.fit(folder / "plates", part=r"p\d+", size=SIDE, device="cpu").save(model)
        out = folder / "out"
        run(["evaluate", str(model), "--data", str(folder / "plates"), "--out", str(out), "--quiet"])
        shown((out / "report.html").as_uri(), IMAGE, (1060, 2400), "parts")


def photograph(folder: Path, part: int, defect: str | None) -> None:
    """A part from all sides, its defect in one of the pictures alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, (view, box) in enumerate(VIEWS.items()):
        seen = defect if k == part % len(VIEWS) else None
        picture, _ = draw_picture("plate", np.random.default_rng([7, part]), seen, 0.4)
        turned = Image.fromarray(np.rot90(picture, k).copy())
        turned.crop(box).resize((SIDE, SIDE)).save(folder / f"p{part}_{view}.png")


def shown(address: str, image: Path, size: tuple[int, int], element: str = "") -> None:
    """Take a picture of a page, or of the element with that id."""
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars", "--lang=en"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options)
    try:
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.get(address)
        time.sleep(1)
        if element:
            data = browser.find_element("id", element).screenshot_as_png
        else:
            data = browser.get_screenshot_as_png()
    finally:
        browser.quit()
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(image, optimize=True)
    print(image.name, image.stat().st_size)


if __name__ == "__main__":
    main()

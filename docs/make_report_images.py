"""Make the images of the pages that commands write or open: `python docs/make_report_images.py`.

Drawn plates are checked, learnt from, judged and measured; a headless Chromium takes pictures of the check,
of the reports of `predict` and `evaluate`, of tolerated parts, and of `review`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from make_parts_image import shown
from PIL import Image

from flawscope.cli import main as run
from flawscope.synthesis.demo.dataset import draw_picture

IMAGES = Path(__file__).parent / "images"
DEFECTS = ("scratch", "missing_part", "contamination")
TOLERANCES = """version: 1
picture: [320, 320]
rules:
  - kind: any
    length: 20
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures, model = folder / "pictures", folder / "part.safetensors"
        draw(pictures)
        check = folder / "check.html"
        run(["data", "check", "--data", str(pictures), "--out", str(check), "--quiet"])
        shown(check.as_uri(), IMAGES / "data-check.png", (900, 1000))
        fit = ["fit", "--data", str(pictures), "--size", "256", "--scale-mm", "0.1", "--out", str(model)]
        run([*fit, "--no-check", "--quiet"])
        evaluate(model, pictures, folder / "results")
        predict(model, pictures, folder)


def draw(pictures: Path) -> None:
    """Good parts, three types of defects, and parts to be judged; one good part is there twice."""
    for k in range(30):
        save(pictures / "good", f"{k:03d}", k, None)
    for kind in DEFECTS:
        for k in range(4):
            save(pictures / "bad" / kind, f"{k:03d}", 100 + k, kind)
    copy = pictures / "good" / "029.png"
    copy.write_bytes((pictures / "good" / "000.png").read_bytes())
    for k in range(8):
        save(
            pictures.parent / "new_pictures",
            f"part_{k:03d}",
            200 + k,
            DEFECTS[k % 3] if k in (2, 5) else None,
        )


def save(folder: Path, name: str, number: int, defect: str | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    picture, _ = draw_picture("plate", np.random.default_rng([3, number]), defect, 0.5)
    Image.fromarray(picture).save(folder / f"{name}.png")


def evaluate(model: Path, pictures: Path, out: Path) -> None:
    run(["evaluate", str(model), "--data", str(pictures), "--out", str(out), "--quiet"])
    shown((out / "report.html").as_uri(), IMAGES / "report.png", (1060, 760))


def predict(model: Path, pictures: Path, folder: Path) -> None:
    """The report of `predict`, the page of `review`, and a report with tolerances."""
    new, found, rules = folder / "new_pictures", folder / "found", folder / "tolerances.yaml"
    run(["predict", str(model), str(new), "--out", str(found), "--quiet"])
    shown((found / "report.html").as_uri(), IMAGES / "report-predict.png", (1060, 760))
    review(found)
    rules.write_text(TOLERANCES, encoding="utf-8")
    tolerated = folder / "tolerated"
    judged = ["predict", str(model), str(new), "--tolerances", str(rules), "--out", str(tolerated)]
    run([*judged, "--quiet"])
    shown((tolerated / "report.html").as_uri(), IMAGES / "report-tolerances.png", (1060, 760))


def review(found: Path) -> None:
    """The page that `flawscope review` opens; its first line says where."""
    call = [sys.executable, "-m", "flawscope", "review", str(found), "--no-browser"]
    process = subprocess.Popen(call, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        address = process.stderr.readline().split()[-1]
        shown(address, IMAGES / "review.png", (1000, 700))
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()

"""Make the images of the pages that commands write or open: `python docs/make_report_images.py`.

Drawn plates are checked, learnt from, judged and measured; a headless Chromium takes pictures of the check,
of the reports of `predict` and `evaluate`, of tolerated parts, of named types of defects, of `review`, and of
the page of `agreement`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from contact_sheet import SheetRow, contact_sheet
from make_parts_image import shown
from PIL import Image

from flawscope.cli import main as run
from flawscope.synthesis.demo.dataset import draw_picture

IMAGES = Path(__file__).parent / "images"
DEFECTS = ("scratch", "missing_part", "contamination")
SHOWN = {"scratch": "a scratch", "missing_part": "a missing part", "contamination": "a contamination"}
UNKNOWN = {"dent": "a dent: not learnt", "misprint": "a misprint: not learnt"}
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
        name_kinds(model, folder)
        agree(model, folder)


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


def name_kinds(model: Path, folder: Path) -> None:
    """Overlays of a model that has learnt the types from eight examples of each."""
    labelled, named, found = folder / "labelled", folder / "named.safetensors", folder / "named"
    for k in range(8):
        save(labelled / "good", f"{k:03d}", 300 + k, None)
        for kind in DEFECTS:
            save(labelled / "bad" / kind, f"{k:03d}", 400 + k, kind)
    captions = {**SHOWN, **UNKNOWN}
    for kind in captions:
        save(folder / "to_name", kind, 710, kind)
    run(["kinds", str(model), "--data", str(labelled), "--out", str(named), "--quiet"])
    run(["predict", str(named), str(folder / "to_name"), "--out", str(found), "--quiet"])
    overlays = [np.asarray(Image.open(found / "overlays" / f"{kind}.png")) for kind in captions]
    sheet = contact_sheet([SheetRow(overlays, list(captions.values()))], (230, 230))
    sheet.quantize(128).save(IMAGES / "kinds.png", optimize=True)


def agree(model: Path, folder: Path) -> None:
    """Sixty known parts in two trials: the model, and two people who err now and then."""
    rng = np.random.default_rng(5)
    rows = ["part,appraiser,trial,decision"]
    for part in range(60):
        kind = DEFECTS[part % 3] if part < 30 else None
        drawn, _ = draw_picture("plate", np.random.default_rng([3, 600 + part]), kind, 0.4)
        for trial in (1, 2):
            photographed = np.clip(drawn + rng.normal(0, 2, drawn.shape), 0, 255).astype(np.uint8)
            target = folder / f"known/trial{trial}" / ("defective" if kind else "good") / f"p{part:02d}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photographed).save(target)
            for person, mistakes in (("Anna", 0.01), ("Boris", 0.04)):
                is_wrong = rng.random() < mistakes
                rows.append(f"p{part:02d},{person},{trial},{'nok' if bool(kind) != is_wrong else 'ok'}")
    people, page = folder / "people.csv", folder / "agreement.html"
    people.write_text("\n".join(rows), encoding="utf-8")
    trials = [folder / "trial1", folder / "trial2"]
    for trial in trials:
        run(["predict", str(model), str(folder / "known" / trial.name), "--out", str(trial), "--quiet"])
    call = ["agreement", *map(str, trials), str(people), "--reference", str(folder / "known/trial1")]
    run([*call, "--model", str(model), "--out", str(page), "--quiet"])
    shown(page.as_uri(), IMAGES / "agreement.png", (900, 900))


if __name__ == "__main__":
    main()

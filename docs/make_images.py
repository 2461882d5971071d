"""Make the images of README and docs/ from generated pictures alone: `python docs/make_images.py`."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import flawscope
from flawscope.datasets import open_dataset
from flawscope.predictor import Predictor
from flawscope.results import drawing
from flawscope.results.contact_sheet import Line, contact_sheet
from flawscope.results.folder import Pictures
from flawscope.synthesis.demo.dataset import draw_dataset

HERE = Path(__file__).parent
SHOWN = {"plate": ("good/001", "scratch/001", "missing_part/006"), "fabric": ("hole/001", "missing_pick/000")}
PANEL = (220, 220)
IMAGES = HERE / "images"
MOVING = "plate"  # the category that `flawscope demo` draws


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    pictures: list[drawing.Drawable] = []
    heats: list[drawing.Drawable] = []
    names, verdicts = [], []
    with tempfile.TemporaryDirectory() as folder:
        for category, shown in SHOWN.items():
            root = draw_dataset(Path(folder), category=category)
            model = flawscope.fit(root, device="cpu")
            for name in shown:
                path = root / "test" / f"{name}.png"
                picture = np.asarray(Image.open(path))
                found = model.predict(path)
                pictures.append(picture)
                heats.append(found.draw(picture))
                names.append(
                    f"{category}: {name.split('/')[0].replace('_', ' ')}".replace("good", "good part")
                )
                verdicts.append(f"{found.decision}\nseverity {found.severity:+.1f}, p {found.p_value:.3f}")
            if category == MOVING:
                animate(model, root, Path(folder) / "results")
    sheet = contact_sheet([Line(pictures, names), Line(heats, verdicts)], PANEL)
    # 256 colours: a third of the size, and no visible difference
    sheet.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=4, dither=Image.Dither.NONE).save(
        IMAGES / "defects.png", optimize=True
    )
    report(IMAGES / "defects.png")


def animate(model: Predictor, root: Path, out: Path) -> None:
    """What `flawscope evaluate --animation webp` makes of all test pictures."""
    pictures = Pictures(out, root, maps="none", animation="webp")
    dataset = open_dataset(root)
    for item in dataset.test:
        pictures.take(item, model.predict(item.path))
    pictures.finish(f"{root.name}: drawn parts, PatchCore fitted on {len(dataset.train)} good ones")
    shutil.copy(out / "animation.webp", IMAGES / "demo.webp")
    report(IMAGES / "demo.webp")


def report(path: Path) -> None:
    print(f"{path.relative_to(HERE.parent)}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()

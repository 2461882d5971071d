"""Make the README's picture again, from drawn pictures alone: `python docs/make_images.py`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import flawscope
from flawscope import drawing
from flawscope.datasets.synthetic import draw_dataset

HERE = Path(__file__).parent
SHOWN = {"plate": ("scratch/001", "dent/003", "missing_part/006"), "fabric": ("hole/001", "missing_pick/000")}
PANEL = (220, 220)


def main() -> None:
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
                names.append(f"{category}: {name.split('/')[0].replace('_', ' ')}")
                verdict = "anomalous" if found.is_anomalous else "good"
                verdicts.append(f"{verdict}, p = {found.p_value:.3f}")
    sheet = drawing.contact_sheet([(pictures, names), (heats, verdicts)], PANEL)
    path = HERE / "images" / "defects.png"
    path.parent.mkdir(exist_ok=True)
    # 256 colours: a third of the size, and no visible difference
    sheet.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=4, dither=Image.Dither.NONE).save(
        path, optimize=True
    )
    print(f"{path.relative_to(HERE.parent)}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()

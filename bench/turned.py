"""Plates at any angle: the demo's, smaller, turned anyhow on their ground, in MVTec AD's layout.

    python bench/turned.py FOLDER
    python bench/accuracy.py --data FOLDER --categories turned

Parts that lie at any angle are where methods that learn little by little have most to learn. Draws
`FOLDER/mvtec/turned`: 120 good pictures to learn from, 40 good ones and 8 of each of seven kinds of defects,
from easy to hard, to judge by.
"""

from __future__ import annotations

import math
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

SIDE, SCALE = 384, 0.78  # pixels; of the part, so that its corners stay inside
SHIFT, NOISE = 6.0, 2.0  # pixels either way; grey levels
WIDE = 127  # a mask's pixel counts from here on


def turned(pixels: Any, angle: float, shift: Any) -> Any:
    """[H, W], turned and made smaller about its middle; the ground goes on outside. float32."""
    import numpy as np
    from scipy import ndimage

    cos, sin, middle = math.cos(angle), math.sin(angle), np.full(2, (SIDE - 1) / 2)
    back = np.array([[cos, -sin], [sin, cos]]) / SCALE
    return ndimage.affine_transform(
        pixels.astype(np.float32), back, middle - back @ (middle + shift), order=1, mode="nearest"
    )


def draw(root: Path) -> Path:
    """`root/turned`."""
    import numpy as np
    from PIL import Image

    from flawscope.synthesis.demo.dataset import draw_dataset

    def save(pixels: Any, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)

    with tempfile.TemporaryDirectory() as upright:
        plates = draw_dataset(Path(upright), train=120, good=40, bad_per_kind=8, size=SIDE, seed=5)
        for path in sorted(p for p in plates.rglob("*.png") if "ground_truth" not in p.parts):
            name = path.relative_to(plates)
            rng = np.random.default_rng(zlib.crc32(str(name).encode()))
            angle, shift = rng.uniform(0, 2 * math.pi), rng.uniform(-SHIFT, SHIFT, 2)
            seen = np.asarray(Image.open(path).convert("RGB"))
            shown = np.stack([turned(seen[..., k], angle, shift) for k in range(3)], -1)
            noisy = shown + rng.normal(0, NOISE, seen.shape)
            save(noisy.round().clip(0, 255), root / "turned" / name)
            mask = Path("ground_truth") / path.parent.name / f"{path.stem}_mask.png"
            if (plates / mask).is_file():
                marked = turned(np.asarray(Image.open(plates / mask).convert("L")), angle, shift)
                save((marked > WIDE) * 255, root / "turned" / mask)
    return root / "turned"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    print(draw(Path(sys.argv[1]) / "mvtec"))

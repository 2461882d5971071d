"""Draw accuracy against time: `python docs/draw_presets.py` writes images/presets.png from
bench/results/accurate.json, a line for each product: from left to right `small`, `default` and `accurate`."""

from __future__ import annotations

import json
from pathlib import Path

from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results" / "accurate.json"
PICTURE = Path(__file__).parent / "images" / "presets.png"

PRESETS = ("small", "default", "accurate")
METRICS = {"image AUROC": "image_auroc", "AU-PRO": "au_pro", "pixel AP": "pixel_ap"}
ENGINE = "onnxruntime"  # whose times are drawn


def main() -> None:
    cells = json.loads(RESULTS.read_text(encoding="utf-8"))["cells"]
    fitted = [name for name in cells if name.endswith("/accurate") and not name.startswith("fit/")]
    names = [name.removesuffix("/accurate") for name in fitted]
    products = [name for name in names if all(f"{name}/{preset}" in cells for preset in PRESETS)]
    figure = Figure((11, 3.4), layout="constrained")
    for axes, (title, key) in zip(figure.subplots(1, len(METRICS)), METRICS.items(), strict=True):
        for product in products:
            known = [cells[f"{product}/{preset}"] for preset in PRESETS]
            times, values = [cell["ms"][ENGINE] for cell in known], [cell["metrics"][key] for cell in known]
            axes.plot(times, values, "o-", label=product)
        axes.set(title=title, xlabel="ms of one core for a picture", xlim=(0, None))
        axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(PICTURE, dpi=110)
    print(PICTURE.relative_to(ROOT))


if __name__ == "__main__":
    main()

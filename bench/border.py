"""Is a defect at the picture's border found as well as one in the middle?

    python bench/border.py --methods efficientad --set steps=500
    python bench/border.py --methods efficientad --set steps=500 --set border=0

The same drawn defects at the border and in the middle of good test pictures that the model has not seen: the
share of them above the threshold, and how far the map's maximum near them rises; and good pictures' maps
within 16 pixels of the border beside the rest. `blob`: darker or brighter by a fixed share of full scale;
`paste`: a disc of another good picture, the same one at both places.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import common
import models
from common import Cell

RING = 16  # pixels of the map that count as border
NEAR = 8  # pixels around a defect in which its map may rise


def centre(rng: Any, place: str, size: tuple[int, int], radius: float) -> tuple[float, float]:
    """Where a defect lies; at the border it touches the edge."""
    height, width = size
    if place == "middle":
        y, x = rng.uniform(0.25, 0.75, 2)
        return y * height, x * width
    along, edge, near = rng.uniform(0.1, 0.9), int(rng.integers(4)), radius - 0.5
    y, x = (near, along * width) if edge < 2 else (along * height, near)
    return (y, x) if edge % 2 == 0 else (height - 1 - y, width - 1 - x)


def measure(model: str, root: str, places: int, diameter: int, strength: float, threads: int) -> Cell:
    """Everything at the network's size."""
    import numpy as np

    from flawscope import open_dataset

    predictor = models.open_model(model, "cpu", threads)
    session, calibration, read = predictor.session, predictor.calibration, predictor.manifest.preprocess
    images = [read(path)[0][0] for path in models.unseen(predictor, open_dataset(root))]
    if len(images) < 2:
        raise SystemExit("there are fewer than two good test pictures that the model has not seen")
    (height, width), radius, rng = session.size, diameter / 2, np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width]
    ring = np.minimum.reduce([rows, columns, height - 1 - rows, width - 1 - columns]) < RING
    good = [session.run(image[None]) for image in images]
    scores, maps = (np.concatenate(part) for part in zip(*good, strict=True))
    found: dict[str, list[tuple[float, float, float]]] = {}
    for number, image in enumerate(images):
        other = images[(number + 1) % len(images)]
        for _ in range(places):
            source = rng.uniform(0, [height - diameter - 1, width - diameter - 1]).astype(int)
            for place in ("border", "middle"):
                y, x = centre(rng, place, (height, width), radius)
                distance = np.hypot(rows - y, columns - x)
                opacity = np.clip(radius + 0.5 - distance, 0, 1)
                darker = image[:, opacity > 0].mean() > 0.5
                moved = np.roll(other, (round(y - radius) - source[0], round(x - radius) - source[1]), (1, 2))
                for kind, drawn in (("blob", image + (-strength if darker else strength)), ("paste", moved)):
                    changed = (image + opacity * (drawn.clip(0, 1) - image)).astype(np.float32)
                    score, after = session.run(changed[None])
                    near = distance <= radius + NEAR
                    hit = float(calibration.is_anomalous(score)[0])
                    rise = (float(maps[number][near].max()), float(after[0][near].max()))
                    found.setdefault(f"{kind}/{place}", []).append((hit, *rise))
    border, rest = maps[:, ring], maps[:, ~ring]
    return {
        "pictures": len(images),
        "threshold": common.sig(calibration.score_threshold),
        "good": {
            "above_threshold": common.sig(float(calibration.is_anomalous(scores).mean()), 4),
            "mean_map_border": common.sig(float(border.mean())),
            "mean_map_rest": common.sig(float(rest.mean())),
            "q995_map_border": common.sig(float(np.quantile(border, 0.995))),
            "q995_map_rest": common.sig(float(np.quantile(rest, 0.995))),
            "maximum_at_border": common.sig(float((border.max(1) > rest.max(1)).mean()), 4),
            "share_of_pixels_at_border": common.sig(float(ring.mean()), 4),
        },
        "defects": {name: _means(hits) for name, hits in found.items()},
        "diameter": diameter,
        "strength": strength,
    }


def _means(hits: list[tuple[float, float, float]]) -> Cell:
    above, before, after = (common.sig(sum(part) / len(hits)) for part in zip(*hits, strict=True))
    return {"count": len(hits), "above_threshold": above, "before": before, "after": after} | {
        "rise": common.sig(after - before)
    }


def main() -> int:
    parser = common.parser(__doc__, "border", methods="all")
    parser.add_argument("--places", type=int, default=4, help="defects per kind, place and picture")
    parser.add_argument("--diameter", type=int, default=12, help="of a defect, pixels at network size")
    parser.add_argument("--strength", type=float, default=0.25, help="of a blob, share of full scale")
    args = common.arguments(parser, threads=2, places=1, methods="patchcore")
    record = common.Record(args, "defects at the border and in the middle")
    rows, good = [], []
    drawn = {k: getattr(args, k) for k in ("places", "diameter", "strength", "threads")}
    with common.workspace(args.work) as folder:
        for category, root, method, name in common.cases(args):

            def work(category: str = category, root: Path = root, method: str = method) -> Cell:
                model = models.plain_model(args, folder, category, root, method)
                return common.task(measure, model=model, root=root, **drawn).json

            if cell := record.attempt(name, work):
                rows += [{"model": name, "defect": k, **v} for k, v in cell["defects"].items()]
                good.append({"model": name, "pictures": cell["pictures"], **cell["good"]})
    common.table("the same defects at the border and in the middle", rows)
    common.table(f"maps of good pictures within {RING} pixels of the border", good)
    return record.status()


if __name__ == "__main__":
    sys.exit(common.start(main))

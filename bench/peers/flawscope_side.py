"""flawscope's part of `run.py`, run by the Python of its environment, and the judge of both.

Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import flawscope


def pictures(root: Path) -> list[Path]:
    return sorted((root / "test").rglob("*.png"))


def opened(path: Path, **how: Any) -> flawscope.Predictor:
    """A model, in OpenVINO where its name says so."""
    engine = "openvino" if path.name.endswith(".openvino.onnx") else None
    return flawscope.load(path, engine=engine, **how)


def predict(args: argparse.Namespace) -> dict[str, Any]:
    """Scores, maps and decisions of the test pictures into raw.npz beside the model."""
    model = opened(args.source)
    found = [model.predict(path) for path in pictures(args.data)]
    np.savez(
        args.source.with_name("raw.npz"),
        names=[p.relative_to(args.data).as_posix() for p in pictures(args.data)],
        scores=[p.score for p in found],
        maps=np.stack([p.map for p in found]),
        decisions=[p.is_anomalous for p in found],
    )
    return {"pictures": len(found)}


def judge(args: argparse.Namespace) -> dict[str, Any]:
    """Metrics of source/raw.npz by `evaluation.metrics`. Maps are brought to the pictures' size, bilinear."""
    from PIL import Image

    from flawscope.evaluation.metrics import image_metrics, pixel_metrics

    raw = np.load(args.source / "raw.npz")
    names = [str(n) for n in raw["names"]]
    assert names == [p.relative_to(args.data).as_posix() for p in pictures(args.data)]
    bad = np.array([not n.startswith("test/good/") for n in names])
    maps, masks = [], []
    for name, one in zip(names, raw["maps"], strict=True):
        path = Path(name)
        with Image.open(args.data / path) as picture:
            size = picture.size
        maps.append(np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BILINEAR)))
        mask = args.data / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
        opened = Image.open(mask).convert("L") if mask.is_file() else Image.new("L", size)
        masks.append(np.asarray(opened) > 0)
    image, pixel = image_metrics(bad, raw["scores"]), pixel_metrics(maps, masks)
    decisions = raw["decisions"].astype(bool)
    return {
        "image_auroc": image.auroc,
        "image_ap": image.ap,
        "pixel_auroc": pixel.auroc,
        "pixel_ap": pixel.ap,
        "au_pro": pixel.au_pro,
        "defects": int(bad.sum()),
        "found": int((decisions & bad).sum()),
        "good": int((~bad).sum()),
        "false_alarms": int((decisions & ~bad).sum()),
        "map": list(raw["maps"].shape[1:]),
    }


def timed(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of `predict(path)` for the listed pictures in turn, after a first round of five."""
    model = opened(args.source, device="cpu", threads=args.threads)
    paths = json.loads(args.pictures.read_text())
    times = []
    for k in range(5 + args.repeats):
        began = time.perf_counter()
        model.predict(paths[k % len(paths)])
        times.append(time.perf_counter() - began)
    return {"seconds": times[5:]}


def sizes(args: argparse.Namespace) -> dict[str, Any]:
    """The largest size that a model sees, and how many elements its memory banks have in all."""
    model = flawscope.load(args.source, device="cpu")
    bank = model.manifest.facts.get("bank")
    return {"size": max(model.session.size), "elements": bank if isinstance(bank, int) else sum(bank or [])}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    tasks = {"predict": predict, "judge": judge, "time": timed, "sizes": sizes}
    parser.add_argument("task", choices=tuple(tasks))
    parser.add_argument("source", type=Path, help="a model, or the folder with raw.npz")
    parser.add_argument("--data", type=Path, help="the category's folder")
    parser.add_argument("--pictures", type=Path, help="JSON list of files")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    print(json.dumps(tasks[args.task](args)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

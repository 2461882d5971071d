"""Does the exported model answer as the trained one does, on every test picture?

    python bench/parity.py
    python bench/parity.py --set size=512 --categories toothbrush

Each category is fitted with the default settings and with size=256 (`--set`: with those settings only) and
exported for every runtime in fp32. Compared with the torch session, one picture at a time:

    score       the largest |d| / max(|s|, 1), as certificates have it, and the largest |d| / |s|
    map         the largest |d| / max(|m|, 1), and the largest |d| over the map's maximum
    decisions   pictures judged otherwise
    metrics     image AUROC, pixel AUROC and AU-PRO of both
    batches     every session with itself: pictures in batches of 3, 8 and 7 against one at a time
    odd shapes  the same for pictures cropped to odd sizes, some a few pixels wide

A map's values near 0 (a patch that is in the memory bank) are differences of large numbers: rounding shows
there first, where it means nothing. One cell is one category, setting and runtime; a run that was stopped
goes on where it was.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import common

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flawscope.datasets import Dataset
    from flawscope.predictor import Predictor
    from flawscope.runtime import Session

    Answer = tuple[NDArray[np.float64], NDArray[np.float64]]

SETTINGS = {"default": [], "size=256": ["size=256"]}
BATCHES = (3, 8, 7)
METRICS = ("image_auroc", "pixel_auroc", "au_pro")
SHAPES = ((333, 517), (517, 333), (255, 256), (97, 401), (31, 33), (500, 7), (1, 301))  # height, width


def run(session: Session, images: NDArray[np.float32], batch: int) -> Answer:
    found = [session.run(images[k : k + batch]) for k in range(0, len(images), batch)]
    scores, maps = (np.concatenate(part).astype(np.float64) for part in zip(*found, strict=True))
    return scores, maps


def differences(found: Answer, expected: Answer, names: list[str]) -> dict[str, Any]:
    (scores, maps), (wanted, drawn) = found, expected
    away, size = np.abs(scores - wanted), np.abs(wanted)
    map_away = np.abs(maps - drawn)
    worst = int(np.argmax(away / np.maximum(size, 1)))
    return {
        "score": common.sig(float((away / np.maximum(size, 1)).max()), 3),
        "score_relative": common.sig(float((away / size).max()), 3),
        "map": common.sig(float((map_away / np.maximum(np.abs(drawn), 1)).max()), 3),
        "map_over_maximum": common.sig(float((map_away.max((1, 2)) / np.abs(drawn).max((1, 2))).max()), 3),
        "worst": names[worst],
    }


def with_itself(session: Session, images: NDArray[np.float32], alone: Answer, names: list[str]) -> Any:
    return {str(b): differences(run(session, images, b), alone, names) for b in BATCHES}


def metrics(predictor: Predictor, dataset: Dataset) -> dict[str, float | None]:
    import flawscope

    found = flawscope.evaluate(predictor, dataset).metrics
    return {k: None if found[k] is None else round(found[k], 6) for k in METRICS}


def odd(trained: Predictor, other: Predictor, paths: list[Path]) -> dict[str, Any]:
    """Crops of test pictures, the same for both; through `predict`, so with all that is around a session."""
    from flawscope.pictures.decoding import decode

    pictures = []
    for k, (height, width) in enumerate(SHAPES):
        whole = decode(paths[k * len(paths) // len(SHAPES)])
        top, left = (whole.shape[0] - height) // 3, (whole.shape[1] - width) // 3
        pictures.append(np.ascontiguousarray(whole[max(top, 0) :, max(left, 0) :][:height, :width]))
    names = [f"{p.shape[0]}x{p.shape[1]}" for p in pictures]

    def answers(predictor: Predictor, batch: int) -> Answer:
        found: Any = [p for _, p in predictor.stream(pictures, batch=batch)]
        return np.array([p.score for p in found], float), np.stack([p.map for p in found]).astype(float)

    alone = answers(other, 1)
    return {
        "shapes": names,
        "torch": differences(alone, answers(trained, 1), names),
        "batches": {str(b): differences(answers(other, b), alone, names) for b in (*BATCHES, len(names))},
    }


def compare(trained: Predictor, other: Predictor, dataset: Dataset) -> dict[str, Any]:
    paths = [item.path for item in dataset.test]
    names = [str(dataset.relative(p)) for p in paths]
    preprocess = trained.manifest.preprocess
    images = np.concatenate([preprocess(p)[0] for p in paths])
    expected, found = run(trained.session, images, 1), run(other.session, images, 1)
    judged = [p.calibration.is_anomalous(s) for p, (s, _) in ((trained, expected), (other, found))]
    return {
        "pictures": len(paths),
        "size": list(preprocess.network_size),
        **differences(found, expected, names),
        "decisions": [names[k] for k in np.flatnonzero(judged[0] != judged[1])],
        "metrics": {"torch": metrics(trained, dataset), other.session.runtime: metrics(other, dataset)},
        "batches": {
            "torch": with_itself(trained.session, images, expected, names),
            other.session.runtime: with_itself(other.session, images, found, names),
        },
        "odd_shapes": odd(trained, other, paths),
    }


def show(record: common.Record) -> None:
    rows, areas = [], []
    for name, cell in record.cells.items():
        runtime = name.rsplit("/", 1)[1]
        itself = [max(d["score_relative"] for d in cell["batches"][r].values()) for r in ("torch", runtime)]
        shapes = cell["odd_shapes"]
        across = max(d["score_relative"] for d in shapes["batches"].values())
        rows.append(
            (
                *(name, cell["pictures"], *(f"{cell[k]:.1e}" for k in ("score", "score_relative"))),
                *(f"{cell[k]:.1e}" for k in ("map", "map_over_maximum")),
                len(cell["decisions"]),
                *(f"{worst:.1e}" for worst in itself),
                f"{shapes['torch']['score_relative']:.1e}",
                f"{across:.1e}",
            )
        )
        for which, found in cell["metrics"].items():
            areas.append((name, which, *("n/a" if v is None else f"{v:.6f}" for v in found.values())))
    header = ("model", "pictures", "score", "relative", "map", "of maximum", "decisions", "batches: torch")
    common.table(
        "largest differences from the torch session", rows, (*header, "own", "odd shapes", "their batches")
    )
    common.table("metrics", areas, ("model", "session", *METRICS))


def main() -> int:
    parser = common.parser(__doc__, "parity")
    common.add_settings(parser)
    parser.add_argument("--runtimes", default="onnxruntime,openvino", help="default: %(default)s")
    parser.add_argument("--categories", default=",".join(common.CATEGORIES))
    parser.add_argument("--threads", type=int, help="default: as the sessions choose")
    parser.add_argument("--work", type=Path, help="keep models and exports here")
    args = parser.parse_args()
    variants = {", ".join(args.set): args.set} if args.set else SETTINGS
    record = common.Record(args, "exported models against the trained one", {"batches": list(BATCHES)})
    common.headline("parity")
    with common.workspace(args.work) as folder:
        for category in args.categories.split(","):
            root = common.mvtec(args, category)
            if root is None:
                continue
            for variant, chosen in variants.items():
                for runtime in args.runtimes.split(","):
                    name = f"{category}/{variant}/{runtime}"
                    if record.has(name):
                        continue
                    model = folder / f"{category}-{variant}.safetensors"
                    if not model.is_file():
                        common.say(f"fitting {category}, {variant} ...")
                        settings = [word for pair in chosen for word in ("--set", pair)]
                        common.flawscope("fit", "--data", root, "--out", model, "--quiet", *settings)
                    other = common.exported(model, runtime, "fp32", root)
                    if other is None:
                        continue

                    def measure(
                        model: Path = model, other: Path = other, root: Path = root
                    ) -> dict[str, Any]:
                        from flawscope import open_dataset

                        sessions = (common.open_model(path, threads=args.threads) for path in (model, other))
                        return compare(*sessions, open_dataset(str(root)))

                    record.cell(name, measure)
    if record.cells:
        show(record)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Does the exported model answer as the trained one does, on every test picture?

    python bench/parity.py
    python bench/parity.py --methods patchcore --set size=512 --categories toothbrush

Every method's model is exported for every runtime in fp32 and compared with the torch session, one picture at
a time:

    score       the largest |d| / max(|s|, 1), as certificates have it, and the largest |d| / |s|
    map         the largest |d| / max(|m|, 1), and the largest |d| over the map's maximum
    decisions   pictures judged otherwise
    metrics     image AUROC, pixel AUROC and AU-PRO of both
    batches     every session with itself: pictures in batches of 3, 8 and 7 against one at a time

A map's values near 0 (a patch that is in the memory bank) are differences of large numbers: rounding shows
there first, where it means nothing.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import common
import models
from common import MAIN_METRICS, Cell

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flawscope.runtime import Session

    Answer = tuple[NDArray[np.float64], NDArray[np.float64]]

TORCH = ("torch", "fp32")
BATCHES = (3, 8, 7)


def answers(session: Session, images: NDArray[np.float32], batch: int) -> Answer:
    import numpy as np

    found = [session.run(images[k : k + batch]) for k in range(0, len(images), batch)]
    scores, maps = (np.concatenate(part).astype(np.float64) for part in zip(*found, strict=True))
    return scores, maps


def differences(found: Answer, expected: Answer, names: list[str]) -> Cell:
    import numpy as np

    (scores, maps), (wanted, drawn) = found, expected
    away, size = np.abs(scores - wanted), np.abs(wanted)
    map_away, maxima = np.abs(maps - drawn), np.abs(drawn).max((1, 2))
    return {
        "score": common.round_to(float((away / np.maximum(size, 1)).max()), 3),
        "score_relative": common.round_to(float((away / size).max()), 3),
        "map": common.round_to(float((map_away / np.maximum(np.abs(drawn), 1)).max()), 3),
        "map_over_maximum": common.round_to(float((map_away.max((1, 2)) / maxima).max()), 3),
        "worst": names[int(np.argmax(away / np.maximum(size, 1)))],
    }


def compare(trained: str, exported: str, root: str, threads: int) -> Cell:
    import numpy as np

    import flawscope

    pair = [models.open_model(path, threads=threads) for path in (trained, exported)]
    dataset = flawscope.open_dataset(root)
    paths = [item.path for item in dataset.test]
    names = [str(dataset.relative(p)) for p in paths]
    images = np.concatenate([pair[0].manifest.preprocess(p)[0] for p in paths])
    expected, found = (answers(p.session, images, 1) for p in pair)
    judged = [p.calibration.is_anomalous(a[0]) for p, a in zip(pair, (expected, found), strict=True)]
    result: Cell = {
        "pictures": len(paths),
        "size": list(pair[0].session.size),
        **differences(found, expected, names),
        "decisions": [names[k] for k in np.flatnonzero(judged[0] != judged[1])],
    }
    for p, alone in zip(pair, (expected, found), strict=True):
        metrics = flawscope.evaluate(p, dataset).metrics
        rounded = {k: common.round_to(metrics[k]) for k in MAIN_METRICS}
        result.setdefault("metrics", {})[p.session.runtime] = rounded
        result.setdefault("batches", {})[p.session.runtime] = {
            str(b): differences(answers(p.session, images, b), alone, names) for b in BATCHES
        }
    return result


def row_of(name: str, cell: Cell) -> Cell:
    def worst(found: Cell) -> float:
        return max(d["score_relative"] for d in found.values())

    torch, own = cell["batches"].values()
    keys = ("pictures", "score", "score_relative", "map", "map_over_maximum")
    metrics = zip(*(one.values() for one in cell["metrics"].values()), strict=True)
    return {"model": name, **{k: cell[k] for k in keys}} | {
        "decisions": len(cell["decisions"]),
        "metrics differ by": max(abs(a - b) for a, b in metrics),
        "torch's batches": worst(torch),
        "own batches": worst(own),
    }


def main() -> int:
    parser = common.make_parser(__doc__, "parity", methods="all")
    parser.add_argument("--runtimes", default="onnxruntime,openvino", help="default: %(default)s")
    args = common.parse_arguments(parser, threads=2, methods="patchcore", runtimes="onnxruntime")
    record = common.Record(args, "exported models against the trained one")
    rows = []
    with common.workspace(args.work) as folder:
        for category, root, method, name in common.cases(args):
            for runtime in args.runtimes.split(","):

                def measure(of: Any = (category, root, method), runtime: str = runtime) -> Cell:
                    files = [models.model_for(args, folder, of, e) for e in (TORCH, (runtime, "fp32"))]
                    pair = dict(zip(("trained", "exported"), files, strict=True))
                    return common.run_function(compare, root=of[1], threads=args.threads, **pair).json

                if cell := record.attempt(f"{name}/{runtime}", measure):
                    rows.append(row_of(f"{name}, {runtime}", cell))
    common.print_table("largest differences from the torch session", rows)
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))

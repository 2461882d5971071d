"""Are simulated defects as hard to find as real ones of the same size and contrast?

    FLAWSCOPE_DATA=data python bench/simulated.py
    python bench/simulated.py --categories "" --folders data/lens,data/pcb --kinds wood,bottle

A model of each product's good pictures judges its defective ones, and simulated defects on good pictures
that are left out. Both are sorted by size (share of the picture) and by contrast, measured alike: the
difference from the nearest of five other good pictures, moved by up to two pixels, as a mean over the defect
in grey levels. Expected is the share of the real defects that would be found if each were as hard as the
simulated ones of its size and contrast; both shares have their 95 % intervals. The products of --kinds are
drawn, with defects by another program than the simulated ones.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import common
from common import Args, Cell, Record

SIZES = {"small": 0.002, "medium": 0.01, "large": 0.05, "larger": 1.01}  # shares of the picture, below
LEAST = 5  # simulated defects of a size and contrast that say how hard they are
CONTRASTS = (6.0, 12.0, 24.0, 48.0, 256.0)  # grey levels, below
COMPARED, SHIFT = 5, 2  # good pictures, and pixels that these are moved
Pixels = NDArray[np.uint8]


class Answer(NamedTuple):
    """A defect, and whether it is found."""

    share: float
    contrast: float
    found: bool

    @property
    def cell(self) -> str:
        size = next(name for name, limit in SIZES.items() if self.share < limit)
        return f"{size} below {next(limit for limit in CONTRASTS if self.contrast < limit):g}"


class GoodPictures:
    """Good pictures [N, H, W, 3], to which others are compared."""

    def __init__(self, pictures: list[Pixels]):
        self.pictures = pictures
        self.small = np.stack([_reduced(picture) for picture in pictures])

    def contrast(self, picture: Pixels, mask: NDArray[np.bool_], without: int | None = None) -> float:
        """Mean difference of a picture's defect from the nearest good pictures, in grey levels."""
        distances = np.abs(self.small - _reduced(picture)).mean(axis=1)
        if without is not None:
            distances[without] = np.inf
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        least = np.full(mask[box].shape, 255)
        for k in np.argsort(distances)[:COMPARED]:
            wide = np.pad(self.pictures[k], ((SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="edge")
            for y in range(2 * SHIFT + 1):
                for x in range(2 * SHIFT + 1):
                    moved = wide[y : y + len(mask), x : x + mask.shape[1]][box]
                    least = np.minimum(least, np.abs(picture[box].astype(int) - moved).max(axis=2))
        return float(least[mask[box]].mean())


def _reduced(picture: Pixels) -> NDArray[np.float32]:
    from PIL import Image

    return np.asarray(Image.fromarray(picture).resize((32, 32)), np.float32).ravel()


def _picture(image: Any) -> Pixels:
    """Picture [H, W, 3] of an image [3, H, W] in 0..1."""
    return np.asarray((np.asarray(image).clip(0, 1) * 255).round().transpose(1, 2, 0), np.uint8)


def measure(args: Args, root: Path, method: str) -> Cell:
    import torch

    import flawscope
    from flawscope.fitting import fitting

    torch.set_num_threads(args.threads)
    held: dict[str, Any] = {}

    def keep(leave_out: Any, fitted: Any, task: Any, began: float) -> None:
        held.update(leave_out=leave_out, fitted=fitted, task=task)

    check, fitting.score_simulated_defects = fitting.score_simulated_defects, keep  # type: ignore[assignment]
    try:
        dataset = flawscope.open_dataset(root)
        predictor = flawscope.fit(
            dataset, method=method, samples=0, device="cpu", **common.settings(args, method)
        )
    finally:
        fitting.score_simulated_defects = check
    task = held["task"]
    good = GoodPictures([_picture(task.load(i)) for i in range(task.count)])
    real, alarms = _real(predictor, dataset, good)
    simulated = _simulated(held["leave_out"], held["fitted"], task, good, args.defects)
    return {
        "learnt": len(dataset.train),
        "alarms": alarms,
        "real": _table(real),
        "simulated": _table(simulated),
    }


def _real(predictor: Any, dataset: Any, good: GoodPictures) -> tuple[list[Answer], str]:
    """Answers to the test's defects with a mask, and its false alarms."""
    from PIL import Image

    from flawscope.datasets.masks import read_any_mask
    from flawscope.pictures.decoding import decode, to_eight_bits

    answers, alarms, parts = [], 0, 0
    height, width = good.pictures[0].shape[:2]
    for item in dataset.test:
        result = predictor.predict(item.path)
        if not item.anomalous:
            alarms, parts = alarms + result.is_anomalous, parts + 1
        elif item.masks:
            whole = np.logical_or.reduce([read_any_mask(mask) for mask in item.masks])
            mask = np.asarray(Image.fromarray(whole).resize((width, height), Image.Resampling.NEAREST))
            picture = to_eight_bits(decode(item.path))
            seen = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))
            if mask.any():
                contrast = good.contrast(seen, mask)
                answers.append(Answer(float(whole.mean()), contrast, bool(result.is_anomalous)))
    return answers, f"{alarms} of {parts}"


def _simulated(leave_out: Any, fitted: Any, task: Any, good: GoodPictures, count: int) -> list[Answer]:
    from flawscope.fitting.simulated_defects import SimulatedDefects
    from flawscope.methods.detector import embed_pictures

    threshold = fitted.calibration.score_threshold
    own = fitted.calibration.scores[-len(fitted.pictures) :]
    passed = [i for i, score in zip(fitted.pictures, own, strict=True) if score < threshold]
    defects = SimulatedDefects(leave_out.model, task.load, passed)
    defects.learn_part(float("inf"))
    answers: dict[int, Answer] = {}

    def store(number: int, features: Any, inside: Any) -> None:
        carrier = defects.picture_of(number)
        score, _ = leave_out.score(task.groups[carrier], features, inside) or (None, None)
        before, after = (_picture(image) for image in (task.load(carrier), defects.load(number)))
        mask = (before != after).any(axis=2)
        contrast = good.contrast(after, mask, without=carrier)
        answers[number] = Answer(float(mask.mean()), contrast, not float(score[0]) <= threshold)

    embed_pictures(leave_out.model, defects.load, range(count), store)
    return [answers[number] for number in sorted(answers)]


def _table(answers: list[Answer]) -> Cell:
    """Found and all, in each cell of the ladder and together."""
    cells = {answer.cell: [0, 0] for answer in sorted(answers)}
    for answer in answers:
        cells[answer.cell][0] += answer.found
        cells[answer.cell][1] += 1
    return {"found": sum(a.found for a in answers), "defects": len(answers), "cells": cells}


def _compared(real: Mapping[str, list[int]], simulated: Mapping[str, list[int]]) -> Cell:
    """Share that is found of the real defects in cells with `LEAST` simulated ones, and the share if each
    were as hard as the simulated ones of its cell, with Wilson's 95 % intervals; that of a weighted mean is
    of as many defects as would have its variance (Kish)."""
    from flawscope.calibration.power import wilson_interval

    shared = [cell for cell in real if simulated.get(cell, (0, 0))[1] >= LEAST]
    if not shared:
        return {}
    found, count = np.array([real[cell] for cell in shared]).T
    hits, tried = np.array([simulated[cell] for cell in shared]).T
    weights = count / count.sum()
    expected, effective = weights @ (hits / tried), 1 / (weights**2 / tried).sum()
    share, all_found = weights @ (found / count), wilson_interval(int(found.sum()), int(count.sum()))
    likely = wilson_interval(expected * effective, effective)
    alike = likely[0] <= share <= likely[1] and all_found[0] <= expected <= all_found[1]
    return {
        "of the same sizes and contrasts, real": f"{share:.2f} ({all_found[0]:.2f} to {all_found[1]:.2f})",
        "expected by simulated": f"{expected:.2f} ({likely[0]:.2f} to {likely[1]:.2f})",
        "defects": int(count.sum()),
        "within each other's": "yes" if alike else "no",
        "overlap": "yes" if max(all_found[0], likely[0]) <= min(all_found[1], likely[1]) else "no",
    }


def main() -> int:
    parser = common.make_parser(__doc__, "simulated", methods="patchcore")
    parser.add_argument("--folders", default="", help="further data sets, of any layout, with commas")
    parser.add_argument("--kinds", default="wood,bottle", help="drawn products (default: %(default)s)")
    parser.add_argument("--defects", type=int, default=240, help="simulated ones (default: %(default)s)")
    parser.add_argument("--bad", type=int, default=60, help="drawn defective ones (default: %(default)s)")
    parser.set_defaults(learnt=60, good=40, side=256)
    args = common.parse_arguments(
        parser, threads=2, kinds="sheet", learnt=8, good=2, bad=4, side=96, defects=6
    )
    record = Record(args, "simulated defects against real ones")
    rows = []
    with common.workspace(args.work) as work:
        for name, root in _products(args, work):
            for method in common.methods(args):
                words = common.label_of(common.settings(args, method), args.preset)
                cell = record.attempt(
                    f"{name}/{method}, {words}",
                    lambda root=root, method=method: measure(args, root, method),  # type: ignore[misc]
                )
                if cell is not None:
                    rows.append(_row(name, cell))
    common.print_table("found, by size and contrast", rows)
    return record.status()


def _products(args: Args, work: Path) -> list[tuple[str, Path]]:
    import drawn

    counts = {"train": args.learnt, "good": args.good, "bad": args.bad, "size": args.side}
    return [
        *common.category_folders(args),
        *((Path(folder).name, Path(folder)) for folder in filter(None, args.folders.split(","))),
        *((k, drawn.product(work, k, seed=5300, **counts)) for k in filter(None, args.kinds.split(","))),
    ]


def _row(name: str, cell: Cell) -> Cell:
    return {
        "product": name,
        "real": f"{cell['real']['found']} of {cell['real']['defects']}",
        "simulated": f"{cell['simulated']['found']} of {cell['simulated']['defects']}",
        **_compared(cell["real"]["cells"], cell["simulated"]["cells"]),
        "false alarms": cell["alarms"],
    }


if __name__ == "__main__":
    sys.exit(common.run_script(main))

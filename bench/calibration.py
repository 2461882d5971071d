"""Is the promised false-alarm rate kept?

    python bench/calibration.py
    python bench/calibration.py --kinds all

The training pictures of a category are shuffled and split into five parts. Every part is predicted by a
model that was fitted and calibrated on the others; the false alarms of all parts together are given with
their 95 % interval (Clopper-Pearson), beside what the calibrations promise: k/(n + 1) with n calibration
pictures and k = floor(rate (n + 1)), at least 1. Beside it stands the full fit on the test's good pictures.
One fold is one cell.

`--kinds`: p-values of new good parts of drawn products, by models of kinds whose parts are counted with care:
uniform, or where a promise holds in every light or with missing parts, larger. One draw is one cell.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

import common
from common import Cell, Settings

RATES = (0.01, 0.05, 0.10)
SIDE, NEW, TWO = 80, 12, ("plate", "fabric")  # pixels of a part; new good ones of a draw; products
Picture = Any  # [H, W, 3] uint8
Answers = tuple[Any, Sequence[Any]]  # calibration, and answers about new good parts


def measure(method: str, preset: str, settings: Settings, paths: dict[str, list[str]], threads: int) -> Cell:
    """A fit on the pictures `learnt`: the calibration's scores, and those of the good pictures `held`."""
    import torch

    import flawscope

    torch.set_num_threads(threads)
    predictor = flawscope.fit(
        paths["learnt"], method=method, preset=preset, samples=0, device="cpu", **settings
    )
    return {
        "calibration": list(predictor.calibration.scores),
        "held_out": [p.score for p in predictor.predict(paths["held"])],
    }


def alarms(cells: Sequence[Cell], rate: float) -> Cell:
    """False alarms of all cells together at a target rate."""
    from flawscope.calibration.threshold import Calibration
    from flawscope.evaluation.metrics import confidence_interval_rate

    count, total, promised = 0, 0, 0.0
    for cell in cells:
        scores, held_out = tuple(cell["calibration"]), np.array(cell["held_out"])
        calibration = Calibration(scores, scores, 0.0, rate)  # maps play no part in the decision
        count += int(calibration.is_anomalous(held_out).sum())
        total += len(held_out)
        n = len(scores)
        promised += len(held_out) * max(1, math.floor(rate * (n + 1) + 1e-9)) / (n + 1)
    low, high = confidence_interval_rate(count, total)
    promised /= total
    return {
        "target": rate,
        "promised": common.round_to(promised, 4),
        "alarms": count,
        "pictures": total,
        "measured": common.round_to(count / total, 4),
        "interval": [common.round_to(low, 4), common.round_to(high, 4)],
        "kept": low <= promised <= high or count / total <= promised,
    }


def tray(rng: np.random.Generator, parts: int = 2) -> Picture:
    """Two places of angle brackets on a noisy ground, [80, 160, 3] uint8, each turned a little; one is empty
    where there is one part."""
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5 - SIDE / 2
    cells = []
    for place in range(2):
        turn, width = rng.uniform(-0.2, 0.2), rng.uniform(5, 7)
        u = np.cos(turn) * columns + np.sin(turn) * rows
        v = np.cos(turn) * rows - np.sin(turn) * columns
        bracket = ((abs(u) < 20) & (abs(v - 10) < width)) | ((abs(u + 14) < width) & (abs(v) < 20))
        bracket &= place < parts
        cells.append(np.where(bracket[..., None], rng.uniform(170, 200), np.array([60.0, 80.0, 120.0])))
    picture = np.hstack(cells)
    return (picture + rng.normal(0, 3, picture.shape)).clip(0, 255).astype(np.uint8)


def rephotographed(picture: Picture, rng: np.random.Generator) -> Picture:
    """The same part once more: a pixel aside, with noise of its own."""
    moved = np.roll(picture, rng.integers(-1, 2, 2), (0, 1)).astype(np.float64)
    return (moved + rng.normal(0, 2, moved.shape)).clip(0, 255).astype(np.uint8)


def update_with_miscounted(rng: np.random.Generator, how: Settings) -> Answers:
    """Two brackets a picture, one of 12 with one; then a fair sample of 8, one of them with one, too."""
    import flawscope

    def pictures(count: int) -> list[Picture]:
        return [tray(rng, 1 if k == 2 else 2) for k in range(count)]

    model = flawscope.fit(pictures(12), align="turn", several=True, **how)
    model = flawscope.extend(model, pictures(8), fair=True, force=True, check=False)
    return model.calibration, model.predict([tray(rng) for _ in range(NEW)])


def joint_with_copies(rng: np.random.Generator, how: Settings) -> Answers:
    """Two products of 10 parts, each photographed twice; how sure their recognition is of new parts."""
    import flawscope
    from flawscope.synthesis.demo.dataset import draw_picture

    def pictures(product: str, count: int) -> list[Picture]:
        return [draw_picture(product, rng, None, 0.1, size=96)[0] for _ in range(count)]

    good = {name: [p for one in pictures(name, 10) for p in (one, rephotographed(one, rng))] for name in TWO}
    router = flawscope.join({name: flawscope.fit(of, **how) for name, of in good.items()}, good)
    found = [router.predict(one) for name in TWO for one in pictures(name, NEW // 2)]
    return None, found


def several_in_light(rng: np.random.Generator, how: Settings) -> Answers:
    """Two brackets a picture, 5 % brighter or darker allowed; new ones in any such light."""
    import flawscope

    model = flawscope.fit([tray(rng) for _ in range(12)], align="turn", several=True, light=0.05, **how)
    lit = [tray(rng) * rng.uniform(0.95, 1.05) for _ in range(NEW)]
    return model.calibration, model.predict([one.clip(0, 255).astype(np.uint8) for one in lit])


def parts_with_copies(rng: np.random.Generator, how: Settings) -> Answers:
    """19 parts in two views by their names, each third part once more under a name of its own."""
    import flawscope
    from flawscope.synthesis.demo.dataset import draw_picture

    def part(number: int) -> dict[str, Picture]:
        return {f"p{number:03}_{v}.png": draw_picture("plate", rng, None, 0.1, size=96)[0] for v in "ab"}

    good = {name: one for k in range(19) for name, one in part(k).items()}
    for k in range(0, 19, 3):
        good |= {f"p{50 + k:03}_{v}.png": rephotographed(good[f"p{k:03}_{v}.png"], rng) for v in "ab"}
    how = how | {"part": r"p\d+", "view": r"[ab](?=\.)"}
    model = flawscope.fit([*good.values()], names=[*good], **how)
    new = [{name[-5]: one for name, one in part(100 + k).items()} for k in range(NEW)]
    collector = model.parts()
    assert collector is not None
    return collector.calibration, [model.predict_part(views, f"{k}") for k, views in enumerate(new)]


KINDS: dict[str, Callable[[np.random.Generator, Settings], Answers]] = {
    "updated with miscounted": update_with_miscounted,
    "joint with near-copies": joint_with_copies,
    "several in light": several_in_light,
    "parts with copies": parts_with_copies,
}


def measure_kind(kind: str, draw: int) -> Cell:
    """One draw: p-values of new good parts; of a joint model those of the recognition."""
    how: Settings = {
        "size": 64,
        "augment": "none",
        "samples": 0,
        "check": False,
        "device": "cpu",
        "force": True,
    }
    calibration, found = KINDS[kind](np.random.default_rng([80, draw]), how)
    if calibration is None:
        shown = [one.recognition for one in found]
        return {"p": [one.p_value for one in shown], "alarms": sum(one.product is None for one in shown)}
    alarms, promised = sum(one.is_anomalous for one in found), calibration.expected_rate
    return {"p": [one.p_value for one in found], "alarms": alarms, "promised": promised}


def kind_row(kind: str, cells: Sequence[Cell]) -> Cell:
    """A row for all draws of a kind. error: standard error of the mean, from draw to draw."""
    from flawscope.evaluation.metrics import confidence_interval_rate

    p = np.array([cell["p"] for cell in cells])
    count = sum(cell["alarms"] for cell in cells)
    promised = [cell["promised"] for cell in cells if "promised" in cell]
    return {
        "kind": kind,
        "parts": p.size,
        "mean_p": common.round_to(float(p.mean()), 3),
        "error": common.round_to(float(p.mean(1).std(ddof=1) / len(p) ** 0.5), 3) if len(p) > 1 else None,
        **{f"p<={at}": common.round_to(float((p <= at).mean()), 3) for at in (0.1, 0.25, 0.5)},
        "alarms": count,
        "promised": common.round_to(float(np.mean(promised)), 3) if promised else None,
        "interval": [common.round_to(one, 3) for one in confidence_interval_rate(count, p.size)],
    }


def measure_kinds(record: common.Record, args: common.Args) -> list[Cell]:
    import torch

    torch.set_num_threads(args.threads)
    rows = []
    for kind in KINDS if args.kinds == "all" else args.kinds.split(","):
        works = {f"{kind}/draw {k}": partial(measure_kind, kind, k) for k in range(args.draws)}
        rows.append(kind_row(kind, [record.cell(name, work) for name, work in works.items()]))
    return rows


def main() -> int:
    parser = common.make_parser(__doc__, "calibration", methods="patchcore")
    parser.set_defaults(folds=5)
    parser.add_argument("--kinds", default="", help=f"all, or some of: {', '.join(KINDS)}")
    parser.add_argument("--draws", type=int, default=20)
    args = common.parse_arguments(parser, threads=2, folds=2, draws=1)
    record = common.Record(args, "false alarms promised and measured, on good pictures only")
    if args.kinds:
        common.print_table("p-values of new good parts", measure_kinds(record, args))
        return record.status()
    rows = []
    for _, root, method, name in common.cases(args):
        train, test = (list(map(str, common.pictures_below(root / s / "good"))) for s in ("train", "test"))
        part = np.random.default_rng(0).permutation(len(train)) % args.folds  # [N], 0..folds-1
        splits = {"test": {"learnt": train, "held": test}}
        for fold in range(args.folds):
            halves = {"learnt": part != fold, "held": part == fold}
            chosen = {k: [p for p, f in zip(train, v, strict=True) if f] for k, v in halves.items()}
            splits[f"fold {fold} of {args.folds}, seed 0"] = chosen
        given: dict[str, Any] = {"method": method, "preset": args.preset, "threads": args.threads}
        given["settings"] = common.settings(args, method)
        found = [record.task(f"{name}/{which}", measure, paths=p, **given) for which, p in splits.items()]
        if None in found:
            continue
        for kind, cells in (("folds, held out", found[1:]), ("full fit, test pictures", found[:1])):
            rows += [{"model": name, "of": kind, **alarms(cells, rate)} for rate in RATES]
    common.print_table("false alarms", rows)
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))

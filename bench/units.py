"""Is the promised false-alarm rate kept where pictures show the same parts, and nobody says so?

    python bench/units.py

`simulated`: scores of parts x pictures, with a correlation within a part, through the real calibration; one
new part each time, of which one picture is drawn. `drawn`: products whose good pictures show parts several
times, a pixel aside and in slightly other light, without names: a model is fitted as usual, and new parts are
judged.
Beside the false alarms stands what the model promises, and how many parts it has counted.
"""

from __future__ import annotations

import math
import sys

import common
from common import Args, Cell

LAYOUTS = ((4, 6), (5, 20), (20, 3))  # parts x pictures of each
CORRELATIONS = (0.0, 0.5, 0.9)
RATE, SEED = 0.05, 71
SHIFT, LIGHT = 1.0, 0.03  # pixels, and share of the brightness, by which pictures of a part differ


def simulate(parts: int, pictures: int, correlation: float, repeats: int) -> Cell:
    """New parts called anomalous, counted in units and, as before, in pictures."""
    import numpy as np

    from flawscope.calibration.threshold import Calibration

    rng = np.random.default_rng([SEED, parts, pictures, round(10 * correlation)])
    units = np.repeat(np.arange(parts), pictures)
    alarms = {"units": 0, "pictures": 0}
    promised = {}
    for _ in range(repeats):
        part, own = rng.standard_normal(parts + 1), rng.standard_normal(len(units) + 1)
        scores = math.sqrt(correlation) * part[np.append(units, parts)] + math.sqrt(1 - correlation) * own
        values = tuple(scores[:-1].tolist())
        for name, of in (("units", tuple(units.tolist())), ("pictures", ())):
            made = Calibration(values, values, 0.0, RATE, units=of)
            alarms[name] += bool(made.is_anomalous(scores[-1]))
            promised[name] = made.effective_rate
    return {name: judge(alarms[name], repeats, promised[name]) for name in alarms}


def judge(alarms: int, count: int, promised: float) -> Cell:
    """False alarms beside the promise; kept: an exact binomial test at 1 % does not say that it is broken."""
    from scipy.stats import binom

    chance = float(binom(count, promised).sf(alarms - 1))
    return {"alarms": alarms, "of": count, "promised": round(promised, 4), "kept": chance >= 0.01}


def picture(kind: str, part: int, view: int, size: int) -> object:
    """A picture [H, W, 3] uint8 of a part, seen once more with another `view`."""
    import numpy as np
    from scipy.ndimage import shift

    from flawscope.synthesis.demo import scene
    from flawscope.synthesis.demo.dataset import CATEGORIES

    canvas = CATEGORIES[kind].render(size, np.random.default_rng([SEED, part]), None)
    rng = np.random.default_rng([SEED, part, view])
    if view:
        canvas = shift(canvas, (*rng.uniform(-SHIFT, SHIFT, 2), 0), order=1, mode="nearest")
        canvas = canvas * np.float32(1 + rng.uniform(-LIGHT, LIGHT))
    return scene.simulate_sensor(canvas, rng)


def measure(args: Args, kind: str, parts: int, pictures: int, draw: int) -> Cell:
    """A model of `parts` parts, each seen `pictures` times; new parts judged by it."""
    import torch

    import flawscope

    torch.set_num_threads(args.threads)
    first = 10_000 * draw
    learnt = [picture(kind, first + p, view, args.side) for p in range(parts) for view in range(pictures)]
    new = [picture(kind, first + 5_000 + p, 0, args.side) for p in range(args.new)]
    settings = {"size": args.side, "false_alarm_rate": RATE, "check": False, "samples": 0, "device": "cpu"}
    model = flawscope.fit(learnt, **settings)
    calibration = model.calibration
    return {
        "parts_counted": calibration.unit_count if calibration.promised else 1,
        "promised": calibration.expected_rate if calibration.promised else None,
        "alarms": sum(model.predict(one).is_anomalous for one in new),
        "of": args.new,
    }


def main() -> int:
    parser = common.make_parser(__doc__, "units", data=False)
    parser.add_argument("--repeats", type=int, default=20_000, help="simulated calibrations of each kind")
    parser.add_argument(
        "--draws", type=int, default=10, help="drawn models of each kind (default: %(default)s)"
    )
    parser.add_argument("--new", type=int, default=20, help="new parts for each model (default: %(default)s)")
    parser.add_argument("--side", type=int, default=128, help="of drawn pictures (default: %(default)s)")
    args = common.parse_arguments(parser, repeats=500, draws=1, new=4)
    record = common.Record(args, "false alarms where pictures show the same parts")
    rows = []
    for parts, pictures in LAYOUTS:
        for correlation in CORRELATIONS:
            label = f"{parts} x {pictures}, correlation {correlation}"
            work = lambda p=parts, n=pictures, c=correlation: simulate(p, n, c, args.repeats)  # noqa: E731
            if found := record.attempt(f"simulated/{label}", work):
                found = common.without_metadata(found)
                rows += [{"scores": label, "counted": name, **cell} for name, cell in found.items()]
    common.print_table("simulated scores", rows)
    rows = []
    for kind in ("plate", "fabric"):
        for parts, pictures in (*LAYOUTS, (24, 1)):
            cells = []
            for draw in range(args.draws):
                name = f"drawn/{kind}, {parts} x {pictures}, draw {draw}"
                work = lambda k=kind, p=parts, n=pictures, d=draw: measure(args, k, p, n, d)  # noqa: E731
                cells.append(record.attempt(name, work))
            promised = [cell for cell in cells if cell and cell["promised"] is not None]
            row: Cell = {
                "product": f"{kind}, {parts} x {pictures}",
                "models": len(cells),
                "promise": len(promised),
            }
            if promised:
                counts = sorted(cell["parts_counted"] for cell in promised)
                rate = sum(cell["promised"] for cell in promised) / len(promised)
                sums = (sum(cell[key] for cell in promised) for key in ("alarms", "of"))
                row |= {"parts counted": f"{counts[0]} to {counts[-1]}", **judge(*sums, rate)}
            rows.append(row)
    common.print_table("drawn products", rows)
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))

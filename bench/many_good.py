"""How do comparing good pictures before a fit, and a new calibration, grow with the number of pictures?

    python bench/many_good.py --threads 1

compare    drawn plates of 96 px in files, every tenth another picture of the plate before: all that happens
           before a fit (reading, comparing, finding parts), and its peak memory beside the fit's forecast.
calibrate  what `flawscope calibrate` does beside judging pictures and comparing them, by drawn scores; and
           judging them, by the default network on `JUDGED` of them.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import common
from common import Cell

SIDE, COPIES, JUDGED = 96, 10, 24


def draw(folder: Path, count: int) -> list[Path]:
    """Draws good pictures, those that are not there."""
    import numpy as np
    from PIL import Image

    from flawscope.synthesis.demo.dataset import draw_picture
    from near_copies import moved

    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{k:05d}.png" for k in range(count)]
    for k, file in enumerate(files):
        if not file.is_file():
            plate = draw_picture("plate", np.random.default_rng(k - (k % COPIES == 1)), size=SIDE)[0]
            Image.fromarray(moved(plate, k) if k % COPIES == 1 else plate).save(file)
    return files


def compare(folder: str, count: int, threads: int) -> Cell:
    """Prepares a fit, and forecasts its peak memory."""
    from flawscope.fitting.preparation import predict_peak_memory
    from flawscope.machine import peak_memory
    from flawscope.methods.threads import set_thread_count

    set_thread_count(threads)
    files, before, began = draw(Path(folder), count), peak_memory(), time.process_time()
    forecast = predict_peak_memory(files)
    assert forecast is not None
    spent, peak = time.process_time() - began, peak_memory()
    return {
        "pictures": count, "cpu_s": round(spent, 1), "ms_a_picture": common.round_to(1000 * spent / count, 3),
        "imports_mib": before // common.MIB, "peak_mib": peak // common.MIB,
        "forecast_mib": forecast // common.MIB,
    }  # fmt: skip


def calibrate(folder: str, count: int, threads: int) -> Cell:
    """Calibrates a model on pictures that it need not judge."""
    import numpy as np

    import flawscope
    from flawscope.machine import peak_memory
    from flawscope.methods.threads import set_thread_count
    from flawscope.pictures.decoding import decode
    from flawscope.predictor import scoring

    set_thread_count(threads)
    files = draw(Path(folder), count)
    model = flawscope.fit(files[:JUDGED], check=False, augment="none")
    shown = [decode(file) for file in files[:JUDGED]]
    began = time.process_time()
    for picture in shown:
        model.predict(picture)
    judging = (time.process_time() - began) / JUDGED
    rng, looks = np.random.default_rng(0), [model.see(picture, picture)[1] for picture in shown]
    scores = np.exp(rng.normal(0, 1, (count, 1, 3)))

    def answer_unjudged(_: Any, rows: Any, *__: Any) -> scoring.Answers:
        return scoring.Answers({k: scoring.Answer(scores[k], looks[k % JUDGED]) for k in rows})

    scoring.SessionPictures.answers = answer_unjudged  # type: ignore[method-assign]
    began = time.process_time()
    model.calibrate(files, force=True)
    return {
        "pictures": count, "cpu_s": common.round_to(time.process_time() - began, 3),
        "judging_cpu_s": common.round_to(count * judging, 4), "peak_mib": peak_memory() // common.MIB,
    }  # fmt: skip


def main() -> int:
    parser = common.make_parser(__doc__, "many_good", data=False)
    parser.add_argument("--counts", default="2500,5000,10000", help="default: %(default)s")
    parser.add_argument("--only", default="compare,calibrate", help="default: %(default)s")
    args = common.parse_arguments(parser, counts="40,80")
    record = common.Record(args, "growth with the number of good pictures")
    with common.workspace(args.work) as work:
        for function in (compare, calibrate):
            rows: list[Any] = []
            for count in common.ints(args.counts) if function.__name__ in args.only else ():
                given = {"folder": work / "plates", "count": count, "threads": args.threads}
                cell = record.task(f"{function.__name__}/{count}", function, **given)
                rows += [] if cell is None else [common.without_metadata(cell)]
            common.print_table(function.__name__, rows)
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))

"""Corrections: what a model is like before and after it learns from them, also where some are wrong.

    python bench/corrections.py
    python bench/corrections.py --only learn --draws 8
    python bench/corrections.py --only time --threads 4

learn    The first half of a product's test pictures, in an order that is drawn, is a line: the active version
         judges them in rounds, a person says of each what it is, a candidate is made and goes live by the
         station's rule (`auto`). The second half says what each version that was live is worth: false alarms,
         defects found, AUROC. The person is wrong about a share of the pictures, drawn again for each draw;
         asked again about what needs a second look, wrong with the same share. A known defect is lost where a
         picture of the line that truly has one, whatever was said of it, was called anomalous, and a version
         that goes live passes it: as if it had not learnt from that picture (`lost`), or as it is
time     A station as anybody runs it, with a PatchCore model of 500 drawn plates: from the verdict to the
         version that is ready, and inspections a second meanwhile beside those without it, in turns

Rules were made on drawn products (`--categories drawn`): plates whose good parts begin to have a label that
the model has never seen. `--change`: a label, another lamp, more light, or turned parts, good and bad ones
alike; how much follows from good training pictures alone, see `lines.py` (`change/...` in the results).
`--join 24`: the model learns from 24 training pictures less, and they come on the line with the others.
"""

from __future__ import annotations

import statistics
import sys
import time
from functools import partial
from itertools import product as product_of
from pathlib import Path
from typing import Any

import httpx

import common
from common import Args, Cell, Record
from lines import CHANGES, DRAWN, GOOD_LABEL, LABEL, OFTEN, Line, changed, product, shares

sys.path.insert(0, str(common.ROOT / "tests" / "station"))

import station_helpers as helpers
from station_helpers import Load, Served

ROUNDS = 2
FEW = 24  # good pictures of the line that a candidate is calibrated with, as the station draws them
AT_START: dict[tuple[str, str], float] = {}  # scores by model and picture


# --------------------------------------------------------------------------------------------------- the line


class Person:
    """Who says what a picture is, and is wrong about a share of them."""

    def __init__(self, wrong: float, rng: Any):
        self.wrong, self.rng = wrong, rng
        self.words: dict[int, bool] = {}  # picture -> good
        self.sure: set[int] = set()
        self.twice = 0

    def look(self, number: int, defective: bool) -> None:
        self.words[number] = defective == (self.rng.random() < self.wrong)

    def look_again(self, number: int, defective: bool) -> None:
        before = self.words[number]
        self.look(number, defective)
        self.twice += 1
        if self.words[number] == before:
            self.sure.add(number)


def learn(model: str, line: Line, seed: int, wrong: float, draw: int, rounds: int, threads: int) -> Cell:
    """One line, from its first picture to the last version."""
    import numpy as np
    import torch

    from flawscope.errors import InputError
    from flawscope.fitting.incremental_update import doubtful, update
    from flawscope.fitting.reviewed import Reviewed
    from flawscope.fitting.update_evaluation import STAYS, judgement
    from flawscope.metrics import auroc
    from flawscope.predictor import load
    from flawscope.station.learning.promotion_policy import waits

    torch.set_num_threads(threads)
    rng = np.random.default_rng([seed, draw, round(1000 * wrong)])
    order = np.random.default_rng(seed).permutation(len(line))
    half = len(line) // 2
    first, second = order[:half].tolist(), order[half:].tolist()
    truth = {k: bool(line[k][1]) for k in range(len(line))}
    active = load(model, device="cpu")
    start, person = active, Person(wrong, rng)
    said: dict[int, tuple[float, float]] = {}
    version, by, learnt = 0, {}, set()

    def score_of(predictor: Any, k: int) -> float:
        if predictor is not start:
            return float(predictor.predict(line[k][0]).score)
        key = model, line[k][0]
        if key not in AT_START:
            AT_START[key] = float(start.predict(line[k][0]).score)
        return AT_START[key]

    def worth(predictor: Any) -> Cell:
        scores = [score_of(predictor, k) for k in second]
        flags = [bool(predictor.calibration.is_anomalous(score)) for score in scores]
        good = [flag for k, flag in zip(second, flags, strict=True) if not truth[k]]
        bad = [flag for k, flag in zip(second, flags, strict=True) if truth[k]]
        return {
            "false_alarms": [sum(good), len(good)],
            "found": [sum(bad), len(bad)],
            "auroc": common.sig(auroc([truth[k] for k in second], scores)),
        }

    curve = [{"pictures": 0, **worth(active)}]
    candidates: list[Cell] = []
    lost: list[int] = []
    as_it_is: list[int] = []
    for part in np.array_split(np.array(first), rounds):
        for k in part.tolist():
            said[k], by[k] = (score_of(active, k), active.calibration.score_threshold), version
            person.look(k, truth[k])
        flagged = {k for k, (score, threshold) in said.items() if score > threshold}
        pool = [k for k in said if person.words[k]]
        chosen = set(rng.permutation(pool)[:FEW].tolist())
        for asked in (True, False):  # what looks like a defect is looked at once more
            pictures = [
                Reviewed(
                    number=k,
                    source=line[k][0],
                    good=person.words[k],
                    learn=person.words[k] and k in flagged and k not in learnt,
                    sure=k in person.sure,
                    drawn=k in chosen and person.words[k],
                    before=said[k] if by[k] == version else None,
                )
                for k in said
            ]
            doubts = doubtful(active.artefact, active, pictures, strict=True) if asked else []
            if not (unsure := [k for k in doubts if k not in person.sure]):
                break
            for k in unsure:
                person.look_again(k, truth[k])
        try:
            made = update(active.artefact, active, pictures, strict=True)
        except InputError as error:  # not one good picture has come
            candidates.append({"pictures": len(said), "waits": ["nothing"], "error": str(error)})
            continue
        found = judgement(pictures, made)
        corrections = sum(person.words[k] == (k in flagged) for k in said)
        why, then = waits(found, corrections, 1), worth(made.predictor)
        found_ones = [k for k in made.after if not person.words[k] and made.before[k].anomalous]
        candidates.append(
            {
                "pictures": len(said),
                "waits": why,
                "learnt": len(made.learnt),
                "good": found["good"],
                "defects": found["defects"],
                "lost": found["lost"],
                "weaker": found["weaker"],
                "halved": [
                    [k, common.sig(made.before[k].severity, 3), common.sig(made.after[k].severity, 3)]
                    for k in found_ones
                    if made.after[k].severity < STAYS * made.before[k].severity
                ],
                "clear": common.sig(made.clear, 3),
                "unsure": len(made.unsure),
                "kept": found["kept"],
                "second_half": then,
                "wrong_in": [k for k in made.learnt if truth[k]],
            }
        )
        if not why:
            for k in [k for k in flagged if truth[k]]:
                if k in made.after and not made.after[k].anomalous:
                    lost.append(k)
                if not made.predictor.calibration.is_anomalous(made.predictor.predict(line[k][0]).score):
                    as_it_is.append(k)
            active, version = made.predictor, version + 1
            learnt |= set(made.learnt)
            curve.append({"pictures": len(said), **then})
    return {
        "versions": version,
        "curve": curve,
        "end": curve[-1],
        "candidates": candidates,
        "said_wrong": sum(person.words[k] == truth[k] for k in said),
        "looked_at_twice": person.twice,
        "wrong_learnt": sorted(k for k in learnt if truth[k]),
        "known_defects_lost": sorted(set(lost)),
        "known_defects_lost_as_it_is": sorted(set(as_it_is)),
    }


# --------------------------------------------------------------------------------------------------- the time


def timed(args: Args, work: Path) -> Cell:
    """From a verdict to a version, and inspections a second meanwhile."""
    from flawscope import fit

    model = work / f"plates-{args.bank}-{common.slug(str(args.size))}.safetensors"
    data = common.draw(work / f"bank-{args.bank}", train=args.bank, good=40, bad=4, size=256)
    if not model.is_file():
        fit(str(data), size=args.size, device="cpu", check=False).save(model)
    exported = model.with_suffix(".onnx")
    if args.exported and not exported.is_file():
        common.flawscope("export", model, "--out", exported, "--quiet")
    parts = [path.read_bytes() for path in common.pictures_below(data / "test")]
    with common.workspace(None) as folder:
        settings = folder / "station.yaml"
        which = exported if args.exported else model
        trained = f"    learn: {{after: 1000, trained: {model}}}\n" if args.exported else ""
        settings.write_text(f"products:\n  plate:\n    model: {which}\n{trained}store: {folder / 'store'}\n")
        words = [str(settings), "--device", "cpu"]
        words += [] if args.threads is None else ["--threads", str(args.threads)]
        served = Served(words, helpers.free_port())
        served.start(300)
        try:
            return _timed(served, parts, args.times)
        finally:
            served.kill()


def _timed(served: Served, parts: list[bytes], times: int) -> Cell:
    import psutil

    api = f"{served.url}/api/v1/products/plate"
    ready, rates, alone, memory = [], [], [], 0
    with httpx.Client(timeout=120) as http:
        for k, data in enumerate(parts[:24]):  # what was reviewed before
            http.post(f"{api}/inspections", params={"name": f"{k}.png"}, content=data)
        load = Load(f"{served.url}", parts)
        load.start()
        try:
            time.sleep(5)
            for turn in range(times):
                alone.append(rate(load, 15.0))
                one = stained(http, api, turn)
                begun = time.perf_counter()
                before = len(load.taken)
                http.post(f"{api}/inspections/{one}/verdict", json={"verdict": "good"}).raise_for_status()
                http.post(f"{api}/inspections/{one}/verdict", json={"verdict": "good"}).raise_for_status()
                number = http.post(f"{api}/learning", json={}).raise_for_status().json()["id"]
                while True:
                    candidate = http.get(f"{api}/candidates/{number}").json()
                    if candidate["status"] not in ("queued", "running"):
                        break
                    time.sleep(0.1)
                took = time.perf_counter() - begun
                assert candidate["status"] == "ready", candidate["error"]
                rates.append((len(load.taken) - before) / took)
                ready.append({"seconds": common.sig(took, 3), "of_these": candidate["seconds"]})
                process = psutil.Process(served.process.pid)
                memory = max([memory, *(child.memory_info().rss for child in process.children())])
        finally:
            load.end()
        judged = candidate["judgement"]
    shares = [meanwhile / before for meanwhile, before in zip(rates, alone, strict=True)]
    return {
        "first_seconds": ready[0]["seconds"],
        "later_seconds": common.sig(statistics.median(r["seconds"] for r in ready[1:] or ready), 3),
        "all": ready,
        "reviewed": judged["good"]["count"] + judged["defects"]["count"],
        "drawn": judged["drawn"],
        "a_second_alone": common.summary(alone),
        "a_second_meanwhile": common.summary(rates),
        "share_meanwhile": common.sig(statistics.median(shares), 3),
        "least_share": common.sig(min(shares), 3),
        "memory_of_the_process_mib": memory // common.MIB,
    }


def stained(http: httpx.Client, api: str, turn: int) -> int:
    """A good part that is flagged, for it has a mark."""
    import io

    import numpy as np
    from PIL import Image

    from flawscope.demo.dataset import draw_picture

    picture = draw_picture("plate", np.random.default_rng([5, turn]), size=256)[0].copy()
    picture[90:120, 90:150] = (215, 205, 60)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    found = http.post(f"{api}/inspections", params={"name": f"mark-{turn}.png"}, content=file.getvalue())
    assert found.json()["decision"] == "anomalous", found.text
    return int(found.json()["id"])


def rate(load: Load, seconds: float) -> float:
    """Inspections a second."""
    before, begun = len(load.taken), time.perf_counter()
    time.sleep(seconds)
    return (len(load.taken) - before) / (time.perf_counter() - begun)


# ------------------------------------------------------------------------------------------------------- all


def line_of(args: Args, name: str, work: Path, record: Record) -> tuple[Path, Line, str]:
    """A model, its line, and what is said of it."""
    model, line = product(args, name, work)
    what = f", {args.join} good ones more" if args.join else ""
    rounds = "" if args.rounds == ROUNDS else f", {args.rounds} rounds"
    if args.change is None:
        return model, line, what + rounds
    how_much = OFTEN
    if args.change in CHANGES:
        cell = partial(shares, args, name, args.change, work)
        how_much = record.cell(f"change/{name}, {args.change}", cell)["chosen"]
        if how_much is None:
            raise SystemExit(f"{name}: each {args.change} is too much")
    folder = work / f"{name}-{args.join}-{args.change}-{how_much:g}"
    what += f", {args.change} {how_much:g}{rounds}"
    return model, changed(line, args.change, how_much, folder), what


def row(name: str, cell: Cell) -> Cell:
    start, end = cell["curve"][0], cell["end"]

    def of(pair: list[int]) -> str:
        return f"{pair[0]}/{pair[1]}"

    return {
        "line": name,
        "versions": cell["versions"],
        "false alarms": f"{of(start['false_alarms'])} -> {of(end['false_alarms'])}",
        "found": f"{of(start['found'])} -> {of(end['found'])}",
        "AUROC": f"{start['auroc']:.4f} -> {end['auroc']:.4f}",
        "said wrong": cell["said_wrong"],
        "wrong learnt": len(cell["wrong_learnt"]),
        "lost": len(cell["known_defects_lost"]),
        "lost as it is": len(cell["known_defects_lost_as_it_is"]),
    }


def main() -> int:
    parser = common.parser(__doc__, "corrections")
    parser.add_argument("--only", default="learn,time", help="default: %(default)s")
    parser.add_argument("--size", default="256", help="that the model sees (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="orders of the pictures (default: %(default)s)")
    parser.add_argument("--draws", type=int, default=2, help="of wrong verdicts (default: %(default)s)")
    parser.add_argument("--wrong", type=float, default=0.05, help="share of them (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of `learn` (default: %(default)s)")
    parser.add_argument(
        "--change", choices=[LABEL, GOOD_LABEL, *CHANGES], help="that the model of `learn` has not seen"
    )
    parser.add_argument("--join", type=int, default=0, help="good training pictures that it has not seen")
    parser.add_argument("--bank", type=int, default=500, help="pictures of the model of `time`")
    parser.add_argument("--times", type=int, default=6, help="candidates of `time` (default: %(default)s)")
    parser.add_argument("--exported", action="store_true", help="`time` with an exported model")
    args = common.arguments(
        parser, categories=DRAWN, size="64", seeds=1, draws=1, bank=20, times=2, threads=1
    )
    record = Record(
        args, "corrections: before and after each version, with wrong verdicts, and how long it takes"
    )
    with common.workspace(args.work) as work:
        if "learn" in args.only:
            table = []
            lines = {name: line_of(args, name, work, record) for name in args.categories.split(",")}
            draws = [(0.0, 0), *((args.wrong, draw) for draw in range(args.draws))]
            for seed, name, (wrong, draw) in product_of(range(args.seeds), lines, draws):
                model, line, what = lines[name]
                called = f"{name}/{args.size}{what}, order {seed}, wrong {wrong:g}, draw {draw}"
                values = str(model), line, seed, wrong, draw, args.rounds, args.threads
                table.append(row(called, record.cell(called, partial(learn, *values))))
            common.table("lines", table)
        if "time" in args.only:
            kind = "exported" if args.exported else "trained"
            cell = record.cell(f"time/{args.bank} pictures, {args.size}, {kind}", lambda: timed(args, work))
            keys = ("first_seconds", "later_seconds", "share_meanwhile", "least_share")
            common.table("time", [{key: cell[key] for key in keys}])
    return record.status()


if __name__ == "__main__":
    sys.exit(common.start(main))

"""Drift: how often is it reported though nothing changes, and how soon when the light changes by 5 %?

    python bench/drift.py

Without a change: drawn scores and brightness of 100,000 good parts, 100 runs, at a bound of 1 % (a third each
for scores, brightness, and the share of flagged pictures); and a light that goes up and down, or fades, by
less than what is reported. With a change: good plates and fabrics are drawn, PatchCore learns from some and
scores others, as they are and with 5 % more and less light; streams are drawn from these. What decides is
the station's own code.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import common
from common import Cell, Settings

BOUND = 0.01
SIDE = 256
LIGHT = {"5 % brighter": 1.05, "5 % darker": 0.95}
LINES = (
    "normal",
    "heavy tails",
    "ten values",
    "2 % defects",
    "share of defects 0 to 10 %",
    "bursts of defects",
)
WAVES = {"1 % up and down": (0.01, 0.0), "1 % less in all": (0.0, -0.01)}  # of the light in 100,000 parts
DAY = 10_000  # parts
MOST = 20_000  # parts after a change
TOGETHER = 256  # parts whose ranks are found at once


# -------------------------------------------------------------------------------------------------- streams


def p_values(numbers: Any, first: int, stream: int) -> Any:
    """Those of the station (`Ranks`, `uniform`), bit for bit, of a stream [parts] at once."""
    import numpy as np

    found, known = np.empty(len(numbers)), np.empty(0)
    for start in range(0, len(numbers), TOGETHER):
        new = numbers[start : start + TOGETHER]
        high = np.searchsorted(known, new, "right")
        earlier = np.tri(len(new), dtype=np.bool_)
        greater = len(known) - high + ((new[None] > new[:, None]) & earlier).sum(1)
        equal = high - np.searchsorted(known, new, "left") + ((new[None] == new[:, None]) & earlier).sum(1)
        place = start + np.arange(len(new))
        x = (first + place).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x += np.uint64((stream * 0xD1342543DE82EF95 + 0x632BE59BD9B4E019) % 2**64)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        u = ((x ^ (x >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) + 0.5
        found[start : start + TOGETHER] = (greater + u / 2**53 * equal) / (place + 1)
        known = np.sort(np.concatenate([known, new]), kind="stable")
    return np.minimum(found, 1 - 2**-53)


def of_scores(
    scores: Any, first_run: int = 0, after: int = 0, stop: float = math.inf, light: bool = False
) -> tuple[Any, Any]:
    """What the test of scores, or of the light, makes of streams [runs, parts].

    Returns:
        The highest logarithm of each run's capital, and the parts from `after` until it is `stop`, inf where
        it never is. It ends when all are.
    """
    import numpy as np

    from flawscope.station.drift.martingale import (
        SHIFTS,
        SPREADS,
        Capital,
        score_bets,
        shift_bets,
    )

    runs, parts = scores.shape
    bets, count, stream = (score_bets, len(SHIFTS) + len(SPREADS), 1)
    if light:
        bets, count, stream = shift_bets, len(SHIFTS), 3
    p = np.stack([p_values(one, (first_run + run) * 10_000_000, stream) for run, one in enumerate(scores)])
    capital = Capital(count, runs)
    highest, first = np.zeros(runs), np.full(runs, np.inf)
    for step in range(parts):
        capital.stake(np.exp(bets(p[:, step])))
        np.maximum(highest, capital.log, out=highest)
        if step >= after:
            first[(capital.log >= stop) & np.isinf(first)] = step - after + 1
            if np.isfinite(first).all():
                break
    return highest, first


def of_flags(flagged: Any, first_run: int = 0) -> Any:
    """The highest logarithm of each run's capital in the test of how many pictures are flagged: [runs,
    pictures] bool."""
    import numpy as np

    from flawscope.station.drift.martingale import TIMES, Capital, flag_bets, uniform

    runs, pictures = flagged.shape
    capital, highest, counted = Capital(len(TIMES), runs), np.zeros(runs), np.zeros(runs)
    for step in range(pictures):
        share, bad = (counted + 0.5) / (step + 1), flagged[:, step]
        counted += bad
        u = np.array([uniform((first_run + run) * 10_000_000 + step, 2) for run in range(runs)])
        p = np.where(bad, u * counted, counted + u * (step + 1 - counted)) / (step + 1)
        capital.stake(np.exp(flag_bets(p, share)))
        np.maximum(highest, capital.log, out=highest)
    return highest


# ---------------------------------------------------------------------------------------------- no change


def of_light(brightness: Any, quiet: int = 0) -> list[Any]:
    """What the station's test of the light says of streams [runs, parts], and after how many parts: with the
    least change that is reported, which `of_scores` does not ask for. None: nothing."""
    found: list[Any] = []
    for run, (parts, (light, begun)) in enumerate(
        zip(brightness, calm_lights(brightness, quiet), strict=True)
    ):
        said = (light.add(run * 10_000_000 + step, 0, parts[step]) for step in range(begun, len(parts)))
        after = next((begun + step + 1 for step, yes in enumerate(said) if yes), None)
        found.append(None if after is None else (after, light.alarm))
    return found


def calm_lights(brightness: Any, quiet: int) -> list[Any]:
    """`Light` after the first parts of streams [runs, parts], and after how many: `quiet`, computed for all
    runs at once, or 0 where it would have spoken. A test compares it with `Light` itself."""
    import numpy as np

    from flawscope.station.drift.martingale import SHIFTS, Capital, shift_bets
    from flawscope.station.drift.run import PARTS, Light, Place

    runs, bets = len(brightness), len(SHIFTS)
    limit = math.log10(PARTS / BOUND)
    p = [p_values(one[:quiet], run * 10_000_000, 3) for run, one in enumerate(brightness)]
    capital = Capital(bets, runs)
    won, since = np.zeros((runs, bets)), np.zeros((runs, bets), np.int64)
    sums, highest = np.zeros((runs, quiet + 1)), np.zeros(runs)
    for step in range(quiet):
        paid = shift_bets(np.array([one[step] for one in p]))
        since[won <= 0] = step
        won = np.maximum(won, 0) + paid
        capital.stake(np.exp(paid))
        np.maximum(highest, capital.log, out=highest)
        sums[:, step + 1] = sums[:, step] + brightness[:, step]
    found: list[Any] = []
    for run in range(runs):
        light = Light(limit)
        if highest[run] >= limit * math.log(10):
            found.append((light, 0))
            continue
        test = light.test
        test.count, test.total, test.light = quiet, sums[run, quiet], sums[run, quiet]
        test._won = won[run].copy()
        test._since = [
            Place(run * 10_000_000 + int(at), 0, int(at), sums[run, at], sums[run, at]) for at in since[run]
        ]
        test.capital.log = capital.log[run : run + 1].copy()
        test.capital._asleep, test.capital._awake = (
            shares[run : run + 1].copy() for shares in (capital._asleep, capital._awake)
        )
        test.capital._count = capital._count
        light.pictures = quiet
        if quiet:
            light._last = float(brightness[run, quiet - 1])
            light._steps = float(
                np.cumsum(np.diff(brightness[run, :quiet], prepend=brightness[run, 0]) ** 2)[-1]
            )
        fill(light._ranks, np.sort(brightness[run, :quiet]))
        found.append((light, quiet))
    return found


def fill(ranks: Any, ordered: Any) -> None:
    """Put all of these into empty `Ranks` at once."""
    from array import array

    for start in range(0, len(ordered), 512):
        block = array("d", ordered[start : start + 512])
        ranks._blocks.append(block)
        ranks._lowest.append(block[0])
    ranks._count = len(ordered)


def line(kind: str, rng: Any, pictures: int) -> Any:
    """Scores of a line where good parts stay as they are, and which pictures are flagged: [pictures] each."""
    import numpy as np

    if kind == "heavy tails":
        return rng.standard_t(1.5, pictures), np.zeros(pictures, np.bool_)
    if kind == "ten values":
        return rng.integers(0, 10, pictures).astype(np.float64), np.zeros(pictures, np.bool_)
    scores = rng.standard_normal(pictures)
    if kind == "normal":
        return scores, np.zeros(pictures, np.bool_)
    if kind == "2 % defects":
        share: Any = 0.02
    elif kind == "bursts of defects":  # 20 pictures in which every second one is a defect, now and then
        starts = np.flatnonzero(rng.random(pictures) < 1 / 2000)
        share = np.full(pictures, 0.005)
        for start in starts:
            share[start : start + 20] = 0.5
    else:
        share = 0.05 * (1 + np.sin(np.arange(pictures) / 3000))
    defects = rng.random(pictures) < share
    scores[defects] = rng.normal(6, 1, int(defects.sum()))  # nearly none of them is missed
    return scores, scores > 2.6  # half a percent of good parts are flagged, too


def brightness(kind: str, flagged: Any, run: int) -> Any:
    """Of the same line, spread by 3 % in the manner of its scores; what is flagged is 8 % darker."""
    import numpy as np

    rng = np.random.default_rng([13, LINES.index(kind), run])
    drawn = {"heavy tails": lambda n: rng.standard_t(1.5, n), "ten values": lambda n: rng.integers(-4, 6, n)}
    found = 0.45 * (1 + 0.03 * drawn.get(kind, rng.standard_normal)(len(flagged)))
    return np.clip(np.where(flagged, 0.92 * found, found), 0, 1)


def quiet(kind: str, runs: int, pictures: int, threads: int) -> Cell:
    """Highest capitals of runs without a change."""
    import numpy as np

    from flawscope.station.drift.run import PARTS

    rng = np.random.default_rng([11, LINES.index(kind)])
    made = [line(kind, rng, pictures) for _ in range(runs)]
    flagged = np.stack([flags for _, flags in made])
    good = [scores[~flags] for scores, flags in made]
    shortest = min(map(len, good))
    by_scores, _ = of_scores(np.stack([scores[:shortest] for scores in good]))
    by_flags = of_flags(flagged)
    limit = math.log(PARTS / BOUND)
    return {
        "runs": runs,
        "pictures": pictures,
        "good": shortest,
        "flagged": common.sig(float(flagged.mean()), 3),
        "bound": BOUND,
        "drift_alarms": int((by_scores >= limit).sum()),
        "share_notices": int((by_flags >= limit).sum()),
        "highest_capital": common.sig(math.exp(by_scores.max()), 4),
        "limit": PARTS / BOUND,
    }


def lit(kind: str, runs: int, pictures: int, threads: int) -> Cell:
    """The same of the brightness of these parts."""
    import numpy as np

    from flawscope.station.drift.run import PARTS

    rng = np.random.default_rng([11, LINES.index(kind)])
    flagged = [line(kind, rng, pictures)[1] for _ in range(runs)]
    shortest = min(int((~flags).sum()) for flags in flagged)
    parts = [brightness(kind, flags, run)[~flags][:shortest] for run, flags in enumerate(flagged)]
    highest, _ = of_scores(np.stack(parts), light=True)
    return {
        "runs": runs,
        "pictures": pictures,
        "good": shortest,
        "bound": BOUND,
        # at most so many: how large the change is was not asked
        "light_alarms": int((highest >= math.log(PARTS / BOUND)).sum()),
        "highest_capital": common.sig(math.exp(highest.max()), 4),
        "limit": PARTS / BOUND,
    }


def swings(kind: str, spread: float, runs: int, pictures: int, threads: int) -> Cell:
    """Alarms of a light that does change, by less than what is reported.

    Args:
        spread: of the brightness of parts, as a share of it.
    """
    import numpy as np

    from flawscope.station.drift.run import PARTS

    wave, trend = WAVES[kind]
    time = np.arange(pictures)
    lit = 1 + wave * np.sin(2 * np.pi * time / DAY) + trend * time / pictures
    rng = np.random.default_rng([29, list(WAVES).index(kind)])
    found = of_light(0.45 * lit * (1 + spread * rng.standard_normal((runs, pictures))))
    sure, _ = of_scores(0.45 * lit * (1 + spread * rng.standard_normal((runs, pictures))), light=True)
    limit = math.log(PARTS / BOUND)
    return {
        "runs": runs,
        "pictures": pictures,
        "light_alarms": sum(one is not None for one in found),
        "sure": int((sure >= limit).sum()),  # runs in which the change is certain, however small it is
    }


# ----------------------------------------------------------------------------------------- a change of light


def scored(product: str, train: int, count: int, settings: Settings, threads: int) -> Cell:
    """Scores of new good pictures, as they are and in other light, and whether they are flagged."""
    import numpy as np
    import torch

    import flawscope
    from flawscope.synthesis.demo.dataset import draw_picture

    torch.set_num_threads(threads)
    shown = [
        draw_picture(product, np.random.default_rng([17, k]), size=SIDE)[0] for k in range(train + count)
    ]
    model = flawscope.fit(shown[:train], samples=0, check=False, device="cpu", **settings)
    found: Cell = {"threshold": model.calibration.score_threshold}
    for name, factor in {"as it was": 1.0, **LIGHT}.items():
        lit = [np.clip(one * factor + 0.5, 0, 255).astype(np.uint8) for one in shown[train:]]
        results = [result for _, result in model.stream(lit)]
        found[name] = [
            [result.score, bool(result.is_anomalous), common.sig(result.brightness)] for result in results
        ]
    return found


def delays(before: Any, after: Any, quiet: int, runs: int, threads: int, light: bool = False) -> Cell:
    """Pictures until drift, or another light, is reported, in streams that are drawn from pictures before and
    after a change.

    Args:
        before, after: [score, whether it is flagged, brightness] of pictures.
        quiet: good parts before the change.
    """
    import numpy as np

    from flawscope.station.drift.run import PARTS

    calm = np.array([[score, light] for score, bad, light in before if not bad])
    changed = np.array(after)
    streams, places = [], []
    for run in range(runs):
        rng = np.random.default_rng([23, quiet, run])
        drawn = changed[rng.integers(0, len(changed), MOST)]
        places.append(np.flatnonzero(drawn[:, 1] == 0))  # flagged pictures take no part, but take time
        calm_part = calm[rng.integers(0, len(calm), quiet)]
        streams.append([calm_part[:, int(light)], drawn[places[-1], 2 if light else 0]])
    shortest = min(map(len, places))
    made = np.stack([np.concatenate([a, b[:shortest]]) for a, b in streams])
    cell: Cell = {"runs": runs, "quiet": quiet}
    if light:
        said = of_light(made, quiet)
        later = [None if one is None or one[0] <= quiet else one for one in said]
        first = [math.inf if one is None else one[0] - quiet for one in later]
        sizes = [one[1].light for one in later if one is not None]
        cell["too_early"] = sum(one is not None and one[0] <= quiet for one in said)
        cell["size"] = common.sig(float(np.median(sizes)), 3) if sizes else None
    else:
        _, first = of_scores(made, 0, quiet, math.log(PARTS / BOUND))
    known = [
        int(places[run][int(parts) - 1]) + 1 if math.isfinite(parts) else math.inf
        for run, parts in enumerate(first)
    ]
    return cell | quantiles(known)


def quantiles(delays: list[float]) -> Cell:
    """Of pictures until something is seen; inf: it never is."""
    known, cell = sorted(delays), {"never": sum(map(math.isinf, delays))}
    for name, share in (("median", 0.5), ("90 %", 0.9)):
        one = known[math.ceil(share * len(known)) - 1]
        cell[name] = None if math.isinf(one) else one
    return cell


def main() -> int:
    parser = common.parser(__doc__, "drift", methods="patchcore", data=False)
    parser.add_argument("--runs", type=int, default=100, help="without a change (%(default)s)")
    parser.add_argument("--pictures", type=int, default=100_000, help="of each (%(default)s)")
    parser.add_argument("--lines", default=",".join(LINES), help="default: all")
    parser.add_argument("--products", default="plate,fabric", help="default: %(default)s")
    parser.add_argument("--train", type=int, default=60, help="pictures learnt from (%(default)s)")
    parser.add_argument("--count", type=int, default=400, help="pictures scored (%(default)s)")
    parser.add_argument("--quiet", type=common.numbers, default=[1000, 10_000, 100_000], help="parts before")
    parser.add_argument("--swings", type=int, default=10, help="runs of a light that swings (%(default)s)")
    parser.add_argument("--streams", type=int, default=40, help="drawn for each delay (%(default)s)")
    parser.add_argument("--light-streams", type=int, default=100, help="the same, of light (%(default)s)")
    quick = {
        "runs": 4,
        "pictures": 300,
        "products": "plate",
        "train": 6,
        "count": 6,
        "quiet": [100],
        "streams": 2,
        "light_streams": 2,
        "swings": 2,
    }
    args = common.arguments(parser, threads=2, **quick)
    record = common.Record(args, "Drift: false alarms without a change, delay after a change of light")
    given = {"threads": args.threads}
    for test, function, title in (("quiet", quiet, "No change"), ("light", lit, "No change of light")):
        rows = []
        for kind in [one for one in args.lines.split(",") if one]:
            work = {"kind": kind, "runs": args.runs, "pictures": args.pictures, **given}
            cell = record.attempt(f"{test}/{kind}", lambda f=function, w=work: common.task(f, **w).json)
            if cell:
                rows.append({"line": kind, **{k: v for k, v in cell.items() if k not in ("_", "bound")}})
        common.table(title, rows)
    rows = []
    for kind in WAVES if args.swings else ():
        for spread in (0.003, 0.03):
            work = {"kind": kind, "spread": spread, "runs": args.swings, "pictures": args.pictures, **given}
            cell = record.attempt(f"swings/{kind}/{spread}", lambda w=work: common.task(swings, **w).json)
            if cell:
                rows.append({"light": kind, "spread": spread, **{k: v for k, v in cell.items() if k != "_"}})
    common.table("A light that changes by less than what is reported", rows)
    rows = []
    for product in [one for one in args.products.split(",") if one]:
        settings = {"size": 128, **common.settings(args, "patchcore")}
        work = {"product": product, "train": args.train, "count": args.count, "settings": settings, **given}
        scores = record.attempt(f"scores/{product}", lambda w=work: common.task(scored, **w).json)
        for change in LIGHT if scores else ():
            for calm in args.quiet:
                for test, runs in (("delay", args.streams), ("light", args.light_streams)):
                    task = {"before": scores["as it was"], "after": scores[change], "quiet": calm}
                    task |= {"runs": runs, "light": test == "light", **given}
                    cell = record.attempt(
                        f"{test}/{product}/{change}/{calm}", lambda t=task: common.task(delays, **t).json
                    )
                    if cell:
                        flagged = sum(one[1] for one in scores[change]) / len(scores[change])
                        row = {"product": product, "light": change, "flagged": flagged, "test": test}
                        rows.append({**row, **{k: v for k, v in cell.items() if k != "_"}})
    common.table("Pictures until drift is reported after a change of light", rows)
    return record.status()


if __name__ == "__main__":
    sys.exit(common.start(main))

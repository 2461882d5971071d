"""The fast exact coreset against plain loops, anomalib's KCenterGreedy and the bare matrix products.

    python bench/coreset.py --peer-python PYTHON_WITH_ANOMALIB --full

All engines get the same features in one run: transistor at 256 px by the default backbone, cropped to
--points (drawn pictures where the reference data are missing). The slow ones make --peer-picks picks out of
all points; what the whole selection would take is worked out from a straight line (every pick costs them
the same) and labelled `extrapolated_from`. --full also runs the plain loop with products to the end.

Correctness: the same picks as the plain loop on integer features; the same covering radius, computed in
float64, on real ones; the same bytes with one thread and with several.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import common
from flawscope.methods.patchcore import coreset
from flawscope.methods.threads import workers

OURS, GROUPS, FLOOR = "flawscope", "flawscope, leave-one-out kept", "bare matrix products"
PRODUCTS, DIFFERENCES, PEER = "plain loop, products", "plain loop, differences", "anomalib KCenterGreedy"
FULL = "plain loop, products, to the end"


def plain_products(features: Tensor, count: int) -> Tensor:
    """Textbook greedy k-center, one matrix-vector product a pick: |x|² + |y|² - 2xy, running minimum."""
    points = features - features[0]  # as close to exact as fp32 gets; integers stay integers
    norms = (points * points).sum(1)

    def distances(index: int) -> Tensor:
        return torch.addmv(norms, points, points[index], alpha=-2.0).add_(norms[index])

    return _greedy(distances, len(features), count)


def plain_differences(features: Tensor, count: int) -> Tensor:
    """Textbook greedy k-center with the differences written out."""
    return _greedy(lambda index: (features - features[index]).square().sum(1), len(features), count)


def _greedy(distances: Callable[[int], Tensor], total: int, count: int) -> Tensor:
    nearest = torch.full((total,), float("inf"))
    picks, index = [], 0
    for _ in range(count):
        picks.append(index)
        torch.minimum(nearest, distances(index), out=nearest)
        nearest[index] = -1.0  # never again
        index = int(nearest.argmax())
    return torch.tensor(picks)


def bare_products(features: Tensor, count: int) -> None:
    """Only the matrix products of `count` picks with all points, in blocks, nothing kept: the floor."""
    picks = features[:count].T

    def multiply(start: int) -> None:
        torch.mm(features[start : start + coreset.ROWS], batch)

    with workers() as each:
        for k in range(0, count, coreset.BATCH):
            batch = picks[:, k : k + coreset.BATCH]
            each(multiply, range(0, len(features), coreset.ROWS))


def radius(features: Tensor, picks: Tensor) -> float:
    """Covering radius in float64."""
    points = features.double()
    chosen = points[picks]
    return max(float(torch.cdist(rows, chosen).amin(1).max()) for rows in points.split(1024))


# ------------------------------------------------------------------------------------------------- parts


def real_features(args: argparse.Namespace, folder: Path) -> tuple[Tensor, int, str]:
    """[--points, D], patches a picture, and where they come from."""
    root = common.mvtec(args, "transistor")
    if root is not None:
        paths, origin = common.pictures_below(root / "train"), "transistor, training pictures"
    else:
        per_picture = 1024
        paths = common.pictures_below(common.draw(folder, math.ceil(args.points / per_picture)))
        origin = "drawn pictures"
    features = common.embed(paths, size="256")[0]  # [N, P, D]
    flat = features.flatten(0, 1)[: args.points].clone()
    if len(flat) < args.points:
        common.say(f"only {len(flat)} points at hand")
    return flat, features.shape[1], origin


def speed(
    args: argparse.Namespace, features: Tensor, per_picture: int, folder: Path, kept: dict[str, Tensor]
) -> dict[str, Any]:
    """`kept` gets the picks of the plain loop that ran to the end."""
    picks = min(args.picks, len(features))
    groups = torch.arange(len(features)) // per_picture
    times: dict[str, list[float]] = {}
    few: dict[str, list[dict[str, Any]]] = {}
    facts: dict[str, Any] = {"points": len(features), "dimensions": features.shape[1], "picks": picks}
    peer = common.peer_python(args)
    for round_ in range(args.repeats):
        for name, work in (
            (OURS, lambda: coreset.select(features, picks)),
            (GROUPS, lambda: coreset.select(features, picks, groups=groups)),
            (FLOOR, lambda: bare_products(features, picks)),
        ):
            times.setdefault(name, []).append(common.seconds(work))
            common.say(f"  {name}: {times[name][-1]:.2f} s")
        if round_ >= args.peer_repeats:
            continue
        for name, loop in ((PRODUCTS, plain_products), (DIFFERENCES, plain_differences)):
            for count in args.peer_picks:
                took = common.seconds(lambda loop=loop, count=count: loop(features, count))
                few.setdefault(name, []).append({"picks": count, "seconds": took})
                common.say(f"  {name}, {count} picks: {took:.2f} s")
        if peer:
            file = folder / "features.npy"
            np.save(file, features.numpy())
            wanted = ",".join(map(str, args.peer_picks))
            script = common.ROOT / "bench" / "peer.py"
            found = common.run([peer, script, "coreset", file, "--picks", wanted]).json
            few.setdefault(PEER, []).extend(found["runs"])
            facts[PEER] = {"versions": found["versions"], "projected_to": found["projected_to"]}
            common.say(f"  {PEER}: {found['runs']}")
    if args.full:
        times[FULL] = [common.seconds(lambda: kept.update({FULL: plain_products(features, picks)}))]
    engines: dict[str, Any] = {
        name: {"seconds": statistics.median(t), "measured": common.summary(t)} for name, t in times.items()
    }
    for name, runs in few.items():
        medians = [
            {"picks": n, "seconds": statistics.median(r["seconds"] for r in runs if r["picks"] == n)}
            for n in args.peer_picks
        ]
        engines[name] = common.extrapolate(medians, picks) | {"runs_of_each": args.peer_repeats}
    for entry in engines.values():
        entry["times_flawscope"] = common.ratio(entry["seconds"], engines[OURS]["seconds"])
    return {**facts, "engines": engines}


def integers(args: argparse.Namespace) -> dict[str, Any]:
    """fp32 is exact here and ties abound: the picks must be identical."""
    points, picks = args.integer_size
    features = torch.randint(0, 16, (points, 32), generator=torch.Generator().manual_seed(0)).float()
    same = torch.equal(coreset.greedy_k_center(features, picks), plain_products(features, picks))
    return {"points": points, "dimensions": 32, "picks": picks, "identical": same}


def covering(features: Tensor, picks: int, plain: Tensor | None = None) -> dict[str, Any]:
    """Both radii in float64, and what `select` itself says. `plain`: the plain loop's picks, where known."""
    found = coreset.select(features, picks)
    plain = plain_products(features, picks) if plain is None else plain
    ours, theirs = radius(features, found.indices), radius(features, plain)
    return {
        "points": len(features),
        "picks": picks,
        "radius": ours,
        "radius_plain_loop": theirs,
        "relative_difference": abs(ours - theirs) / theirs,
        "reported_radius_off_by": abs(found.radius - ours) / ours,
        "same_picks_share": float(torch.isin(found.indices, plain).float().mean()),
        "same_order": torch.equal(found.indices, plain),
    }


def thread_counts(features: Tensor, picks: int) -> dict[str, Any]:
    before = torch.get_num_threads()
    found = {}
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found[threads] = coreset.select(features, picks)
    finally:
        torch.set_num_threads(before)
    return {
        "points": len(features),
        "picks": picks,
        "threads": list(found),
        "identical": all(
            torch.equal(one.indices, found[1].indices) and torch.equal(one.distances, found[1].distances)
            for one in found.values()
        ),
    }


# -------------------------------------------------------------------------------------------------- main


def show(cells: dict[str, Any]) -> None:
    measured = cells["speed"]
    rows = [
        (
            name,
            common.short(entry["seconds"]),
            f"{entry['times_flawscope']:.3g}",
            "extrapolated from " + ", ".join(f"{r['picks']}" for r in entry["extrapolated_from"]) + " picks"
            if "extrapolated_from" in entry
            else f"median of {len(entry['measured']['all'])}",
        )
        for name, entry in measured["engines"].items()
    ]
    size = f"{measured['points']:,} x {measured['dimensions']} -> {measured['picks']:,}"
    common.table(f"{size} ({measured['origin']})", rows, ("engine", "seconds", "x flawscope", "how"))
    rows = [("integer features: picks identical", cells["integers"]["identical"])]
    for name in ("covering radius, part", "covering radius, all"):
        if name in cells:
            rows.append((f"{name}: relative difference", f"{cells[name]['relative_difference']:.1e}"))
    threads = cells["threads"]
    rows.append((f"{threads['threads']} threads: bytes identical", threads["identical"]))
    common.table("correctness", rows, ("what", "found"))


def main() -> int:
    parser = common.parser(__doc__, "coreset")
    common.add_peer(parser)
    parser.add_argument("--points", type=int, default=204_800)
    parser.add_argument("--picks", type=int, default=20_480)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer-repeats", type=int, default=1, help="of the slow engines")
    parser.add_argument("--full", action="store_true", help="the plain loop with products to the end")
    parser.add_argument("--integer-size", type=common.numbers, default=[20_000, 2_000], metavar="N,PICKS")
    parser.add_argument("--part-size", type=common.numbers, default=[40_000, 4_000], metavar="N,PICKS")
    args = parser.parse_args()
    keys = ("points", "picks", "full", "integer_size", "part_size", "peer_picks")
    settings = {k: getattr(args, k) for k in keys} | {"peer": common.peer_python(args) is not None}
    record = common.Record(args, "exact greedy k-center: seconds and correctness", settings)
    common.headline("coreset")
    with common.workspace() as folder:
        kept: dict[str, Tensor] = {}
        features, per_picture, origin = real_features(args, folder)
        record.cell("speed", lambda: speed(args, features, per_picture, folder, kept) | {"origin": origin})
    record.cell("integers", lambda: integers(args))
    points, picks = args.part_size
    part = features[torch.linspace(0, len(features) - 1, min(points, len(features))).long()]
    record.cell("covering radius, part", lambda: covering(part, min(picks, len(part))))
    picks = min(args.picks, len(features))
    if args.full:
        record.cell("covering radius, all", lambda: covering(features, picks, kept.get(FULL)))
    record.cell("threads", lambda: thread_counts(features, picks))
    show(record.cells)
    return 0


if __name__ == "__main__":
    sys.exit(main())

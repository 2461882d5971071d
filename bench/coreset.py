"""How fast is the exact coreset, and is it the textbook's?

    python bench/coreset.py

Against the plain loop and the bare matrix products, on the same features in one run: the training pictures
of the first category at 256 px by the default backbone, cropped to --points. The plain loop runs once, to its
end. Then the covering radius of both, computed in float64, and whether the picks are the same with one thread
and with several.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import common
from common import Cell

if TYPE_CHECKING:
    from torch import Tensor

OURS = "flawscope"


def features_of(paths: list[Path], size: str) -> Tensor:
    """PatchCore's features [N, P, D] of pictures."""
    import torch

    from flawscope.fitting.preparation import prepare
    from flawscope.methods import registry
    from flawscope.methods.detector import embed_pictures
    from flawscope.methods.patchcore.model import Model

    prepared = prepare(paths, registry.method("patchcore"), device="cpu", size=size)
    model = prepared.model
    assert isinstance(model, Model)
    features = torch.empty(len(paths), sum(model.patches), model.views[0].embedding.width)

    def store(index: int, one: Tensor, inside: Tensor | None) -> None:
        features[index] = one

    embed_pictures(model, prepared.task.load, range(len(paths)), store)
    return features


def plain_loop(features: Tensor, count: int) -> Tensor:
    """Textbook greedy k-center, one matrix-vector product a pick: |x|² + |y|² - 2xy, running minimum."""
    import torch

    points = features - features[0]  # as close to exact as fp32 gets; integers stay integers
    norms = (points * points).sum(1)
    nearest = torch.full((len(points),), float("inf"), device=points.device)
    picks, index = [], 0
    for _ in range(count):
        picks.append(index)
        distances = torch.addmv(norms, points, points[index], alpha=-2.0).add_(norms[index])
        torch.minimum(nearest, distances, out=nearest)
        nearest[index] = -1.0  # never again
        index = int(nearest.argmax())
    return torch.tensor(picks, device=points.device)


def bare_products(features: Tensor, count: int) -> None:
    """Only the matrix products of `count` picks with all points, in blocks, nothing kept: the floor."""
    import torch

    from flawscope.methods.patchcore import coreset
    from flawscope.methods.threads import workers

    picks = features[:count].T

    def multiply(start: int) -> None:
        torch.mm(features[start : start + coreset.ROWS], batch)

    with workers() as each:
        for k in range(0, count, coreset.BATCH):
            batch = picks[:, k : k + coreset.BATCH]
            each(multiply, range(0, len(features), coreset.ROWS))


def radius(features: Tensor, picks: Tensor) -> float:
    """Covering radius in float64."""
    import torch

    points = features.double()
    chosen = points[picks]
    return max(float(torch.cdist(rows, chosen).amin(1).max()) for rows in points.split(1024))


def speed(features: Tensor, picks: int, groups: Tensor, repeats: int) -> Cell:
    """All of them in every round, and the plain loop once, to its end; then whether they agree."""
    import torch

    from flawscope.methods.patchcore import coreset

    works: dict[str, common.Work] = {
        OURS: lambda: coreset.select(features, picks),
        f"{OURS}, leave-one-out kept": lambda: coreset.select(features, picks, groups=groups),
        "bare matrix products": lambda: bare_products(features, picks),
    }
    times = common.time_rounds(works, repeats, warm=0)
    kept: list[Tensor] = []
    times["plain loop"] = [common.seconds(lambda: kept.append(plain_loop(features, picks)))]
    engines = {name: common.summary(t) for name, t in times.items()}
    for entry in engines.values():
        entry["/ flawscope"] = common.round_to(entry["median"] / engines[OURS]["median"], 4)
    before, several = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            several.append(coreset.select(features, picks))
    finally:
        torch.set_num_threads(before)
    found = several[0]
    ours, theirs = radius(features, found.indices), radius(features, kept[0])
    agreement = {
        "radius": ours,
        "radius_plain_loop": theirs,
        "relative_difference": abs(ours - theirs) / theirs,
        "reported_radius_off_by": abs(found.radius - ours) / ours,
        "same_picks_share": float(torch.isin(found.indices, kept[0]).float().mean()),
        "same_with_1_2_3_threads": all(torch.equal(one.indices, found.indices) for one in several),
    }
    size = {"points": len(features), "dimensions": features.shape[1], "picks": picks}
    return {**size, "engines": engines, "agreement": agreement}


def main() -> int:
    import torch

    parser = common.make_parser(__doc__, "coreset")
    parser.add_argument("--points", type=int, default=204_800, help="default: %(default)s")
    parser.add_argument("--picks", type=int, default=20_480, help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    args = common.parse_arguments(parser, points=1000, picks=100, repeats=1)
    record = common.Record(args, "exact greedy k-center: seconds and correctness")
    for category, root in list(common.category_folders(args))[:1]:
        paths = common.pictures_below(root / "train")
        maps = features_of(paths, "64" if args.quick else "256")  # [N, P, D]
        features = maps.flatten(0, 1)[: args.points].clone().to(args.device)
        groups = torch.arange(len(features), device=args.device) // maps.shape[1]
        given = (features, args.picks, groups, args.repeats)
        name = f"{category}/{len(features)} points, {args.picks} picks"
        cell = record.cell(name, lambda given=given: speed(*given))  # type: ignore[misc]
        engines = cell["engines"].items()
        keys = {"seconds": "median", "/ ours": "/ flawscope"}
        rows = [{"engine": k, **{to: v[at] for to, at in keys.items()}} for k, v in engines]
        common.print_table(name, rows)
        common.print_table("against the plain loop", [cell["agreement"]])
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))

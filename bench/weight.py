"""How much should the transformer of `accurate` weigh, and can simulated defects tell it for a product?

    python bench/weight.py --data DATA --threads 1

`accurate` multiplies the CNN's map c by √(1 + v²), v being the transformer's. Here the weight w of
c·√(1 + w v²) is one of {0, ½, 1, 2}, or a picture's score is the larger of both maps' maxima. A product's way
is chosen by simulated defects of all kinds on good pictures that were left out, drawn towards what the other
products show; it is judged on test pictures beside the default (w = 0) and today's `accurate` (w = 1). The
maxima of all maps are written, so that a rule of choice is tried without another fit.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import common
from common import Cell, Record

PRODUCTS = (
    "real/commutator", "real/lens", "real/fabric", "real/paper_brg01_rl", "real/cookie", "mvtec/transistor",
    "real/paper_gla01_tl", "real/pcb", "mvtec/toothbrush", "real/paper_flr01_tl", "real/paper_btn01_rl",
    "real/paper_fvn01_tl", "real/paper_zpb01_rl",
)  # fmt: skip
LEARNT, LEFT_OUT, SIMULATED = 20, 20, 60
GOOD, BAD = 16, 24  # test pictures
WEIGHTS = (0.0, 0.5, 1.0, 2.0)
WAYS = ("0", "0.5", "1", "2", "larger")
DEFAULT, TODAY = "0", "1"
LOSS = 0.003  # AUROC that no product may lose beside the better of default and today's
BATCH = 4
RESAMPLED = 100  # times
SEED = 93


class Maxima(NamedTuple):
    """Maxima of a picture's joined map by weight, and of each of the two maps; the joined map itself
    [weights, h, w], a quarter of its size."""

    joined: tuple[float, ...]
    cnn: float
    transformer: float
    drawn: np.ndarray


def maxima(model: Any, images: Any) -> list[Maxima]:
    """Maxima of pictures [B, 3, H, W] at network size."""
    import torch
    from torch.nn import functional as F

    with torch.no_grad():
        features = model.embed(images)
        maps = []
        for branch, part in zip(model.branches, model.parts(features), strict=True):
            distances = branch.search(part - branch.centre, branch.valid_mask(None))
            maps.append(branch.anomaly_map(distances))
        maps = model.scale_maps(maps)
        by_cnn = [one for branch, one in zip(model.branches, maps, strict=True) if not branch.second]
        seen = next(one for branch, one in zip(model.branches, maps, strict=True) if branch.second)
        cnn = torch.stack(by_cnn).clamp(min=0).square().sum(0).sqrt()
        seen = seen.clamp(min=0)
        joined = [cnn * (1 + w * seen.square()).sqrt() for w in WEIGHTS]
        highest = torch.stack([one.flatten(1).amax(1) for one in joined], 1)
        drawn = torch.stack([F.max_pool2d(one[:, None], 4)[:, 0] for one in joined], 1)
    return [
        Maxima(
            tuple(round(v, 5) for v in highest[k].tolist()),
            round(float(cnn[k].max()), 5),
            round(float(seen[k].max()), 5),
            drawn[k].numpy(),
        )
        for k in range(len(images))
    ]


def split_good(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Pictures to learn from and left-out ones, which show other items."""
    rng = np.random.default_rng(SEED)
    groups = sorted({common.group_of(path) for path in paths})
    order = [groups[int(k)] for k in rng.permutation(len(groups))]
    by_group = {group: [path for path in paths if common.group_of(path) == group] for group in groups}
    shuffled = [path for group in order for path in by_group[group]]
    most = min(LEFT_OUT, len(paths) * 2 // 5)
    last = {common.group_of(path) for path in shuffled[:most]}
    rest = [path for path in shuffled if common.group_of(path) not in last]
    return [rest[int(k)] for k in rng.permutation(len(rest))][:LEARNT], shuffled[:most]


def simulated(good: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Simulated defects of all kinds and sizes, on good pictures in turn."""
    return [picture for picture, _ in common.simulate_defects(good, SIMULATED, SEED)]


def measure(root: Path) -> Cell:
    """Maxima of left-out good pictures, simulated defects and test pictures."""
    import torch

    import flawscope
    from flawscope.datasets.masks import union_masks
    from flawscope.evaluation.metrics.pixel import pixel_metrics
    from flawscope.pictures.decoding import decode, to_eight_bits

    data = flawscope.open_dataset(root)
    learnt, left_out = split_good([Path(item.path) for item in data.train])
    predictor = flawscope.fit(learnt, preset="accurate", device="cpu", check=False, samples=0, force=True)
    model, preprocess = predictor.detector, predictor.manifest.preprocess

    def judge(pictures: Sequence[Any]) -> list[Maxima]:
        found = []
        for k in range(0, len(pictures), BATCH):
            images = [preprocess(one)[0] for one in pictures[k : k + BATCH]]
            found += maxima(model, torch.from_numpy(np.concatenate(images)))
        return found

    rng = np.random.default_rng(SEED)
    by_class = []
    for is_bad, most in ((False, GOOD), (True, BAD)):
        items = [item for item in data.test if item.anomalous == is_bad]
        by_class.append([items[int(k)] for k in rng.permutation(len(items))][:most])
    good_pixels = [to_eight_bits(decode(path)) for path in left_out]
    found = {
        "good": judge(left_out),
        "simulated": judge(simulated(good_pixels)),
        "new good": judge([item.path for item in by_class[0]]),
        "defects": judge([item.path for item in by_class[1]]),
    }
    drawn = [*found["new good"], *found["defects"]]
    height, width = drawn[0].drawn.shape[1:]
    masks = [np.zeros((height, width), bool) for _ in by_class[0]]
    for item in by_class[1]:
        mask = union_masks(item.masks, decode(item.path).shape[:2])
        rows = np.arange(height) * mask.shape[0] // height
        columns = np.arange(width) * mask.shape[1] // width
        masks.append(mask[rows][:, columns])
    outlines = {}
    for k, weight in enumerate(WEIGHTS):
        metrics = pixel_metrics([one.drawn[k] for one in drawn], masks)
        outlines[f"{weight:g}"] = [round(float(metrics.ap), 4), round(float(metrics.au_pro), 4)]
    scores = {
        name: [" ".join(map(str, [*one.joined, one.cnn, one.transformer])) for one in those]
        for name, those in found.items()
    }
    return {"learnt": len(learnt), "left out": len(left_out), "scores": scores, "outlines": outlines}


# ---------------------------------------------------------------------------------------------- the choice


def by_way(cell: Cell) -> dict[str, dict[str, np.ndarray]]:
    """Scores of each group of pictures by each way. The larger of both is of maxima on the scale of the
    left-out good pictures: their median, and how far it lies below their upper tenth."""
    values = {name: np.array([row.split() for row in rows], float) for name, rows in cell["scores"].items()}
    both = values["good"][:, -2:]
    middle = np.median(both, 0)
    spread = np.maximum(np.quantile(both, 0.9, 0) - middle, 1e-6)
    found: dict[str, dict[str, np.ndarray]] = {}
    for k, way in enumerate(WAYS[:-1]):
        found[way] = {name: rows[:, k] for name, rows in values.items()}
    found[WAYS[-1]] = {name: ((rows[:, -2:] - middle) / spread).max(1) for name, rows in values.items()}
    return found


def figures(cell: Cell) -> tuple[dict[str, float], dict[str, float]]:
    """AUROC by way: of simulated defects on left-out pictures, and of real ones on new pictures."""
    drawn, real = {}, {}
    for way, scores in by_way(cell).items():
        drawn[way] = auroc(scores["good"], scores["simulated"])
        real[way] = auroc(scores["new good"], scores["defects"])
    return drawn, real


def auroc(good: np.ndarray, bad: np.ndarray) -> float:
    above = (bad[:, None] > good) + 0.5 * (bad[:, None] == good)
    return float(above.mean())


def chosen_by_others(
    product: str, drawn: Mapping[str, Mapping[str, float]], real: Mapping[str, Mapping[str, float]]
) -> str:
    """The way that is expected to be best: what it gained over w = 1 on other products, and this product's
    own gain on simulated defects beyond theirs, as much as such a gain was worth there."""
    others = [name for name in drawn if name != product]
    best, most = TODAY, 0.0
    for way in WAYS:
        told = np.array([drawn[name][way] - drawn[name][TODAY] for name in others])
        true = np.array([real[name][way] - real[name][TODAY] for name in others])
        spread = float(((told - told.mean()) ** 2).sum())
        worth = 0.0 if spread < 1e-9 else float(((told - told.mean()) * (true - true.mean())).sum()) / spread
        own = drawn[product][way] - drawn[product][TODAY]
        expected = float(true.mean()) + max(0.0, worth) * (own - float(told.mean()))
        if expected > most:
            best, most = way, expected
    return best


def chosen_by_search(gained: Cell) -> str:
    """The preset that `fit --auto` would take: `accurate` if it gains a hundredth over the default. gained:
    as `gains_by_carriers` has it."""
    return TODAY if gained["on all"] >= 0.01 else DEFAULT


def chosen_alone(drawn: Mapping[str, float], margin: float) -> str:
    """The best way on simulated defects, if it gains so much over w = 1 there."""
    best = max(WAYS, key=lambda way: drawn[way])
    return best if drawn[best] - drawn[TODAY] >= margin else TODAY


def gains_by_carriers(cell: Cell) -> Cell:
    """What w = 1 gains over w = 0 on simulated defects, counted plainly and as if each lay on all left-out
    pictures, with its standard deviation when these are drawn anew, with their defects."""
    from flawscope.artefact.tried import auroc_on_carriers

    scores = by_way(cell)
    good, defects = ({way: scores[way][kind] for way in (DEFAULT, TODAY)} for kind in ("good", "simulated"))
    count = len(good[TODAY])
    carriers = np.arange(len(defects[TODAY])) % count

    def gains(drawn: np.ndarray) -> tuple[float, float]:
        chosen = np.concatenate([np.flatnonzero(carriers == one) for one in drawn])
        places = np.repeat(np.arange(count), [(carriers == one).sum() for one in drawn])
        plain, on_all = (
            [count_apart(good[way][drawn], defects[way][chosen], places) for way in (DEFAULT, TODAY)]
            for count_apart in (lambda good, bad, _: auroc(good, bad), auroc_on_carriers)
        )
        return plain[1] - plain[0], on_all[1] - on_all[0]

    rng = np.random.default_rng(SEED)
    plain, on_all = gains(np.arange(count))
    spread = np.std([gains(rng.integers(0, count, count)) for _ in range(RESAMPLED)], axis=0)
    return {
        "plainly": round(plain, 4), "sd": round(float(spread[0]), 4),
        "on all": round(on_all, 4), "its sd": round(float(spread[1]), 4),
    }  # fmt: skip


def report(cells: Mapping[str, Cell]) -> None:
    both = {name: figures(cell) for name, cell in cells.items()}
    drawn = {name: pair[0] for name, pair in both.items()}
    real = {name: pair[1] for name, pair in both.items()}
    gained = {name: gains_by_carriers(cell) for name, cell in cells.items()}
    rows = []
    for name in cells:
        ways = {
            "others": chosen_by_others(name, drawn, real),
            "alone": chosen_alone(drawn[name], 0.01),
            "search": chosen_by_search(gained[name]),
        }
        row: Cell = {"product": name}
        row |= {f"w {way}": round(real[name][way], 4) for way in WAYS}
        row |= {f"simulated {way}": round(drawn[name][way], 4) for way in WAYS}
        row |= {f"by {rule}": way for rule, way in ways.items()}
        better = max(real[name][DEFAULT], real[name][TODAY])
        row |= {f"lost by {rule}": round(better - real[name][way], 4) for rule, way in ways.items()}
        row |= {f"AP, AU-PRO {way}": " ".join(map(str, cells[name]["outlines"][way])) for way in WAYS[:-1]}
        rows.append(row)
    common.print_table("image AUROC by weight on real defects and on simulated ones", rows)
    means: list[Cell] = []
    for rule in (*WAYS, "by others", "by alone", "by search"):
        got = [real[row["product"]][row.get(rule, rule)] for row in rows]
        lost = [
            max(real[row["product"]][DEFAULT], real[row["product"]][TODAY]) - one
            for row, one in zip(rows, got, strict=True)
        ]
        means.append({
            "way": rule, "mean": round(float(np.mean(got)), 4), "most lost": round(max(lost), 4),
            f"lose above {LOSS}": sum(one > LOSS for one in lost), "products": len(rows),
        })  # fmt: skip
    common.print_table("beside the better of default and today's accurate", means)
    rows = []
    for name, row in gained.items():
        true = round(real[name][TODAY] - real[name][DEFAULT], 4)
        rows.append({"product": name, "on real defects": true, **row})
    common.print_table("gain of today's accurate on simulated defects, by how they are counted", rows)


def main() -> int:
    import torch

    parser = common.make_parser(__doc__, "weight")
    parser.add_argument("--products", default=",".join(PRODUCTS), help="default: %(default)s")
    args = common.parse_arguments(parser, products="mvtec/plate")
    torch.set_num_threads(args.threads)
    record = Record(args, "weight of the transformer in accurate")
    cells = common.measure_sets(args, record, args.products.split(","), measure)
    if len(cells) > 1:
        report(cells)
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))

"""Does more contrast before the network draw better outlines at the default sizes, and decide as well?

    python bench/contrast.py --data DATA --threads 1

anomalib gives every network ImageNet's colours; EfficientNet-Lite0, which was trained with others, sees 2.2
times the contrast there. Here the default preset sees 1.5 times its own contrast at its larger size, or at
both. Each way is fitted anew, and judged by simulated defects of all kinds on good pictures that were left
out, of other items, and by test pictures. A way is chosen by the simulated defects of some products, and
judged by the test pictures of the others.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import common
from common import Cell, Pictures, Record

CHOOSING = (
    "mvtec/toothbrush", "real/fabric", "real/commutator", "real/pcb", "real/paper_gla01_tl",
    "real/paper_brg01_rl",
)  # fmt: skip
JUDGING = (
    "real/lens", "real/cookie", "mvtec/transistor", "real/paper_flr01_tl", "real/paper_btn01_rl",
    "real/paper_fvn01_tl", "real/paper_zpb01_rl",
)  # fmt: skip
LEARNT, LEFT_OUT, SIMULATED = 40, 16, 60
GOOD, BAD = 20, 40  # test pictures
BATCH = 4
SEED = 93
FIGURES = ("image_auroc", "au_pro", "pixel_ap")


class Way(NamedTuple):
    """Contrast at the smaller size and at the larger."""

    smaller: float
    larger: float


WAYS = {"1": Way(1, 1), "1.5 at the larger size": Way(1, 1.5), "1.5": Way(1.5, 1.5)}


@contextmanager
def seen_with(way: Way) -> Iterator[None]:
    """Within it a CNN sees its pictures with other contrast, about its mean."""
    from flawscope.methods.features.backbone import Backbone
    from flawscope.methods.features.weights import DEFAULT_BACKBONE

    plain = Backbone.forward

    def forward(self: Backbone, images: Any) -> Any:
        contrast = 1.0
        if self.name == DEFAULT_BACKBONE:
            contrast = way.larger if tuple(images.shape[-2:]) == self.size else way.smaller
        return plain(self, self.mean + (images - self.mean) * contrast)

    Backbone.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        Backbone.forward = plain  # type: ignore[method-assign]


def drawn_from(items: Sequence[Any], most: int) -> list[Any]:
    order = np.random.default_rng(SEED).permutation(len(items))
    return [items[int(k)] for k in order[:most]]


def split_good(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Pictures to learn from, and left-out ones that show other items."""
    order = drawn_from(paths, len(paths))
    left_out = order[: min(LEFT_OUT, len(paths) * 2 // 5)]
    groups = {common.group_of(path) for path in left_out}
    return [path for path in order if common.group_of(path) not in groups][:LEARNT], left_out


def simulated_pictures(paths: Sequence[Path]) -> Pictures:
    from flawscope.pictures.decoding import decode, to_eight_bits

    good = [to_eight_bits(decode(path)) for path in paths]
    return common.with_simulated_defects(good, SIMULATED, SEED)


def test_pictures(data: Any) -> Pictures:
    from flawscope.datasets.masks import union_masks
    from flawscope.pictures.decoding import decode

    pictures, masks = [], []
    for is_bad, most in ((False, GOOD), (True, BAD)):
        for item in drawn_from([item for item in data.test if item.anomalous == is_bad], most):
            size = decode(item.path).shape[:2]
            pictures.append(item.path)
            masks.append(union_masks(item.masks, size) if is_bad else np.zeros(size, bool))
    return Pictures(pictures, masks)


def judged(predictor: Any, those: Pictures) -> Cell:
    """Metrics of a model's scores and maps."""
    import torch

    model, preprocess = predictor.detector, predictor.manifest.preprocess
    scores, maps = [], []
    for k in range(0, len(those.pictures), BATCH):
        images = [preprocess(one)[0] for one in those.pictures[k : k + BATCH]]
        with torch.inference_mode():
            highest, drawn = model.score(model.embed(torch.from_numpy(np.concatenate(images))))
        scores += highest.tolist()
        maps += [*drawn.numpy()]
    return common.judge_maps(np.array(scores), maps, those.masks)


def measure(root: Path) -> Cell:
    import flawscope

    data = flawscope.open_dataset(root)
    learnt, left_out = split_good([Path(item.path) for item in data.train])
    kinds = {"simulated": simulated_pictures(left_out), "test": test_pictures(data)}
    cell: Cell = {"learnt": len(learnt), "left out": len(left_out)}
    for name, way in WAYS.items():
        with seen_with(way):
            predictor = flawscope.fit(learnt, device="cpu", check=False, samples=0, force=True)
            cell[name] = {kind: judged(predictor, those) for kind, those in kinds.items()}
        common.say(f"  {name}: {cell[name]}")
    return cell


def mean_of(cells: Mapping[str, Cell], names: Sequence[str], way: str, kind: str) -> list[float]:
    rows = [[cells[name][way][kind][figure] for figure in FIGURES] for name in names]
    return [round(float(value), 4) for value in np.mean(rows, 0)]


def report(cells: Mapping[str, Cell]) -> None:
    rows = []
    for kind in ("simulated", "test"):
        for name, cell in cells.items():
            figures = {way: " ".join(f"{v:.4f}" for v in cell[way][kind].values()) for way in WAYS}
            rows.append({"on": kind, "product": name, **figures})
        for label, products in (("choosing", CHOOSING), ("judging", JUDGING)):
            if names := [name for name in products if name in cells]:
                means = {way: " ".join(map(str, mean_of(cells, names, way, kind))) for way in WAYS}
                rows.append({"on": kind, "product": f"mean of those {label}", **means})
    common.print_table(f"{', '.join(FIGURES)} by contrast", rows)


def main() -> int:
    import torch

    parser = common.make_parser(__doc__, "contrast")
    parser.add_argument("--sets", default=",".join((*CHOOSING, *JUDGING)), help="default: %(default)s")
    args = common.parse_arguments(parser, sets="mvtec/plate")
    torch.set_num_threads(args.threads)
    record = Record(args, "contrast of the pictures before the network")
    report(common.measure_sets(args, record, args.sets.split(","), measure))
    return record.status()


if __name__ == "__main__":
    sys.exit(common.run_script(main))

"""What could screen the memory bank before fp32 confirms: how many elements each bound leaves a patch.

    python bench/screening.py

For every patch of some test pictures, the exact distance to its nearest bank element, and the elements whose
lower bound is not above it: these have to be compared in fp32. Bounds are computed in fp32 from the rounded
numbers; nothing here is timed. The last row is `patchcore/screen.py` itself, with the share of patches that
it has to compare with the whole bank. One cell is a category.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
import models
from common import Cell

if TYPE_CHECKING:
    from torch import Tensor

PICTURES = 8
DIMENSIONS = (16, 32, 48, 64)  # of PCA


def rounded(queries: Tensor, bank: Tensor, kept: Tensor, held: Tensor) -> Tensor:
    """Bounds `[N, M]` of |x - m|² from rounded queries and elements, by Cauchy-Schwarz."""
    lost = (queries - kept).norm(dim=1)[:, None] * held.norm(dim=1)
    more = queries.norm(dim=1)[:, None] * (bank - held).norm(dim=1)
    exact = (queries * queries).sum(1)[:, None] + (bank * bank).sum(1)
    return exact - 2 * kept @ held.T - 2 * (lost + more)


def whole(values: Tensor, step: Tensor) -> Tensor:
    return (values / step).round().clamp(-127, 127) * step


def bounds(queries: Tensor, bank: Tensor) -> dict[str, Tensor]:
    import torch

    width = bank.shape[1]
    random = torch.randn(width, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    turns = {"8 bits": torch.eye(width), "8 bits, rotated": torch.linalg.qr(random).Q.float()}
    pca = torch.linalg.eigh((bank.T @ bank).double()).eigenvectors.flip(1).float()
    turns["8 bits, PCA"] = pca
    found = {"bf16": rounded(queries, bank, queries.bfloat16().float(), bank.bfloat16().float())}
    for name, turn in turns.items():
        x, m = queries @ turn, bank @ turn
        step = m.abs().max() / 127
        found[name] = rounded(x, m, whole(x, step), whole(m, step))
    x, m = queries @ pca, bank @ pca
    for count in DIMENSIONS:
        near = torch.cdist(x[:, :count], m[:, :count]).square()
        rest = x[:, count:].norm(dim=1)[:, None] - m[:, count:].norm(dim=1)
        found[f"PCA, {count} dimensions"] = near + rest.square()
    return found


def measure(model: str, pictures: list[str]) -> Cell:
    import torch

    from flawscope.methods.patchcore.screen import Screen

    predictor = models.open_model(model)
    network: Any = predictor.session.model  # type: ignore[attr-defined]
    (view,) = network.views
    bank, norms = view.bank, view.norms
    screen = Screen(bank, norms)
    left: dict[str, list[float]] = {}
    with torch.inference_mode():
        for picture in pictures:
            image = torch.from_numpy(predictor.manifest.preprocess(picture)[0])
            queries = network.embed(image)[0] - view.centre
            best = torch.cdist(queries, bank, compute_mode="donot_use_mm_for_euclid_dist").amin(1).square()
            for name, bound in bounds(queries, bank).items():
                left.setdefault(name, []).append(float((bound <= best[:, None]).sum(1).float().mean()))
            unsure = screen.confirmed(queries, bank, norms)[1]
            left.setdefault("unsure", []).append(float(unsure.float().mean()))
    unsure = left.pop("unsure")
    return {
        "elements": len(bank),
        "left": {name: common.sig(sum(v) / len(v), 3) for name, v in left.items()},
        "left_worst_picture": {name: common.sig(max(v), 3) for name, v in left.items()},
        "compared_with_the_whole_bank": common.sig(sum(unsure) / len(unsure), 3),
    }


def main() -> int:
    parser = common.parser(__doc__, "screening", methods="patchcore")
    parser.set_defaults(set=["size=256"])
    args = common.arguments(parser, set=["size=96"])
    record = common.Record(args, "bounds that screen the memory bank")
    rows = []
    with common.workspace(args.work) as folder:
        for category, root in common.roots(args):

            def work(category: str = category, root: Path = root) -> Cell:
                model = models.plain_model(args, folder, category, root, "patchcore")
                pictures = common.spread_over(common.pictures_below(root / "test"), PICTURES)
                return common.task(measure, model=model, pictures=pictures).json

            if cell := record.attempt(category, work):
                worst = cell["left_worst_picture"]
                rows += [
                    {"category": category, "bound": k, "mean": v, "worst picture": worst[k]}
                    for k, v in cell["left"].items()
                ]
                share = f"{cell['compared_with_the_whole_bank']:.1%}"
                rows.append({"category": category, "bound": "whole bank", "mean": share})
    common.table("elements left to a patch", rows)
    return record.status()


if __name__ == "__main__":
    sys.exit(common.start(main))

"""anomalib's part of the comparisons, run by the Python that has anomalib; needs nothing of flawscope.

    PEER_PYTHON bench/peer.py coreset FEATURES.npy --picks 512,1024
    PEER_PYTHON bench/peer.py fit FOLDER --weights FILE --picks 512,1024

Prints one JSON line. `bench/coreset.py` and `bench/patchcore.py` start it. Selections of few picks out of
all points are timed; what a whole one would take is worked out by the caller, who says so. Everything that
could be left out in anomalib's favour is left out: progress bars, validation, post-processing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("TQDM_DISABLE", "1")
BEGAN = time.perf_counter()


def time_selections(features: Any, picks: list[int]) -> dict[str, Any]:
    """Seconds of KCenterGreedy for so many picks out of `features` [N, D], its random projection included."""
    from anomalib.models.components.sampling.k_center_greedy import KCenterGreedy

    runs = []
    for count in [2, *picks]:  # the first, short one warms up
        sampler = KCenterGreedy(embedding=features, sampling_ratio=1.0)
        sampler.coreset_size = count
        start = time.perf_counter()
        sampler.select_coreset_idxs()
        runs.append({"picks": count, "seconds": time.perf_counter() - start})
    return {"points": len(features), "projected_to": int(sampler.features.shape[1]), "runs": runs[1:]}


def coreset(args: argparse.Namespace) -> dict[str, Any]:
    import numpy as np
    import torch

    return time_selections(torch.from_numpy(np.load(args.source)), args.picks)


def fit(args: argparse.Namespace) -> dict[str, Any]:
    """anomalib's `Engine.fit` of PatchCore on FOLDER/train/good, with few picks instead of the ratio's.

    `seconds_without_coreset`: the whole process, from its first line, less the selections.
    """
    import torch
    from anomalib.data import Folder
    from anomalib.engine import Engine
    from anomalib.models import Patchcore
    from anomalib.models.components.sampling.k_center_greedy import KCenterGreedy

    found: dict[str, Any] = {}
    spent = 0.0
    select = KCenterGreedy.select_coreset_idxs

    def few(sampler: Any) -> list[int]:
        nonlocal spent
        KCenterGreedy.select_coreset_idxs = select
        start = time.perf_counter()
        found.update(time_selections(sampler.embedding, args.picks), whole_picks=sampler.coreset_size)
        spent = time.perf_counter() - start
        return list(range(args.picks[-1]))

    KCenterGreedy.select_coreset_idxs = few
    model = Patchcore(
        backbone=args.backbone,
        layers=args.layers,
        pre_trained=False,
        coreset_sampling_ratio=args.ratio,
        pre_processor=Patchcore.configure_pre_processor((args.size, args.size)),
        post_processor=False,
        evaluator=False,
        visualizer=False,
    )
    if args.weights:
        load_by_order(model.model.feature_extractor.feature_extractor, args.backbone, args.weights)
    with tempfile.TemporaryDirectory() as folder:
        data = Folder(
            name="peer",
            root=args.source,
            normal_dir="train/good",
            test_split_mode="none",
            val_split_mode="none",
            num_workers=args.workers,
        )
        engine = Engine(
            default_root_dir=folder, accelerator="cpu", logger=False, barebones=True, limit_val_batches=0
        )
        engine.fit(model=model, datamodule=data)
    whole = time.perf_counter() - BEGAN
    return {**found, "seconds_without_coreset": whole - spent, "bank": len(model.model.memory_bank)} | {
        "dimensions": int(model.model.memory_bank.shape[1]),
        "threads": torch.get_num_threads(),
    }


def load_by_order(network: Any, backbone: str, path: Path) -> None:
    """The packaged checkpoint into timm's features-only network, tensor by tensor in order."""
    import timm
    import torch

    def names(state: dict[str, Any]) -> list[str]:
        return [k for k in state if not k.endswith("num_batches_tracked")]

    state = torch.load(path, map_location="cpu", weights_only=True)
    wanted = timm.create_model(backbone, pretrained=False).state_dict()
    renamed = {t: state[s] for s, t in zip(names(state), names(wanted), strict=True)}
    missing, _ = network.load_state_dict(renamed, strict=False)
    lacking = [k for k in missing if not k.endswith("num_batches_tracked")]
    if lacking:
        raise SystemExit(f"{path.name} lacks {lacking[0]}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=("coreset", "fit"))
    parser.add_argument("source", type=Path, help=".npy of features, or a category in MVTec AD layout")
    parser.add_argument("--picks", type=lambda t: [int(n) for n in t.split(",")], default=[512, 1024])
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--layers", type=lambda t: t.split(","), default=["blocks.2", "blocks.4"])
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--ratio", type=float, default=0.1)
    parser.add_argument("--workers", type=int, default=0, help="of anomalib's data loader")
    args = parser.parse_args()
    result = {"coreset": coreset, "fit": fit}[args.task](args)
    result["versions"] = {name: version(name) for name in ("anomalib", "torch", "timm", "lightning")}
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""anomalib's part of the comparisons, run by the Python that has anomalib; needs nothing of flawscope.

    PEER_PYTHON bench/peer.py coreset FEATURES.npy --picks 512,1024
    PEER_PYTHON bench/peer.py fit FOLDER --weights FILE --picks 512,1024
    PEER_PYTHON bench/peer.py export BANK.npy --weights FILE --out FOLDER
    PEER_PYTHON bench/peer.py predict FOLDER --engine openvino --pictures LIST.json --repeats 50
    PEER_PYTHON bench/peer.py efficientad-step LIST.json --natural FOLDER --repeats 30
    PEER_PYTHON bench/peer.py efficientad-forward LIST.json --repeats 30
    PEER_PYTHON bench/peer.py efficientad-export FOLDER

Prints one JSON line. `bench/coreset.py`, `bench/patchcore.py`, `bench/latency.py` and `bench/efficientad.py`
start it. Selections of
few picks out of all points are timed; what a whole one would take is worked out by the caller, who says so.
Everything that could be left out of a fit in anomalib's favour is left out: progress bars, validation,
post-processing. Its inference is what its own exports and its own inferencers do, unchanged.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
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


def export(args: argparse.Namespace) -> dict[str, Any]:
    """A Patchcore model around a given memory bank [M, D], written by anomalib's own `to_torch` and
    `to_openvino`. No coreset is selected, and the limits of its post-processor are made up: neither changes
    how long a prediction takes.

    The graph takes pictures of `--size`: the pre-processor, which resizes, is part of it.
    """
    import numpy as np
    import torch
    from anomalib.models import Patchcore

    model = Patchcore(
        backbone=args.backbone,
        layers=args.layers,
        pre_trained=False,
        pre_processor=Patchcore.configure_pre_processor((args.size, args.size)),
        evaluator=False,
        visualizer=False,
    )
    if args.weights:
        load_by_order(model.model.feature_extractor.feature_extractor, args.backbone, args.weights)
    model.model.memory_bank = torch.from_numpy(np.load(args.source))
    made_up_limits(model)
    model.eval()
    with torch.no_grad():
        found = model(torch.rand(1, 3, args.size, args.size))
    made: dict[str, Any] = {"torch": str(model.to_torch(args.out)), "map": list(found.anomaly_map.shape)}
    # As shipped (2.7.0) the batch of a Patchcore graph is fixed at 2 while the inferencer gives 1: a model
    # that `predict` can run needs a static batch of 1, and then the pictures' own size, too.
    dims = ({2: torch.export.Dim("height"), 3: torch.export.Dim("width")},)
    ways: dict[str, dict[str, Any]] = {
        "as shipped": {},
        "any size": {"onnx_kwargs": {"dynamic_shapes": dims}},
        "one size": {"onnx_kwargs": {"dynamic_shapes": None}, "input_size": tuple(args.picture_size)},
    }
    notes = {}
    for name, options in ways.items():
        if name not in args.ways:
            continue
        try:
            made[name] = str(model.to_openvino(args.out / name.replace(" ", "_"), **options))
        except Exception as error:  # an export that fails is a finding
            notes[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return {"made": made, "failed": notes, "bank": list(model.model.memory_bank.shape)}


def made_up_limits(model: Any) -> None:
    """Limits for the post-processor of a model that was not fitted."""
    limits = {"_image_threshold": 20, "_pixel_threshold": 20}
    limits |= {f"{kind}_{end}": v for kind in ("image", "pixel") for end, v in (("min", 0), ("max", 40))}
    for name, value in limits.items():
        getattr(model.post_processor, name).fill_(value)


def predict(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the inferencer's `predict(path)` for the listed pictures in turn, after a first round."""
    import torch
    from anomalib.deploy import OpenVINOInferencer, TorchInferencer

    torch.set_num_threads(args.threads)
    pictures = json.loads(args.pictures.read_text())
    precision = "f32"
    if args.engine == "torch":
        os.environ["TRUST_REMOTE_CODE"] = "1"  # it opens nothing without; the file is our own
        inferencer: Any = TorchInferencer(args.source, device="cpu")
    else:
        args.source, pictures = args.source.resolve(), [str(Path(p).resolve()) for p in pictures]
        os.chdir(args.source.parent)  # it keeps a cache folder where it is called
        limit = {"INFERENCE_NUM_THREADS": args.threads, "PERFORMANCE_HINT": "LATENCY"}
        if args.precision:  # left to itself, OpenVINO takes bf16 where the processor has it
            limit["INFERENCE_PRECISION_HINT"] = args.precision
        inferencer = OpenVINOInferencer(args.source, device="CPU", config=limit)
        precision = inferencer.model.get_property("INFERENCE_PRECISION_HINT").to_string()
    times = []
    for k in range(args.warm + args.repeats):
        picture = pictures[k % len(pictures)]
        start = time.perf_counter()
        found = inferencer.predict(picture)
        times.append(time.perf_counter() - start)
    shape = list(found.anomaly_map.shape)
    return {"seconds": times[args.warm :], "map": shape, "threads": args.threads, "precision": precision}


def efficientad(args: argparse.Namespace) -> Any:
    """EfficientAd (small) with random weights everywhere, since its teacher is a download, and statistics
    and quantiles made up: none of them changes how long it computes."""
    import torch
    from anomalib.models import EfficientAd

    torch.manual_seed(0)
    model = EfficientAd(
        model_size="small",
        pre_processor=EfficientAd.configure_pre_processor((args.size, args.size)),
        evaluator=False,
        visualizer=False,
    )
    with torch.no_grad():
        model.model.mean_std["mean"].zero_()
        model.model.mean_std["std"].fill_(1)
        for name, value in (("qa_st", 0.1), ("qb_st", 0.2), ("qa_ae", 0.1), ("qb_ae", 0.2)):
            model.model.quantiles[name].fill_(value)
    return model


def tensors(args: argparse.Namespace) -> list[Any]:
    """The listed pictures as its data module gives them: [1, 3, N, N] float32 in 0..1."""
    from PIL import Image
    from torchvision.transforms.v2.functional import resize, to_dtype, to_image

    paths = json.loads(args.source.read_text())
    side = [args.size, args.size]
    found = []
    for path in paths:
        with Image.open(path) as picture:
            image = to_dtype(to_image(picture.convert("RGB")), scale=True)
        found.append(resize(image, side, antialias=True)[None])
    return found


def efficientad_step(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of `training_step`, backward and Adam, as lightning calls them, on pictures that are at hand.

    The penalty's pictures come from its own loader where --natural names a folder, and are noise at hand
    otherwise.
    """
    import itertools

    import torch
    from anomalib.data import ImageBatch

    torch.set_num_threads(args.threads)
    model = efficientad(args)
    model.train()
    model.model.teacher.eval()
    batches = [ImageBatch(image=image) for image in tensors(args)]
    # as `configure_optimizers` makes it, which asks a trainer for the schedule's length
    values = [*model.model.student.parameters(), *model.model.ae.parameters()]
    optimiser = torch.optim.Adam(values, lr=model.lr, weight_decay=model.weight_decay)
    times = []
    with tempfile.TemporaryDirectory() as folder:
        if args.natural:
            Path(folder, "all").symlink_to(args.natural.resolve(), target_is_directory=True)
            model.imagenet_dir = Path(folder)
            model.prepare_imagenette_data((args.size, args.size))
            penalty = f"its own loader on {len(model.imagenet_loader.dataset)} pictures"
        else:
            model.imagenet_iterator = itertools.repeat([torch.rand(1, 3, args.size, args.size)])
            penalty = "noise at hand: no picture is read"
        for k in range(3 + args.repeats):
            start = time.perf_counter()
            loss = model.training_step(batches[k % len(batches)])["loss"]
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            times.append(time.perf_counter() - start)
    return {
        "seconds": times[3:],
        "penalty": penalty,
        "parameters": sum(v.numel() for v in values),
        "threads": torch.get_num_threads(),
        "weights": "random",
    }


def efficientad_forward(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the torch model's forward for one picture that is at hand."""
    import torch

    torch.set_num_threads(args.threads)
    model = efficientad(args).model.eval()
    images, times = tensors(args), []
    with torch.inference_mode():
        for k in range(args.warm + args.repeats):
            start = time.perf_counter()
            found = model(images[k % len(images)])
            times.append(time.perf_counter() - start)
    return {
        "seconds": times[args.warm :],
        "map": list(found.anomaly_map.shape),
        "threads": torch.get_num_threads(),
        "weights": "random",
    }


def efficientad_export(args: argparse.Namespace) -> dict[str, Any]:
    """Its own exports of that model, for `predict`, into the folder `source`."""
    model = efficientad(args)
    made_up_limits(model)
    model.eval()
    made: dict[str, Any] = {"torch": str(model.to_torch(args.source))}
    failed = {}
    ways = {"as shipped": {}, "one size": {"input_size": (args.size, args.size)}}
    for name, options in ways.items():
        try:
            made["openvino"] = str(model.to_openvino(args.source / name.replace(" ", "_"), **options))
            return {"made": made, "failed": failed, "way": name, "weights": "random"}
        except Exception as error:  # an export that fails is a finding
            failed["openvino"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return {"made": made, "failed": failed, "weights": "random"}


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
    tasks = {
        "coreset": coreset,
        "fit": fit,
        "export": export,
        "predict": predict,
        "efficientad-step": efficientad_step,
        "efficientad-forward": efficientad_forward,
        "efficientad-export": efficientad_export,
    }
    parser.add_argument("task", choices=tuple(tasks))
    parser.add_argument(
        "source",
        type=Path,
        help=".npy of features, a category in MVTec AD layout, an exported model, a JSON list of pictures, "
        "or the folder to export into",
    )
    parser.add_argument("--picks", type=lambda t: [int(n) for n in t.split(",")], default=[512, 1024])
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--layers", type=lambda t: t.split(","), default=["blocks.2", "blocks.4"])
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--ratio", type=float, default=0.1)
    parser.add_argument("--workers", type=int, default=0, help="of anomalib's data loader")
    parser.add_argument("--out", type=Path, help="folder for exported models")
    parser.add_argument("--ways", type=lambda t: t.split(","), default=["any size", "one size"])
    parser.add_argument("--picture-size", type=lambda t: [int(n) for n in t.split("x")], help="HxW")
    parser.add_argument("--engine", choices=("torch", "openvino"), default="torch")
    parser.add_argument("--precision", help="OpenVINO's INFERENCE_PRECISION_HINT")
    parser.add_argument("--pictures", type=Path, help="JSON list of files")
    parser.add_argument("--natural", type=Path, help="folder of pictures for EfficientAd's penalty")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--warm", type=int, default=5)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    with contextlib.redirect_stdout(sys.stderr):  # exporters print
        result = tasks[args.task](args)
    names = ["anomalib", "torch", "timm", "lightning", *(["openvino"] if args.engine == "openvino" else [])]
    result["versions"] = {name: version(name) for name in names}
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())

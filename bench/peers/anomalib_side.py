"""anomalib's part of `run.py`, run by the Python of its environment; needs nothing of flawscope.

Wherever anomalib would download weights it gets those of `--weights`, in their order; the rest is anomalib as
shipped. Prints one JSON line, after whatever anomalib prints.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("TQDM_DISABLE", "1")
WARM = 5  # pictures before the first one that counts
BACKBONE, RATIO = "tf_efficientnet_lite0", 0.1
LAYERS = {BACKBONE: ["blocks.2", "blocks.4"], "resnet18": ["layer2", "layer3"]}


def supply(weights: Path) -> None:
    """Let timm.create_model(..., pretrained=True) take these weights instead of a download: those of the
    package, or a safetensors file with timm's names."""
    import timm

    create = timm.create_model

    def create_model(name: str, pretrained: bool = False, **options: Any) -> Any:
        network = create(name, pretrained=False, **options)
        if pretrained:
            timm.create_model = create  # load_by_order makes one, too
            load = load_by_name if weights.suffix == ".safetensors" else load_by_order
            load(network, name, weights)
            timm.create_model = create_model
        return network

    timm.create_model = create_model


def load_by_order(network: Any, backbone: str, path: Path) -> None:
    """The packaged checkpoint into timm's features-only network, tensor by tensor in order."""
    import timm
    import torch

    def names(state: dict[str, Any]) -> list[str]:
        return [k for k in state if not k.endswith("num_batches_tracked")]

    state = torch.load(path, map_location="cpu", weights_only=True)
    wanted = timm.create_model(backbone, pretrained=False).state_dict()
    renamed = {t: state[s] for s, t in zip(names(state), names(wanted), strict=True)}
    load_used(network, renamed, path)


def load_by_name(network: Any, backbone: str, path: Path) -> None:
    from safetensors.torch import load_file

    load_used(network, load_file(path), path)


def load_used(network: Any, state: dict[str, Any], path: Path) -> None:
    """The tensors of those layers that the network has."""
    missing, _ = network.load_state_dict(state, strict=False)
    lacking = [k for k in missing if not k.endswith("num_batches_tracked")]
    if lacking:
        raise SystemExit(f"{path.name} lacks {lacking[0]}")


def data(args: argparse.Namespace) -> Any:
    """Its data module as shipped: test pictures validate, too, and set the thresholds."""
    from anomalib.data import MVTecAD

    return MVTecAD(root=args.data, category=args.category)


def pictures(args: argparse.Namespace) -> list[Path]:
    return sorted((args.data / args.category / "test").rglob("*.png"))


def fit(args: argparse.Namespace) -> dict[str, Any]:
    from anomalib.engine import Engine
    from anomalib.models import Patchcore

    layers = LAYERS[args.backbone]
    model = Patchcore(backbone=args.backbone, layers=layers, coreset_sampling_ratio=RATIO)
    engine = Engine(default_root_dir=args.out)
    engine.fit(model=model, datamodule=data(args))
    Path(engine.best_model_path).rename(args.out / "model.ckpt")
    bank = model.model.memory_bank
    return {"bank": list(bank.shape), "image_threshold": float(model.post_processor.image_threshold)}


def load(path: Path) -> Any:
    from anomalib.models import Patchcore

    return Patchcore.load_from_checkpoint(path, map_location="cpu").eval()


def tensor(path: Path) -> Any:
    """[1, 3, H, W] in 0..1, as its inferencers read it."""
    from anomalib.data.utils import read_image

    return read_image(path, as_tensor=True)[None]


def answers(model: Any, path: Path) -> tuple[Any, Any]:
    """What the model says before and after its post-processor, as `Engine.test` and `Engine.predict` ask it:
    they resize with `pre_processor.transform`, which smooths; what is exported resizes without smoothing."""
    raw = model.model(model.pre_processor.transform(tensor(path)))
    return raw, model.post_processor(raw)


def test(args: argparse.Namespace) -> dict[str, Any]:
    """Raw scores and maps of the test pictures, and decisions at its own threshold, into raw.npz beside the
    model; printed is what `Engine.test` reports."""
    import numpy as np
    import torch
    from anomalib.engine import Engine

    model = load(args.source)
    scores, maps, decisions = [], [], []
    with torch.no_grad():
        for path in pictures(args):
            raw, answer = answers(model, path)
            scores.append(float(raw.pred_score))
            maps.append(raw.anomaly_map.numpy().squeeze())
            decisions.append(bool(answer.pred_label))
    names = [p.relative_to(args.data / args.category).as_posix() for p in pictures(args)]
    found = {"names": names, "scores": scores, "maps": np.stack(maps), "decisions": decisions}
    np.savez(args.source.with_name("raw.npz"), **found)
    reported = Engine(default_root_dir=args.source.parent / "test").test(model=model, datamodule=data(args))
    return {name: float(value) for name, value in reported[0].items()}


def export(args: argparse.Namespace) -> dict[str, Any]:
    """Its own exports. An OpenVINO file counts as made when the inferencer answers with it."""
    return exported(load(args.source), args)


def exported(model: Any, args: argparse.Namespace) -> dict[str, Any]:
    from anomalib.deploy import OpenVINOInferencer

    made, failed = {"torch": str(model.to_torch(args.out))}, {}
    size = tuple(args.picture_size)
    ways: dict[str, dict[str, Any]] = {
        "as shipped": {},
        "input_size": {"input_size": size},
        "input_size, dynamic_shapes=None": {"input_size": size, "onnx_kwargs": {"dynamic_shapes": None}},
    }
    picture = args.out / "probe.png"
    probe(picture, size)
    os.chdir(args.out)  # it keeps a cache folder where it is called
    for k, (way, options) in enumerate(ways.items()):
        try:
            path = model.to_openvino(args.out / f"openvino_{k}", **options)
            OpenVINOInferencer(path, device="CPU").predict(picture)
        except Exception as error:  # an export that fails is a finding
            failed[way] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            continue
        return {"made": {**made, "openvino": str(path)}, "failed": failed, "way": way}
    return {"made": made, "failed": failed}


def probe(path: Path, size: tuple[int, ...]) -> None:
    import numpy as np
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)).save(path)


def untrained(args: argparse.Namespace) -> dict[str, Any]:
    """EfficientAD small with random weights, which are a download, or PatchCore with a memory bank drawn at
    random, whose fit would take hours: what is in them does not matter for the time. Exported as `export`
    does."""
    import torch
    from anomalib.models import EfficientAd, Patchcore

    torch.manual_seed(0)
    if args.method == "efficientad":
        return exported(EfficientAd().eval(), args)
    seen = Patchcore.configure_pre_processor(tuple(args.network_size))
    model = Patchcore(backbone=BACKBONE, layers=LAYERS[BACKBONE], pre_processor=seen)
    width = sum(model.model.feature_extractor.out_dims)
    model.model.memory_bank = torch.randn(args.elements, width)
    return exported(model.eval(), args)


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
    for k in range(WARM + args.repeats):
        picture = pictures[k % len(pictures)]
        start = time.perf_counter()
        found = inferencer.predict(picture)
        times.append(time.perf_counter() - start)
    shape = list(found.anomaly_map.shape)
    return {"seconds": times[WARM:], "map": shape, "threads": args.threads, "precision": precision}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    tasks = {f.__name__: f for f in (fit, test, export, untrained, predict)}
    parser.add_argument("task", choices=tuple(tasks))
    parser.add_argument("source", type=Path, help="what the task reads")
    parser.add_argument("--backbone", choices=tuple(LAYERS), default=BACKBONE)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--category")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--precision", help="OpenVINO's INFERENCE_PRECISION_HINT")
    parser.add_argument("--picture-size", type=lambda t: [int(n) for n in t.split("x")], help="HxW")
    parser.add_argument("--network-size", type=lambda t: [int(n) for n in t.split("x")], help="HxW")
    parser.add_argument("--method", choices=("patchcore", "efficientad"))
    parser.add_argument("--engine", choices=("torch", "openvino"), default="torch")
    parser.add_argument("--pictures", type=Path, help="JSON list of files")
    parser.add_argument("--elements", type=int, help="of the bank")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=30)
    args = parser.parse_args()
    args.data = args.data or args.source
    if args.weights:
        supply(args.weights)
    logging.disable(logging.WARNING)
    with contextlib.redirect_stdout(sys.stderr):  # exporters print
        result: dict[str, Any] = tasks[args.task](args)  # type: ignore[assignment]
    result["versions"] = {name: version(name) for name in ("anomalib", "torch", "timm", "lightning")}
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What `gpu.py` measures by itself, each in a process of its own; on a CPU too, to try the code."""

from __future__ import annotations

import contextlib
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import common
import models
from common import Cell


def _synchronise(device: str) -> None:
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()


@contextlib.contextmanager
def _waits(device: str, found: list[int]) -> Any:
    """Counts how often the process waits for the GPU, into `found`; nothing on a CPU."""
    import torch

    if not device.startswith("cuda"):
        yield
        return
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            yield
        found.append(sum("synchroniz" in str(one.message) for one in seen))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def coreset(device: str, points: int, picks: int) -> Cell:
    """Seconds of the coreset of drawn features with leave-one-out, and how many picks of a tenth of them are
    the CPU's."""
    import torch

    from flawscope.methods.patchcore import coreset as ours

    generator = torch.Generator().manual_seed(0)
    features = torch.randn(points, 152, generator=generator) * torch.rand(152, generator=generator)
    groups = torch.arange(points) * 200 // points
    there, parts = features.to(device), groups.to(device)
    some = points // 10
    first = ours.select(features[:some], picks // 10)
    second = ours.select(there[:some], picks // 10)  # warms up, too
    _synchronise(device)
    waits: list[int] = []
    with _waits(device, waits):
        ours.select(there, picks, groups=parts)

    def select() -> None:
        ours.select(there, picks, groups=parts)
        _synchronise(device)

    times = [common.seconds(select) for _ in range(3)]
    return {
        "points": points,
        "picks": picks,
        "seconds": common.summary(times),
        "waits_a_pick": common.sig(waits[-1] / picks, 3) if waits else None,
        "radius_off_by": common.sig(abs(first.radius - second.radius) / first.radius, 3),
        "same_picks_share": float(torch.isin(second.indices.cpu(), first.indices).float().mean()),
        "device_peak_mib": common.device_peak(device),
    }


def fit(method: str, settings: Cell, root: str, device: str, model: str) -> Cell:
    """A fit on the device, in this process; its model is written."""
    import torch

    job = {"category": Path(root).name, "root": root, "method": method, "settings": settings}
    found = models.fit_job({**job, "device": device}, model, torch.get_num_threads())
    kept = ("bank", "patches", "covering_radius", "seconds", "device")
    facts = {k: v for k, v in found["facts"].items() if k in kept}
    return {"seconds": found["seconds"], "device_peak_mib": found["device_peak_mib"], "facts": facts}


def efficientad(network: str, device: str, batches: list[int], repeats: int, side: int) -> Cell:
    """Pictures in memory to scores and maps in memory, by precision and way of running. The networks have
    fresh weights, which decide no time. `off_by`: largest difference of a map from eager fp32's, relative."""
    import torch

    from flawscope.methods.efficientad import METHOD
    from flawscope.methods.efficientad.model import Model
    from flawscope.methods.efficientad.recipe import CHANNELS

    torch.manual_seed(0)
    found: Cell = {}
    pictures = {b: torch.rand(b, 3, side, side) for b in batches}
    if device.startswith("cuda"):
        pictures = {b: images.pin_memory() for b, images in pictures.items()}
    first: Any = None
    state: Any = None
    for precision in ("fp32", "fp16", "bf16"):
        settings = {"network": network, "precision": precision, "size": str(side)}
        if precision == "fp16" and not device.startswith("cuda"):
            found["fp16"] = {"skipped": "torch imitates it on a CPU"}
            continue
        model = Model(METHOD.configure("default", settings), network, CHANNELS).to(device)  # type: ignore[arg-type]
        state = model.state_dict() if state is None else state
        model.load_state_dict(state)  # the same student in all
        for way, make in WAYS.items():
            name = f"{precision}, {way}"
            try:
                cells = {}
                for b, images in pictures.items():
                    run = make(model, images.to(device), precision)
                    _, maps = run(images)  # warms up
                    cells[str(b)] = _batch_times(run, images, repeats, device)
                if first is None:
                    first = maps
                off = float((maps - first).abs().max() / first.abs().max())
                found[name] = {"batches": cells, "off_by": common.sig(off, 3)}
            except Missing as error:
                found[name] = {"skipped": str(error)}
            except Exception as error:  # an engine's: the others go on
                found[name] = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
    return {"cells": found, "device_peak_mib": common.device_peak(device)}


def _batch_times(run: Any, images: Any, repeats: int, device: str) -> Cell:
    def work() -> None:
        run(images)
        _synchronise(device)

    work()
    count = max(3, repeats // max(1, len(images) // 8))
    times = [common.seconds(work) for _ in range(count)]
    found = common.spread(times)
    return {**found, "pictures_per_second": common.sig(len(images) / found["median"], 4)}


class Missing(Exception):
    """What a way of running needs is not there."""


def eager(model: Any, example: Any, precision: str) -> Any:
    import torch

    def run(images: Any) -> Any:
        with torch.inference_mode():
            scores, maps = model(images.to(example.device, non_blocking=True))
        return scores.float().cpu(), maps.float().cpu()

    return run


def cuda_graph(model: Any, example: Any, precision: str) -> Any:
    """All kernels of a picture started at once."""
    import torch

    if example.device.type != "cuda":
        raise Missing("no GPU")
    given = example.clone()
    with torch.inference_mode():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                model(given)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            scores, maps = model(given)

    def run(images: Any) -> Any:
        with torch.inference_mode():
            given.copy_(images, non_blocking=True)
            graph.replay()
            return scores.float().cpu(), maps.float().cpu()

    return run


def tensor_rt(model: Any, example: Any, precision: str) -> Any:
    """Compiled by torch_tensorrt, where it is installed; the model's own precision is left out, the engine
    chooses within the one allowed."""
    import torch

    if example.device.type != "cuda":
        raise Missing("no GPU")
    if find_spec("torch_tensorrt") is None:
        raise Missing("torch_tensorrt is not installed")
    import torch_tensorrt

    kinds = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    compiled = torch_tensorrt.compile(
        model, ir="dynamo", inputs=[example], enabled_precisions={torch.float32, kinds[precision]}
    )

    def run(images: Any) -> Any:
        with torch.inference_mode():
            scores, maps = compiled(images.to(example.device, non_blocking=True))
        return scores.float().cpu(), maps.float().cpu()

    return run


WAYS: dict[str, Any] = {"eager": eager, "CUDA graph": cuda_graph, "TensorRT": tensor_rt}


def onnx(model: str, root: str, device: str, batches: list[int]) -> Cell:
    """The exported PatchCore on the device beside the trained one on the CPU: the largest difference of a
    score, relative, and seconds of batches."""
    import numpy as np
    import onnxruntime

    from flawscope.pictures.decoding import load

    if not Path(model).is_file():
        raise SystemExit("there is no model: step fit has failed or was left out")
    if device.startswith("cuda") and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return {"skipped": "this ONNX Runtime has no CUDA: install onnxruntime-gpu"}
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        return {"skipped": f"an export needs {' and '.join(missing)}: install flawscope[export]"}
    exported = models.exported(Path(model), "onnxruntime", "fp32", Path(root))
    session = models.open_model(exported, device).session
    trained = models.open_model(model, "cpu")
    paths = common.spread_over(common.pictures_below(Path(root) / "test"), 8)
    images = np.concatenate([trained.manifest.preprocess(load(path, None))[0] for path in paths])
    ours, theirs = session.run(images)[0], trained.session.run(images)[0]
    found: Cell = {"off_by": common.sig(float((abs(ours - theirs) / abs(theirs)).max()), 3), "batches": {}}
    for b in batches:
        batch = np.concatenate([images[k % len(images)][None] for k in range(b)])
        work = lambda batch=batch: session.run(batch)  # noqa: E731
        times = common.rounds({"run": work}, max(3, 40 // b), warm=2)["run"]
        spread = common.spread(times)
        found["batches"][str(b)] = {**spread, "pictures_per_second": common.sig(b / spread["median"], 4)}
    return found


if __name__ == "__main__":
    sys.exit(common.start())

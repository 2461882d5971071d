"""What many tests share: one drawn data set and one small real model fitted on it."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flawscope.datasets.synthetic import draw_dataset

# Before torch is loaded. Pictures this small keep torch's threads waiting for each other, and threads that
# wait must not spin, or tests crawl on a machine that is busy. Tests about threads set their own number.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

SIZE = 64  # pixels a side that the small model sees
Trace = Callable[[Any], Any]


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of a drawn data set with the category "plate". Read only: copy what a test changes."""
    root = tmp_path_factory.mktemp("drawn")
    draw_dataset(root, category="plate", train=12, good=4, bad_per_kind=1, size=96, seed=1)
    return root


@pytest.fixture(scope="session")
def model_path(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small PatchCore model fitted on `drawn`. Read only."""
    pytest.importorskip("torch")
    from flawscope.fitting import fit

    path = tmp_path_factory.mktemp("model") / "plate.safetensors"
    fit(drawn, size=SIZE, device="cpu", seed=0).save(path)
    return path


@pytest.fixture(scope="session")
def trace_once() -> Trace:
    """`graph.trace`, which takes seconds, once for each set of weights."""
    for name in ("torch", "onnx", "onnxscript"):
        pytest.importorskip(name)
    from flawscope import graph

    trace, known = graph.trace, {}

    def once(model: Any) -> Any:
        tensors = model.state_dict()
        digest = hashlib.sha256(repr(model.config).encode())
        for name in sorted(tensors):
            digest.update(tensors[name].numpy().tobytes())
        if digest.digest() not in known:
            known[digest.digest()] = trace(model)
        return known[digest.digest()]

    return once


@pytest.fixture(scope="session")
def exported(
    model_path: Path, drawn: Path, trace_once: Trace, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Path]:
    """The same model by kind of file and precision, made when it is first asked for. Read only.

    Of reduced precision it is calibrated on all its training pictures and on the good test pictures.
    """

    @functools.cache
    def made(suffix: str, precision: str) -> Path:
        if suffix == ".xml":
            pytest.importorskip("openvino")
        from flawscope import graph
        from flawscope.datasets import list_pictures
        from flawscope.export import export

        path = tmp_path_factory.mktemp(precision) / f"plate{suffix}"
        folders = [drawn / "plate/train/good", drawn / "plate/test/good"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(graph, "trace", trace_once)
            pictures = [] if precision == "fp32" else list_pictures(folders)
            export(model_path, path, precision=precision, pictures=pictures)
        return path

    return made


@pytest.fixture(scope="session")
def onnx_path(exported: Callable[[str, str], Path]) -> Path:
    """The same model, exported. Read only."""
    return exported(".onnx", "fp32")


@pytest.fixture(scope="session")
def openvino_path(exported: Callable[[str, str], Path]) -> Path:
    """The same model for OpenVINO, with its weights beside it. Read only."""
    return exported(".xml", "fp32")


@pytest.fixture(scope="session")
def teacher_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher for EfficientAD with drawn weights, which says 8 different things in its 384 outputs. Read
    only."""
    torch = pytest.importorskip("torch")
    from flawscope.efficientad.networks import initialise, narrowed, pdn
    from flawscope.efficientad.targets import widened
    from flawscope.efficientad.teacher import write_teacher

    network = narrowed(pdn("s"), 8)
    initialise(network, torch.Generator().manual_seed(0))
    state, wide = network.state_dict(), widened(8)
    state["conv4.weight"] = torch.einsum("oc,cikl->oikl", wide, state["conv4.weight"])
    state["conv4.bias"] = wide @ state["conv4.bias"]
    backbone = {"name": "none", "origin": "drawn", "licence": "none"}
    path = tmp_path_factory.mktemp("teacher") / "drawn.safetensors"
    write_teacher(path, state, {"size": "s", "channels": 384, "rank": 8, "backbone": backbone})
    return path


@pytest.fixture(scope="session")
def quick_settings(teacher_path: Path) -> dict[str, Any]:
    """EfficientAD's settings with which a step of training is small."""
    return {"teacher": str(teacher_path), "steps": 3, "window": 41, "training": "fp32"}


@pytest.fixture(scope="session")
def efficientad_path(
    drawn: Path, quick_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An EfficientAD model fitted on `drawn`, hardly trained. Read only."""
    from flawscope.fitting import fit

    path = tmp_path_factory.mktemp("efficientad") / "plate.safetensors"
    fit(drawn, method="efficientad", device="cpu", samples=2, **quick_settings).save(path)
    return path

"""What many tests share: one drawn data set and one small real model fitted on it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flawscope.datasets.synthetic import draw_dataset

# Before torch is loaded. Pictures this small keep torch's threads waiting for each other, and threads that
# wait must not spin, or tests crawl on a machine that is busy. Tests about threads set their own number.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

SIZE = 64  # pixels a side that the small model sees


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
def onnx_path(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model, exported. Read only."""
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name)
    from flawscope.export import export

    path = tmp_path_factory.mktemp("onnx") / "plate.onnx"
    export(model_path, path)
    return path


@pytest.fixture(scope="session")
def openvino_path(onnx_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model for OpenVINO, with its weights beside it. Read only."""
    pytest.importorskip("openvino")
    from flawscope.runtime import onnx, openvino

    path = tmp_path_factory.mktemp("openvino") / "plate.xml"
    openvino.write(onnx.read(onnx_path), openvino.engine().convert_model(onnx_path), path)
    return path

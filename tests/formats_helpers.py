"""One model for every engine that is here."""

import pytest

from flawscope import runtime


@pytest.fixture(name="engine", params=["torch", *runtime.ENGINES])
def engine_fixture(request):
    """Every engine that is here; None for torch, which is not asked for."""
    return None if request.param == "torch" else str(request.param)


@pytest.fixture(name="path")
def path_fixture(engine, model_path, onnx_path):
    """The same model, for this engine."""
    return model_path if engine is None else onnx_path

"""What the tests of exports share."""

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def fast(trace_once: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing takes seconds: one model is traced once."""
    from flawscope.export import onnx_graph

    monkeypatch.setattr(onnx_graph, "trace", trace_once)


@pytest.fixture
def precision() -> str:
    """The reduced precision of PatchCore, where this machine has it."""
    pytest.importorskip("openvino")
    from flawscope.runtime.openvino import shared_core

    if "BF16" not in shared_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bf16")
    return "bf16"

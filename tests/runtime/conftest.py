"""What the tests of engines share."""

from __future__ import annotations

import pytest


@pytest.fixture(params=[".onnx", ".xml"])
def suffix(request: pytest.FixtureRequest) -> str:
    """Of every kind of exported model whose engine is here."""
    if request.param == ".xml":
        pytest.importorskip("openvino")
    return str(request.param)

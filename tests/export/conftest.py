"""What the tests of exports share."""

import pytest


@pytest.fixture
def precision():
    """The reduced precision of PatchCore, where this machine has it."""
    from flawscope.runtime.openvino import shared_core

    if "BF16" not in shared_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bf16")
    return "bf16"

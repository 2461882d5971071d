"""Tests marked `cuda` are skipped where torch sees no GPU."""

import pytest

REASON = "torch sees no NVIDIA GPU: nothing to install"


def pytest_collection_modifyitems(items):
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=REASON))

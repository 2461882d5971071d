"""A drawn data set with two categories, one of which has the name of one of MVTec AD's."""

import pytest

from flawscope.synthesis.demo.dataset import draw_dataset


@pytest.fixture(scope="session")
def two(tmp_path_factory):
    """Root with the categories "grid" and "plate". Read only."""
    root = tmp_path_factory.mktemp("two")
    for category in ("plate", "fabric"):
        draw_dataset(root, category=category, train=6, good=3, bad_per_kind=1, size=64, seed=2)
    (root / "fabric").rename(root / "grid")
    return root

from __future__ import annotations

import pytest

from flawscope.datasets.dataset import held_out


def test_more_pictures_move_few():
    before = [f"{k}.png" for k in range(100)]
    after = [f"new{k}.png" for k in range(5)] + before
    held = {before[k] for k in held_out(before, 0.2, 0)}
    later = {after[k] for k in held_out(after, 0.2, 0)}
    assert (len(held), len(later)) == (20, 21)
    assert len(held - later) <= 5


@pytest.mark.parametrize(
    ("count", "share", "expected"), [(1, 0.9, 0), (2, 0.01, 1), (2, 0.99, 1), (10, 0.99, 9), (10, 0, 0)]
)
def test_something_is_always_left_to_train_on(count, share, expected):
    assert len(held_out([str(k) for k in range(count)], share, 0)) == expected

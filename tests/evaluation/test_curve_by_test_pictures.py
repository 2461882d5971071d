"""How many good pictures are enough is told by test pictures, which models of fewer of them judge, too."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from flawscope.datasets import Item
from flawscope.errors import InputError
from flawscope.evaluation.learning_curve import describe, learning_curve
from flawscope.pictures.table import Picture

COUNT = 40  # test pictures, of which half are defective


def model(learnt, reach, seed, copies=1):
    """A model of so many good parts that scores defects so much higher, and what it says."""
    rows = tuple(
        Picture(f"{unit}-{copy}", "train", "a.png", unit) for unit in range(learnt) for copy in range(copies)
    )
    other = Picture("-", "calibration", "b.png", learnt + 1)
    scores = np.random.default_rng(seed).normal(0, 1, COUNT) + reach * (np.arange(COUNT) % 2)
    results = [(None, SimpleNamespace(score=score)) for score in scores]
    return SimpleNamespace(
        manifest=SimpleNamespace(pictures=(*rows, other)), stream=lambda _: iter(results)
    ), results


def measure(full, *fewer, steps=None):
    items = [Item(Path(f"{k}.png"), "x", bool(k % 2)) for k in range(COUNT)]
    judged = [(item, said) for item, (_, said) in zip(items, full[1], strict=True)]
    return learning_curve(
        full[0], [one for one, _ in fewer], judged, lambda *said: steps is None or steps.append(said)
    )


def test_the_smallest_number_is_told_that_no_larger_one_is_surely_better_than():
    steps = []
    found = measure(model(32, 3.0, 3, copies=2), model(16, 3.0, 2), model(8, 0.0, 1), steps=steps)
    assert (list(found.figures), found.enough) == ([8, 16, 32], 16)
    assert describe(found).startswith(
        "16 good pictures of different parts do as well as 32, by these test pictures:"
    )
    assert f"{found.figures[8]:.3f} with 8, " in describe(found)
    assert steps[-1] == ("learning curve", 2 * COUNT, 2 * COUNT)


def test_more_may_be_better_where_the_model_is_better_than_all_of_fewer():
    found = measure(model(32, 4.0, 3), model(16, 1.0, 2), model(8, 0.0, 1))
    assert found.enough is None
    assert describe(found).startswith("more good pictures of different parts may do better still than 32,")


def test_a_picture_that_one_model_cannot_judge_counts_for_none():
    full, fewer = model(32, 3.0, 3), model(16, 3.0, 2)
    whole = measure(full, fewer)
    fewer[1][3] = (None, InputError("no part"))
    assert measure(full, fewer).figures != whole.figures
    fewer[1][1::2] = [(None, InputError("no part"))] * (COUNT // 2)
    assert measure(full, fewer) is None


@pytest.mark.parametrize("fewer", [[], [model(32, 3.0, 2)]])
def test_nothing_is_told_where_no_model_is_of_fewer(fewer):
    assert measure(model(32, 3.0, 3), *fewer) is None

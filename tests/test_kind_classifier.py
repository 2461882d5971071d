"""Naming kinds: distances against literal formulas, the stated error on drawn numbers, and files."""

import json

import numpy as np
import pytest

from flawscope.artefact.kinds import Kinds
from flawscope.errors import InputError
from flawscope.predictor import kind_classifier as kinds
from flawscope.predictor.kind_classifier import LinearDiscriminant
from flawscope.results.region import describe_kinds

NAMES = ("crack", "dent", "scratch", "stain")


def clusters(rng, each, *, apart=1.5, of=4):
    """Descriptors [each * of, 24] around a centre for each kind, and their kinds."""
    centres = np.random.default_rng(1).normal(0, apart, (of, 24))
    values = np.concatenate([centre + rng.normal(0, 1, (each, 24)) for centre in centres])
    return values, [name for name in NAMES[:of] for _ in range(each)]


def test_distances_are_those_of_the_inverse_covariance():
    rng = np.random.default_rng(0)
    values, labels = rng.normal(0, 1, (12, 7)), np.repeat([0, 1, 2], 4)
    found = LinearDiscriminant.fit(values, labels, 3)
    means = np.array([values[labels == k].mean(0) for k in range(3)])
    within = values - means[labels]
    covariance = within.T @ within / 9
    shrunk = 0.5 * covariance + 0.5 * np.trace(covariance) / 7 * np.eye(7)
    tried = rng.normal(0, 1, (5, 7))
    literal = [[(x - m) @ np.linalg.inv(shrunk) @ (x - m) for m in means] for x in tried]
    np.testing.assert_allclose(found.distances(tried), literal, rtol=1e-9)


def test_p_values_count_examples():
    squares = np.array([[1.0, 6.0], [9.0, 9.5]])
    found = kinds.combined_p_values(squares, np.array([0.5, 1.0, 2.0]), np.array([0.0, 0.0, 4.0]), 0.0)
    # nearest 1.0: 2 of 3 as far, (1 + 2) / 4; margins 0 and 5: (1 + 3) / 4 and 1 / 4
    np.testing.assert_allclose(found[0], [1.0, 0.5])
    np.testing.assert_allclose(found[1], [0.5, 0.5])  # nearest 9.0: 1 / 4
    less = kinds.combined_p_values(squares, np.array([-1.0, 1.0, 2.0]), np.zeros(3), 0.5)
    np.testing.assert_allclose(less[:, 0], [1.0, 0.5])  # 1 - 3.5 / 2: 3 / 4; 9 - 9.25 / 2: 1 / 4


@pytest.mark.parametrize("each", [5, 10])
def test_the_set_lacks_the_true_kind_no_more_often_than_stated(each):
    lacking = new = tried = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        found = kinds.learn(*clusters(rng, each))
        values, labels = clusters(rng, 25)
        answers = found.classify(values)
        lacking += sum(label not in one.kinds for label, one in zip(labels, answers, strict=True))
        new += sum(not one.kinds for one in answers)
        tried += len(labels)
    assert found.kinds.effective_error == 0.1
    assert lacking / tried < 0.1 + 3 * (0.1 * 0.9 / (12 * 4 * each)) ** 0.5  # of the examples drawn
    assert 0 < new < lacking


def test_answers_are_one_kind_several_or_something_new():
    rng = np.random.default_rng(3)
    values, labels = clusters(rng, 12)
    found = kinds.learn(values, labels)
    centres = np.array([values[np.array(labels) == name].mean(0) for name in NAMES])
    assert [one.kinds for one in found.classify(centres)] == [(name,) for name in NAMES]
    assert found.classify(-centres.sum(0, keepdims=True))[0].kinds == ()
    assert describe_kinds(("crack", "dent")) == "crack or dent"
    assert describe_kinds(()) == "something new"
    assert sum(map(sum, found.kinds.confusion)) == 48
    alike = kinds.learn(*clusters(rng, 12, apart=0.4)).classify(clusters(rng, 12, apart=0.4)[0])
    assert sum(len(one.kinds) > 1 for one in alike) > 10


def test_what_differs_more_is_new_sooner():
    found = kinds.learn(*clusters(np.random.default_rng(0), 12))
    unlike = -clusters(np.random.default_rng(5), 1)[0].sum(0, keepdims=True)
    weak, strong = (found.classify(factor * unlike)[0].kinds for factor in (1e-3, 1))
    assert weak
    assert not strong


def test_p_values_are_ranks_among_the_examples():
    found = kinds.learn(*clusters(np.random.default_rng(0), 6))
    tried = clusters(np.random.default_rng(2), 3)[0]
    rows, known = found.tensor.astype(np.float64), found.kinds
    discriminant = LinearDiscriminant(rows[:4], rows[4:], known.spread)
    lengths = np.linalg.norm(tried, axis=1, keepdims=True)
    for factor in (0.1, 7):
        squares = discriminant.distances(tried / lengths) * (factor * lengths) ** known.power
        for answer, row in zip(found.classify(factor * tried), squares, strict=True):
            alike = (np.array(known.distances) >= row.min() - known.share * row.mean()).sum()
            beyond = [min(alike, (np.array(known.margins) >= v - row.min()).sum()) for v in row]
            expected = np.minimum(1, 2 * (1 + np.array(beyond)) / 25)
            np.testing.assert_allclose([*answer.kind_p_values.values()], expected)


def test_few_examples_state_what_they_can_promise_and_there_may_be_more_than_folds():
    values, labels = clusters(np.random.default_rng(0), 3)
    found = kinds.learn(values, labels, 0.05).kinds
    assert found.effective_error == 2 / 13
    assert "15.4%" in found.describe()
    assert "5.0% takes 39 examples" in found.describe()
    values, labels = clusters(np.random.default_rng(0), 40)
    found = kinds.learn(values, labels).kinds
    assert len(found.distances) == 160 == sum(map(sum, found.confusion))


def test_a_kind_with_two_examples_is_passed_over():
    values, labels = clusters(np.random.default_rng(0), 4)
    assert kinds.learn(values[:-2], labels[:-2]).kinds.names == NAMES[:3]
    with pytest.raises(
        InputError, match=r"no kind of defect has 3 examples with a region \(crack 2, dent 2\)"
    ):
        kinds.learn(values[[0, 1, 4, 5]], [labels[k] for k in (0, 1, 4, 5)])
    with pytest.raises(InputError, match="not between 0 and 1"):
        kinds.learn(values, labels, 1.0)


def test_order_and_unit_change_nothing():
    values, labels = clusters(np.random.default_rng(0), 6)
    order = np.random.default_rng(1).permutation(len(labels))
    tried = clusters(np.random.default_rng(2), 3)[0]
    one = kinds.learn(values, labels).classify(tried)
    other = kinds.learn(7 * values[order], [labels[k] for k in order]).classify(7 * tried)
    assert [answer.kinds for answer in one] == [answer.kinds for answer in other]


def test_stored_and_read():
    found = kinds.learn(*clusters(np.random.default_rng(0), 5))
    text = json.dumps(found.kinds.to_dict())
    assert Kinds.from_dict(json.loads(text)) == found.kinds
    damaged = {"shape": [2, 24], "names": [], "spread": 0.0, "error": -1, "margins": [], "power": None}
    for key, wrong in damaged.items():
        with pytest.raises((ValueError, TypeError, KeyError)):
            Kinds.from_dict({**json.loads(text), key: wrong})
    with pytest.raises(InputError, match="do not fit"):
        found.kinds.check(found.tensor[:-1])
    with pytest.raises(InputError, match="do not fit"):
        found.classify(np.zeros((1, 23)))

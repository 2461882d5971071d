"""The rule by which products are recognised."""

from dataclasses import replace

import numpy as np
import pytest

from flawscope.artefact.descriptors import ProductDescriptors
from flawscope.predictor.recognition import GOOD_DISTANCE_FACTOR, KnownProduct, Recogniser


def unit(*rows):
    made = np.array(rows, np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def known(good, groups=None):
    numbers = np.array(range(len(good)) if groups is None else groups, np.int32)
    return ProductDescriptors(good, numbers, good[:0], numbers[:0])


def test_the_rule_of_recognition():
    angles = np.array([0.0, 0.01, 0.02, 0.03, 0.04])
    near = np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1).astype(np.float32)
    one, other = known(near), known(near[:, [2, 0, 1]])
    limit = KnownProduct(one).limit
    assert limit == pytest.approx(GOOD_DISTANCE_FACTOR * 0.01, rel=1e-3)
    rule = Recogniser({"one": one, "other": other})
    inside, outside = 0.04 + 0.9 * limit, 0.04 + 1.1 * limit
    asked = np.array([[np.cos(a), np.sin(a), 0] for a in (0.005, inside, outside)], np.float32)
    found = rule.recognise(asked)
    assert [each.product for each in found] == ["one", "one", None]
    assert [each.nearest for each in found] == ["one"] * 3
    assert [each.p_value for each in found] == pytest.approx([1, 1 / 6, 1 / 6])
    alone = Recogniser({"one": one}).recognise(asked)  # nothing about a product depends on the others
    assert [each[:3] for each in alone] == [each[:3] for each in found]
    assert found[0].distances[0] == pytest.approx(0.005, rel=1e-3)


def test_pictures_of_one_part_do_not_vouch_for_each_other_and_defective_parts_widen_the_limit():
    base = unit([1, 0], [1, 0.1], [1, 0.2], [1, 0.3])
    pairs = np.repeat(base, 2, axis=0)
    told_apart = known(pairs, [0, 0, 1, 1, 2, 2, 3, 3])
    assert KnownProduct(known(pairs)).limit < KnownProduct(told_apart).limit
    good = unit([1, 0], [1, 0.01], [1, 0.02], [1, 0.03])
    far = replace(known(good), defective=unit([1, 0.2]), carriers=np.array([0], np.int32))
    assert KnownProduct(far).limit > 0.17 * 1.2 > KnownProduct(known(good)).limit


def test_a_product_that_varies_much_swallows_no_other():
    rng = np.random.default_rng(0)

    def known(spread):
        good = np.eye(64, dtype=np.float32)[0] + rng.normal(size=(20, 64)).astype(np.float32) * spread
        good /= np.linalg.norm(good, axis=1, keepdims=True)
        return ProductDescriptors(good, np.arange(20, dtype=np.int32), good[:0], np.empty(0, np.int32))

    quiet, lively = known(0.001), known(0.05)
    assert 3 * KnownProduct(lively).leave_one_out[0][-1] > 1
    assert KnownProduct(lively).limit == 0.4
    away = np.eye(64, dtype=np.float32)[1:2]
    quiet = replace(quiet, good=np.roll(quiet.good, 1, axis=1))  # about the second axis
    recogniser = Recogniser({"lively": lively, "quiet": quiet})
    assert recogniser.recognise(away)[0].product == "quiet"
    angle = 0.1
    turned = np.cos(angle) * away + np.sin(angle) * np.eye(64, dtype=np.float32)[:1]
    found = recogniser.recognise(turned.astype(np.float32))[0]  # beyond the limit, and nearest to it
    assert (found.product, found.nearest) == (None, "quiet")

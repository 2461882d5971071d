"""The loss against its definition in fp64, and the score of a picture."""

from __future__ import annotations

import math

import pytest
import torch

from flawscope.methods.prnet.network import focal, image_score, loss


def literal(logits, masks) -> tuple[float, float]:
    """SmoothL1 and focal, pixel by pixel."""
    smooth = focus = 0.0
    for x, y in zip(logits.flatten().tolist(), masks.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-x))
        apart = abs(p - y)
        smooth += 0.5 * apart**2 if apart < 1 else apart - 0.5
        right = p if y else 1 - p
        focus += -0.5 * (1 - right) ** 4 * math.log(right)
    return smooth / logits.numel(), focus / logits.numel()


def test_the_loss_is_its_definition():
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(2, 1, 5, 7, generator=generator)
    masks = (torch.rand(2, 1, 5, 7, generator=generator) < 0.3).float()
    smooth, focus = literal(logits, masks)
    assert float(focal(logits, masks)) == pytest.approx(focus, rel=1e-5)
    assert float(loss(logits, masks)) == pytest.approx(smooth + 5 * focus, rel=1e-5)
    assert float(loss(logits, masks.bool())) == float(loss(logits, masks))


@pytest.mark.parametrize("logit", [50.0, 1000.0, 1e6])
def test_certain_and_wrong_stays_a_number_with_a_gradient(logit):
    for sign, mask in ((1, 0.0), (-1, 1.0)):
        logits = torch.full((1, 1, 2, 2), sign * logit, requires_grad=True)
        masks = torch.full((1, 1, 2, 2), mask)
        value = loss(logits, masks)
        # the focal part is 0.5 * 1 * |logit| where p is nothing
        assert float(value.detach()) == pytest.approx(0.5 + 5 * 0.5 * logit, rel=1e-6)
        value.backward()
        assert torch.allclose(logits.grad, torch.full_like(logits, sign * 2.5 / 4))


def test_the_score_is_the_mean_of_the_hundred_largest_pixels():
    maps = torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(1))
    expected = [sum(sorted(one.flatten().tolist())[-100:]) / 100 for one in maps]
    assert image_score(maps).tolist() == pytest.approx(expected)
    assert torch.equal(image_score(maps, top=1), maps.amax((1, 2)))
    assert torch.allclose(image_score(maps[:, :4, :5]), maps[:, :4, :5].mean((1, 2)))  # fewer than a hundred


def test_only_the_pixels_that_count() -> None:
    generator = torch.Generator().manual_seed(2)
    logits, masks = torch.randn(2, 1, 6, 8, generator=generator), torch.zeros(2, 1, 6, 8)
    masks[:, :, 2:4, 1:3] = 1
    counted = torch.zeros(2, 6, 8, dtype=torch.bool)
    counted[:, :, :4] = True
    other = logits.clone()
    other[..., 4:] = 50.0
    wanted = loss(logits[..., :4], masks[..., :4])
    for given in (logits, other):
        torch.testing.assert_close(loss(given, masks, counted), wanted)

"""What PRN minimises, and how a map becomes a score (Zhang et al., CVPR 2023, sections 3.5 and 3.6)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

LAMBDA = 5.0  # weight of the focal part
ALPHA, GAMMA = 0.5, 4.0
TOP = 100  # pixels that make the score


def loss(logits: Tensor, masks: Tensor, counted: Tensor | None = None) -> Tensor:
    """SmoothL1 between the map and the mask, plus `LAMBDA` times the focal loss; a scalar.

    Args:
        logits: `[B, 1, H, W]` floating point.
        masks: `[B, 1, H, W]`, 0 or 1: 1 where there is a defect.
        counted: `[B, H, W]` bool, the pixels that count; None: all of them.
    """
    masks = masks.to(logits.dtype)
    if counted is not None:
        logits, masks = logits[:, 0][counted], masks[:, 0][counted]
    return F.smooth_l1_loss(logits.sigmoid(), masks) + LAMBDA * focal(logits, masks)


def focal(logits: Tensor, masks: Tensor, alpha: float = ALPHA, gamma: float = GAMMA) -> Tensor:
    """Mean over all pixels of -a (1 - p)^gamma log p, where p is the probability of the right answer and a is
    `alpha` on defects, 1 - `alpha` elsewhere (Lin et al., Focal Loss for Dense Object Detection, 2017).

    From logits: right also where p is 0 or 1 to the last digit.
    """
    right = logits * (2 * masks - 1)  # logit of p
    weight = alpha * masks + (1 - alpha) * (1 - masks)
    return (weight * (-right).sigmoid().pow(gamma) * F.softplus(-right)).mean()


def image_score(maps: Tensor, top: int = TOP) -> Tensor:
    """Mean of the `top` largest pixels of maps `[B, H, W]` (of all, where there are fewer): `[B]`. With 1 the
    maximum."""
    pixels = maps.flatten(1)
    if top == 1:
        return pixels.amax(1)
    return pixels.topk(min(top, pixels.shape[1]), dim=1).values.mean(1)

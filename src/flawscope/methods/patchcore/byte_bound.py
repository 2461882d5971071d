"""Which points a batch of picks may come nearer to, by products of bytes: where a processor multiplies these
several times as fast as fp32, few points are left for fp32, and selecting is as exact as without."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flawscope.methods.patchcore.quantized_search import TOP, in_digits, random_rotation
from flawscope.methods.threads import Each

HIGH = 7  # digits to the base 127 of what depends on the pick alone, beside the lowest
FEWEST = 1 << 15  # points: with fewer, rounding them takes as long as it saves
PICKS = 64  # of a batch: the same
MANY = 0.5  # of a block's points: if more are concerned, their pairs are not looked for
PAIRS = 4  # for each of a block's points, on average: more take longer, and more memory, than all products
ROUNDING = 1e-5  # of the squares that fp32 subtracts from each other


class ByteBound:
    """A lower bound of squared distances, from points and picks rounded to whole multiples of a step.

    They are taken relative to their mean, and rotated, which changes no distance and spreads single large
    features over all: x = s x' + e_x, p = s p' + e_p. Then (Cauchy-Schwarz)

        |x - p|² >= |x|² + |p|² - 2 s² x'p' - 2 |e_x| |p| - 2 (|x| + |e_x|) |e_p|.

    |e_x| and |e_p| are replaced by the largest ones. What depends on p alone is written in digits beside p',
    so that the least of a row of products is all that is looked at. `screen.py` has the same for predicting.
    """

    def __init__(self, features: Tensor, rows: list[slice], each: Each[Any]):
        """
        Args:
            features: [N, D] float32 on the CPU.
            rows: the blocks that `Batch.pairs` is asked about.
        """
        width = features.shape[1]
        self.rotation, self.rows = random_rotation(width), rows
        largest, lost = torch.zeros(len(rows)), torch.zeros(len(rows))
        sums = torch.stack(each(lambda b: features[rows[b]].sum(0), range(len(rows))))
        self.middle = (sums.double().sum(0) / len(features)).float()
        self.norms = torch.empty(len(features))
        self.whole = torch.zeros(len(features), width_of(width), dtype=torch.int8)

        def measure(b: int) -> None:
            turned = self._turned(features[rows[b]])
            largest[b], self.norms[rows[b]] = turned.abs().max(), turned.square().sum(1)

        def keep(b: int) -> None:
            turned = self._turned(features[rows[b]])
            whole, off = self._rounded(turned)
            lost[b] = off.max()
            self.whole[rows[b], :width] = whole.to(torch.int8)
            self.whole[rows[b], width : width + HIGH] = TOP
            self.whole[rows[b], width + HIGH] = 1

        each(measure, range(len(rows)))
        self.step = max(float(largest.max()), 1e-6) / TOP  # all points may be alike
        each(keep, range(len(rows)))
        self.lost = float(lost.max())

    def _turned(self, points: Tensor) -> Tensor:
        return (points - self.middle) @ self.rotation

    def _rounded(self, turned: Tensor) -> tuple[Tensor, Tensor]:
        """In whole steps, and how far off that is [N]; a little more, for the rotation's own rounding."""
        whole = (turned / self.step).round_().clamp_(-TOP, TOP)
        off = torch.linalg.vector_norm(turned - whole * self.step, dim=1)
        return whole, off + 1e-5 * torch.linalg.vector_norm(turned, dim=1)

    def of(self, picks: Tensor) -> Batch:
        """A batch of them [K, D]."""
        turned = self._turned(picks)
        norms, (whole, off) = turned.square().sum(1), self._rounded(turned)
        unit = 2.0 * self.step * self.step
        alone = ((norms - 2.0 * self.lost * norms.sqrt()).double() / unit).floor()
        middle = float(alone.min()) + HIGH * TOP * TOP  # whose least has the lowest digits; larger ones may
        left = (alone - middle).clamp(max=HIGH * TOP * TOP).long()  # be cut, which only lowers a bound
        digits = in_digits(left, HIGH, TOP)
        # products are subtracted: 2 s² (alone - x'p')
        columns = torch.cat([-whole, torch.stack(digits, 1)], 1).to(torch.int8)
        columns = F.pad(columns, (0, self.whole.shape[1] - columns.shape[1])).T
        return Batch(self, columns, unit, middle * unit, float(off.max()), float(norms.max()))


class Batch:
    """The bound for one batch of picks."""

    def __init__(
        self, bound: ByteBound, columns: Tensor, unit: float, middle: float, lost: float, largest: float
    ):
        self.bound, self.columns, self.unit, self.middle = bound, columns, unit, middle
        self.lost, self.largest = lost, largest

    def pairs(self, b: int, squared: Tensor) -> tuple[Tensor, Tensor] | None:
        """Points, numbered within block b, and picks that may be nearer to them than `squared` [R]: two
        [P] int64. None where these are so many that all may as well be looked at."""
        bound, rows = self.bound, self.bound.rows[b]
        norms, products = bound.norms[rows], torch._int_mm(bound.whole[rows], self.columns)
        slack = 2.0 * self.lost * (norms.sqrt() + bound.lost)
        slack += ROUNDING * (norms + self.largest)
        below = (squared + slack - norms - self.middle) / self.unit  # of the products, whole numbers
        below = below.ceil().clamp(-(2.0**30), 2.0**30).int()
        some = (products.amin(1) < below).nonzero().flatten()
        if len(some) > MANY * len(norms):
            return None
        near = products.index_select(0, some) < below.index_select(0, some)[:, None]
        if int(near.sum()) > PAIRS * len(norms):
            return None
        of_some, picks = near.nonzero(as_tuple=True)
        return some[of_some], picks


def width_of(features: int) -> int:
    """Bytes of a point with so many features."""
    return -(-(features + HIGH + 1) // 16) * 16


def pays() -> bool:
    """Whether this processor, with this torch, multiplies bytes several times as fast as fp32. It is asked,
    not timed: what is picked may differ by rounding, and two fits here are to be the same."""
    return torch.backends.mkldnn.is_available() and bool(torch.cpu._is_vnni_supported()) and exact()


def exact() -> bool:
    """Whether sums of products of bytes are right. Without VNNI they are cut off at 16 bits, and oneDNN may
    have been told not to use it (ONEDNN_MAX_CPU_ISA)."""
    if not hasattr(torch, "_int_mm"):
        return False
    most = torch.full((64, 64), TOP, dtype=torch.int8)
    return bool((torch._int_mm(most, -most) == -TOP * TOP * 64).all())

"""Lower bounds of distances by products of bytes, which leave few pairs for fp32: exact, at a quarter of the
multiplications' time where bytes are multiplied faster.

`ByteScreen` finds the nearest bank element in exported graphs: in torch, which makes new memory for every
step, nothing would be gained. `ByteBound` finds the points that a batch of picks may come nearer to while a
coreset is selected, on processors that multiply bytes several times as fast as fp32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flawscope.methods.threads import MapBlocks

BLOCK = 1024  # bank elements multiplied at once
GROUP_SIZE = 4  # of them share one bound
KEPT_GROUPS = 12  # groups a query confirms in fp32
MIN_BANK = 2 * BLOCK  # bank: below, the plain search is as fast
QUERY_MAX = 127  # largest number of a query
# Largest of an element: processors without VNNI add two neighbouring products of bytes in 16 bits, up to
# 32,767, the engines adding 128 to a query. 2 * 255 * 63 fits there, and so does 255 * 63 + 129 * 126, where
# the last digit comes in
ELEMENT_MAX = 63
# Whole numbers are made of the bank once here and once where an engine opens the file, which may add in
# another order: what lies within so many steps of a half may be rounded to the other side there
HALF_MARGIN = 1e-3
MAX_FLIPPED = 9  # such numbers of an element, at most
# Of `ByteBound`:
HIGH_DIGITS = 7  # digits to the base 127 of what depends on the pick alone, beside the lowest
MIN_POINTS = 1 << 15  # with fewer, rounding them takes as long as it saves
MIN_PICKS = 64  # of a batch: the same
MAX_POINT_SHARE = 0.5  # of a block's points: if more are concerned, their pairs are not looked for
PAIRS_PER_POINT = 4  # on average: more take longer, and more memory, than all products
ROUNDING = 1e-5  # of the squares that fp32 subtracts from each other


@torch.library.custom_op("flawscope::group_minima", mutates_args=())
def group_minima(queries: Tensor, weights: Tensor, group: int) -> Tensor:
    """Products of whole numbers, and of every `group` of them the least.

    An operator of its own, because an exported graph writes it in its engine's way (`export.onnx_graph`).

    Args:
        queries: `[N, K]` float32, whole numbers in -127..127.
        weights: `[blocks, K, M]` int8. Group i of a block is products i, i + M / group, i + 2 M / group, ...

    Returns:
        `[N, blocks * M / group]` float32.
    """
    minima = []
    for block in weights:
        products = queries @ block.float()
        minima.append(products.view(len(queries), group, -1).amin(1))
    return torch.cat(minima, 1)


@group_minima.register_fake
def _(queries: Tensor, weights: Tensor, group: int) -> Tensor:
    return queries.new_empty((queries.shape[0], weights.shape[0] * weights.shape[2] // group))


def random_rotation(width: int) -> Tensor:
    """Fixed random rotation [D, D], which spreads single large features over all."""
    random = torch.randn(width, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.linalg.qr(random).Q.float()


def split_digits(numbers: Tensor, count: int, most: int) -> list[Tensor]:
    """Split whole numbers [N] into `count` digits, each at most `most` and to be multiplied by `QUERY_MAX`,
    and a last one below `QUERY_MAX`, to be added."""
    high, digits = torch.div(numbers, QUERY_MAX, rounding_mode="floor"), []
    for _ in range(count):
        digits.append(high.clamp(-most, most))
        high = high - digits[-1]
    return [*digits, numbers.remainder(QUERY_MAX)]


class ByteScreen(nn.Module):
    """A lower bound of every distance from bytes; the exact one only where the bound leaves a doubt.

    Queries x and elements m are rotated, which changes no distance but spreads single large features over
    all, and rounded to whole multiples of a step: x = x' + e_x, m = m' + e_m. Then (Cauchy-Schwarz)

        |x - m|² >= |x|² + |m|² - 2 x'm' - 2 |e_x| |m'| - 2 |x| |e_m|.

    |e_x| is replaced by a limit that nearly all queries keep; those that do not count as unsure. The part
    that depends on m alone, |m|² - 2 limit |m'|, is written in digits to the base 127 into further rows of
    the product, so that the product itself is the bound, in units of twice the steps, and only its minima
    over groups are looked at. The `KEPT_GROUPS` lowest groups are searched in fp32. Where the next group's
    bound is not above the distance found, the query is unsure and compared with the whole bank.

    Of the elements the digits are kept alone: their bytes are made of the bank, which an engine does once,
    when it opens the file, and the file is a fifth smaller.
    """

    rotation: Tensor  # [D, D], divided by the step
    digits: Tensor  # [blocks, K - D, BLOCK], int8
    tail: Tensor  # [K - D], what every query has after its D numbers
    members: Tensor  # [groups, GROUP_SIZE], bank elements

    def __init__(self, bank: Tensor, norms: Tensor):
        """
        Args:
            bank: [M, D] float32.
            norms: [M], |m|².
        """
        super().__init__()
        count, width = bank.shape
        rotation = random_rotation(width).to(bank.device)
        turned = bank @ rotation
        largest = max(float(turned.abs().max()), 1e-30)
        self.step, step = largest / QUERY_MAX, largest / ELEMENT_MAX
        self.register_buffer("rotation", rotation / self.step, persistent=False)
        whole = self._quantise(bank)
        rounded = whole * step
        self.max_error = float(torch.linalg.vector_norm(turned - rounded, dim=1).max()) * (1 + 1e-5)  # |e_m|
        self.max_error += 2 * HALF_MARGIN * step * width**0.5
        self.error_limit = self.step * (width / 12) ** 0.5 * 1.1  # |e_x|: a uniform error's, and a tenth
        self.unit = 2.0 * self.step * step
        alone = norms.double() - 2.0 * self.error_limit * torch.linalg.vector_norm(rounded.double(), dim=1)
        alone = (alone / self.unit).floor()
        self.middle = float(((alone.max() + alone.min()) / 2).floor())
        left = (alone - self.middle).long()
        highest = torch.div(left, QUERY_MAX, rounding_mode="floor").abs().max()
        digits = split_digits(left, int(-(-highest // ELEMENT_MAX)), ELEMENT_MAX)
        long = width + len(digits)
        rows = F.pad(torch.stack(digits, 1), (0, -long % 16))
        tail = torch.zeros(rows.shape[1])
        tail[: len(digits) - 1] = QUERY_MAX
        tail[len(digits) - 1] = 1
        self.missing = -count % BLOCK
        never = torch.zeros(self.missing, rows.shape[1], dtype=torch.int64, device=bank.device)
        never[:, : len(digits)] = ELEMENT_MAX  # as high as bounds get
        rows = torch.cat([rows, never]).to(torch.int8)
        # a sum of K products may not fit fp32's 24 bits, whatever the order it is summed in
        self.rounding = self.unit * (1.0 + QUERY_MAX * ELEMENT_MAX * (width + rows.shape[1]) * 2.0**-22)
        self.rounding += 2.0 * self.error_limit * step * MAX_FLIPPED**0.5
        numbers = torch.arange(len(rows), device=bank.device).clamp(max=count - 1)
        blocks = rows.view(-1, BLOCK, rows.shape[1]).transpose(1, 2)
        self.register_buffer("digits", blocks.contiguous(), persistent=False)
        self.register_buffer("tail", tail.to(bank.device), persistent=False)
        members = torch.cat([block.view(GROUP_SIZE, -1).T for block in numbers.split(BLOCK)])
        self.register_buffer("members", members.contiguous(), persistent=False)

    def _quantise(self, bank: Tensor) -> Tensor:
        """The elements [M, D], rotated, in whole steps."""
        return (bank @ self.rotation * (ELEMENT_MAX / QUERY_MAX)).round().clamp(-ELEMENT_MAX, ELEMENT_MAX)

    def weights(self, bank: Tensor) -> Tensor:
        """Matrix `[blocks, K, BLOCK]` int8 for the queries: the elements in whole steps, then the digits."""
        whole = F.pad(-self._quantise(bank), (0, 0, 0, self.missing)).to(torch.int8)
        return torch.cat([whole.view(-1, BLOCK, bank.shape[1]).transpose(1, 2), self.digits], 1)

    def forward(
        self, queries: Tensor, bank: Tensor, norms: Tensor, plain: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """The smallest |m|² - 2xm `[N]` of queries `[N, D]`.

        Args:
            bank, norms: those that the screen was made of.
            plain: the plain search, for the queries that are unsure.
        """
        best, unsure = self.search_groups(queries, bank, norms)
        # one query too many, so that there is always one: not every engine can work on none
        again = torch.cat([unsure.new_zeros(1, dtype=torch.int64), unsure.nonzero()[:, 0]])
        return best.index_put((again,), plain(queries[again]))

    def search_groups(self, queries: Tensor, bank: Tensor, norms: Tensor) -> tuple[Tensor, Tensor]:
        """The smallest |m|² - 2xm of the groups kept, and whether another might be smaller."""
        turned = queries @ self.rotation
        whole = turned.round().clamp(-QUERY_MAX, QUERY_MAX)
        lost = (turned - whole).square().sum(1) * self.step**2
        longer = torch.cat([whole, self.tail.expand(queries.shape[0], -1)], 1)
        bounds = group_minima(longer, self.weights(bank), GROUP_SIZE)
        kept, groups = bounds.topk(KEPT_GROUPS, dim=1, largest=False, sorted=False)
        candidates = self.members[groups].flatten(1)
        elements = F.embedding(candidates, bank)
        best = (norms[candidates] - 2.0 * (elements @ queries[:, :, None])[:, :, 0]).amin(1)
        square = queries.square().sum(1)
        next_best = (kept.amax(1) + self.middle) * self.unit - 2.0 * square.sqrt() * self.max_error
        sure = (next_best - self.rounding >= best + 1e-6 * square) & (lost <= self.error_limit**2)
        return best, ~sure  # also where something is not a number


class ByteBound:
    """A lower bound of squared distances, from points and picks rounded to whole multiples of a step.

    Both are taken relative to the points' mean, and rotated, which changes no distance and spreads single
    large features over all: x = s x' + e_x, p = s p' + e_p. Then (Cauchy-Schwarz)

        |x - p|² >= |x|² + |p|² - 2 s² x'p' - 2 |e_x| |p| - 2 (|x| + |e_x|) |e_p|.

    |e_x| and |e_p| are replaced by the largest ones. What depends on p alone is written in digits beside p',
    so that the least of a row of products is all that is looked at. Only pairs that the bound leaves are met
    in fp32, so that selecting is as exact as without.
    """

    def __init__(self, features: Tensor, rows: list[slice], each: MapBlocks[Any]):
        """
        Args:
            features: [N, D] float32 on the CPU.
            rows: the blocks that `PickBound.pairs` is asked about.
        """
        width = features.shape[1]
        self.rotation, self.rows = random_rotation(width), rows
        largest, lost = torch.zeros(len(rows)), torch.zeros(len(rows))
        sums = torch.stack(each(lambda b: features[rows[b]].sum(0), range(len(rows))))
        self.middle = (sums.double().sum(0) / len(features)).float()
        self.norms = torch.empty(len(features))
        self.quantised = torch.zeros(len(features), row_bytes(width), dtype=torch.int8)

        def measure(b: int) -> None:
            turned = self._rotate(features[rows[b]])
            largest[b], self.norms[rows[b]] = turned.abs().max(), turned.square().sum(1)

        def keep(b: int) -> None:
            turned = self._rotate(features[rows[b]])
            whole, off = self._quantise_points(turned)
            lost[b] = off.max()
            self.quantised[rows[b], :width] = whole.to(torch.int8)
            self.quantised[rows[b], width : width + HIGH_DIGITS] = QUERY_MAX
            self.quantised[rows[b], width + HIGH_DIGITS] = 1

        each(measure, range(len(rows)))
        self.step = max(float(largest.max()), 1e-6) / QUERY_MAX  # all points may be alike
        each(keep, range(len(rows)))
        self.max_error = float(lost.max())

    def _rotate(self, points: Tensor) -> Tensor:
        return (points - self.middle) @ self.rotation

    def _quantise_points(self, turned: Tensor) -> tuple[Tensor, Tensor]:
        """Points in whole steps, and their errors [N], with a little more for the rotation's own rounding."""
        whole = (turned / self.step).round_().clamp_(-QUERY_MAX, QUERY_MAX)
        off = torch.linalg.vector_norm(turned - whole * self.step, dim=1)
        return whole, off + 1e-5 * torch.linalg.vector_norm(turned, dim=1)

    def for_picks(self, picks: Tensor) -> PickBound:
        """The bound for a batch of picks [K, D]."""
        turned = self._rotate(picks)
        norms, (whole, off) = turned.square().sum(1), self._quantise_points(turned)
        unit = 2.0 * self.step * self.step
        alone = ((norms - 2.0 * self.max_error * norms.sqrt()).double() / unit).floor()
        most = HIGH_DIGITS * QUERY_MAX * QUERY_MAX  # larger numbers are cut, which only lowers a bound
        middle = float(alone.min()) + most  # the least number has the lowest digits
        left = (alone - middle).clamp(max=most).long()
        digits = split_digits(left, HIGH_DIGITS, QUERY_MAX)
        # products are subtracted: 2 s² (alone - x'p')
        columns = torch.cat([-whole, torch.stack(digits, 1)], 1).to(torch.int8)
        columns = F.pad(columns, (0, self.quantised.shape[1] - columns.shape[1])).T
        return PickBound(self, columns, unit, middle * unit, float(off.max()), float(norms.max()))


@dataclass(frozen=True)
class PickBound:
    """The bound for one batch of picks."""

    bound: ByteBound
    columns: Tensor  # [D and digits, K] int8
    unit: float  # what a product of whole numbers counts for
    middle: float  # added to all of them
    max_error: float  # the largest |e_p|
    largest: float  # the largest |p|²

    def pairs(self, b: int, squared: Tensor) -> tuple[Tensor, Tensor] | None:
        """Points, numbered within block b, and picks that may be nearer to them than `squared` [R]: two
        [P] int64. None where these are so many that all may as well be looked at."""
        bound, rows = self.bound, self.bound.rows[b]
        norms, products = bound.norms[rows], torch._int_mm(bound.quantised[rows], self.columns)
        slack = 2.0 * self.max_error * (norms.sqrt() + bound.max_error)
        slack += ROUNDING * (norms + self.largest)
        below = (squared + slack - norms - self.middle) / self.unit  # of the products, whole numbers
        below = below.ceil().clamp(-(2.0**30), 2.0**30).int()
        some = (products.amin(1) < below).nonzero().flatten()
        if len(some) > MAX_POINT_SHARE * len(norms):
            return None
        near = products.index_select(0, some) < below.index_select(0, some)[:, None]
        if int(near.sum()) > PAIRS_PER_POINT * len(norms):
            return None
        of_some, picks = near.nonzero(as_tuple=True)
        return some[of_some], picks


def row_bytes(features: int) -> int:
    """Bytes of a point's row in `ByteBound.quantised`, a multiple of 16."""
    return -(-(features + HIGH_DIGITS + 1) // 16) * 16


def is_faster() -> bool:
    """Whether this processor multiplies bytes several times as fast as fp32 in this torch. Nothing is timed:
    rounding may change the picks, and two fits here must be the same."""
    return torch.backends.mkldnn.is_available() and bool(torch.cpu._is_vnni_supported()) and sums_are_exact()


def sums_are_exact() -> bool:
    """Whether sums of products of bytes are right. Without VNNI they are cut off at 16 bits, and oneDNN may
    have been told not to use it (ONEDNN_MAX_CPU_ISA)."""
    if not hasattr(torch, "_int_mm"):
        return False
    most = torch.full((64, 64), QUERY_MAX, dtype=torch.int8)
    return bool((torch._int_mm(most, -most) == -QUERY_MAX * QUERY_MAX * 64).all())


def onnx_translations() -> dict[Any, Callable[..., Any]]:
    """{torch operator: a function that builds it of ONNX operators}, for the exporter."""
    from onnx import TensorProto, helper
    from onnxscript import opset18

    op: Any = opset18  # its annotations are of values, and what is given here are names of values

    def group_minima(queries: Any, weights: Any, group: int) -> Any:
        # as the quantised networks' layers are written: an engine that knows them multiplies bytes, any other
        # multiplies the same whole numbers in fp32
        one, to_unsigned, none = (
            op.Constant(value=helper.make_tensor("value", kind, [], [number]))
            for kind, number in ((TensorProto.FLOAT, 1.0), (TensorProto.UINT8, 128), (TensorProto.INT8, 0))
        )
        rounded = op.DequantizeLinear(op.QuantizeLinear(queries, one, to_unsigned), one, to_unsigned)
        blocks, _, width = weights.shape
        minima = []
        for i in range(blocks):
            block = op.Gather(weights, op.Constant(value_int=i), axis=0)
            products = op.MatMul(rounded, op.DequantizeLinear(block, one, none))
            grouped = op.Reshape(products, op.Constant(value_ints=[-1, group, width // group]))
            minima.append(op.ReduceMin(grouped, op.Constant(value_ints=[1]), keepdims=0))
        return op.Concat(*minima, axis=1)

    return {torch.ops.flawscope.group_minima.default: group_minima}

"""Lower bounds of distances by products of bytes, which leave few pairs for fp32.

The search stays exact, and takes a quarter of the multiplications' time where bytes are multiplied faster.

`ByteScreen` finds the nearest bank element in exported graphs: in torch, which takes new memory for every
step, nothing would be gained. `ByteBound` finds the points to which a batch of picks may come nearer while a
coreset is selected, on CPUs that multiply bytes several times as fast as fp32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flawscope.methods.detector import Operator
from flawscope.methods.threads import MapBlocks

BLOCK = 1024  # bank elements multiplied at once
GROUP_SIZE = 4  # of them share one bound
KEPT_GROUPS = 6  # groups a query confirms in fp32
MIN_BANK = 2 * BLOCK  # bank: below, the plain search is as fast
QUERY_MAX = 127  # largest number of a query
# Largest of an element: processors without VNNI add two neighbouring products of bytes in 16 bits, up to
# 32,767, the engines adding 128 to a query. 2 * 255 * 63 fits there, and so does 255 * 63 + 129 * 126, where
# the last digit comes in
ELEMENT_MAX = 63
# An engine makes an element's whole numbers anew: within so much of a half it may round to the other side
HALF_MARGIN = 1e-3
# Of `ByteBound`:
HIGH_DIGITS = 7  # digits to the base 127 of what depends on the pick alone, beside the lowest
MIN_POINTS = 1 << 15  # with fewer, rounding them takes as long as it saves
MIN_PICKS = 64  # of a batch: the same
MAX_POINT_SHARE = 0.5  # of a block's points: if more are concerned, their pairs are not looked for
PAIRS_PER_POINT = 4  # on average: more take longer, and more memory, than all products
ROUNDING = 1e-5  # of the squares that fp32 subtracts from each other


@torch.library.custom_op("flawscope::group_minima", mutates_args=())
def group_minima(queries: Tensor, weights: Tensor, group: int) -> Tensor:
    """Multiply whole numbers, and return the smallest product of every group.

    It is a separate operator, because an exported graph writes it in its engine's way (`export.onnx_graph`).

    Args:
        queries: Whole numbers in -127..127, `[N, K]` float32.
        weights: Whole numbers, `[blocks, K, M]` int8. Group i of a block is products i, i + M / group,
            i + 2 M / group, ...
        group: Number of products in a group.

    Returns:
        The smallest products, `[N, blocks * M / group]` float32.
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
    """Return a fixed random rotation `[D, D]`, which spreads single large features over all."""
    random = torch.randn(width, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.linalg.qr(random).Q.float()


def split_digits(numbers: Tensor, count: int, most: int) -> list[Tensor]:
    """Split whole numbers `[N]` into digits.

    There are `count` digits of at most `most`, which are multiplied by `QUERY_MAX`, and a last digit below
    `QUERY_MAX`, which is added.
    """
    high = torch.div(numbers, QUERY_MAX, rounding_mode="floor")
    digits = []
    for _ in range(count):
        digits.append(high.clamp(-most, most))
        high = high - digits[-1]
    return [*digits, numbers.remainder(QUERY_MAX)]


class ByteScreen(nn.Module):
    """Search by a lower bound of every distance from bytes; the exact distance only where a doubt is left.

    Queries x and elements m are rotated, which changes no distance but spreads single large features over
    all, and rounded: x to whole numbers x' of steps, m to even numbers 2 m'. In steps, for x = x' + e_x and
    m = 2 m' + e_m (triangle inequality),

        |x - m| >= |x' - 2 m'| - |e_x| - |e_m|,   |x' - 2 m'|² = |x'|² + 4 (|m'|² - x'm').

    |m'|² is written in digits to the base 127 into further rows of the product of bytes: the product itself
    is |m'|² - x'm', and only its minima over groups are used. The `KEPT_GROUPS` lowest groups are searched in
    fp32. Where the next group's bound is not above the distance found, the query is unsure and compared with
    the whole bank.

    Only the rotation is kept: an engine makes bytes and digits of the bank once, when it opens the file.
    """

    rotation: Tensor  # [D, D], divided by the step
    tail: Tensor  # [K - D], what every query has after its D numbers

    def __init__(self, bank: Tensor):
        """Choose the rotation and the step for a bank `[M, D]` float32."""
        super().__init__()
        width = bank.shape[1]
        rotation = random_rotation(width).to(bank.device)
        self.step = max(float((bank @ rotation).abs().max()), 1e-30) / (2 * ELEMENT_MAX)
        self.register_buffer("rotation", rotation / self.step, persistent=False)
        whole = self._quantise(bank)
        lost = torch.linalg.vector_norm(bank @ self.rotation - 2.0 * whole, dim=1)
        # |e_m|, with what an engine may round otherwise, and the rotation's own rounding
        self.max_error = float(lost.max()) + (4 * HALF_MARGIN + 1e-5 * QUERY_MAX) * width**0.5
        squares = whole.square().sum(1)
        self.middle = float(((squares.max() + squares.min()) / 2).floor())
        # one more than needed: an engine may round otherwise
        self.digits = int((squares - self.middle).abs().max()) // (QUERY_MAX * ELEMENT_MAX) + 2
        tail = [QUERY_MAX] * self.digits + [1] + [0] * (-(width + self.digits + 1) % 16)
        self.register_buffer(
            "tail", torch.tensor(tail, dtype=torch.float32, device=bank.device), persistent=False
        )
        # a sum of K products may not fit fp32's 24 bits, whatever the order it is summed in
        self.rounding = QUERY_MAX * ELEMENT_MAX * (width + len(tail)) * 2.0**-20

    def _quantise(self, bank: Tensor) -> Tensor:
        """Return the elements `[M, D]`, rotated, in whole numbers of two steps."""
        return (bank @ (self.rotation / 2.0)).round().clamp(-ELEMENT_MAX, ELEMENT_MAX)

    def weights(self, bank: Tensor) -> Tensor:
        """Return the matrix `[blocks, K, BLOCK]` int8 for the queries: elements' whole numbers, then digits.

        Elements that follow each other in the bank are a group.
        """
        missing = -len(bank) % BLOCK
        most = QUERY_MAX * ELEMENT_MAX * self.digits
        whole = self._quantise(bank)
        squares = F.pad(whole.square().sum(1) - self.middle, (0, missing), value=most)  # as bounds get
        digits = torch.stack(split_digits(squares, self.digits, ELEMENT_MAX), 1)
        digits = F.pad(digits, (0, len(self.tail) - self.digits - 1))
        rows = torch.cat([F.pad(-whole, (0, 0, 0, missing)), digits], 1).to(torch.int8)
        grouped = rows.view(-1, BLOCK // GROUP_SIZE, GROUP_SIZE, rows.shape[1])
        return grouped.permute(0, 3, 2, 1).flatten(2)

    def forward(
        self, queries: Tensor, bank: Tensor, norms: Tensor, plain: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return the smallest |m|² - 2xm `[N]` of queries x.

        Args:
            queries: Queries x, `[N, D]`.
            bank: Elements m of the bank for which the screen was made, `[M, D]`.
            norms: |m|², `[M]`.
            plain: The plain search, for the queries that are unsure.
        """
        best, unsure = self.search_groups(queries, bank, norms)
        # one query too many, so that there is always one: not every engine can work on none
        again = torch.cat([unsure.new_zeros(1, dtype=torch.int64), unsure.nonzero()[:, 0]])
        return best.index_put((again,), plain(queries[again]))

    def search_groups(self, queries: Tensor, bank: Tensor, norms: Tensor) -> tuple[Tensor, Tensor]:
        """Return the smallest |m|² - 2xm of the kept groups, and whether another might be smaller."""
        turned = queries @ self.rotation
        whole = turned.round().clamp(-QUERY_MAX, QUERY_MAX)
        longer = torch.cat([whole, self.tail.expand(queries.shape[0], -1)], 1)
        bounds = group_minima(longer, self.weights(bank), GROUP_SIZE)
        kept, groups = bounds.topk(KEPT_GROUPS, dim=1, largest=False, sorted=False)
        members = torch.arange(GROUP_SIZE, device=bank.device)
        candidates = (groups[:, :, None] * GROUP_SIZE + members).flatten(1).clamp(max=len(bank) - 1)
        elements = F.embedding(candidates, bank)
        halves = F.embedding(candidates, 0.5 * norms[:, None])
        best = 2.0 * (halves - elements @ queries[:, :, None]).amin((1, 2))
        # in steps: how far an element that is as near may seem to be, and how far the next group seems
        distance = (best + (1.0 + 1e-6) * queries.square().sum(1)).clamp(min=0).sqrt() / self.step
        reach = distance + (1.0 + 1e-5) * (turned - whole).square().sum(1).sqrt() + self.max_error
        next_best = whole.square().sum(1) + 4.0 * (kept.amax(1) + self.middle)
        sure = next_best - self.rounding >= reach.square()
        return best, ~sure  # also where something is not a number


class ByteBound:
    """Lower bound of squared distances, from points and picks rounded to whole multiples of a step.

    Both are taken relative to the points' mean, and rotated, which changes no distance and spreads single
    large features over all: x = s x' + e_x, p = s p' + e_p. Then (Cauchy-Schwarz)

        |x - p|² >= |x|² + |p|² - 2 s² x'p' - 2 |e_x| |p| - 2 (|x| + |e_x|) |e_p|.

    |e_x| and |e_p| are replaced by their largest values. The part that depends on p alone is written in
    digits beside p': only the smallest of a row of products is used. Pairs that the bound leaves are compared
    in fp32: the selection is as exact as without it.
    """

    def __init__(self, features: Tensor, rows: list[slice], each: MapBlocks):
        """Round the points.

        Args:
            features: Points `[N, D]` float32 on the CPU.
            rows: Blocks of the points, for `PickBound.pairs`.
            each: Maps the blocks, several at a time.
        """
        width = features.shape[1]
        self.rotation = random_rotation(width)
        self.rows = rows
        largest = torch.zeros(len(rows))
        lost = torch.zeros(len(rows))
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
        """Return points in whole steps, and their errors `[N]` with a margin for the rotation's rounding."""
        whole = (turned / self.step).round_().clamp_(-QUERY_MAX, QUERY_MAX)
        off = torch.linalg.vector_norm(turned - whole * self.step, dim=1)
        return whole, off + 1e-5 * torch.linalg.vector_norm(turned, dim=1)

    def for_picks(self, picks: Tensor) -> PickBound:
        """Return the bound for a batch of picks `[K, D]`."""
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
    """Bound for a batch of picks."""

    bound: ByteBound
    columns: Tensor  # [D and digits, K] int8
    unit: float  # squared distance for each 1 of a product
    middle: float  # squared distance that is added to every bound
    max_error: float  # the largest |e_p|
    largest: float  # the largest |p|²

    def pairs(self, b: int, squared: Tensor) -> tuple[Tensor, Tensor] | None:
        """Find the pairs of a point and a pick that may be nearer to each other than a bound.

        Args:
            b: Number of the block of points.
            squared: Squared distance of each point of the block, `[R]`, below which a pick is wanted.

        Returns:
            Numbers of the points within the block, and of the picks, both `[P]` int64; None where there are
            too many pairs: comparing all is as fast then.
        """
        bound = self.bound
        rows = self.bound.rows[b]
        norms = bound.norms[rows]
        products = torch._int_mm(bound.quantised[rows], self.columns)
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
    """Return the bytes of a point's row in `ByteBound.quantised`, a multiple of 16."""
    return -(-(features + HIGH_DIGITS + 1) // 16) * 16


def is_faster() -> bool:
    """Whether this CPU multiplies bytes several times as fast as fp32 in this torch.

    Nothing is timed: rounding may change the picks, and two fits on a machine must be the same.
    """
    return torch.backends.mkldnn.is_available() and bool(torch.cpu._is_vnni_supported()) and sums_are_exact()


def sums_are_exact() -> bool:
    """Whether sums of products of bytes are exact.

    Without VNNI they are cut off at 16 bits, and oneDNN may be set not to use it (ONEDNN_MAX_CPU_ISA).
    """
    if not hasattr(torch, "_int_mm"):
        return False
    most = torch.full((64, 64), QUERY_MAX, dtype=torch.int8)
    return bool((torch._int_mm(most, -most) == -QUERY_MAX * QUERY_MAX * 64).all())


class _OnnxValue(Protocol):
    """Value in an ONNX graph that the exporter builds."""

    shape: tuple[int, ...]


def onnx_translations() -> dict[Operator, Operator]:
    """Return {torch operator: a function that builds it of ONNX operators}, for the exporter."""
    from onnx import TensorProto, helper
    from onnxscript import opset18

    op: Any = opset18  # its annotations are of values, and here it is called with names of values

    def group_minima(queries: _OnnxValue, weights: _OnnxValue, group: int) -> object:
        # as the quantised networks' layers are written: an engine that knows them multiplies bytes, any other
        # multiplies the same whole numbers in fp32
        ones, to_unsigned, none = (
            op.Constant(value=helper.make_tensor("value", kind, [], [number]))
            for kind, number in ((TensorProto.FLOAT, 1.0), (TensorProto.UINT8, 128), (TensorProto.INT8, 0))
        )
        rounded = op.DequantizeLinear(op.QuantizeLinear(queries, ones, to_unsigned), ones, to_unsigned)
        blocks, _, width = weights.shape
        minima = []
        for i in range(blocks):
            block = op.Gather(weights, op.Constant(value_int=i), axis=0)
            products = op.MatMul(rounded, op.DequantizeLinear(block, ones, none))
            grouped = op.Reshape(products, op.Constant(value_ints=[-1, group, width // group]))
            minima.append(op.ReduceMin(grouped, op.Constant(value_ints=[1]), keepdims=0))
        return op.Concat(*minima, axis=1)

    return {torch.ops.flawscope.group_minima.default: group_minima}

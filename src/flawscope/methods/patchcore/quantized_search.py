"""Lower bounds of distances by products of bytes, which leave few pairs to compare in fp32.

The results stay exact. Where bytes are multiplied faster, it takes a quarter of the time of all products.

`ByteScreen` finds the nearest bank element in exported graphs. In torch it would save nothing, because torch
allocates memory for every step. `ByteBound` finds the points that may be nearer to a new pick than to all
earlier ones, while a coreset is selected, on CPUs that multiply bytes several times as fast as fp32.
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

# For `ByteScreen`
BLOCK = 1024  # number of bank elements multiplied at once
GROUP_SIZE = 4  # number of elements that share one bound
KEPT_GROUPS = 6  # number of groups with the lowest bounds that a query compares in fp32
MIN_BANK = 2 * BLOCK  # number of elements below which the plain search is as fast
QUERY_MAX = 127  # largest integer in a query
# Largest integer in an element. CPUs without VNNI add two neighbouring products of bytes in 16 bits, up to
# 32,767, and engines add 128 to a query's integers. 2 * 255 * 63 fits there, and so does
# 255 * 63 + 129 * 126, where the last digit is one of the two
ELEMENT_MAX = 63
# An engine rounds elements to integers anew: so near to a half, it may round to the other side
HALF_MARGIN = 1e-3
# For `ByteBound`
HIGH_DIGITS = 7  # number of digits to the base 127, without the lowest, of the term of a pick alone
MIN_POINTS = 1 << 15  # number of points below which rounding takes as long as it saves
MIN_PICKS = 64  # number of picks in a batch below which the bound takes as long as it saves
# Largest share of a block's points that may be near to a pick; with more, all pairs are compared
MAX_POINT_SHARE = 0.5
# Largest number of pairs per point; more pairs take longer, and more memory, than all products
PAIRS_PER_POINT = 4
ROUNDING = 1e-5  # relative error of a difference of squares in fp32


@torch.library.custom_op("flawscope::group_minima", mutates_args=())
def group_minima(queries: Tensor, weights: Tensor, group: int) -> Tensor:
    """Multiply matrices of integers, and return the smallest product of every group.

    It is an operator of its own, because an exported graph has other operators for it (`onnx_translations`).

    Args:
        queries: Integers in -127..127, `[N, K]` float32.
        weights: Integers, `[blocks, K, M]` int8. Group i of a block is products i, i + M / group,
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
    """Return an empty result of `group_minima`, for tracing."""
    return queries.new_empty((queries.shape[0], weights.shape[0] * weights.shape[2] // group))


def random_rotation(width: int) -> Tensor:
    """Return a fixed random rotation `[D, D]` float32; it spreads a single large feature over all."""
    random = torch.randn(width, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.linalg.qr(random).Q.float()


def split_digits(numbers: Tensor, count: int, max_digit: int) -> list[Tensor]:
    """Split integers `[N]` into digits to the base `QUERY_MAX`.

    A number is `QUERY_MAX` times the sum of all digits but the last, plus the last digit.

    Args:
        numbers: The integers. If a number is too large for the digits, they stand for a smaller number.
        count: Number of digits without the last.
        max_digit: Each of these digits is -`max_digit` to `max_digit`; the last digit is 0 to
            `QUERY_MAX` - 1.
    """
    remaining_sum = torch.div(numbers, QUERY_MAX, rounding_mode="floor")
    digits = []
    for _ in range(count):
        digit = remaining_sum.clamp(-max_digit, max_digit)
        digits.append(digit)
        remaining_sum = remaining_sum - digit
    last_digit = numbers.remainder(QUERY_MAX)
    return [*digits, last_digit]


class ByteScreen(nn.Module):
    """Search for the nearest bank element of queries, by lower bounds of all distances.

    Queries x and elements m are rotated, which changes no distance but spreads single large features over
    all, and divided by a step. Then they are rounded: x to an integer vector x', m to an even one, 2 m'. For
    x = x' + e_x and m = 2 m' + e_m (triangle inequality),

        |x - m| >= |x' - 2 m'| - |e_x| - |e_m|,   |x' - 2 m'|² = |x'|² + 4 (|m'|² - x'm').

    |m'|² is written in digits to the base 127 into further rows of the product of bytes. The product is then
    |m'|² - x'm', and only its minima over groups are used. The `KEPT_GROUPS` groups with the lowest bounds
    are compared in fp32. If the bound of the next group is not above the distance that they give, the query
    is unsure: it is compared with the entire bank.

    The screen stores only the rotation: an engine computes bytes and digits of the bank once, when it opens
    the file.

    Attributes:
        rotation: The rotation divided by the step, `[D, D]`.
        tail: Numbers that follow the D numbers of every query, `[K - D]`.
    """

    rotation: Tensor
    tail: Tensor

    def __init__(self, bank: Tensor):
        """Choose the rotation and the step for a bank `[M, D]` float32."""
        super().__init__()
        width = bank.shape[1]
        rotation = random_rotation(width).to(bank.device)
        # elements become 2 m', m' at most ELEMENT_MAX
        self.step = max(float((bank @ rotation).abs().max()), 1e-30) / (2 * ELEMENT_MAX)
        self.register_buffer("rotation", rotation / self.step, persistent=False)
        integers = self._quantise(bank)  # m'
        errors = torch.linalg.vector_norm(bank @ self.rotation - 2.0 * integers, dim=1)
        # |e_m|, with margins for an engine that rounds halves to the other side, and for the rounding of the
        # rotation
        self.max_error = float(errors.max()) + (4 * HALF_MARGIN + 1e-5 * QUERY_MAX) * width**0.5
        squares = integers.square().sum(1)
        self.middle = float(((squares.max() + squares.min()) / 2).floor())
        # number of digits of |m'|² - middle, without the last; one more than needed for this engine, because
        # another may round m' to other integers
        self.digits = int((squares - self.middle).abs().max()) // (QUERY_MAX * ELEMENT_MAX) + 2
        # factors of the digits, and zeros up to a multiple of 16
        used_columns = width + self.digits + 1
        padding_columns = -used_columns % 16
        tail = [QUERY_MAX] * self.digits + [1] + [0] * padding_columns
        self.register_buffer(
            "tail", torch.tensor(tail, dtype=torch.float32, device=bank.device), persistent=False
        )
        # largest rounding of a sum of K products, which may not fit the 24 bits of fp32, in any order
        self.rounding = QUERY_MAX * ELEMENT_MAX * (width + len(tail)) * 2.0**-20

    def _quantise(self, bank: Tensor) -> Tensor:
        """Return the integers m' of elements m: `[M, D]`, rotated, in units of two steps."""
        return (bank @ (self.rotation / 2.0)).round().clamp(-ELEMENT_MAX, ELEMENT_MAX)

    def weights(self, bank: Tensor) -> Tensor:
        """Return the matrix `[blocks, K, BLOCK]` int8 for the queries: -m' of elements m, then digits.

        Elements that follow each other in the bank are a group. The last block is filled with elements that
        have the highest possible bound.
        """
        padding_count = -len(bank) % BLOCK  # elements to fill the last block
        max_square = QUERY_MAX * ELEMENT_MAX * self.digits  # the largest number with a last digit of 0
        integers = self._quantise(bank)
        squares = integers.square().sum(1) - self.middle
        squares = F.pad(squares, (0, padding_count), value=max_square)
        digits = torch.stack(split_digits(squares, count=self.digits, max_digit=ELEMENT_MAX), 1)
        digits = F.pad(digits, (0, len(self.tail) - self.digits - 1))
        rows = torch.cat([F.pad(-integers, (0, 0, 0, padding_count)), digits], 1).to(torch.int8)
        groups = rows.view(-1, BLOCK // GROUP_SIZE, GROUP_SIZE, rows.shape[1])
        return groups.permute(0, 3, 2, 1).flatten(2)  # in the order that `group_minima` wants

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
        best, is_unsure = self.search_groups(queries, bank, norms)
        # query 0 is always repeated, because not every engine takes an empty batch of queries
        repeated = torch.cat([is_unsure.new_zeros(1, dtype=torch.int64), is_unsure.nonzero()[:, 0]])
        return best.index_put((repeated,), plain(queries[repeated]))

    def search_groups(self, queries: Tensor, bank: Tensor, norms: Tensor) -> tuple[Tensor, Tensor]:
        """Return the smallest |m|² - 2xm of the groups with the lowest bounds, for each query.

        Args:
            queries: Queries x, `[N, D]`.
            bank: Elements m of the bank for which the screen was made, `[M, D]`.
            norms: |m|², `[M]`.

        Returns:
            The smallest values, `[N]`, and whether another group might have a smaller one, `[N]` bool.
        """
        rotated = queries @ self.rotation
        integers = rotated.round().clamp(-QUERY_MAX, QUERY_MAX)  # x'
        query_rows = torch.cat([integers, self.tail.expand(queries.shape[0], -1)], 1)
        bounds = group_minima(query_rows, self.weights(bank), GROUP_SIZE)
        lowest_bounds, groups = bounds.topk(KEPT_GROUPS, dim=1, largest=False, sorted=False)
        members = torch.arange(GROUP_SIZE, device=bank.device)
        candidates = (groups[:, :, None] * GROUP_SIZE + members).flatten(1).clamp(max=len(bank) - 1)
        elements = F.embedding(candidates, bank)
        half_norms = F.embedding(candidates, 0.5 * norms[:, None])
        half_values = half_norms - elements @ queries[:, :, None]  # |m|² / 2 - xm
        best = 2.0 * half_values.amin((1, 2))
        # Lengths are in steps. For an element as near as the best one, |x' - 2 m'| is at most `reach`. For an
        # element of the other groups, |x' - 2 m'|² is at least `next_bound`, because the bounds of these
        # groups are at least the highest of `lowest_bounds`.
        distance = (best + (1.0 + 1e-6) * queries.square().sum(1)).clamp(min=0).sqrt() / self.step
        reach = distance + (1.0 + 1e-5) * (rotated - integers).square().sum(1).sqrt() + self.max_error
        next_bound = integers.square().sum(1) + 4.0 * (lowest_bounds.amax(1) + self.middle)
        is_sure = next_bound - self.rounding >= reach.square()
        return best, ~is_sure  # NaN is unsure, too


class ByteBound:
    """Lower bound of the squared distances between points and picks, by products of bytes.

    Points x and picks p are taken relative to the points' mean, and rotated, which changes no distance and
    spreads single large features over all. Then they are rounded to integer multiples of a step s:
    x = s x' + e_x, p = s p' + e_p. Then (Cauchy-Schwarz)

        |x - p|² >= |x|² + |p|² - 2 s² x'p' - 2 |e_x| |p| - 2 (|x| + |e_x|) |e_p|.

    |e_x| and |e_p| are replaced by their largest values. The term of p alone is written in digits beside p',
    so that a product of bytes contains it. Pairs for which the bound is low are compared in fp32: the
    selection is as exact as without the bound.

    Attributes:
        middle: Mean of the points, `[D]`.
        norms: |x|² of the points, `[N]`.
        quantised: x' of the points and the factors of the digits, `[N, row_bytes(D)]` int8.
        step: The step s.
        max_error: The largest |e_x|.
    """

    def __init__(self, features: Tensor, rows: list[slice], map_blocks: MapBlocks):
        """Round the points.

        Args:
            features: Points `[N, D]` float32 on the CPU.
            rows: Rows of each block of points, for `PickBound.pairs`.
            map_blocks: Calls a function for each block, several at a time.
        """
        width = features.shape[1]
        self.rotation = random_rotation(width)
        self.rows = rows
        block_maxima = torch.zeros(len(rows))
        block_errors = torch.zeros(len(rows))
        sums = torch.stack(map_blocks(lambda b: features[rows[b]].sum(0), range(len(rows))))
        self.middle = (sums.double().sum(0) / len(features)).float()
        self.norms = torch.empty(len(features))
        self.quantised = torch.zeros(len(features), row_bytes(width), dtype=torch.int8)

        def measure(b: int) -> None:
            rotated = self._rotate(features[rows[b]])
            block_maxima[b] = rotated.abs().max()
            self.norms[rows[b]] = rotated.square().sum(1)

        def quantise(b: int) -> None:
            rotated = self._rotate(features[rows[b]])
            integers, errors = self._quantise_points(rotated)
            block_errors[b] = errors.max()
            self.quantised[rows[b], :width] = integers.to(torch.int8)
            # each digit of a pick's term counts `QUERY_MAX` times, the last one once (`split_digits`)
            self.quantised[rows[b], width : width + HIGH_DIGITS] = QUERY_MAX
            self.quantised[rows[b], width + HIGH_DIGITS] = 1

        map_blocks(measure, range(len(rows)))
        self.step = max(float(block_maxima.max()), 1e-6) / QUERY_MAX  # above 0, for points that are all equal
        map_blocks(quantise, range(len(rows)))
        self.max_error = float(block_errors.max())

    def _rotate(self, points: Tensor) -> Tensor:
        return (points - self.middle) @ self.rotation

    def _quantise_points(self, rotated: Tensor) -> tuple[Tensor, Tensor]:
        """Return rotated points in integer steps, `[N, D]`, and their errors, `[N]`.

        The errors have a margin for the rounding of the rotation.
        """
        integers = (rotated / self.step).round_().clamp_(-QUERY_MAX, QUERY_MAX)
        errors = torch.linalg.vector_norm(rotated - integers * self.step, dim=1)
        return integers, errors + 1e-5 * torch.linalg.vector_norm(rotated, dim=1)

    def for_picks(self, picks: Tensor) -> PickBound:
        """Return the bound for a batch of picks `[K, D]`."""
        rotated = self._rotate(picks)
        norms = rotated.square().sum(1)
        integers, errors = self._quantise_points(rotated)
        unit = 2.0 * self.step * self.step
        # |p|² - 2 |e_x| |p| with the largest |e_x|, in units of 2 s²
        pick_terms = ((norms - 2.0 * self.max_error * norms.sqrt()).double() / unit).floor()
        max_term = HIGH_DIGITS * QUERY_MAX * QUERY_MAX  # the digits go from -max_term to max_term
        middle = float(pick_terms.min()) + max_term  # relative to it, the smallest term is -max_term
        # larger terms are cut, which only lowers their bounds
        relative_terms = (pick_terms - middle).clamp(max=max_term).long()
        digits = split_digits(relative_terms, count=HIGH_DIGITS, max_digit=QUERY_MAX)
        # a product of a point's bytes and a column is the pick's term minus x'p', in units
        columns = torch.cat([-integers, torch.stack(digits, 1)], 1).to(torch.int8)
        columns = F.pad(columns, (0, self.quantised.shape[1] - columns.shape[1])).T
        return PickBound(
            bound=self,
            columns=columns,
            unit=unit,
            middle=middle * unit,
            max_error=float(errors.max()),
            largest=float(norms.max()),
        )


@dataclass(frozen=True)
class PickBound:
    """Lower bound of the squared distances between points and a batch of K picks (`ByteBound`).

    Attributes:
        bound: The bound for all picks, with the points.
        columns: -p' and digits of each pick, int8, to multiply with rows of `ByteBound.quantised`.
        unit: Squared distance for each 1 of a product.
        middle: Squared distance to add to every bound.
        max_error: The largest |e_p|.
        largest: The largest |p|².
    """

    bound: ByteBound
    columns: Tensor
    unit: float
    middle: float
    max_error: float
    largest: float

    def pairs(self, b: int, squared: Tensor) -> tuple[Tensor, Tensor] | None:
        """Find the pairs of a point and a pick whose distance may be below a limit.

        Args:
            b: Number of the block of points.
            squared: Limit of each point of the block, `[R]`: a squared distance.

        Returns:
            Numbers of the points within the block, and of the picks, both `[P]` int64; None where there are
            so many pairs that it is as fast to compare all.
        """
        bound = self.bound
        rows = self.bound.rows[b]
        norms = bound.norms[rows]
        products = torch._int_mm(bound.quantised[rows], self.columns)
        # A bound is norm + unit * product + middle - slack. It is below the point's limit where the product
        # is below `product_limits`
        slack = 2.0 * self.max_error * (norms.sqrt() + bound.max_error)
        slack += ROUNDING * (norms + self.largest)
        product_limits = (squared + slack - norms - self.middle) / self.unit
        product_limits = product_limits.ceil().clamp(-(2.0**30), 2.0**30).int()
        points = (products.amin(1) < product_limits).nonzero().flatten()
        if len(points) > MAX_POINT_SHARE * len(norms):
            return None
        is_below = products.index_select(0, points) < product_limits.index_select(0, points)[:, None]
        if int(is_below.sum()) > PAIRS_PER_POINT * len(norms):
            return None
        point_rows, picks = is_below.nonzero(as_tuple=True)
        return points[point_rows], picks


def row_bytes(features: int) -> int:
    """Return the bytes of a point's row in `ByteBound.quantised`, a multiple of 16."""
    return -(-(features + HIGH_DIGITS + 1) // 16) * 16  # rounded up


def is_faster() -> bool:
    """Whether this CPU, with this torch, multiplies bytes several times as fast as fp32.

    The CPU's features decide, not a measured time, which could differ between two fits. The bound's rounding
    may change picks, and two fits on a machine must have the same picks.
    """
    return torch.backends.mkldnn.is_available() and bool(torch.cpu._is_vnni_supported()) and sums_are_exact()


def sums_are_exact() -> bool:
    """Whether sums of products of bytes are exact.

    If oneDNN does not use VNNI, they are cut off at 16 bits. The environment variable ONEDNN_MAX_CPU_ISA may
    keep oneDNN from using a CPU's VNNI. Therefore two matrices are multiplied as a test.
    """
    if not hasattr(torch, "_int_mm"):
        return False
    side = 64
    largest = torch.full((side, side), QUERY_MAX, dtype=torch.int8)
    return bool((torch._int_mm(largest, -largest) == -QUERY_MAX * QUERY_MAX * side).all())


class _OnnxValue(Protocol):
    """Value in an ONNX graph that the exporter builds."""

    shape: tuple[int, ...]


def onnx_translations() -> dict[Operator, Operator]:
    """Return the functions that write torch operators as ONNX operators, by torch operator."""
    from onnx import TensorProto, helper
    from onnxscript import opset18

    op: Any = opset18  # its annotations expect tensors, but here it is called with values of the graph

    def constant(element_type: int, number: float) -> object:
        scalar = helper.make_tensor("value", element_type, dims=[], vals=[number])
        return op.Constant(value=scalar)

    def group_minima(queries: _OnnxValue, weights: _OnnxValue, group: int) -> object:
        # Written like a layer of a quantised network. An engine that recognises such layers multiplies bytes;
        # others multiply the same integers in fp32
        scale = constant(TensorProto.FLOAT, 1.0)
        query_zero = constant(TensorProto.UINT8, 128)
        weight_zero = constant(TensorProto.INT8, 0)
        quantised = op.QuantizeLinear(queries, scale, query_zero)
        integers = op.DequantizeLinear(quantised, scale, query_zero)
        block_count, _, width = weights.shape
        minima = []
        for i in range(block_count):
            block = op.Gather(weights, op.Constant(value_int=i), axis=0)
            products = op.MatMul(integers, op.DequantizeLinear(block, scale, weight_zero))
            groups = op.Reshape(products, op.Constant(value_ints=[-1, group, width // group]))
            minima.append(op.ReduceMin(groups, op.Constant(value_ints=[1]), keepdims=0))  # over axis 1
        return op.Concat(*minima, axis=1)

    return {torch.ops.flawscope.group_minima.default: group_minima}

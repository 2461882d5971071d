"""The nearest bank element by an 8-bit product first, and in fp32 among the few that it leaves: exact, at a
quarter of the multiplications' time where an engine multiplies bytes. For exported graphs: in torch, which
makes new memory for every step, nothing would be gained.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 1024  # bank elements multiplied at once
GROUP = 4  # of them share one bound
KEEP = 12  # groups a query confirms in fp32
SMALLEST = 2 * BLOCK  # bank: below, the plain search is as fast
TOP = 127  # largest number of a query
# Largest of an element: processors without VNNI add two neighbouring products of bytes in 16 bits, up to
# 32,767, the engines adding 128 to a query. 2 * 255 * 63 fits there, and so does 255 * 63 + 129 * 126, where
# the last digit comes in
WEIGHT_TOP = 63
# Whole numbers are made of the bank once here and once where an engine opens the file, which may add in
# another order: what lies within so many steps of a half may be rounded to the other side there
HALF = 1e-3
FLIPPED = 9  # such numbers of an element, at most


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
    """[D, D], always the same one: it spreads single large features over all."""
    random = torch.randn(width, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.linalg.qr(random).Q.float()


def in_digits(numbers: Tensor, count: int, most: int) -> list[Tensor]:
    """Whole numbers [N] as `count` digits, to be multiplied by `TOP` and none beyond `most`, and a last one
    below `TOP`, to be added."""
    high, digits = torch.div(numbers, TOP, rounding_mode="floor"), []
    for _ in range(count):
        digits.append(high.clamp(-most, most))
        high = high - digits[-1]
    return [*digits, numbers.remainder(TOP)]


class Screen(nn.Module):
    """A lower bound of every distance from bytes; the exact one only where the bound leaves a doubt.

    Queries x and elements m are rotated, which changes no distance but spreads single large features over
    all, and rounded to whole multiples of a step: x = x' + e_x, m = m' + e_m. Then (Cauchy-Schwarz)

        |x - m|² >= |x|² + |m|² - 2 x'm' - 2 |e_x| |m'| - 2 |x| |e_m|.

    |e_x| is replaced by a limit that nearly all queries keep; those that do not count as unsure. The part
    that depends on m alone, |m|² - 2 limit |m'|, is written in digits to the base 127 into further rows of
    the product, so that the product itself is the bound, in units of twice the steps, and only its minima
    over groups are looked at. The `KEEP` lowest groups are confirmed in fp32. Where the next group's bound
    is not above the distance found, the query is unsure and compared with the whole bank.

    Of the elements the digits are kept alone: their bytes are made of the bank, which an engine does once,
    when it opens the file, and the file is a fifth smaller.
    """

    rotation: Tensor  # [D, D], divided by the step
    digits: Tensor  # [blocks, K - D, BLOCK], int8
    tail: Tensor  # [K - D], what every query has after its D numbers
    members: Tensor  # [groups, GROUP], bank elements

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
        self.step, step = largest / TOP, largest / WEIGHT_TOP
        self.register_buffer("rotation", rotation / self.step, persistent=False)
        whole = self._whole(bank)
        rounded = whole * step
        self.lost = float(torch.linalg.vector_norm(turned - rounded, dim=1).max()) * (1 + 1e-5)  # |e_m|
        self.lost += 2 * HALF * step * width**0.5
        self.limit = self.step * (width / 12) ** 0.5 * 1.1  # |e_x|: a uniform error's, and a tenth
        self.unit = 2.0 * self.step * step
        alone = norms.double() - 2.0 * self.limit * torch.linalg.vector_norm(rounded.double(), dim=1)
        alone = (alone / self.unit).floor()
        self.middle = float(((alone.max() + alone.min()) / 2).floor())
        left = (alone - self.middle).long()
        highest = torch.div(left, TOP, rounding_mode="floor").abs().max()
        digits = in_digits(left, int(-(-highest // WEIGHT_TOP)), WEIGHT_TOP)
        long = width + len(digits)
        rows = F.pad(torch.stack(digits, 1), (0, -long % 16))
        tail = torch.zeros(rows.shape[1])
        tail[: len(digits) - 1] = TOP
        tail[len(digits) - 1] = 1
        self.missing = -count % BLOCK
        never = torch.zeros(self.missing, rows.shape[1], dtype=torch.int64, device=bank.device)
        never[:, : len(digits)] = WEIGHT_TOP  # as high as bounds get
        rows = torch.cat([rows, never]).to(torch.int8)
        # a sum of K products may not fit fp32's 24 bits, whatever the order it is summed in
        self.rounding = self.unit * (1.0 + TOP * WEIGHT_TOP * (width + rows.shape[1]) * 2.0**-22)
        self.rounding += 2.0 * self.limit * step * FLIPPED**0.5
        numbers = torch.arange(len(rows), device=bank.device).clamp(max=count - 1)
        blocks = rows.view(-1, BLOCK, rows.shape[1]).transpose(1, 2)
        self.register_buffer("digits", blocks.contiguous(), persistent=False)
        self.register_buffer("tail", tail.to(bank.device), persistent=False)
        members = torch.cat([block.view(GROUP, -1).T for block in numbers.split(BLOCK)])
        self.register_buffer("members", members.contiguous(), persistent=False)

    def _whole(self, bank: Tensor) -> Tensor:
        """[M, D]: the elements, rotated, in steps."""
        return (bank @ self.rotation * (WEIGHT_TOP / TOP)).round().clamp(-WEIGHT_TOP, WEIGHT_TOP)

    def weights(self, bank: Tensor) -> Tensor:
        """`[blocks, K, BLOCK]` int8: what queries are multiplied with, in whole numbers and with the tail."""
        whole = F.pad(-self._whole(bank), (0, 0, 0, self.missing)).to(torch.int8)
        return torch.cat([whole.view(-1, BLOCK, bank.shape[1]).transpose(1, 2), self.digits], 1)

    def forward(
        self, queries: Tensor, bank: Tensor, norms: Tensor, plain: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """The smallest |m|² - 2xm `[N]` of queries `[N, D]`.

        Args:
            bank, norms: those that it was made of.
            plain: gives the same by the plain search, for the queries that are unsure.
        """
        best, unsure = self.confirmed(queries, bank, norms)
        # one query too many, so that there is always one: not every engine can work on none
        again = torch.cat([unsure.new_zeros(1, dtype=torch.int64), unsure.nonzero()[:, 0]])
        return best.index_put((again,), plain(queries[again]))

    def confirmed(self, queries: Tensor, bank: Tensor, norms: Tensor) -> tuple[Tensor, Tensor]:
        """The smallest |m|² - 2xm of the groups kept, and whether another might be smaller."""
        turned = queries @ self.rotation
        whole = turned.round().clamp(-TOP, TOP)
        lost = (turned - whole).square().sum(1) * self.step**2
        longer = torch.cat([whole, self.tail.expand(queries.shape[0], -1)], 1)
        bounds = group_minima(longer, self.weights(bank), GROUP)
        kept, groups = bounds.topk(KEEP, dim=1, largest=False, sorted=False)
        candidates = self.members[groups].flatten(1)
        elements = F.embedding(candidates, bank)
        best = (norms[candidates] - 2.0 * (elements @ queries[:, :, None])[:, :, 0]).amin(1)
        square = queries.square().sum(1)
        next_best = (kept.amax(1) + self.middle) * self.unit - 2.0 * square.sqrt() * self.lost
        sure = (next_best - self.rounding >= best + 1e-6 * square) & (lost <= self.limit**2)
        return best, ~sure  # also where something is not a number

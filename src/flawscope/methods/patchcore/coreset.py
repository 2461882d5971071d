"""Greedy k-center selection, exact and fast.

The textbook loop (PatchCore, Algorithm 1) updates all N distances after every pick: N·D reads a pick, bound
by memory. Distances only shrink: as long as the farthest point of a pool of P points is farther than all
points outside, the picks inside the pool are the same as the textbook's. When the pool is exhausted, all N
points meet the whole batch of picks in a single matrix product, which is bound by arithmetic.

Where a CPU multiplies bytes faster still, a lower bound leaves few pairs of points and picks for fp32
(`quantized_search.py`).

Blocks of rows have a fixed size, and each runs on a single thread: the result does not depend on the number
of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from flawscope.errors import InputError, pluralize
from flawscope.methods.patchcore import quantized_search
from flawscope.methods.patchcore.quantized_search import ByteBound, PickBound
from flawscope.methods.threads import MapBlocks, run_serially, workers

POOL_SIZE = 4096  # farthest points looked at between two updates of everything
STRIDE = 64  # picks between two checks of how many are still right (each a host sync on a GPU)
ROWS = 2048  # rows of a block: its products with a batch of picks stay in the cache
BATCH = 512  # most picks multiplied at once
MAX_RUNS = 4  # groups of a block that are met one by one: of more, threads would wait for Python's lock
PICKED = float("-inf")  # never again: below any squared distance, also those that rounding makes negative

Progress = Callable[[int, int], None]  # picks made, picks wanted


@dataclass(frozen=True)
class Coreset:
    """Selection of points, and the distances of all points to it.

    Attributes:
        indices: Numbers of the picks, `[count]` int64, in the order of picking.
        distances: Every point's distance to the selection, `[N]` float32. Its maximum is the covering radius.
        leave_out: Every point's distance to the picks of *other* groups, `[N]` float32, infinite where there
            are none; None: there are no groups.
        nearest: Number of the pick nearest to every point, `[N]` int32, counted from the first of `start`;
            None: there are no groups.
    """

    indices: Tensor
    distances: Tensor
    leave_out: Tensor | None = None
    nearest: Tensor | None = None

    @property
    def radius(self) -> float:
        """Covering radius: the largest distance of a point to the selection."""
        return float(self.distances.max())


def select(
    features: Tensor,
    count: int,
    *,
    first: int = 0,
    groups: Tensor | None = None,
    start: Tensor | None = None,
    start_groups: Tensor | None = None,
    until: float = 0.0,
    progress: Progress | None = None,
) -> Coreset:
    """Select points by the greedy k-center rule: each pick is the point farthest from all earlier picks.

    Of equals the point with the lowest index is picked, and no point twice. The result is identical to the
    plain loop's where fp32 is exact (integer features whose squared norms stay below 2**24). Elsewhere
    rounding may reorder picks, and the covering radius agrees within 1e-5. Source: Roth et al. (CVPR 2022),
    Algorithm 1; Gonzalez 1985 for the greedy rule.

    Args:
        features: Points `[N, D]` float32, on any device.
        count: Number of picks, 1..N; with `start` also 0.
        first: The first pick, unless `start` is given.
        groups: Group of each point, `[N]` integer; rows of a group are next to each other. With it, the
            distance to the picks of other groups and the nearest pick are computed too, at almost no cost.
        start: Points that are in the selection already, `[M, D]` float32 (a bank that is being extended).
        start_groups: Their groups, `[M]` integer; None: they belong to no group of `groups`.
        until: Stop early once every point is this close to the selection.
        progress: Called with (picks made, count).

    Raises:
        InputError: The points do not allow this number of picks, or are not finite numbers.
    """
    has_start = start is not None and len(start) > 0
    _check_picks(len(features), count, first, least=0 if has_start else 1)
    device = features.device
    with torch.inference_mode(), workers(device) as each:
        update = _Distances(features, groups, each)
        if not bool(update.norms.isfinite().all()):
            raise InputError("cannot pick from features that are not finite numbers, or too large")

        def take(new: Tensor) -> Tensor:
            if len(new):
                update(features[new], None if groups is None else groups[new])
                update.squared[new] = PICKED
            return new

        def take_more() -> Tensor:
            return take(_pool_picks(features, update, count - done, until * until))

        picks: list[Tensor] = []
        if start is not None and has_start:
            run_serially(lambda: update(start, start_groups), device)
        else:
            picks.append(run_serially(lambda: take(torch.tensor([first], device=device)), device))
        done = len(picks)
        while done < count:
            new = run_serially(take_more, device)
            if not len(new):
                break
            picks.append(new)
            done += len(new)
            if progress:
                progress(done, count)
        leave_out = None if update.others is None else update.others.clamp_(min=0).sqrt_()
        chosen = torch.cat(picks) if picks else torch.zeros(0, dtype=torch.long, device=features.device)
        return Coreset(chosen, update.squared.clamp_(min=0).sqrt_(), leave_out, update.nearest_pick)


def _check_picks(total: int, count: int, first: int, *, least: int) -> None:
    """Raise InputError for a number of picks, or a first pick, that `total` points do not allow."""
    if not least <= count <= total:
        raise InputError(f"cannot pick {count} of {pluralize(total, 'point')}: ask for {least} to {total}")
    if not 0 <= first < total:
        raise InputError(f"the first pick {first} is not one of {pluralize(total, 'point')}")


def cover(points: Tensor, start: Tensor, radius: float) -> Tensor:
    """Pick points by the greedy rule until each is within the radius of a pick or of `start`.

    Args:
        points: Points `[N, D]` float32, near the origin.
        start: Points that are in the selection already, `[M, D]` float32, near the origin.
        radius: The radius, above 0.

    Returns:
        Rows of the picks, `[K]`, in the order of picking.
    """
    norms = (points * points).sum(1)
    left = norms.new_full((len(points),), torch.inf)
    if len(start):
        left = torch.addmm((start * start).sum(1), points, start.T, alpha=-2).amin(1).add_(norms)
    rows = (left > radius * radius).nonzero().flatten()
    points = points[rows]
    norms = norms[rows]
    left = left[rows]
    picks = list[int]()
    if points.device.type != "cpu":  # a sync a pick
        known = start if len(start) else None
        return rows[select(points, len(rows), start=known, until=radius).indices] if len(rows) else rows
    # as arrays, which share the tensors' memory: so short a step would wait for torch most of its time
    away = torch.empty_like(left)
    measured = away.numpy()
    remaining = left.numpy()
    while len(left) and remaining[pick := int(remaining.argmax())] > radius * radius:
        torch.addmv(norms, points, points[pick], alpha=-2, out=away).add_(norms[pick])
        np.minimum(remaining, measured, out=remaining)
        remaining[pick] = PICKED
        picks.append(pick)
    return rows[picks]


class _Distances:
    """Squared distances of all points to the selection, updated with batches of picks."""

    def __init__(self, features: Tensor, groups: Tensor | None, each: MapBlocks):
        total = len(features)
        self.features = features
        self.each = each
        # Squared distances come from |x|² + |y|² - 2xy. Relative to one of the points the norms are no
        # larger than the distances themselves, and integers stay integers.
        self.origin = features[0].clone()
        self.rows = [slice(r, min(r + ROWS, total)) for r in range(0, total, ROWS)]
        self.squared = torch.full((total,), float("inf"), device=features.device)
        self.norms = torch.empty(total, device=features.device)
        self.others: Tensor | None = None  # the same, to the picks of other groups
        self.nearest_pick: Tensor | None = None  # the number of each point's
        self.pick_count = 0
        self.runs: list[list[tuple[int, int, int]]] = [[] for _ in self.rows]
        self.groups = groups
        if groups is not None:
            self.others = self.squared.clone()
            self.nearest_pick = torch.zeros(total, dtype=torch.int32, device=features.device)
            self.runs = [_equal_runs(groups[rows]) for rows in self.rows]
        self.each(self._norms, range(len(self.rows)))
        self.bound: ByteBound | None = None
        # of one group alone no point can be passed over: all are infinitely far from other groups
        if (
            (features.device.type == "cpu" and total >= quantized_search.MIN_POINTS)
            and (groups is None or bool((groups != groups[0]).any()))
            and quantized_search.is_faster()
        ):
            self.bound = ByteBound(features, self.rows, each)

    def __call__(self, points: Tensor, groups: Tensor | None) -> None:
        """Take `points` [K, D] of `groups` [K] (or of no group) into the selection."""
        start = self.pick_count
        self.pick_count = self.pick_count + len(points)
        numbers = torch.arange(start, self.pick_count, dtype=torch.int32, device=points.device)
        if groups is not None:
            groups, order = groups.sort(stable=True)
            points = points[order]
            numbers = numbers[order]
        for k in range(0, len(points), BATCH):
            batch = points[k : k + BATCH] - self.origin
            pick_numbers = numbers[k : k + BATCH]
            pick_groups = None if groups is None else groups[k : k + BATCH]
            columns = {} if pick_groups is None else {g: slice(a, b) for g, a, b in _equal_runs(pick_groups)}
            norms = (batch * batch).sum(1)
            doubled = (batch * -2.0).T
            bound = None
            if self.bound is not None and len(batch) >= quantized_search.MIN_PICKS:
                bound = self.bound.for_picks(points[k : k + BATCH])
            meet = partial(self._update_block, norms, doubled, pick_numbers, columns, pick_groups, bound)
            self.each(meet, range(len(self.rows)))

    def _update_block(
        self,
        norms: Tensor,
        doubled: Tensor,
        pick_numbers: Tensor,
        columns: dict[int, slice],
        pick_groups: Tensor | None,
        bound: PickBound | None,
        b: int,
    ) -> None:
        """Compare a block of the points with a batch of picks.

        Args:
            norms: Squared lengths of the picks, `[K]`.
            doubled: The picks times -2, `[D, K]`.
            pick_numbers: Numbers of the picks in the selection, `[K]`.
            columns: Columns of each group's picks.
            pick_groups: Groups of the picks, `[K]`; None: they belong to none.
            bound: Finds the pairs of points and picks that may be near; None: all pairs are compared.
            b: Number of the block.
        """
        rows = self.rows[b]
        if bound is not None:
            farther = self.squared if self.others is None else self.others
            pairs = bound.pairs(b, farther[rows])
            if pairs is not None:
                self._update_pairs(norms, doubled, pick_numbers, pick_groups, rows.start + pairs[0], pairs[1])
                return
        products = torch.addmm(norms, self.features[rows] - self.origin, doubled)  # |y|² - 2xy
        squared = self.squared[rows]
        if self.others is None or self.nearest_pick is None or self.groups is None:
            torch.minimum(squared, products.amin(1) + self.norms[rows], out=squared)
            return
        at = self.nearest_pick[rows]

        def take(values: Tensor, start: int, stop: int, numbers: Tensor) -> Tensor:
            near = values.amin(1) + self.norms[rows][start:stop]
            nearer = (near < squared[start:stop]).nonzero().flatten()
            if len(nearer):  # few; to look for the number everywhere would take as long as the products
                at[start + nearer] = numbers[values[nearer].argmin(1)]
                torch.minimum(squared[start:stop], near, out=squared[start:stop])
            return near

        met = [(columns[group], start, stop) for group, start, stop in self.runs[b] if group in columns]
        if pick_groups is not None and len(met) > MAX_RUNS:
            alike = self.groups[rows][:, None] == pick_groups
            take(products.masked_fill(~alike, torch.inf), 0, len(squared), pick_numbers)
            products.masked_fill_(alike, torch.inf)
        else:
            for element, start, stop in met:
                take(products[start:stop, element], start, stop, pick_numbers[element])
                products[start:stop, element] = torch.inf
        others = take(products, 0, len(squared), pick_numbers)
        torch.minimum(self.others[rows], others, out=self.others[rows])

    def _update_pairs(
        self,
        norms: Tensor,
        doubled: Tensor,
        pick_numbers: Tensor,
        pick_groups: Tensor | None,
        points: Tensor,
        picks: Tensor,
    ) -> None:
        """Compare point `points[i]` with pick `picks[i]` of the batch, and no other pairs."""
        some = self.features.index_select(0, points) - self.origin
        away = (some * doubled.T.index_select(0, picks)).sum(1) + norms[picks]
        away += self.norms[points]
        if self.others is None or self.nearest_pick is None or self.groups is None:
            self.squared.scatter_reduce_(0, points, away, "amin")
            return
        before = self.squared[points]
        self.squared.scatter_reduce_(0, points, away, "amin")
        nearer = (away < before) & (away == self.squared[points])
        self.nearest_pick[points[nearer]] = pick_numbers[picks[nearer]]
        other = slice(None) if pick_groups is None else self.groups[points] != pick_groups[picks]
        self.others.scatter_reduce_(0, points[other], away[other], "amin")

    def _norms(self, b: int) -> None:
        block = self.features[self.rows[b]] - self.origin
        self.norms[self.rows[b]] = (block * block).sum(1)


def _equal_runs(groups: Tensor) -> list[tuple[int, int, int]]:
    """Return the runs of equal values: (value, start, stop)."""
    values, counts = groups.unique_consecutive(return_counts=True)
    stops = counts.cumsum(0).tolist()
    return list(zip(values.tolist(), [0, *stops[:-1]], stops, strict=True))


def _pool_picks(features: Tensor, update: _Distances, wanted: int, until: float) -> Tensor:
    """Return the next picks, found by the greedy rule inside a pool of the farthest points.

    They are at most `wanted`, and at least 1 unless all squared distances are at most `until`.
    """
    squared = update.squared
    top, pool = squared.topk(min(POOL_SIZE, len(squared)))
    if top[0] == top[-1]:
        # All equal: take them in the order of their index, then a tie with the outside is won by the pool.
        pool = (squared == top[0]).nonzero().flatten()[:POOL_SIZE]
        bound = top[0]
        ties = True
    else:
        pool = pool.sort().values  # of equals the lowest index first, as argmax does
        bound = top[-1]
        ties = len(pool) == len(squared)
    distance = squared[pool]
    points = features[pool] - update.origin
    norms = (points * points).sum(1)
    doubled = points * -2.0
    picks: list[Tensor] = [pool[:0]]
    made = 0
    most = min(wanted, len(pool))
    while made < most:
        if until > 0:  # what is that close is never picked, and distances only shrink
            away = (distance > until).nonzero().flatten()
            if not len(away):
                break
            if len(away) < 0.8 * len(distance):
                pool, distance, norms, doubled = (x[away] for x in (pool, distance, norms, doubled))
        steps = min(STRIDE, most - made)
        chosen = torch.empty(steps, dtype=torch.long, device=features.device)
        height = torch.empty(steps, dtype=distance.dtype, device=features.device)
        for i in range(steps):
            value, index = distance.max(0)
            chosen[i], height[i] = index, value
            at = index.view(1)  # by index_select: a plain subscript would bring the index to the host
            # |x|² + |y|² - 2xy
            row = torch.addmv(norms, doubled, doubled.index_select(0, at)[0], alpha=-0.5)
            row += norms.index_select(0, at)
            distance = torch.minimum(distance, row).index_fill_(0, at, PICKED)
        # The pool speaks for all points only while its farthest is farther than everything outside.
        speaks = height >= bound if ties else height > bound
        held = int((speaks & (height > until)).sum()) if until > 0 else int(speaks.sum())
        picks.append(pool[chosen[:held]])
        made += held
        if held < steps:
            break
    return torch.cat(picks)

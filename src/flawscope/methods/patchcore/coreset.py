"""Greedy k-center selection, exact and fast.

The textbook loop (PatchCore, Algorithm 1) updates all N distances after every pick: it reads N·D numbers a
pick, and memory limits its speed. Here picks are made in a pool of P points, the farthest ones. Distances
only shrink: as long as the farthest point of the pool is farther than all points outside, the picks are the
textbook's. When the pool is exhausted, a single matrix product compares all N points with all of its picks.
Arithmetic limits the speed of the product.

Where a CPU multiplies bytes faster still, a lower bound leaves few pairs of points and picks to compare in
fp32 (`quantized_search.py`).

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

POOL_SIZE = 4096  # number of points in the pool
STRIDE = 64  # number of picks between two checks of their validity; a check is a host sync on a GPU
ROWS = 2048  # number of points in a block: its products with a batch of picks stay in the cache
BATCH = 512  # largest number of picks in a product
# Number of groups in a block up to which each is compared in a step of its own: in steps of Python, threads
# wait for its lock
MAX_RUNS = 4
# Squared distance of a pick to itself: below all others, also those that rounding makes negative, so that no
# point is picked twice
PICKED = float("-inf")

Progress = Callable[[int, int], None]  # takes the number of picks and the number to make


@dataclass(frozen=True)
class Coreset:
    """Selection of points, and the distances of all points to it.

    Attributes:
        indices: Numbers of the picks, `[count]` int64, in the order of picking.
        distances: Every point's distance to the selection, `[N]` float32. Its maximum is the covering radius.
        leave_out: Every point's distance to the picks of *other* groups, `[N]` float32, infinite where no
            such pick exists; None: the selection had no groups.
        nearest: Number of the pick nearest to every point, `[N]` int32; points of `start` have the first
            numbers. None: the selection had no groups.
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

    No point is picked twice. Of points at the same distance, the one with the lowest index is picked. The
    result is identical to the plain loop's where fp32 is exact (integer features whose squared norms stay
    below 2**24). Elsewhere rounding may reorder picks, and the covering radius agrees within 1e-5. Source:
    Roth et al. (CVPR 2022), Algorithm 1; Gonzalez 1985 for the greedy rule.

    Args:
        features: Points `[N, D]` float32, on any device.
        count: Number of picks, 1..N; with `start` also 0.
        first: The first pick, unless `start` is given.
        groups: Group of each point, `[N]` integer; rows of a group are next to each other. With groups, the
            distance to the picks of other groups and the nearest pick are computed, too, at almost no cost.
        start: Points that are in the selection already, `[M, D]` float32 (a bank that is extended).
        start_groups: Groups of `start`, `[M]` integer; None: these points belong to no group of `groups`.
        until: Covering radius at which to stop: as soon as no point is farther from the selection.
        progress: Called with the number of picks and `count`.

    Raises:
        InputError: The points do not allow this number of picks, or are not finite numbers.
    """
    has_start = start is not None and len(start) > 0
    _check_picks(len(features), count, first, min_count=0 if has_start else 1)
    device = features.device
    with torch.inference_mode(), workers(device) as map_blocks:
        distances = _Distances(features, groups, map_blocks)
        if not bool(distances.norms.isfinite().all()):
            raise InputError("cannot pick from features that are not finite numbers, or too large")

        def add_picks(indices: Tensor) -> Tensor:
            """Add points to the selection, and return `indices`."""
            if len(indices):
                distances.add(features[indices], None if groups is None else groups[indices])
                distances.squared[indices] = PICKED
            return indices

        def pick_in_pool(max_count: int) -> Tensor:
            return add_picks(_pool_picks(features, distances, max_count, until * until))

        batches: list[Tensor] = []
        if start is not None and has_start:
            run_serially(partial(distances.add, start, start_groups), device)
        else:
            first_pick = torch.tensor([first], device=device)
            batches.append(run_serially(partial(add_picks, first_pick), device))
        pick_count = len(batches)  # one first pick, or none
        while pick_count < count:
            picks = run_serially(partial(pick_in_pool, count - pick_count), device)
            if not len(picks):
                break
            batches.append(picks)
            pick_count += len(picks)
            if progress:
                progress(pick_count, count)
        other_distances = None if distances.others is None else distances.others.clamp_(min=0).sqrt_()
        no_picks = torch.zeros(0, dtype=torch.long, device=device)
        indices = torch.cat(batches) if batches else no_picks
        pick_distances = distances.squared.clamp_(min=0).sqrt_()
        return Coreset(indices, pick_distances, leave_out=other_distances, nearest=distances.nearest_pick)


def _check_picks(total: int, count: int, first: int, *, min_count: int) -> None:
    """Raise InputError for a number of picks, or a first pick, that `total` points do not allow."""
    if not min_count <= count <= total:
        raise InputError(
            f"cannot pick {count} of {pluralize(total, 'point')}: ask for {min_count} to {total}"
        )
    if not 0 <= first < total:
        raise InputError(f"the first pick {first} is not one of {pluralize(total, 'point')}")


def cover(points: Tensor, start: Tensor, radius: float) -> Tensor:
    """Pick points by the greedy rule until each is within the radius of a pick or of `start`.

    Args:
        points: Points `[N, D]` float32, near the origin.
        start: Points that are in the selection already, `[M, D]` float32, near the origin.
        radius: The radius, above 0.

    Returns:
        Numbers of the picks in `points`, `[K]`, in the order of picking.
    """
    norms = (points * points).sum(1)
    squared = norms.new_full((len(points),), torch.inf)
    if len(start):
        squared = torch.addmm((start * start).sum(1), points, start.T, alpha=-2).amin(1).add_(norms)
    uncovered = (squared > radius * radius).nonzero().flatten()
    if not len(uncovered):
        return uncovered
    points = points[uncovered]
    norms = norms[uncovered]
    squared = squared[uncovered]
    if points.device.type != "cpu":  # the loop below would wait for a GPU at each pick
        present = start if len(start) else None
        return uncovered[select(points, len(uncovered), start=present, until=radius).indices]
    # The arrays share memory with the tensors. Steps in numpy have less overhead, which is most of the time
    pick_squared = torch.empty_like(squared)  # squared distances to the last pick
    pick_array = pick_squared.numpy()
    squared_array = squared.numpy()
    picks = list[int]()
    pick = int(squared_array.argmax())
    while squared_array[pick] > radius * radius:
        torch.addmv(norms, points, points[pick], alpha=-2, out=pick_squared).add_(norms[pick])
        np.minimum(squared_array, pick_array, out=squared_array)
        squared_array[pick] = PICKED
        picks.append(pick)
        pick = int(squared_array.argmax())
    return uncovered[picks]


@dataclass(frozen=True)
class _PickBatch:
    """Batch of K picks, relative to `_Distances.origin`, sorted by their groups.

    Attributes:
        norms: Squared lengths of the picks, `[K]`.
        minus_doubled: The picks times -2, `[D, K]`.
        numbers: Numbers of the picks in the selection, `[K]`.
        columns: Slice of the picks of each group, by the group; empty: the picks belong to no group.
        groups: Groups of the picks, `[K]`; None: they belong to no group.
        bound: Finds the pairs of points and picks that may be near; None: all pairs are compared.
    """

    norms: Tensor
    minus_doubled: Tensor
    numbers: Tensor
    columns: dict[int, slice]
    groups: Tensor | None
    bound: PickBound | None


class _Distances:
    """Squared distances of all points to the selection, updated with batches of picks.

    Attributes:
        rows: Blocks of the points.
        origin: A point, to which points and picks are taken relative in products.
        norms: Squared lengths of the relative points, `[N]`.
        squared: Squared distance of each point to the selection, `[N]`.
        others: Squared distance of each point to the picks of other groups, `[N]`; None: there are no groups.
        nearest_pick: Number of the pick nearest to each point, `[N]` int32; None: there are no groups.
        pick_count: Number of picks.
        runs: For each block, the runs of points of one group: group, start and stop in the block.
        bound: Lower bound of squared distances; None: all pairs are compared.
    """

    def __init__(self, features: Tensor, groups: Tensor | None, map_blocks: MapBlocks):
        point_count = len(features)
        self.features = features
        self.map_blocks = map_blocks
        # Squared distances are |x|² + |y|² - 2xy. Relative to one of the points the norms are no larger than
        # the distances themselves, and integers stay integers.
        self.origin = features[0].clone()
        starts = range(0, point_count, ROWS)
        self.rows = [slice(start, min(start + ROWS, point_count)) for start in starts]
        self.squared = torch.full((point_count,), float("inf"), device=features.device)
        self.norms = torch.empty(point_count, device=features.device)
        self.others: Tensor | None = None
        self.nearest_pick: Tensor | None = None
        self.pick_count = 0
        self.runs: list[list[tuple[int, int, int]]] = [[] for _ in self.rows]
        self.groups = groups
        if groups is not None:
            self.others = self.squared.clone()
            self.nearest_pick = torch.zeros(point_count, dtype=torch.int32, device=features.device)
            self.runs = [_equal_runs(groups[rows]) for rows in self.rows]
        self.map_blocks(self._compute_norms, range(len(self.rows)))
        self.bound: ByteBound | None = None
        is_large = point_count >= quantized_search.MIN_POINTS
        is_on_cpu = features.device.type == "cpu"
        # With a single group the bound excludes no pair: all points are infinitely far from other groups
        can_exclude = groups is None or bool((groups != groups[0]).any())
        if is_on_cpu and is_large and can_exclude and quantized_search.is_faster():
            self.bound = ByteBound(features, self.rows, map_blocks)

    def add(self, points: Tensor, groups: Tensor | None) -> None:
        """Add picks to the selection.

        Args:
            points: The picks, `[K, D]`.
            groups: Groups of the picks, `[K]`; None: they belong to no group.
        """
        start = self.pick_count
        self.pick_count = self.pick_count + len(points)
        numbers = torch.arange(start, self.pick_count, dtype=torch.int32, device=points.device)
        if groups is not None:
            groups, order = groups.sort(stable=True)
            points = points[order]
            numbers = numbers[order]
        for offset in range(0, len(points), BATCH):
            batch = points[offset : offset + BATCH]
            relative = batch - self.origin
            pick_groups = None if groups is None else groups[offset : offset + BATCH]
            columns = {}
            if pick_groups is not None:
                columns = {group: slice(first, stop) for group, first, stop in _equal_runs(pick_groups)}
            bound = None
            if self.bound is not None and len(batch) >= quantized_search.MIN_PICKS:
                bound = self.bound.for_picks(batch)
            picks = _PickBatch(
                norms=(relative * relative).sum(1),
                minus_doubled=(relative * -2.0).T,
                numbers=numbers[offset : offset + BATCH],
                columns=columns,
                groups=pick_groups,
                bound=bound,
            )
            self.map_blocks(partial(self._update_block, picks), range(len(self.rows)))

    def _update_block(self, picks: _PickBatch, b: int) -> None:
        """Compare block b of the points with a batch of picks."""
        rows = self.rows[b]
        if picks.bound is not None:
            limits = self.squared if self.others is None else self.others
            pairs = picks.bound.pairs(b, limits[rows])
            if pairs is not None:
                block_points, pair_picks = pairs
                self._update_pairs(picks, rows.start + block_points, pair_picks)
                return
        # |y|² - 2xy
        products = torch.addmm(picks.norms, self.features[rows] - self.origin, picks.minus_doubled)
        squared = self.squared[rows]
        if self.others is None or self.nearest_pick is None or self.groups is None:
            torch.minimum(squared, products.amin(1) + self.norms[rows], out=squared)
            return
        nearest_pick = self.nearest_pick[rows]

        def update_points(points: slice, values: Tensor, numbers: Tensor) -> Tensor:
            """Update points of the block, and return their squared distances to picks.

            Args:
                points: The points.
                values: |y|² - 2xy of the points and the picks.
                numbers: Numbers of the picks in the selection.
            """
            pick_squared = values.amin(1) + self.norms[rows][points]
            nearer = (pick_squared < squared[points]).nonzero().flatten()
            # Numbers of picks are found for these few points: for all points it would take as long as the
            # products. `nearest_pick[points]` is a view: the assignment changes `self.nearest_pick`
            if len(nearer):
                nearest_pick[points][nearer] = numbers[values[nearer].argmin(1)]
                torch.minimum(squared[points], pick_squared, out=squared[points])
            return pick_squared

        # The picks of each point's own group come first; then their products become infinite, so that the
        # last update compares with the other picks only
        all_points = slice(0, len(squared))
        own_runs = [  # for each group, its points of the block, and the columns of its picks
            (slice(start, stop), picks.columns[group])
            for group, start, stop in self.runs[b]
            if group in picks.columns
        ]
        if picks.groups is not None and len(own_runs) > MAX_RUNS:
            is_own = self.groups[rows][:, None] == picks.groups
            update_points(all_points, products.masked_fill(~is_own, torch.inf), picks.numbers)
            products.masked_fill_(is_own, torch.inf)
        else:
            for points, columns in own_runs:
                update_points(points, products[points, columns], picks.numbers[columns])
                products[points, columns] = torch.inf
        others_squared = update_points(all_points, products, picks.numbers)
        torch.minimum(self.others[rows], others_squared, out=self.others[rows])

    def _update_pairs(self, picks: _PickBatch, points: Tensor, pair_picks: Tensor) -> None:
        """Compare pairs of a point and a pick, and no others.

        Args:
            picks: A batch of picks.
            points: Number of each pair's point, `[L]`.
            pair_picks: Number of each pair's pick in the batch, `[L]`.
        """
        relative = self.features.index_select(0, points) - self.origin
        # -2xy + |y|² + |x|²
        pair_squared = (relative * picks.minus_doubled.T.index_select(0, pair_picks)).sum(1)
        pair_squared = pair_squared + picks.norms[pair_picks]
        pair_squared += self.norms[points]
        if self.others is None or self.nearest_pick is None or self.groups is None:
            self.squared.scatter_reduce_(0, points, pair_squared, "amin")
            return
        old_squared = self.squared[points]
        self.squared.scatter_reduce_(0, points, pair_squared, "amin")
        # of the pairs of one point, the nearest, if it is nearer than all earlier picks
        is_nearest = (pair_squared < old_squared) & (pair_squared == self.squared[points])
        self.nearest_pick[points[is_nearest]] = picks.numbers[pair_picks[is_nearest]]
        if picks.groups is not None:
            is_other_group = self.groups[points] != picks.groups[pair_picks]
            points = points[is_other_group]
            pair_squared = pair_squared[is_other_group]
        self.others.scatter_reduce_(0, points, pair_squared, "amin")

    def _compute_norms(self, b: int) -> None:
        block = self.features[self.rows[b]] - self.origin
        self.norms[self.rows[b]] = (block * block).sum(1)


def _equal_runs(groups: Tensor) -> list[tuple[int, int, int]]:
    """Return the runs of equal values: value, start and stop of each."""
    values, counts = groups.unique_consecutive(return_counts=True)
    stops = counts.cumsum(0).tolist()
    return list(zip(values.tolist(), [0, *stops[:-1]], stops, strict=True))


def _pool_picks(features: Tensor, distances: _Distances, max_count: int, until: float) -> Tensor:
    """Find the next picks by the greedy rule, inside a pool of the farthest points.

    Args:
        features: Points `[N, D]`.
        distances: Distances of the points to the selection; they do not change.
        max_count: Largest number of picks.
        until: Squared distance: points that are this close are not picked.

    Returns:
        Indices of the picks, at least one unless all squared distances are at most `until`.
    """
    squared = distances.squared
    highest, pool = squared.topk(min(POOL_SIZE, len(squared)))
    if highest[0] == highest[-1]:
        # All are equal. The pool gets the lowest indices and wins ties: its points are picked before points
        # outside with the same distance
        pool = (squared == highest[0]).nonzero().flatten()[:POOL_SIZE]
        outside_squared = highest[0]
        wins_ties = True
    else:
        pool = pool.sort().values  # argmax then finds the lowest index of equal distances
        outside_squared = highest[-1]  # squared distances outside the pool are at most this
        wins_ties = len(pool) == len(squared)  # no point is outside
    pool_squared = squared[pool]
    points = features[pool] - distances.origin
    norms = (points * points).sum(1)
    minus_doubled = points * -2.0
    batches: list[Tensor] = [pool[:0]]  # an empty batch, so that `torch.cat` has one
    pick_count = 0
    max_count = min(max_count, len(pool))
    while pick_count < max_count:
        if until > 0:  # points that are this close are never picked, because distances only shrink
            candidates = (pool_squared > until).nonzero().flatten()
            if not len(candidates):
                break
            if len(candidates) < 0.8 * len(pool_squared):  # otherwise the copies cost more than they save
                pool = pool[candidates]
                pool_squared = pool_squared[candidates]
                norms = norms[candidates]
                minus_doubled = minus_doubled[candidates]
        steps = min(STRIDE, max_count - pick_count)
        picks = torch.empty(steps, dtype=torch.long, device=features.device)
        pick_squared = torch.empty(steps, dtype=pool_squared.dtype, device=features.device)
        for i in range(steps):
            value, index = pool_squared.max(0)
            picks[i] = index
            pick_squared[i] = value
            pick = index.view(1)  # for index_select: a plain subscript would bring the index to the host
            # |x|² + |y|² - 2xy, where -2xy is -0.5 (-2x) (-2y)
            minus_doubled_pick = minus_doubled.index_select(0, pick)[0]
            new_squared = torch.addmv(norms, minus_doubled, minus_doubled_pick, alpha=-0.5)
            new_squared += norms.index_select(0, pick)
            pool_squared = torch.minimum(pool_squared, new_squared).index_fill_(0, pick, PICKED)
        # A pick is valid while it is farther than all points outside the pool. Distances of picks fall, so
        # that the valid ones come first
        is_valid = pick_squared >= outside_squared if wins_ties else pick_squared > outside_squared
        if until > 0:
            is_valid &= pick_squared > until
        valid_count = int(is_valid.sum())
        batches.append(pool[picks[:valid_count]])
        pick_count += valid_count
        if valid_count < steps:
            break
    return torch.cat(batches)

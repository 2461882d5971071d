"""Prototypes of good pictures, per scale, and the difference of a picture from its nearest prototype.

Zhang et al., Prototypical Residual Networks for Anomaly Detection and Localization, CVPR 2023, section 3.2.

The points that k-means groups are entire feature maps of about 100,000 numbers each, and there are only as
many as good pictures. Every centroid is a mean of points: all distances follow from the products of the
points with each other. These are computed once, a block of pictures at a time; then k-means takes little
time.

Every block is computed by a single thread: the result does not depend on the number of threads.

Throughout, features are `[B, C, H, W]`, prototypes `[K, C, H, W]` and std `[C]`, the channels' spread on good
pictures; valid_mask `[B, 1, H, W]` is 1 where a cell counts, else 0, and None where every cell does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from flawscope.errors import InputError
from flawscope.methods.threads import workers
from flawscope.methods.training.pictures import Moments

PROTOTYPE_SHARE = 0.1  # number of prototypes per good picture
MAX_PICTURES = 4096  # largest number of pictures that k-means uses: their products take 128 MiB
RESTARTS = 10
ITERATIONS = 100
MAX_HELD_BYTES = 512 * 2**20  # feature maps in memory while they are multiplied with all others
BLOCK = 64  # number of pictures that a thread multiplies at once
SLICE = 16384  # number of terms of a product that are summed in fp32; the sums are added in fp64

# Returns feature maps [b, C, H, W], fp32 or fp16, of pictures by their numbers [b] int64; the same at each
# call. A tensor's `__getitem__` will do
LoadMaps = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class KMeansResult:
    """Result of k-means at a scale.

    Attributes:
        prototypes: `[K, C, H, W]` float32 on the CPU; K is a tenth of the pictures, at least 1.
        objective: Sum of the squared distances of the pictures to their prototypes.
        assignment: Prototype of each picture that was used, `[n]` int64. Every prototype has a picture.
        pictures: Numbers of the pictures that were used, `[n]` int64, rising: all pictures, unless there are
            more than `MAX_PICTURES`.
        history: The objective in every iteration of the best restart; it never rises.
    """

    prototypes: Tensor
    objective: float
    assignment: Tensor
    pictures: Tensor
    history: tuple[float, ...]

    @property
    def iterations(self) -> int:
        """Number of iterations of the best restart."""
        return len(self.history)

    def facts(self) -> dict[str, float]:
        """Return the facts for the manifest."""
        return {"count": len(self.prototypes), "objective": self.objective, "iterations": self.iterations}


def k_means(
    load: LoadMaps,
    picture_count: int,
    *,
    seed: int = 0,
    limit: int = MAX_PICTURES,
    restarts: int = RESTARTS,
    iterations: int = ITERATIONS,
) -> KMeansResult:
    """Run k-means over the feature maps of a scale; K is a tenth of the number of pictures.

    Each restart is k-means++, then Lloyd's rule until nothing changes. The best restart gives the result.

    Args:
        load: Returns the maps of any pictures; called with at most `BLOCK` at once.
        picture_count: Number of pictures.
        seed: Seed of the restarts, and of the random choice of pictures if there are more than `limit`.
        limit: Largest number of pictures that are used; it also bounds K.
        restarts: Number of restarts.
        iterations: Largest number of iterations of a restart.

    Raises:
        InputError: There are no pictures, or a feature is NaN or infinite.
    """
    if picture_count < 1:
        raise InputError("prototypes need one good picture at least")
    used_pictures = np.arange(picture_count)
    if picture_count > limit:
        generator = np.random.default_rng([seed, picture_count])
        used_pictures = np.sort(generator.choice(picture_count, limit, replace=False))
    numbers = torch.from_numpy(used_pictures)
    products = gram_matrix(load, numbers)
    if not products.isfinite().all():
        raise InputError("NaN or infinite features of a good picture: use other weights or fp32")
    count = max(1, round(PROTOTYPE_SHARE * len(numbers)))

    def run_restart(restart: int) -> tuple[Tensor, tuple[float, ...]]:
        picks = k_means_plus_plus(products, count, np.random.default_rng([seed, restart]))
        return lloyd(products, picks, iterations)

    def last_objective(run: tuple[Tensor, tuple[float, ...]]) -> float:
        _, history = run
        return history[-1]

    with workers() as map_restarts:
        runs = map_restarts(run_restart, range(restarts))
    assignment, history = min(runs, key=last_objective)  # the first of equal ones
    assignment = assignment.clone()  # a normal tensor: the threads made one of inference mode
    prototypes = _compute_centres(load, numbers, assignment, count)
    return KMeansResult(
        prototypes, objective=history[-1], assignment=assignment, pictures=numbers, history=history
    )


def gram_matrix(load: LoadMaps, numbers: Tensor) -> Tensor:
    """Return the products of maps with each other, `[n, n]` float64 on the CPU.

    The mean of the first block is subtracted from the maps first. Products are then of the size of the
    distances, so that distances computed from them lose no digits.

    Args:
        load: Returns the maps of pictures.
        numbers: Numbers of the pictures, `[n]` int64.
    """
    blocks = list(numbers.split(BLOCK))
    origin = load(blocks[0]).float().mean(0)

    def load_points(block: Tensor) -> Tensor:
        return (load(block).float() - origin).flatten(1)

    products = torch.zeros(len(numbers), len(numbers), dtype=torch.float64)

    def multiply_blocks(
        held_points: dict[int, Tensor], column_block: int, column_points: Tensor, row_block: int
    ) -> None:
        """Set the products of two blocks, on both sides of the diagonal."""
        row_points = held_points[row_block]
        rows = slice(row_block * BLOCK, row_block * BLOCK + len(row_points))
        columns = slice(column_block * BLOCK, column_block * BLOCK + len(column_points))
        block_products = torch.zeros(len(row_points), len(column_points), dtype=torch.float64)
        for start in range(0, column_points.shape[1], SLICE):
            terms = slice(start, start + SLICE)
            block_products += (row_points[:, terms] @ column_points[:, terms].T).double().cpu()
        if row_block == column_block:
            # rounding may make the two triangles differ
            block_products = (block_products + block_products.T) / 2
        products[rows, columns] = block_products
        products[columns, rows] = block_products.T

    held_count = max(1, MAX_HELD_BYTES // (4 * origin.numel()) // BLOCK)  # number of blocks in memory
    with workers(origin.device) as map_blocks:
        for start in range(0, len(blocks), held_count):
            stop = min(start + held_count, len(blocks))
            held_points = {block: load_points(blocks[block]) for block in range(start, stop)}
            for column_block in range(start, len(blocks)):
                if column_block in held_points:
                    column_points = held_points[column_block]
                else:
                    column_points = load_points(blocks[column_block])
                multiply = partial(multiply_blocks, held_points, column_block, column_points)
                map_blocks(multiply, [block for block in held_points if block <= column_block])
    return products


def k_means_plus_plus(products: Tensor, count: int, generator: np.random.Generator) -> list[int]:
    """Choose points by k-means++ (Arthur and Vassilvitskii 2007, greedy variant).

    For each choice, a few candidates are taken at random, with probabilities proportional to the squared
    distances from the points chosen before. The choice is the candidate that leaves the smallest sum of
    squared distances.

    Args:
        products: Products of the points with each other, `[n, n]` float64.
        count: Number of points to choose.
        generator: Random numbers.

    Returns:
        Numbers of the chosen points.
    """
    squares = products.diagonal()
    candidate_count = 2 + int(math.log(count))

    def squared_distances(points: Tensor) -> Tensor:
        return (squares + squares[points, None] - 2 * products[points]).clamp(min=0)

    picks = [int(generator.integers(len(squares)))]
    nearest_squared = squared_distances(torch.tensor(picks))[0]
    while len(picks) < count:
        # a uniform random number falls on a point with a probability proportional to its squared distance
        cumulated = nearest_squared.cumsum(0)
        random_sums = torch.from_numpy(generator.random(candidate_count)) * cumulated[-1]
        candidates = torch.searchsorted(cumulated, random_sums, right=True).clamp(max=len(squares) - 1)
        remaining_squared = torch.minimum(nearest_squared, squared_distances(candidates))  # [candidates, n]
        best = int(remaining_squared.sum(1).argmin())
        picks.append(int(candidates[best]))
        nearest_squared = remaining_squared[best]
    return picks


def lloyd(products: Tensor, picks: list[int], iterations: int) -> tuple[Tensor, tuple[float, ...]]:
    """Apply Lloyd's rule, beginning with centroids at the points `picks`.

    Args:
        products: Products of the points with each other, `[n, n]` float64.
        picks: Numbers of the points at which the centroids begin.
        iterations: Largest number of iterations.

    Returns:
        Number of each point's centroid, `[n]` int64, and the objective after every iteration. Every centroid
        has at least one point.
    """
    count = len(picks)
    squares = products.diagonal()
    centroids = torch.tensor(picks)
    distances = squares[:, None] + squares[centroids] - 2 * products[:, centroids]  # squared
    assignment = torch.full((len(squares),), -1)
    history: list[float] = []
    for _ in range(max(1, iterations)):
        previous = assignment
        assignment = distances.argmin(1)
        _fill_empty(assignment, distances, count)
        member_counts = torch.bincount(assignment, minlength=count).double()
        # a centroid m is the mean of its points, and |x - m|² = x·x - 2 x·m + m·m
        sums = torch.zeros(count, len(squares), dtype=torch.float64).index_add_(0, assignment, products)
        centroid_products = (sums / member_counts[:, None]).T  # x·m of each point and centroid
        own_products = centroid_products.gather(1, assignment[:, None])[:, 0]
        own_sums = torch.zeros(count, dtype=torch.float64).index_add_(0, assignment, own_products)
        centroid_squares = own_sums / member_counts  # m·m is the mean of x·m over the centroid's points
        distances = squares[:, None] - 2 * centroid_products + centroid_squares
        history.append(float(distances.gather(1, assignment[:, None]).clamp(min=0).sum()))
        if torch.equal(assignment, previous):
            break
    return assignment, tuple(history)


def _fill_empty(assignment: Tensor, distances: Tensor, count: int) -> None:
    """Give every centroid without points a point, by changing the assignment in place.

    Of the points that share a centroid with others, the one farthest from its centroid is moved. The
    objective then falls, or stays if the points coincide.

    Args:
        assignment: Number of each point's centroid, `[n]`.
        distances: Squared distances of points to centroids, `[n, count]`.
        count: Number of centroids.
    """
    member_counts = torch.bincount(assignment, minlength=count)
    empty_centroids = (member_counts == 0).nonzero().flatten().tolist()
    if not empty_centroids:
        return
    own_distances = distances.gather(1, assignment[:, None])[:, 0]
    # the iterator goes on from centroid to centroid: a point that it has passed cannot be moved later either
    farthest_first = iter(own_distances.argsort(descending=True, stable=True).tolist())
    for centroid in empty_centroids:
        point = next(point for point in farthest_first if member_counts[assignment[point]] > 1)
        member_counts[assignment[point]] -= 1
        member_counts[centroid] += 1
        assignment[point] = centroid


def _compute_centres(load: LoadMaps, numbers: Tensor, assignment: Tensor, count: int) -> Tensor:
    """Return the centroids `[count, C, H, W]`: means of the maps that are assigned to each."""
    weights = (1 / torch.bincount(assignment, minlength=count).double()).tolist()
    means: Tensor | None = None
    for block, centroids in zip(numbers.split(BLOCK), assignment.split(BLOCK), strict=True):
        maps = load(block).float().cpu()
        if means is None:
            means = torch.zeros(count, *maps.shape[1:])
        for feature_map, centroid in zip(maps, centroids.tolist(), strict=True):
            means[centroid].add_(feature_map, alpha=weights[centroid])
    assert means is not None
    return means


def channel_std(moments: Moments) -> Tensor:
    """Return the channels' standard deviations `[C]` float32, above 0.

    Each is at least a thousandth of the mean over all channels. Otherwise the noise of a channel that hardly
    changes on good pictures would count as a defect.
    """
    std = moments.std()
    floor = float(std.mean()) * 1e-3
    return std.clamp(min=floor if floor > 0 else 1.0).float()


def relative_squares(features: Tensor, prototypes: Tensor, valid_mask: Tensor | None = None) -> Tensor:
    """Return |x - p|² - |x - m|² `[B, K]` of pictures x and prototypes p, whose mean is m.

    The second term does not depend on p: these values order the prototypes as the distances do.
    """
    # Relative to m, |p|² is no larger than the distances between the prototypes: fp32 has enough digits for
    # their differences
    middle = prototypes.mean(0)
    relative = prototypes - middle
    flat_prototypes = relative.flatten(1)
    if valid_mask is None:
        return flat_prototypes.square().sum(1) - 2 * ((features - middle).flatten(1) @ flat_prototypes.T)
    cell_squares = relative.square().sum(1).flatten(1)  # |p|² of each cell, `[K, cells]`
    squares = valid_mask.flatten(1) @ cell_squares.T  # |p|² over the cells that count in each picture
    return squares - 2 * (((features - middle) * valid_mask).flatten(1) @ flat_prototypes.T)


def nearest_prototype(features: Tensor, prototypes: Tensor, valid_mask: Tensor | None = None) -> Tensor:
    """Return the numbers `[B]` int64 of the nearest prototypes, by the Euclidean distance of entire maps.

    Only cells that count contribute to the distance. Of prototypes at the same distance it is the first.
    """
    return relative_squares(features, prototypes, valid_mask).argmin(1)


def residual(features: Tensor, prototypes: Tensor, std: Tensor, valid_mask: Tensor | None = None) -> Tensor:
    """Return squared differences `[B, C, H, W]` between features and their nearest prototype.

    They are in units of each channel's variance on good pictures, and 0 where a cell does not count.
    """
    squares = differences(features, prototypes, std, valid_mask).square()
    return squares if valid_mask is None else squares * valid_mask


def differences(
    features: Tensor, prototypes: Tensor, std: Tensor, valid_mask: Tensor | None = None
) -> Tensor:
    """Return differences `[B, C, H, W]` of features from their nearest prototype, in spreads of a channel."""
    nearest = prototypes.index_select(0, nearest_prototype(features, prototypes, valid_mask))
    return (features - nearest) / std.view(-1, 1, 1)


def leave_one_out_residual(
    features: Tensor,
    prototypes: Tensor,
    std: Tensor,
    originals: Tensor,
    clusters: Tensor,
    sizes: Tensor,
    *,
    valid_mask: Tensor | None = None,
) -> Tensor:
    """Return the `residual` of training pictures as if k-means had not used them.

    A prototype is the mean of about ten pictures, and therefore nearer to each of them than to other good
    pictures. A network that learns from such small residuals would take those of new good pictures for
    defects.

    Args:
        features: Features of good pictures, `[B, C, H, W]`, on which a defect may have been put.
        prototypes: Prototypes `[K, C, H, W]`.
        std: The channels' spread on good pictures, `[C]`.
        originals: Features of the same pictures in k-means, `[B, C, H, W]`.
        clusters: Prototypes to which the pictures belong, `[B]` int64 (`KMeansResult.assignment`).
        sizes: Number of pictures that belong to each prototype, `[K]` int64.
        valid_mask: `[B, 1, H, W]`, 1 where a cell counts, else 0; None: every cell counts.
    """
    other_counts = (sizes[clusters] - 1).view(-1, 1, 1, 1)
    own = prototypes[clusters]
    # the prototype p without the picture x, of n pictures: the mean of the others is p + (p - x) / (n - 1)
    own_without_picture = own + (own - originals) / other_counts.clamp(min=1)
    # squared distances as in `relative_squares`; those to a picture's own prototype are replaced
    middle = prototypes.mean(0)
    relative = own_without_picture - middle
    squares = relative_squares(features, prototypes, valid_mask)
    terms = relative * (relative - 2 * (features - middle))  # their sum is |p|² - 2xp, relative to the middle
    if valid_mask is not None:
        terms = terms * valid_mask
    own_squares = terms.flatten(1).sum(1, keepdim=True)
    is_only_member = other_counts.flatten(1) == 0  # then another prototype is the nearest, if there is one
    own_squares = own_squares.masked_fill(is_only_member, float("inf"))
    nearest_index = squares.scatter(1, clusters[:, None], own_squares).argmin(1)
    is_own = (nearest_index == clusters).view(-1, 1, 1, 1)
    nearest = torch.where(is_own, own_without_picture, prototypes[nearest_index])
    residuals = ((features - nearest) / std.view(-1, 1, 1)).square()
    return residuals if valid_mask is None else residuals * valid_mask


class Standardise(nn.Module):
    """Module that standardises features `[B, C, H, W]`: mean 0 and spread 1 a channel on good pictures.

    Attributes:
        mean: Mean of each channel, `[C]`.
        std: Spread of each channel, `[C]`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def set_moments(self, moments: Moments) -> None:
        """Set mean and spread from the moments of the features on good pictures."""
        self.mean.copy_(moments.mean)
        self.std.copy_(channel_std(moments))

    def fill_with_mean(self, features: Tensor, valid_mask: Tensor) -> Tensor:
        """Replace features by their channel's mean where `valid_mask [..., 1, H, W]` is False."""
        return torch.where(valid_mask, features, self.mean.view(-1, 1, 1).to(features))

    def forward(self, features: Tensor) -> Tensor:
        """Return the standardised features `[B, C, H, W]`."""
        return (features - self.mean.view(-1, 1, 1)) / self.std.view(-1, 1, 1)


class Prototypes(Standardise):
    """Prototypes of a scale: `forward` standardises features, and `residuals` gives their residuals."""

    prototypes: Tensor  # [K, C, H, W]

    def __init__(self, count: int, shape: tuple[int, int, int]):
        """Set up `count` prototypes of zeros, for features of `shape` (C, H, W)."""
        super().__init__(shape[0])
        self.register_buffer("prototypes", torch.zeros(count, *shape))

    def residuals(self, features: Tensor, valid_mask: Tensor | None = None) -> Tensor:
        """Return residuals `[B, C, H, W]`, 0 or more, of the backbone's features.

        For pictures from which the prototypes were made, use `leave_one_out_residual`.
        """
        return residual(features, self.prototypes, self.std, valid_mask)

    def differences(self, features: Tensor, valid_mask: Tensor | None = None) -> Tensor:
        """Return the differences `[B, C, H, W]` of the backbone's features from their nearest prototypes."""
        return differences(features, self.prototypes, self.std, valid_mask)

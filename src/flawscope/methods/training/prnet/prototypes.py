"""Prototypes of good pictures, per scale, and the difference of a picture from its nearest prototype.

Zhang et al., Prototypical Residual Networks for Anomaly Detection and Localization, CVPR 2023, section 3.2.

The points that k-means groups are whole feature maps of about 100,000 numbers each, and there are only as
many as good pictures. Every centroid is a mean of points: all distances follow from the products of the
points with each other. These are formed once, a block of pictures at a time; after that k-means is cheap.

Every block is computed by a single thread: the result does not depend on the number of threads.

Throughout, features are `[B, C, H, W]`, prototypes `[K, C, H, W]` and std `[C]`, the channels' spread on good
pictures; valid_mask `[B, 1, H, W]` is 1 where a cell counts, else 0, and None where every cell does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from flawscope.errors import InputError
from flawscope.methods.threads import workers
from flawscope.methods.training.pictures import Moments

PROTOTYPE_SHARE = 0.1  # prototypes per good picture
MAX_PICTURES = 4096  # pictures that k-means looks at: their products take 128 MiB
RESTARTS = 10
ITERATIONS = 100
MAX_HELD_BYTES = 512 * 2**20  # bytes of feature maps held while the others pass by
BLOCK = 64  # pictures multiplied at once by one thread
SLICE = 16384  # numbers of a product summed in fp32; beyond that in fp64

# Feature maps [b, C, H, W], fp32 or fp16, of the pictures with these numbers [b] int64. Called again for the
# same pictures, it gives the same. A tensor's `__getitem__` will do.
LoadMaps = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class KMeansResult:
    """Result of k-means at a scale.

    Attributes:
        prototypes: `[K, C, H, W]` float32 on the CPU; K is a tenth of the pictures, at least 1.
        objective: Sum of the squared distances of the pictures to their prototypes.
        assignment: Prototype of each picture that was used, `[n]` int64. Every prototype has a picture.
        pictures: Numbers of these pictures, `[n]` int64, rising: all pictures, unless there are more than
            `MAX_PICTURES`.
        history: The objective in every iteration of the restart that won; it never rises.
    """

    prototypes: Tensor
    objective: float
    assignment: Tensor
    pictures: Tensor
    history: tuple[float, ...]

    @property
    def iterations(self) -> int:
        """Number of iterations of the restart that won."""
        return len(self.history)

    def facts(self) -> dict[str, float]:
        """Return the facts for the manifest."""
        return {"count": len(self.prototypes), "objective": self.objective, "iterations": self.iterations}


def k_means(
    load: LoadMaps,
    pictures: int,
    *,
    seed: int = 0,
    limit: int = MAX_PICTURES,
    restarts: int = RESTARTS,
    iterations: int = ITERATIONS,
) -> KMeansResult:
    """Run k-means over the feature maps of a scale, K a tenth of the pictures.

    Each restart is k-means++, then Lloyd's rule until nothing changes. The best restart counts.

    Args:
        load: Returns the maps of any pictures; called with at most `BLOCK` at once.
        pictures: Number of pictures.
        seed: Seed of the restarts, and of the random choice of pictures if there are more than `limit`.
        limit: Largest number of pictures that are used; it also bounds K.
        restarts: Number of restarts.
        iterations: Largest number of iterations of a restart.

    Raises:
        InputError: There are no pictures, or a feature is NaN or infinite.
    """
    if pictures < 1:
        raise InputError("prototypes need one good picture at least")
    chosen = np.arange(pictures)
    if pictures > limit:
        chosen = np.sort(np.random.default_rng([seed, pictures]).choice(pictures, limit, replace=False))
    numbers = torch.from_numpy(chosen)
    products = gram_matrix(load, numbers)
    if not products.isfinite().all():
        raise InputError("NaN or infinite features of a good picture: use other weights or fp32")
    count = max(1, round(PROTOTYPE_SHARE * len(numbers)))
    with workers() as each:  # a whole restart per thread
        runs = each(
            lambda r: lloyd(
                products, k_means_plus_plus(products, count, np.random.default_rng([seed, r])), iterations
            ),
            range(restarts),
        )
    assignment, history = min(runs, key=lambda run: run[1][-1])  # of equals the first
    assignment = assignment.clone()  # made in inference mode
    return KMeansResult(_centres(load, numbers, assignment, count), history[-1], assignment, numbers, history)


def gram_matrix(load: LoadMaps, numbers: Tensor) -> Tensor:
    """Return the products of the maps with each other, `[n, n]` float64 on the CPU.

    They are relative to a point among the maps: then they are no larger than the distances, and rounding
    takes nothing from these.
    """
    blocks = list(numbers.split(BLOCK))
    origin = load(blocks[0]).float().mean(0)

    def points(block: Tensor) -> Tensor:
        return (load(block).float() - origin).flatten(1)

    products = torch.zeros(len(numbers), len(numbers), dtype=torch.float64)
    at_once = max(1, MAX_HELD_BYTES // (4 * origin.numel()) // BLOCK)  # blocks
    with workers(origin.device) as each:
        for start in range(0, len(blocks), at_once):
            held = {b: points(blocks[b]) for b in range(start, min(start + at_once, len(blocks)))}
            for b in range(start, len(blocks)):
                other = held[b] if b in held else points(blocks[b])

                def meet(a: int, b: int = b, other: Tensor = other, held: dict[int, Tensor] = held) -> None:
                    rows = slice(a * BLOCK, a * BLOCK + len(held[a]))
                    columns = slice(b * BLOCK, b * BLOCK + len(other))
                    total = torch.zeros(len(held[a]), len(other), dtype=torch.float64)
                    for d in range(0, other.shape[1], SLICE):
                        part = held[a][:, d : d + SLICE] @ other[:, d : d + SLICE].T
                        total += part.double().cpu()
                    if a == b:
                        total = (total + total.T) / 2
                    products[rows, columns] = total
                    products[columns, rows] = total.T

                each(meet, [a for a in held if a <= b])
    return products


def k_means_plus_plus(products: Tensor, count: int, generator: np.random.Generator) -> list[int]:
    """Choose points by k-means++ (Arthur and Vassilvitskii 2007, greedy variant).

    A point's chance is in proportion to its squared distance from the chosen points. Of a few such draws, the
    point counts that leaves the smallest sum of squared distances.

    Args:
        products: Products of the points with each other, `[n, n]` float64.
        count: Number of points to choose.
        generator: Random numbers.

    Returns:
        Numbers of the chosen points.
    """
    squares = products.diagonal()
    trials = 2 + int(math.log(count))

    def distances(points: Tensor) -> Tensor:
        return (squares + squares[points, None] - 2 * products[points]).clamp(min=0)

    picks = [int(generator.integers(len(squares)))]
    nearest = distances(torch.tensor(picks))[0]
    while len(picks) < count:
        chances = nearest.cumsum(0)
        drawn = torch.from_numpy(generator.random(trials)) * chances[-1]
        tried = torch.searchsorted(chances, drawn, right=True).clamp(max=len(squares) - 1)
        left = torch.minimum(nearest, distances(tried))
        best = int(left.sum(1).argmin())
        picks.append(int(tried[best]))
        nearest = left[best]
    return picks


def lloyd(products: Tensor, picks: list[int], iterations: int) -> tuple[Tensor, tuple[float, ...]]:
    """Apply Lloyd's rule, beginning with centroids at the points `picks`.

    Args:
        products: Products of the points with each other, `[n, n]` float64.
        picks: Numbers of the points.
        iterations: Largest number of iterations.

    Returns:
        Assignment `[n]` int64, every centroid with at least one point, and the objective of the assignment
        after every iteration.
    """
    count = len(picks)
    squares = products.diagonal()
    at = torch.tensor(picks)
    distances = squares[:, None] + squares[at] - 2 * products[:, at]
    assignment = torch.full((len(squares),), -1)
    history: list[float] = []
    for _ in range(max(1, iterations)):
        previous = assignment
        assignment = distances.argmin(1)
        _fill_empty(assignment, distances, count)
        members = torch.bincount(assignment, minlength=count).double()
        # m = sum of points / number: |x - m|² = x·x - 2 x·m + m·m
        sums = torch.zeros(count, len(squares), dtype=torch.float64).index_add_(0, assignment, products)
        with_centroid = (sums / members[:, None]).T
        distances_to_prototype = with_centroid.gather(1, assignment[:, None])[:, 0]
        centroids = (
            torch.zeros(count, dtype=torch.float64).index_add_(0, assignment, distances_to_prototype)
            / members
        )
        distances = squares[:, None] - 2 * with_centroid + centroids
        history.append(float(distances.gather(1, assignment[:, None]).clamp(min=0).sum()))
        if torch.equal(assignment, previous):
            break
    return assignment, tuple(history)


def _fill_empty(assignment: Tensor, distances: Tensor, count: int) -> None:
    """Give every centroid without points the farthest point that does not stand alone.

    This lowers the objective, or keeps it where points coincide.
    """
    members = torch.bincount(assignment, minlength=count)
    empty = (members == 0).nonzero().flatten().tolist()
    if not empty:
        return
    distances_to_prototype = distances.gather(1, assignment[:, None])[:, 0]
    farthest = iter(distances_to_prototype.argsort(descending=True, stable=True).tolist())
    for cluster_ in empty:
        point = next(p for p in farthest if members[assignment[p]] > 1)
        members[assignment[point]] -= 1
        members[cluster_] += 1
        assignment[point] = cluster_


def _centres(load: LoadMaps, numbers: Tensor, assignment: Tensor, count: int) -> Tensor:
    weights = (1 / torch.bincount(assignment, minlength=count).double()).tolist()
    means: Tensor | None = None
    for block, clusters in zip(numbers.split(BLOCK), assignment.split(BLOCK), strict=True):
        maps = load(block).float().cpu()
        if means is None:
            means = torch.zeros(count, *maps.shape[1:])
        for feature_map, c in zip(maps, clusters.tolist(), strict=True):
            means[c].add_(feature_map, alpha=weights[c])
    assert means is not None
    return means


def channel_std(moments: Moments) -> Tensor:
    """Return the channels' standard deviations `[C]` float32, above 0.

    They are at least a thousandth of their mean: else the noise of a channel that hardly changes on good
    pictures would count as a defect.
    """
    std = moments.std()
    floor = float(std.mean()) * 1e-3
    return std.clamp(min=floor if floor > 0 else 1.0).float()


def relative_squares(features: Tensor, prototypes: Tensor, valid_mask: Tensor | None = None) -> Tensor:
    """Return squared distances `[B, K]` to the prototypes, minus a number per picture: the order stays."""
    # Relative to the mean of the prototypes, where |p|² is no larger than the distances between them:
    # in fp32 there are digits enough.
    middle = prototypes.mean(0)
    apart = prototypes - middle
    points = apart.flatten(1)
    if valid_mask is None:
        return points.square().sum(1) - 2 * ((features - middle).flatten(1) @ points.T)
    squares = valid_mask.flatten(1) @ apart.square().sum(1).flatten(1).T
    return squares - 2 * (((features - middle) * valid_mask).flatten(1) @ points.T)


def nearest_prototype(features: Tensor, prototypes: Tensor, valid_mask: Tensor | None = None) -> Tensor:
    """Return the nearest prototypes `[B]` int64 in the Euclidean distance of whole maps.

    Only cells that count have a part in the distance. Of equals the first is the nearest.
    """
    return relative_squares(features, prototypes, valid_mask).argmin(1)


def residual(features: Tensor, prototypes: Tensor, std: Tensor, valid_mask: Tensor | None = None) -> Tensor:
    """Return squared differences `[B, C, H, W]` between features and their nearest prototype.

    They are taken element by element, in units of each channel's variance on good pictures, and 0 where a
    cell does not count.
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

    A prototype is the mean of about ten pictures, and lies nearer to each of them than to any other good
    picture. A network that trains on such residuals takes those of new good pictures for defects.

    Args:
        features: Features of good pictures, `[B, C, H, W]`, on which a defect may have been put.
        prototypes: Prototypes `[K, C, H, W]`.
        std: The channels' spread on good pictures, `[C]`.
        originals: Features of the same pictures in k-means, `[B, C, H, W]`.
        clusters: Prototypes to which the pictures belong, `[B]` int64 (`KMeansResult.assignment`).
        sizes: Number of pictures that belong to each prototype, `[K]` int64.
        valid_mask: `[B, 1, H, W]`, 1 where a cell counts, else 0; None: every cell counts.
    """
    others = (sizes[clusters] - 1).view(-1, 1, 1, 1)
    mine = prototypes[clusters]
    changed = mine + (mine - originals) / others.clamp(min=1)  # the mean of the others
    middle = prototypes.mean(0)
    point = changed - middle
    found = relative_squares(features, prototypes, valid_mask)
    distances = point * (point - 2 * (features - middle))
    residuals = (distances if valid_mask is None else distances * valid_mask).flatten(1).sum(1, keepdim=True)
    alone = others.flatten(1) == 0  # no others: the next prototype, if there is one
    index = found.scatter(1, clusters[:, None], residuals.masked_fill(alone, float("inf"))).argmin(1)
    chosen = torch.where((index == clusters).view(-1, 1, 1, 1), changed, prototypes[index])
    squares = ((features - chosen) / std.view(-1, 1, 1)).square()
    return squares if valid_mask is None else squares * valid_mask


class Standardise(nn.Module):
    """Module that standardises features `[B, C, H, W]`: mean 0 and spread 1 a channel on good pictures."""

    mean: Tensor  # [C]
    std: Tensor  # [C]

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def set_moments(self, moments: Moments) -> None:
        """Set mean and spread from the moments of the features on good pictures, `[positions, C]`."""
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
        """Make room for `count` prototypes of features of `shape` (C, H, W); they are 0."""
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

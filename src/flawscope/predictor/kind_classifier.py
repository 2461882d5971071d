"""Names kinds of defects by labelled examples, as a set of kinds with a stated error. Torch-free.

A region's descriptor is the mean difference of its cells from good ones (`Detector.residuals`). Its direction
tells the kind, its length how clear the defect is. The classifier is linear discriminant analysis with
shrunken covariance (Friedman, Regularized Discriminant Analysis, 1989). Conformal prediction (Vovk, Gammerman
and Shafer, Algorithmic Learning in a Random World, 2005) makes a set of kinds from the distances, by examples
left out. Half of the error is for known kinds that are taken for something new, half for sets that lack the
true kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact.kinds import Kinds
from flawscope.errors import InputError
from flawscope.results.region import KindSet

Floats = NDArray[np.float64]
DEFAULT_ERROR = 0.1
MIN_EXAMPLES = 3  # examples that a kind needs
# bench/kinds.py compares values of SHRINKAGE, POWER and SHARE
SHRINKAGE = 0.5  # weight of a multiple of the identity in the covariance
POWER = 0.75  # distances grow with this power of a descriptor's length: short ones have a noisy direction
SHARE = (
    0.5  # share of the mean distance that is subtracted from the least: a new kind spreads twice as widely
)
MIN_SPREAD = 1e-9  # variance of kinds whose examples are all equal, by which distances are divided
MAX_FOLDS = 50  # folds of the examples that are left out; up to so many examples are left out one by one


class LinearDiscriminant(NamedTuple):
    """Distances to kinds in units of the spread within a kind.

    Attributes:
        means: [K, C], the mean descriptor of each kind.
        directions: [r, C], directions in which examples of a kind differ. A direction's squared length is
            the share by which it reduces the squared distance along it.
        spread: Variance along all other directions.
    """

    means: Floats
    directions: Floats
    spread: float

    @classmethod
    def fit(cls, descriptors: Floats, labels: NDArray[np.intp], count: int) -> LinearDiscriminant:
        """Fit the discriminant to labelled descriptors.

        Args:
            descriptors: [N, C] of the examples.
            labels: [N], number of each example's kind.
            count: Number of kinds; each has at least one example.
        """
        means = np.stack([descriptors[labels == k].mean(0) for k in range(count)])
        residuals = descriptors - means[labels]
        degrees_of_freedom = max(1, len(labels) - count)
        _, singular_values, directions = np.linalg.svd(residuals, full_matrices=False)
        # The variance along a direction is estimated as 1 - SHRINKAGE of its own variance, plus the spread:
        # SHRINKAGE of the mean variance of all directions
        variances = (1 - SHRINKAGE) * singular_values**2 / degrees_of_freedom
        total = SHRINKAGE * float((singular_values**2).sum())
        spread = max(total / degrees_of_freedom / descriptors.shape[1], MIN_SPREAD)
        # a squared weight is the share by which the squared distance along the direction is reduced
        weights = np.sqrt(variances / (variances + spread))
        return cls(means, weights[:, None] * directions, spread)

    def distances(self, descriptors: Floats) -> Floats:
        """Return the squared distances [N, K] of descriptors [N, C] to the kinds."""
        differences = descriptors[:, None] - self.means
        along_directions = differences @ self.directions.T
        squares = (differences**2).sum(2) - (along_directions**2).sum(2)
        return np.asarray(np.maximum(squares, 0) / self.spread)


@dataclass(frozen=True)
class KindClassifier:
    """Classifier of a region's kind of defect.

    Attributes:
        kinds: Names of the kinds, and the numbers that decide between them.
        tensor: [K + r, C] float32, the discriminant's means, then its directions.
    """

    kinds: Kinds
    tensor: NDArray[np.float32]

    @cached_property
    def _discriminant(self) -> LinearDiscriminant:
        rows = self.tensor.astype(np.float64)
        count = len(self.kinds.names)
        return LinearDiscriminant(rows[:count], rows[count:], self.kinds.spread)

    def classify(self, descriptors: NDArray[np.floating[Any]]) -> list[KindSet]:
        """Return the likely kinds of each region, the nearest kind first.

        Args:
            descriptors: [N, C], one for each region.

        Raises:
            InputError: The model's kinds were learnt from descriptors with another number of values than C.
        """
        if descriptors.shape[1] != self.kinds.shape[1]:
            raise InputError("the model's kinds of defects do not fit its cells: run `flawscope kinds` anew")
        lengths, directions = to_length_1(descriptors)
        scales = lengths**self.kinds.power
        squares = self._discriminant.distances(directions) * scales
        distances = np.array(self.kinds.distances)
        margins = np.array(self.kinds.margins)
        p_values = combined_p_values(squares, distances, margins, self.kinds.share)
        names = self.kinds.names
        nearest_first = np.argsort(squares, axis=1, kind="stable")  # [N, K], numbers of kinds
        error = self.kinds.effective_error
        kind_sets = []
        for kind_numbers, kind_p_values in zip(nearest_first, p_values.tolist(), strict=True):
            likely = tuple(names[k] for k in kind_numbers if kind_p_values[k] > error)
            kind_sets.append(KindSet(likely, dict(zip(names, kind_p_values, strict=True))))
        return kind_sets


def to_length_1(descriptors: NDArray[np.floating[Any]]) -> tuple[Floats, Floats]:
    """Return the lengths [N, 1] of descriptors [N, C], and the normalized descriptors; zeros stay zeros."""
    values = descriptors.astype(np.float64)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return lengths, values / np.maximum(lengths, 1e-12)


def combined_p_values(squares: Floats, distances: Floats, margins: Floats, share: float) -> Floats:
    """Return p-values [N, K] of kinds: twice the smaller of two p-values (Bonferroni), at most 1.

    The first p-value tests whether the kind is known at all. Its statistic is the smallest squared distance
    to a kind, minus `share` times the mean over all kinds; it is ranked among the examples' `distances`. This
    compares the likelihood of the nearest kind with that of a new kind. The new kind is assumed around the
    middle of all kinds; its covariance is that of a kind, divided by `share`. The second p-value tests each
    kind. Its statistic is the kind's squared distance minus the smallest one; it is ranked among the
    examples' `margins`.

    Args:
        squares: [N, K], squared distances to the kinds.
        distances: [n], the first statistic of each example.
        margins: [n], the second statistic of each example, for its true kind.
        share: Weight of the mean distance in the first statistic.
    """
    nearest = squares.min(1, keepdims=True)
    mean = squares.mean(1, keepdims=True)
    known_p_values = _rank_p_values(nearest - share * mean, distances)
    kind_p_values = _rank_p_values(squares - nearest, margins)
    return np.asarray(np.minimum(1.0, 2 * np.minimum(known_p_values, kind_p_values)))


def _rank_p_values(values: Floats, examples: Floats) -> Floats:
    """Return conformal p-values, (1 + #{examples >= value}) / (n + 1), in the shape of `values`."""
    below = np.searchsorted(np.sort(examples), values.ravel(), side="left").reshape(values.shape)
    return np.asarray((1 + len(examples) - below) / (len(examples) + 1))


def learn(
    descriptors: NDArray[np.floating[Any]], labels: Sequence[str], error: float = DEFAULT_ERROR
) -> KindClassifier:
    """Learn kinds from labelled regions; each region is of another part.

    Kinds with fewer than `MIN_EXAMPLES` examples are left out.

    Args:
        descriptors: [N, C] of the regions.
        labels: [N], kind of each region.
        error: Largest share of answers that may lack the true kind.

    Raises:
        InputError: No kind has `MIN_EXAMPLES` examples, or `error` is not between 0 and 1.
    """
    if not 0 < error < 1:
        raise InputError(f"an error of {error:g} is not between 0 and 1: give a share such as 0.1")
    names = tuple(name for name in sorted({*labels}) if labels.count(name) >= MIN_EXAMPLES)
    if not names:
        counts = [f"{name} {labels.count(name)}" for name in sorted({*labels})]
        raise InputError(
            f"no kind of defect has {MIN_EXAMPLES} examples with a region ({', '.join(counts) or 'none'}): "
            "label more"
        )
    # sorted by kind, so that a fold, which takes every n-th example, leaves out few examples of each kind
    rows = np.array([row for name in names for row, label in enumerate(labels) if label == name])
    kind_of = np.array([names.index(labels[row]) for row in rows])
    lengths, examples = to_length_1(descriptors[rows])
    sizes = np.bincount(kind_of)
    squares = _left_out_distances(examples, kind_of, len(names))
    at_true_kind = np.arange(len(examples)), kind_of  # index of each example's true kind in `squares`
    # An example was compared with the mean of the other n - 1 examples of its kind; a new one is compared
    # with the mean of n. The expected squared distances have the ratio (1 + 1/n) / (1 + 1/(n - 1)).
    squares[at_true_kind] *= 1 - 1 / sizes[kind_of] ** 2
    squares *= lengths**POWER
    distances = squares.min(1) - SHARE * squares.mean(1)
    margins = squares[at_true_kind] - squares.min(1)
    discriminant = LinearDiscriminant.fit(examples, kind_of, len(names))
    tensor = np.concatenate([discriminant.means, discriminant.directions]).astype(np.float32)
    kinds = Kinds(
        names=names,
        counts=tuple(sizes.tolist()),
        error=error,
        spread=discriminant.spread,
        shape=(len(tensor), tensor.shape[1]),
        distances=tuple(distances.tolist()),
        margins=tuple(margins.tolist()),
        confusion=_confusion(squares, kind_of, distances, margins, error),
        power=POWER,
        share=SHARE,
    )
    return KindClassifier(kinds, tensor)


def _left_out_distances(examples: Floats, kind_of: NDArray[np.intp], count: int) -> Floats:
    """Return the squared distances [N, K] of examples to kinds, by cross-validation.

    Each example is compared with kinds that were learnt from the other folds.

    Args:
        examples: [N, C], descriptors at length 1.
        kind_of: [N], number of each example's kind.
        count: Number of kinds.
    """
    folds = np.arange(len(examples)) % min(len(examples), MAX_FOLDS)
    squares = np.empty((len(examples), count))
    for fold in range(folds.max() + 1):
        is_left_out = folds == fold
        discriminant = LinearDiscriminant.fit(examples[~is_left_out], kind_of[~is_left_out], count)
        squares[is_left_out] = discriminant.distances(examples[is_left_out])
    return squares


def _confusion(
    squares: Floats, kind_of: NDArray[np.intp], distances: Floats, margins: Floats, error: float
) -> tuple[tuple[int, ...], ...]:
    """Return `Kinds.confusion`: for each true kind, how often each answer is given on left-out examples.

    Args:
        squares: [N, K], squared distances of the examples to the kinds.
        kind_of: [N], number of each example's kind.
        distances: [N], first statistics of the examples (`combined_p_values`).
        margins: [N], second statistics of the examples (`combined_p_values`).
        error: Largest share of answers that may lack the true kind.
    """
    kind_count = squares.shape[1]
    limit = max(error, 2 / len(kind_of))  # 2 / N: the smallest p-value of a left-out example
    # columns for the answers "several kinds" and "new kind", after the columns of the kinds
    several_kinds = kind_count
    new_kind = kind_count + 1
    table = np.zeros((kind_count, kind_count + 2), np.int64)
    for left_out in range(len(kind_of)):
        other_distances = np.delete(distances, left_out)
        other_margins = np.delete(margins, left_out)
        p_values = combined_p_values(squares[left_out : left_out + 1], other_distances, other_margins, SHARE)
        likely = np.flatnonzero(p_values[0] > limit)
        if len(likely) == 1:
            answer = int(likely[0])
        else:
            answer = several_kinds if len(likely) else new_kind
        table[kind_of[left_out], answer] += 1
    return tuple(tuple(row) for row in table.tolist())

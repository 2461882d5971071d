"""Names kinds of defects by labelled examples, as a set of kinds with a stated error. Torch-free.

A region is described by how its cells differ from good ones (`Detector.residuals`), on average: the direction
tells the kind, the length how surely. The classifier is linear discriminant analysis with shrunken covariance
(Friedman, Regularized Discriminant Analysis, 1989); its distances become a set by conformal prediction (Vovk,
Gammerman and Shafer, Algorithmic Learning in a Random World, 2005) on examples left out. Half of the error is
for a known kind that is taken for something new, half for one that its set lacks.
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
MIN_EXAMPLES = 3  # of a kind
SHRINKAGE = 0.5  # of the covariance, to a multiple of the identity (bench/kinds.py)
POWER = 0.75  # of a descriptor's length, by which distances grow: a short one's direction is noise (likewise)
SHARE = 0.5  # of the average distance that the nearest is less: a new kind spreads twice as widely (likewise)
MAX_FOLDS = 50  # that examples are left out in: one by one up to so many


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
        """Fit to descriptors [N, C] with labels [N] of `count` kinds, each with an example at least."""
        means = np.stack([descriptors[labels == k].mean(0) for k in range(count)])
        within = descriptors - means[labels]
        freedom = max(1, len(labels) - count)
        _, scales, directions = np.linalg.svd(within, full_matrices=False)
        variances = (1 - SHRINKAGE) * scales**2 / freedom
        spread = max(SHRINKAGE * float((scales**2).sum()) / freedom / descriptors.shape[1], 1e-9)
        return cls(means, np.sqrt(variances / (variances + spread))[:, None] * directions, spread)

    def distances(self, descriptors: Floats) -> Floats:
        """Return the squared distances [N, K] of descriptors [N, C] to the kinds."""
        away = descriptors[:, None] - self.means
        squares = (away**2).sum(2) - ((away @ self.directions.T) ** 2).sum(2)
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
        """Return the kinds of regions with descriptors [N, C]. InputError where the model has another C."""
        if descriptors.shape[1] != self.kinds.shape[1]:
            raise InputError("the model's kinds of defects do not fit its cells: run `flawscope kinds` anew")
        lengths, directions = to_length_1(descriptors)
        squares = self._discriminant.distances(directions) * lengths**self.kinds.power
        examples = np.array(self.kinds.distances), np.array(self.kinds.margins)
        p_values = combined_p_values(squares, *examples, self.kinds.share)
        names = self.kinds.names
        error = self.kinds.effective_error
        kind_sets = []
        for order, row in zip(np.argsort(squares, axis=1, kind="stable"), p_values.tolist(), strict=True):
            inside = tuple(names[k] for k in order if row[k] > error)
            kind_sets.append(KindSet(inside, dict(zip(names, row, strict=True))))
        return kind_sets


def to_length_1(descriptors: NDArray[np.floating[Any]]) -> tuple[Floats, Floats]:
    """Return the lengths [N, 1] of descriptors [N, C], and the descriptors at length 1; zeros stay."""
    values = descriptors.astype(np.float64)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return lengths, values / np.maximum(lengths, 1e-12)


def combined_p_values(squares: Floats, distances: Floats, margins: Floats, share: float) -> Floats:
    """Return p-values [N, K] of kinds from squared distances [N, K]: twice the smaller of two (Bonferroni).

    The first ranks the nearest kind's distance, less `share` of the average distance, among `distances` [n].
    It compares the likelihoods of the nearest kind and of a new one: around the middle of all kinds, with
    1/share of the covariance. The second ranks how much farther each kind is than the nearest among
    `margins` [n].

    Equal values of examples count as beyond: the least rank is 1/(n + 1).
    """
    nearest = squares.min(1, keepdims=True)
    alike = _ranks(nearest - share * squares.mean(1, keepdims=True), distances)
    return np.asarray(np.minimum(1.0, 2 * np.minimum(alike, _ranks(squares - nearest, margins))))


def _ranks(values: Floats, examples: Floats) -> Floats:
    below = np.searchsorted(np.sort(examples), values.ravel(), side="left").reshape(values.shape)
    return np.asarray((1 + len(examples) - below) / (len(examples) + 1))


def learn(
    descriptors: NDArray[np.floating[Any]], labels: Sequence[str], error: float = DEFAULT_ERROR
) -> KindClassifier:
    """Learn kinds from labelled regions, each of another part.

    Kinds with fewer than `MIN_EXAMPLES` examples are passed over.

    Args:
        descriptors: [N, C] of the regions.
        labels: [N], kind of each region.
        error: Share of answers that may lack the true kind.

    Raises:
        InputError: No kind has `MIN_EXAMPLES` examples, or `error` is not between 0 and 1.
    """
    if not 0 < error < 1:
        raise InputError(f"an error of {error:g} is not between 0 and 1: give a share such as 0.1")
    names = tuple(name for name in sorted({*labels}) if labels.count(name) >= MIN_EXAMPLES)
    if not names:
        counts = {name: labels.count(name) for name in sorted({*labels})}
        counted = ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
        raise InputError(
            f"no kind of defect has {MIN_EXAMPLES} examples with a region ({counted}): label more"
        )
    by_kind = np.array([row for name in names for row, label in enumerate(labels) if label == name])
    kind_of = np.array([names.index(labels[row]) for row in by_kind])
    lengths, examples = to_length_1(descriptors[by_kind])
    count = len(examples)
    folds = np.arange(count) % min(count, MAX_FOLDS)  # sorted by kind: a fold takes few of each
    squares = np.empty((count, len(names)))
    for fold in range(folds.max() + 1):
        out = folds == fold
        rest = LinearDiscriminant.fit(examples[~out], kind_of[~out], len(names))
        squares[out] = rest.distances(examples[out])
    sizes = np.bincount(kind_of)
    kind_elements = np.arange(count), kind_of
    # (1 + 1/n) / (1 + 1/(n - 1)): the mean of its kind was that of n - 1 examples
    squares[kind_elements] *= 1 - 1 / sizes[kind_of] ** 2
    squares *= lengths**POWER
    distances = squares.min(1) - SHARE * squares.mean(1)
    margins = squares[kind_elements] - squares.min(1)
    whole = LinearDiscriminant.fit(examples, kind_of, len(names))
    tensor = np.concatenate([whole.means, whole.directions]).astype(np.float32)
    kinds = Kinds(
        names,
        tuple(sizes.tolist()),
        error,
        whole.spread,
        (len(tensor), tensor.shape[1]),
        tuple(distances.tolist()),
        tuple(margins.tolist()),
        _confusion(squares, kind_of, distances, margins, error),
        POWER,
        SHARE,
    )
    return KindClassifier(kinds, tensor)


def _confusion(
    squares: Floats, kind_of: NDArray[np.intp], distances: Floats, margins: Floats, error: float
) -> tuple[tuple[int, ...], ...]:
    """Return `Kinds.confusion`: answers on examples left out, each judged by the others' distances."""
    count = squares.shape[1]
    least = max(error, 2 / len(kind_of))
    # columns beside those of the kinds
    several = count
    new = count + 1
    table = np.zeros((count, count + 2), np.int64)
    for k in range(len(kind_of)):
        others = np.delete(distances, k), np.delete(margins, k)
        inside = np.flatnonzero(combined_p_values(squares[k : k + 1], *others, SHARE)[0] > least)
        if len(inside) == 1:
            answer = int(inside[0])
        else:
            answer = several if len(inside) else new
        table[kind_of[k], answer] += 1
    return tuple(tuple(row) for row in table.tolist())

"""Mean and spread of channels, in one pass that does not cancel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Moments:
    """Mean and spread of every channel in one pass: Chan, Golub and LeVeque's pairwise update, in float64.

    Sums of squares would cancel where a channel's mean is large beside its spread.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: Any = 0.0  # [C]
        self.squares: Any = 0.0  # of deviations from the mean

    def add(self, values: Tensor) -> None:
        """`[N, C]`."""
        count = len(values)
        values = (values.cpu() if values.device.type == "mps" else values).double()  # MPS has no float64
        mean = values.mean(0)
        squares = (values - mean).square().sum(0)
        total = self.count + count
        delta = mean - self.mean
        self.squares = self.squares + squares + delta.square() * (self.count * count / total)
        self.mean = self.mean + delta * (count / total)
        self.count = total

    def std(self) -> Tensor:
        found: Tensor = (self.squares / self.count).sqrt()
        return found

    def spread(self) -> Tensor:
        """The deviations, infinite for a channel that never changes: standardised it says nothing, which is
        zero, not noise."""
        std = self.std()
        return torch.where(std > 1e-6 * self.mean.abs() + 1e-12, std, torch.inf)

"""Several processes that learn one model: each learns from a part of a step's pictures, and all take the same
step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")


class Left(Exception):
    """All has been learnt, and this process is not the first: nothing is left for it to do. No error."""


class Together:
    """The processes that learn one model, as one of them sees them; here the only one. All call `mean` and
    `first` in the same order. One that raises an error leaves the others waiting: whoever started them ends
    them all.

    rank: this process's number. The first one, 0, keeps checkpoints and logs, and gets the model.
    world: how many there are.
    """

    rank, world = 0, 1

    def mean(self, tensors: Sequence[Tensor], weight: float) -> None:
        """Replace the tensors, in place, by their means over all processes, each with its own weight, 0 or
        more: the same bytes everywhere."""

    def first(self, make: Callable[[], T]) -> T:
        """Call `make` in the first process alone, and give its value in all of them."""
        return make()

    def leave(self) -> None:
        """All has been learnt: the first process goes on alone. Raises `Left` in the others."""


ALONE = Together()


class Group(Together):
    """The processes of torch.distributed's default group, which has been set up."""

    def __init__(self) -> None:
        self.rank, self.world = distributed.get_rank(), distributed.get_world_size()

    def mean(self, tensors: Sequence[Tensor], weight: float) -> None:
        """In fp32, by one reduction of all of them in a row, with the weight at the end."""
        flat = torch.cat([*(one.flatten().float() for one in tensors), tensors[0].new_ones(1).float()])
        # a weight of nothing may belong to the mean of nothing, which is NaN
        flat = flat * weight if weight else torch.zeros_like(flat)
        distributed.all_reduce(flat)
        flat /= flat[-1].clone()
        parts = flat[:-1].split([one.numel() for one in tensors])
        for one, part in zip(tensors, parts, strict=True):
            one.copy_(part.view(one.shape))

    def first(self, make: Callable[[], T]) -> T:
        box = [make() if self.rank == 0 else None]
        distributed.broadcast_object_list(box, src=0)
        found: T = box[0]  # type: ignore[assignment]
        return found

    def leave(self) -> None:
        if self.rank:
            raise Left

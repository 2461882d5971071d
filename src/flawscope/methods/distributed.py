"""Several processes that learn one model together: each learns from a part of what a step learns from, and
all take the same step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")


class Left(Exception):
    """All has been learnt, and this process is not the first: nothing is left for it to do. No error."""


class Together(Protocol):
    """The processes that learn one model, as one of them sees them. All call `mean` and `first` in the same
    order. One that raises an error leaves the others waiting: whoever started them ends them all."""

    @property
    def rank(self) -> int:
        """This process's number. The first one, 0, keeps checkpoints and logs, and gets the model."""

    @property
    def world(self) -> int:
        """How many there are."""

    def mean(self, tensors: Sequence[Tensor], weight: float) -> None:
        """Replace the tensors, in place, by their means over all processes, each with its own weight, 0 or
        more: the same bytes everywhere."""

    def first(self, make: Callable[[], T]) -> T:
        """What `make` gives in the first process, in all of them; it is called in no other."""

    def leave(self) -> None:
        """All has been learnt: the first process goes on alone. Raises `Left` in the others."""


class Alone:
    """The only process."""

    rank, world = 0, 1

    def mean(self, tensors: Sequence[Tensor], weight: float) -> None:
        """They are it."""

    def first(self, make: Callable[[], T]) -> T:
        return make()

    def leave(self) -> None:
        """Nobody does."""


ALONE = Alone()


class Group:
    """The processes of torch.distributed's default group, which has been set up."""

    def __init__(self) -> None:
        self.rank, self.world = distributed.get_rank(), distributed.get_world_size()

    def mean(self, tensors: Sequence[Tensor], weight: float) -> None:
        """In fp32, by one reduction of all of them in a row, with the weight at the end."""
        flat = torch.cat([*(one.flatten().float() for one in tensors), tensors[0].new_ones(1).float()])
        # what weighs nothing may be the mean of nothing, which is NaN
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

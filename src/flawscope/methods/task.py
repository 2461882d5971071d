"""What a method's `fit` is given beside its settings and pictures, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from flawscope.artefact.model_file import Artefact
from flawscope.calibration.decision import Calibration
from flawscope.methods.detector import Detector
from flawscope.methods.picture_cache import unpacked
from flawscope.progress import Step, silent

EVERY = 60.0  # seconds between checkpoints


@dataclass(frozen=True)
class Budget:
    """How long a method that learns in steps may take, and where it keeps its state until it ends.

    minutes: the number of steps follows from the first ones' time; None: the settings' number.
    checkpoint: file; None: a run that is stopped is lost.
    resume: go on where the checkpoint stops; from the start if there is none.
    every: seconds between checkpoints.
    """

    minutes: float | None = None
    checkpoint: Path | None = None
    resume: bool = False
    every: float = EVERY


@dataclass(frozen=True)
class Defect:
    """A defect that was seen, for methods that learn from them too.

    kept: [3, H, W], as the network sees it: uint8 where that loses nothing, else float32 in 0..1.
    mask: [H, W] bool, True somewhere.
    """

    kept: Tensor
    mask: NDArray[np.bool_]
    name: str

    @property
    def image(self) -> Tensor:
        """[3, H, W] float32 in 0..1."""
        return unpacked(self.kept)


@dataclass(frozen=True)
class Task:
    """What fitting is told.

    rate: target false-alarm rate.
    drop_suspects: leave out the pictures that do not look good.
    reserved: numbers of good pictures that the data set keeps apart, to be held out and not learnt from.
    settle: gets the numbers of the pictures that were loaded, in order, gives those to keep (no copies).
    seen: defects to learn from.
    old: the artefact the model was rebuilt from, if it is being extended.
    decoded: bytes of the largest picture, for predictions of memory.
    say, step: get lines for a person and progress.
    """

    rate: float
    drop_suspects: bool = False
    reserved: Sequence[int] = ()
    settle: Callable[[list[int]], list[int]] = list
    seen: Sequence[Defect] = ()
    old: Artefact | None = None
    decoded: int = 0
    budget: Budget = Budget()
    say: Callable[[str], None] = lambda line: None
    step: Step = silent


@dataclass
class Fitted:
    """What fitting gives. `pictures[i]` is the index, among those given, of calibration score i."""

    model: Detector
    calibration: Calibration
    pictures: list[int]
    used: list[int]  # learnt from
    held: dict[str, list[int]] = field(default_factory=dict)  # kept for other things, by role
    dropped: list[int] = field(default_factory=list)
    suspects: dict[int, float] = field(default_factory=dict)  # with their scores, most suspicious first
    extra: dict[str, Tensor] = field(default_factory=dict)  # tensors kept beside the model's own
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    summary: list[str] = field(default_factory=list)  # lines for a person, beside what the threshold means

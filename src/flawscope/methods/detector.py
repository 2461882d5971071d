"""What a method is, seen from outside: one module that turns images into scores and maps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


class Detector(nn.Module, ABC):
    """The whole inference path of a method: everything that decides a score lives in `forward`.

    Normalisation, features, search, re-weighting, resizing, smoothing and the region of interest are all in
    here, so that evaluation, prediction, export and benchmarks cannot drift apart. `forward` is two named
    steps; calibration and leave-one-out reuse `score` on stored features.
    """

    size: tuple[int, int]  # (H, W) of the images it takes

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """Images `[B, 3, H, W]` float32 in 0..1, RGB, to the method's features."""

    @abstractmethod
    def score(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features to scores `[B]` and maps `[B, H, W]` float32; higher is more anomalous."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.score(self.embed(images))

    def for_export(self) -> None:
        """Called before `forward` is traced: make what only an exported graph needs."""

    def ties(self, features: Tensor) -> Tensor:
        """Pictures `[B]` bool whose score rests on a choice between equals, which rounding alone decides."""
        return torch.zeros(len(features), dtype=torch.bool)

    def left_out(
        self, features: Tensor, group: int, kept: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor] | None:
        """Score `[1]` and map `[1, H, W]` of a training picture as if its group had not been seen; None where
        a method calibrates on pictures that it holds out.

        Args:
            features: the picture's, as `embed` gives them, of one picture.
            group: its number at fit.
            kept: the artefact's tensors.
        """
        return None

    @classmethod
    @abstractmethod
    def rebuild(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> Detector:
        """The detector that an artefact describes. Imports no code that the artefact names."""


def whole_fp32(device: torch.device) -> AbstractContextManager[None]:
    """fp32 means fp32: cuDNN's default for convolutions is TF32, with ten bits. The flags are the process's,
    so that threads on a CPU, which need none of them, leave them alone."""
    if device.type != "cuda":
        return nullcontext()
    cudnn = torch.backends.cudnn
    return cudnn.flags(enabled=cudnn.enabled, benchmark=cudnn.benchmark, allow_tf32=False)


def device_for(name: str) -> torch.device:
    """`auto` is the fastest device here: CUDA, else Apple's MPS, else the CPU."""
    from flawscope.errors import InputError

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    known = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    kind = name.split(":")[0]
    unknown = InputError(f"no device called {name}: use auto, cpu, cuda or mps")
    if kind not in known:
        raise unknown
    if not known[kind]:
        raise InputError(f"torch sees no {kind} device here: use --device cpu, or install torch for {kind}")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise unknown from None
    if kind == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"torch sees {torch.cuda.device_count()} cuda devices, and no {name}: use --device cuda"
        )
    return device

"""DescriptorNetwork: a backbone that describes whole pictures, to tell products apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flawscope.artefact.descriptors import DescriptorModel
from flawscope.config import build_config, keep_known_settings
from flawscope.errors import InputError
from flawscope.methods.detector import resolve_device
from flawscope.methods.patch_detector import PatchDetector
from flawscope.methods.settings import PatchSettings


@dataclass(frozen=True)
class DescriptorSettings(PatchSettings):
    """Settings of a network that describes pictures."""

    @classmethod
    def parse_stored(cls, values: Mapping[str, object]) -> Self:
        """Build settings from a file's values, ignoring unknown names; raise InputError for a wrong value."""
        return build_config(cls, keep_known_settings(cls, values))


class DescriptorNetwork(PatchDetector):
    """Network that turns images `[B, 3, H, W]` into descriptors `[B, D]` float32 of length 1.

    A descriptor joins the means of the patches that count, at all sizes.
    """

    METHOD = DescriptorSettings  # `rebuild` calls its `parse_stored`
    config: DescriptorSettings

    @classmethod
    def open(cls, model: DescriptorModel, device: str = "auto") -> Self:
        """Build the network of a model file on a device; raise InputError where its tensors do not fit."""
        tensors = {name: torch.from_numpy(np.asarray(values)) for name, values in model.tensors.items()}
        try:
            network = cls.rebuild(model.config, tensors)
        except (KeyError, RuntimeError, IndexError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"the network that recognises its products does not fit its settings ({reason}): fit anew"
            ) from None
        return network.to(resolve_device(device)).eval()

    def forward(self, images: Tensor) -> Tensor:  # type: ignore[override]
        """Return descriptors `[B, D]` of images `[B, 3, H, W]` float32 in 0..1, padding marked."""
        return self.describe(self.embed(images), self.inside(images))

    def describe(self, features: Tensor, inside: Tensor | None = None) -> Tensor:
        """Return descriptors of pictures from their features `[B, P, D]`, which `embed` returns.

        Args:
            features: Patches of all branches.
            inside: The pixels that count, `[B, H, W]` bool; None: those of the region of interest.
        """
        means = []
        for branch, patches in zip(self.branches, features.split(self.patches, dim=1), strict=True):
            valid_mask = branch.valid_mask(inside).expand(patches.shape[0], -1)  # [B, P]
            patch_counts = valid_mask.sum(1, keepdim=True).clamp(min=1)
            sums = (valid_mask[:, None] @ patches)[:, 0]  # [B, D], over the patches that count
            means.append(sums / patch_counts)
        return F.normalize(torch.cat(means, dim=1), dim=1)

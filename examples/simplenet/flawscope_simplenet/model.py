"""SimpleNet's inference path: adapted features, and how little the discriminator takes them for good."""

import torch
from torch import Tensor, nn

from flawscope.methods.features.backbone import Backbone
from flawscope.methods.patch_detector import PatchDetector
from flawscope_simplenet import METHOD, Config


class Model(PatchDetector):
    METHOD = METHOD
    config: Config
    mean: Tensor  # [D], of good features
    std: Tensor

    def __init__(self, config: Config, backbone: Backbone, roi: Tensor | None = None):
        super().__init__(config, backbone, roi)
        d = self.width
        self.register_buffer("mean", torch.zeros(d))
        self.register_buffer("std", torch.ones(d))
        self.adaptor = nn.Linear(d, d)  # 3.2
        layers = nn.Linear(d, d), nn.BatchNorm1d(d), nn.LeakyReLU(0.2), nn.Linear(d, 1)
        self.discriminator = nn.Sequential(*layers)  # 3.4: higher for good features

    def standardised(self, patches: Tensor) -> Tensor:
        return (patches - self.mean) / self.std

    def judge(self, patches: Tensor) -> Tensor:
        """Values of patches (3.6)."""
        adapted = self.adaptor(self.standardised(patches).flatten(0, 1))
        return -self.discriminator(adapted).view(-1, patches.shape[1])

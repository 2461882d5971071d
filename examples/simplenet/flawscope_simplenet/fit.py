"""Training SimpleNet: the discriminator tells adapted features from the same with noise."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flawscope.methods.task import Fitted, Task
from flawscope.methods.training.fit import PatchFeatures, TrainedFit
from flawscope.methods.training.trainer import Trainer
from flawscope_simplenet.model import Model

WEIGHTS, ORDER, NOISE = range(3)  # uses of random numbers


class Training(Trainer[Tensor]):
    NETWORKS, LOSSES = ("adaptor", "discriminator"), ("loss",)
    CPU_STEPS, GPU_STEPS = 2000, 4000

    def __init__(self, model: Model, features: PatchFeatures, task: Task):
        self.model, self.features, self.config = model, features, model.config
        networks = model.adaptor, model.discriminator
        super().__init__(networks, model.config, model.roi.device, task.say, task.step)
        self.initialise(WEIGHTS)

    def groups(self, networks: Sequence[nn.Module]) -> list[dict[str, Any]]:
        adaptor, discriminator = networks
        slow = {"params": [*adaptor.parameters()], "lr": self.config.adaptor_rate}
        return [slow, {"params": [*discriminator.parameters()]}]

    def batch(self, step: int) -> Tensor:
        """Patches [N, D] of a few pictures, every picture once before any comes again."""
        size, count = self.config.batch, len(self.features.learnt)
        places = [self.drawn(ORDER, step * size + k, count) for k in range(size)]
        return torch.cat([self.features.patches(place) for place in places])

    def losses(self, networks: Sequence[nn.Module], batch: Tensor, step: int) -> list[Tensor]:
        """The truncated L1 loss of good features and of those with noise (3.5)."""
        adaptor, discriminator = networks
        patches = self.model.standardised(batch.to(self.device).float())
        generator = torch.Generator().manual_seed(self.torch_seed(NOISE, step))
        noise = torch.randn(patches.shape, generator=generator).to(self.device) * self.config.noise
        with self.autocast():
            good = adaptor(patches)
            found = discriminator(torch.cat([good, good + noise])).float()[:, 0]
        of_good, of_noisy = found.chunk(2)
        margin = self.config.margin
        return [(margin - of_good).clamp(min=0).mean() + (margin + of_noisy).clamp(min=0).mean()]


def fit(model: Model, task: Task) -> Fitted:
    run = TrainedFit("simplenet", model, task)
    run.divide()
    features = run.features()
    model.mean.copy_(features.statistics.mean)
    model.std.copy_(features.statistics.spread())
    trainer = Training(model, features, task)
    run.train(trainer)
    return run.finish(trainer)

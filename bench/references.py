"""Plain references: what one would write, or what public code does, in torch, fp32, eager and contiguous.

They are given away for less than they are worth: their pictures are at hand, and what a method does beyond
the costly part (re-weighting, maps, leaving a picture out of its own prototype) is left out.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

from common import Work

if TYPE_CHECKING:
    from torch import Tensor

PUBLISHED = 384  # EfficientAD's channels


def training_step(method: str, trainer: Any) -> Work | None:
    """A training step beside that of a trainer; None where nobody has written one."""
    found = {"efficientad": efficientad_step, "prnet": prnet_step}.get(method)
    return found(trainer) if found else None


def forward(method: str, model: Any, images: Tensor) -> dict[str, Work]:
    """From images [B, 3, H, W] to what decides, beside a detector that is on a CPU or on a GPU."""
    found = {"patchcore": patchcore_search, "efficientad": efficientad_networks, "prnet": prnet_network}
    works = found[method](model, images) if method in found else {}
    return {name: _inference(work, images.device) for name, work in works.items()}


def _inference(work: Work, device: torch.device) -> Work:
    def run() -> None:
        with torch.inference_mode():
            work()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


def _contiguous(module: Any) -> Any:
    return copy.deepcopy(module).to(memory_format=torch.contiguous_format)


# --------------------------------------------------------------------------------------------- PatchCore


def patchcore_search(model: Any, images: Tensor) -> dict[str, Work]:
    """The same features, then one matrix product of all patches with the whole memory bank and a minimum,
    picture by picture: all of them need gigabytes."""

    from flawscope.methods.patchcore.memory_bank import by_view

    def search() -> None:
        parts = by_view(model.embed(images), model.views)
        for view, part in zip(model.views, parts, strict=True):
            for queries in part - view.centre:
                torch.addmm(view.norms, queries, view.bank.T, alpha=-2).amin(1)

    return {"plain": search}


# ------------------------------------------------------------------------------------------- EfficientAD


def efficientad_networks(model: Any, images: Tensor) -> dict[str, Work]:
    """Teacher, student and autoencoder: `plain` has this model's networks, `published` 384 channels and no
    border."""
    from flawscope.methods.efficientad.model import bordered
    from flawscope.methods.efficientad.networks import Autoencoder, normalised, pdn

    def forward(networks: Any, border: int) -> Work:
        teacher, student, autoencoder = (_contiguous(part).to(images.device).eval() for part in networks)

        def work() -> None:
            seen = normalised(images)
            mirrored = bordered(seen, border)
            teacher(mirrored), student(mirrored), autoencoder(seen)

        return work

    kind = model.config.network
    published = pdn(kind), pdn(kind, 2 * PUBLISHED), Autoencoder()
    return {
        "plain": forward((model.teacher, model.student, model.autoencoder), model.config.border),
        "published": forward(published, 0),
    }


def efficientad_step(trainer: Any) -> Work:
    """Public code's step: 384 channels, the whole picture, three passes of the student, two of the teacher
    and one of the autoencoder, Adam."""
    from flawscope.methods.efficientad.networks import Autoencoder, normalised, pdn

    device, size = trainer.device, trainer.config.network
    teacher = pdn(size).to(device).requires_grad_(False).eval()
    student, autoencoder = pdn(size, 2 * PUBLISHED).to(device).train(), Autoencoder().to(device).train()
    images = [normalised(trainer.batch(k).images[:1].contiguous().to(device)) for k in range(4)]
    other = normalised(torch.rand_like(images[0]))
    with torch.no_grad():
        outputs = teacher(images[0])
    mean, std = outputs.mean((0, 2, 3), keepdim=True), outputs.std((0, 2, 3), keepdim=True)
    values = [*student.parameters(), *autoencoder.parameters()]
    optimiser = torch.optim.Adam(values, lr=1e-4, weight_decay=1e-5)
    done = 0

    def step() -> float:
        nonlocal done
        image, done = images[done % len(images)], done + 1
        changed = 1.1 * image  # brighter: the cheapest of the three changes
        with torch.no_grad():
            taught, changed_taught = ((teacher(x) - mean) / std for x in (image, changed))
        squares = (taught - student(image)[:, :PUBLISHED]) ** 2
        hard = squares[squares >= torch.quantile(squares, 0.999)].mean()
        penalty = (student(other)[:, :PUBLISHED] ** 2).mean()
        rebuilt, described = autoencoder(changed), student(changed)[:, PUBLISHED:]
        loss = hard + penalty + ((changed_taught - rebuilt) ** 2).mean() + ((rebuilt - described) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return float(loss)

    return step


# --------------------------------------------------------------------------------------------------- PRN


def expanded(features: Tensor, prototypes: Tensor, std: Tensor) -> Tensor:
    """Residuals [B, C, H, W] as public code finds them: every picture against every prototype, element by
    element, B K maps at once."""
    b, k = len(features), len(prototypes)
    theirs = prototypes[None].expand(b, -1, -1, -1, -1)
    mine = features[:, None].expand(-1, k, -1, -1, -1)
    own = prototypes[(mine - theirs).square().sum((2, 3, 4)).sqrt().argmin(1)]
    return ((features - own) / std.view(-1, 1, 1)).square()


def _logits(model: Any, images: Tensor) -> Tensor:
    """Of a PRN, by expanded residuals."""
    with torch.no_grad():
        maps = model.backbone(images)
        scales = zip(model.scales, maps, strict=False)
        residuals = (
            [expanded(own, s.prototypes, s.std) for s, own in scales] if model.config.residuals else []
        )
    logits: Tensor = model.network(model.standardised(maps), residuals)
    return logits


def prnet_network(model: Any, images: Tensor) -> dict[str, Work]:
    """Backbone, expanded residuals and network."""
    own = _contiguous(model)
    return {"plain": lambda: _logits(own, images)}


def prnet_step(trainer: Any) -> Work:
    """The same network and loss, features expanded against all prototypes, Adam not fused."""
    from flawscope.methods.prnet.network import loss

    model, config = _contiguous(trainer.model), trainer.config
    optimiser = torch.optim.Adam(model.network.parameters(), config.rate, weight_decay=config.decay)
    batches = [trainer.batch(k) for k in range(4)]
    done = 0

    def step() -> float:
        nonlocal done
        batch, done = batches[done % len(batches)], done + 1
        value = loss(_logits(model, batch.images.to(trainer.device)), batch.masks.to(trainer.device))
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        return float(value)

    return step

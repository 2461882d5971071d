"""The ONNX graph: two steps that are one, smaller where that is said, and nothing of this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flawscope
from flawscope.artefact import model_file

pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

import torch  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from flawscope.export import eight_bits, onnx_graph  # noqa: E402
from flawscope.runtime.torch import TorchSession  # noqa: E402

ROOT = Path(flawscope.__file__).parents[2]


@pytest.fixture(scope="module")
def trained(model_path: Path) -> TorchSession:
    return TorchSession.open(model_file.read(model_path), "cpu")


@pytest.fixture(scope="module")
def steps(trained: TorchSession, trace_once: Callable[[Any], Any]) -> tuple[Any, Any]:
    """`embed` and `score`. Read only."""
    embed, score = trace_once(trained.model)
    return embed, score


@pytest.fixture(scope="module")
def quantised(steps: tuple[Any, Any]) -> Any:
    """`embed` in 8 bits. Read only."""
    before = steps[0].SerializeToString(deterministic=True)
    found, _ = eight_bits.reduced(steps[0], [pictures(2), pictures(2, seed=1)])
    assert steps[0].SerializeToString(deterministic=True) == before  # as it was
    return found


def pictures(count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).random((count, 3, 64, 64), dtype=np.float32)


def run(proto: Any, **given: Any) -> list[Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # threads of a session this small wait for each other
    engine = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    found: list[Any] = engine.run(None, given)
    return found


def copied(proto: Any) -> Any:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return copy


def stored(proto: Any) -> dict[str, Any]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


# ---------------------------------------------------------------------------------------------------- tracing


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_the_steps_are_the_detector_s(batch: int, steps: tuple[Any, Any], trained: TorchSession) -> None:
    embed, score = steps
    with torch.inference_mode():
        features = trained.model.embed(torch.from_numpy(pictures(batch)))
        scores, maps = trained.model.score(features)
    (found,) = run(embed, images=pictures(batch))
    np.testing.assert_allclose(found, features.numpy(), rtol=1e-4, atol=1e-4)
    found, drawn = run(score, features=features.numpy())
    np.testing.assert_allclose(found, scores.numpy(), rtol=1e-4)
    np.testing.assert_allclose(drawn, maps.numpy(), rtol=1e-4, atol=1e-3)


def test_names_operators_and_versions(steps: tuple[Any, Any], quantised: Any) -> None:
    embed, score = steps
    for proto, given, results in (
        (embed, "images", ["features"]),
        (score, "features", ["scores", "maps"]),
        (quantised, "images", ["features"]),
        (onnx_graph.join(embed, score), "images", ["scores", "maps"]),
        (onnx_graph.join(quantised, score), "images", ["scores", "maps"]),
    ):
        onnx.checker.check_model(proto, full_check=True)
        assert [i.name for i in proto.graph.input] == [given]
        assert [o.name for o in proto.graph.output] == results
        assert proto.ir_version == onnx_graph.IR
        assert [(o.domain, o.version) for o in proto.opset_import if not o.domain] == [("", onnx_graph.OPSET)]
        assert {node.domain for node in proto.graph.node} == {""}  # every engine knows them
        names = [name for node in proto.graph.node for name in node.output]
        assert len(names) == len(set(names))


# ---------------------------------------------------------------------------------------------------- joining


@pytest.mark.parametrize("batch", [1, 5])
def test_joined_they_are_one_after_the_other(batch: int, steps: tuple[Any, Any]) -> None:
    embed, score = steps
    before = [proto.SerializeToString(deterministic=True) for proto in steps]
    joined = onnx_graph.join(embed, score)
    assert [proto.SerializeToString(deterministic=True) for proto in steps] == before
    (features,) = run(embed, images=pictures(batch))
    for one, other in zip(run(joined, images=pictures(batch)), run(score, features=features), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    names = {name for node in joined.graph.node for name in node.output}
    assert "features" in names  # where a session can cut it
    assert {len(stored(joined))} == {len(stored(embed)) + len(stored(score))}


def test_the_same_name_in_both_steps_means_two_things() -> None:
    def step(given: str, results: list[str], weight: float) -> Any:
        number = numpy_helper.from_array(np.float32([weight]), "weight")
        nodes = [helper.make_node("Add", [given, "weight"], ["inner"], "add")]
        nodes += [helper.make_node("Identity", ["inner"], [name], f"out_{name}") for name in results]
        values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n"]) for n in (given, *results)]
        made = helper.make_graph(nodes, "step", values[:1], values[1:], [number])
        return helper.make_model(
            made, opset_imports=[helper.make_opsetid("", onnx_graph.OPSET)], ir_version=onnx_graph.IR
        )

    joined = onnx_graph.join(step("images", ["features"], 1.0), step("features", ["scores", "maps"], 10.0))
    onnx.checker.check_model(joined, full_check=True)
    for found in run(joined, images=np.float32([0, 5])):
        assert found.tolist() == [11.0, 16.0]


# ------------------------------------------------------------------------------------------------- 8 bits


def convolutions(proto: Any) -> list[Any]:
    return [node for node in proto.graph.node if node.op_type == "Conv"]


def readers(proto: Any, name: str) -> list[Any]:
    return [node for node in proto.graph.node if name in node.input]


def test_8_bit_convolutions_are_all_but_those_whose_input_is_a_feature(
    steps: tuple[Any, Any], quantised: Any
) -> None:
    embed = steps[0]
    made_by = {name: node for node in quantised.graph.node for name in node.output}
    whole = [
        node.name
        for node in convolutions(quantised)
        if made_by.get(node.input[0]) is None or made_by[node.input[0]].op_type != "DequantizeLinear"
    ]
    before = convolutions(embed)
    assert [node.name for node in convolutions(quantised)] == [node.name for node in before]
    shared = [
        node.name for node in before if any(r.op_type == "AveragePool" for r in readers(embed, node.input[0]))
    ]
    assert shared  # stage 2 is a feature, and what stage 3 begins with
    expected = set(shared)
    assert set(whole) == expected
    assert len(whole) < len(before) / 2
    kept = stored(quantised)
    for node in convolutions(quantised):
        weights = kept.get(node.input[1])
        if node.name in expected:
            assert weights is not None
            assert weights.dtype == np.float32
        else:
            assert weights is None  # bytes, made numbers on the way
    kinds = {value.dtype for value in kept.values() if value.ndim == 4 and len(value) > 1}
    assert np.dtype(np.int8) in kinds


def test_products_of_8_bits_fit_16_bits_in_pairs(quantised: Any) -> None:
    """Whichever two weights of a channel stand side by side: processors without VNNI add their products in
    16 bits. All channels use what that leaves."""
    kept = [w for w in stored(quantised).values() if w.dtype == np.int8 and w.ndim == 4]
    assert len(kept) > 20
    for weights in kept:
        rows = np.sort(weights.reshape(len(weights), -1).astype(int), axis=1)
        pairs = np.maximum(rows[:, -2:].clip(0).sum(1), -rows[:, :2].clip(None, 0).sum(1))
        assert 255 * int(pairs.max()) < 2**15
        assert np.median(pairs) >= 126


def layers(proto: Any) -> list[Any]:
    """Each 8-bit convolution as a model of its own, from bytes to bytes."""
    made_by = {name: node for node in proto.graph.node for name in node.output}
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    found = []
    for node in convolutions(proto):
        if getattr(made_by.get(node.input[0]), "op_type", "") != "DequantizeLinear":
            continue
        nodes = [*(made_by[name] for name in node.input), node]
        while nodes[-1].op_type != "QuantizeLinear":
            nodes += readers(proto, nodes[-1].output[0])
        given, result = nodes[0].input[0], nodes[-1].output[0]
        (group,) = (a.i for a in node.attribute if a.name == "group")
        outputs, inputs, *_ = tensors[nodes[1].input[0]].dims
        values = [
            helper.make_tensor_value_info(name, TensorProto.UINT8, [None, channels, None, None])
            for name, channels in ((given, inputs * group), (result, outputs))
        ]
        used = [tensors[name] for n in nodes for name in n.input if name in tensors]
        graph = helper.make_graph(nodes, "layer", values[:1], values[1:], used)
        found.append(helper.make_model(graph, opset_imports=proto.opset_import, ir_version=onnx_graph.IR))
    return found


def in_whole_numbers(layer: Any, given: Any) -> Any:
    """What `layer` makes of bytes `[N, C, H, W]`, summed without rounding or overflow."""
    made_by = {name: node for node in layer.graph.node for name in node.output}
    tensors = stored(layer)
    (node,) = convolutions(layer)
    (step, zero), (weights, scales), (bias,) = (
        [tensors[i] for i in made_by[name].input if i in tensors][:count]
        for name, count in zip(node.input, (2, 2, 1), strict=True)
    )
    options = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    (top, left, bottom, right), (down, across) = options["pads"], options["strides"]
    padded = np.pad(given.astype(np.int64) - int(zero), ((0, 0), (0, 0), (top, bottom), (left, right)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, weights.shape[2:], (2, 3))
    windows = windows[:, :, ::down, ::across]
    count, _, height, width = windows.shape[:4]
    grouped = windows.reshape(count, options["group"], -1, height, width, *weights.shape[2:])
    kernels = weights.astype(np.int64).reshape(options["group"], -1, *weights.shape[1:])
    sums = np.einsum("ngihwyx,goiyx->ngohw", grouped, kernels, optimize=True)
    sums = sums.reshape(count, -1, height, width) + bias[:, None, None]
    to_step, to_zero = (tensors[name] for name in layer.graph.node[-1].input[1:])
    real = sums * (float(step) * scales.astype(np.float64))[:, None, None] / float(to_step)
    return np.clip(np.rint(real) + int(to_zero), 0, 255)


def bytes_for(layer: Any) -> Any:
    """Any, and many of the largest together."""
    channels = layer.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    given = np.random.default_rng(0).integers(0, 256, (3, channels, 9, 9), dtype=np.uint8)
    given[1][given[1] > 100] = 255
    given[2] = 255
    return given


def assert_exact_but_for_rounding(found: Any, expected: Any) -> None:
    away = np.abs(found.astype(int) - expected)
    assert away.max() <= 1
    assert (away > 0).mean() < 1e-3


def test_onnx_runtime_sums_8_bits_exactly(quantised: Any) -> None:
    """On every processor, and whatever the bytes are."""
    found = layers(quantised)
    assert len(found) > 20
    for layer in found:
        given = bytes_for(layer)
        (answer,) = run(layer, **{layer.graph.input[0].name: given})
        assert_exact_but_for_rounding(answer, in_whole_numbers(layer, given))


def test_openvino_sums_8_bits_exactly(quantised: Any) -> None:
    """One layer of a kind."""
    pytest.importorskip("openvino")
    from flawscope.runtime.openvino import HINTS, core

    hints = {"INFERENCE_PRECISION_HINT": HINTS["int8"], "INFERENCE_NUM_THREADS": 1}
    kinds = {str(convolutions(layer)[0].attribute): layer for layer in layers(quantised)}
    assert 3 < len(kinds) < 15
    for layer in kinds.values():
        compiled = core().compile_model(core().read_model(layer.SerializeToString()), "CPU", hints)
        given = bytes_for(layer)
        assert_exact_but_for_rounding(compiled([given])[0], in_whole_numbers(layer, given))

"""Which convolutions an int8 export leaves in fp32: as few as evidence asks for."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from flawscope.calibration.threshold import Calibration
from flawscope.export import eight_bits
from flawscope.export.eight_bits import QuantizationErrorMeter, Quantizer, quantize_embed
from flawscope.export.export import open_embed
from flawscope.export.onnx_graph import IR_VERSION, OPSET
from flawscope.runtime import ENGINES


def pictures(count, seed=0):
    return np.random.default_rng(seed).random((count, 3, 64, 64), dtype=np.float32)


def run(proto, **given):
    import onnxruntime

    return onnxruntime.InferenceSession(proto.SerializeToString()).run(None, given)


def network(weights, branches=1):
    """Convolutions and ReLUs one after the other, for several pictures with the same weights."""
    kept = [numpy_helper.from_array(np.float32(w), f"w{k}") for k, w in enumerate(weights)]
    kept += [numpy_helper.from_array(np.float32([0.5**b]), f"half{b}") for b in range(branches)]
    nodes, ends = [], []
    for b in range(branches):
        nodes.append(helper.make_node("Mul", ["images", f"half{b}"], [f"x{b}.0"], f"mul{b}"))
        for k in range(len(weights)):
            nodes.append(
                helper.make_node("Conv", [f"x{b}.{k}", f"w{k}"], [f"y{b}.{k}"], f"conv{b}.{k}", group=1)
            )
            nodes.append(helper.make_node("Relu", [f"y{b}.{k}"], [f"x{b}.{k + 1}"], f"relu{b}.{k}"))
        ends.append(f"x{b}.{len(weights)}")
    nodes.append(helper.make_node("Concat", ends, ["features"], "features", axis=1))
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", channels, None, None])
        for name, channels in (("images", 3), ("features", len(weights[-1]) * branches))
    ]
    graph = helper.make_graph(nodes, "network", values[:1], values[1:], kept)
    imports = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION)


@pytest.mark.parametrize("bias", [False, True])
def test_rounded_weights_leave_the_means_of_channels(bias):
    """Nearly half a step is lost of every weight but two: a third of the sum."""
    weights = [np.eye(4, 3)[:, :, None, None], *(np.eye(4)[:, :, None, None] for _ in range(2))]
    lossy = np.full((4, 4, 5, 5), 0.45 / 127)
    lossy[:, 0, 0, :2] = 0.5
    proto = network([*weights, lossy, np.eye(4)[:, :, None, None]])
    if bias:
        proto.graph.initializer.append(numpy_helper.from_array(np.float32([0, 1, -0.1, 0.3]), "bias"))
        (node,) = (node for node in proto.graph.node if node.name == "conv0.3")
        node.input.append("bias")
    found, expected = (
        run(p, images=pictures(4))[0].mean((0, 2, 3))
        for p in (eight_bits.quantize_embed(proto, [pictures(4)])[0], proto)
    )
    np.testing.assert_allclose(found, expected, rtol=0.01)


def scoring():
    """The middle channel as the map, and its maximum."""
    kept = [numpy_helper.from_array(np.int64(1), "middle"), numpy_helper.from_array(np.int64([1, 2]), "axes")]
    nodes = [
        helper.make_node("Gather", ["features", "middle"], ["maps"], axis=1),
        helper.make_node("ReduceMax", ["maps", "axes"], ["scores"], keepdims=0),
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (
            ("features", ["n", 3, None, None]),
            ("scores", ["n"]),
            ("maps", ["n", None, None]),
        )
    ]
    graph = helper.make_graph(nodes, "score", values[:1], values[1:], kept)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def evidence(embed):
    """Good pictures' scores lie around 0.9 and are wide apart."""
    scores = np.linspace(0.8, 1.0, 19)
    calibration = Calibration(tuple(scores), tuple(scores), float(np.median(scores)))
    return QuantizationErrorMeter(embed, scoring(), pictures(4), calibration)


def in_fp32(proto):
    constant = {tensor.name for tensor in proto.graph.initializer}
    return {node.name for node in proto.graph.node if node.op_type == "Conv" and node.input[1] in constant}


def diagonal(*values):
    return np.diag(values)[:, :, None, None]


def test_all_convolutions_are_in_8_bits_where_answers_stay():
    embed = network([diagonal(1, 1, 1)] * 4)
    before = embed.SerializeToString(deterministic=True)
    shown = evidence(embed)
    assert shown(embed) == (0, 0)
    proto, found = quantize_embed(embed, [pictures(4)], shown)
    assert in_fp32(proto) == set()
    assert (found.layers, found.fp32_layers, found.operations) == (4, 0, 1)
    assert 0 < (found.score_error or 0) <= eight_bits.MAX_SCORE_ERROR
    assert found.describe() == "4 of 4 convolutions in 8 bits, 100% of the multiplications"
    assert embed.SerializeToString(deterministic=True) == before


def test_layers_that_8_bits_ruin_stay_in_fp32():
    """One channel is 100,000 times as large as the others between two layers, and covers them."""
    weights = [diagonal(1, 1, 1), diagonal(1e5, 1, 1), diagonal(1e-5, 1, 1), diagonal(1, 1, 1)]
    embed = network(weights)
    shown, told = evidence(embed), []
    everything = quantize_embed(embed, [pictures(4)])[0]
    assert in_fp32(everything) == set()
    assert shown(everything)[0] > 1
    proto, found = quantize_embed(embed, [pictures(4)], shown, lambda *words: told.append(words))
    assert in_fp32(proto) == {"conv0.1", "conv0.2"}
    assert shown(proto)[0] == found.score_error
    assert found.score_error <= eight_bits.MAX_SCORE_ERROR
    assert (found.layers, found.fp32_layers, found.operations) == (4, 2, 0.5)
    assert told[-1] == ("8-bit layers", 4, 4)


@pytest.mark.parametrize("engine", ENGINES)
def test_layers_left_in_fp32_are_computed_in_fp32(engine):
    """Beside a weight of 1000, 1 is 0 in 8 bits: an engine that rounds these weights, too, is found."""
    embed = network([diagonal(1e-3, 1, 1), diagonal(1e3, 1, 1), diagonal(1, 1, 1)])
    proto = Quantizer(embed, [pictures(4)]).quantize(["w1"])
    assert in_fp32(proto) == {"conv0.1"}
    found = open_embed(proto, engine, "int8")(pictures(1))
    np.testing.assert_allclose(found[:, 1:], pictures(1)[:, 1:], atol=0.02)


def test_shared_weights_stay_or_go_together():
    weights = [diagonal(1, 1, 1), diagonal(1e5, 1, 1), diagonal(1e-5, 1, 1)]
    embed = network(weights, branches=2)
    maker = Quantizer(embed, [pictures(4)])
    assert [layer.nodes for layer in maker.layers] == [[f"conv0.{k}", f"conv1.{k}"] for k in range(3)]
    assert [layer.operations for layer in maker.layers] == [2 * 64 * 64 * 9] * 3
    proto = maker.quantize(["w1"])
    assert in_fp32(proto) == {"conv0.1", "conv1.1"}


def test_what_is_not_a_number_is_far_away():
    embed = network([diagonal(1, 1, 1)] * 2)
    shown = evidence(embed)
    broken = onnx.ModelProto()
    broken.CopyFrom(embed)
    weights = broken.graph.initializer[0]
    weights.CopyFrom(numpy_helper.from_array(np.full((3, 3, 1, 1), np.nan, np.float32), weights.name))
    assert shown(broken) == (np.inf, np.inf)


@pytest.mark.parametrize("engine", ENGINES)
def test_several_threads_may_ask_for_features_at_once(engine):
    embed = open_embed(network([np.ones((32, 3, 5, 5)), np.ones((32, 32, 5, 5))]), engine, "int8")
    shown = [pictures(1, seed=k) for k in range(8)]
    alone = [embed(picture) for picture in shown]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(embed, shown * 4))
    for k, found in enumerate(together):
        np.testing.assert_allclose(found, alone[k % 8], rtol=1e-5)

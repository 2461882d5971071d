"""The ONNX graph: two steps that are one, smaller where that is said, and nothing of this machine."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import flawscope
from flawscope.artefact import model_file
from flawscope.export import onnx_graph
from flawscope.runtime.torch import TorchSession

ROOT = Path(flawscope.__file__).parents[2]


@pytest.fixture(scope="module")
def trained(model_path):
    return TorchSession.open(model_file.read(model_path), "cpu")


@pytest.fixture(scope="module")
def steps(trained):
    """`embed` and `score`. Read only."""
    embed, score = onnx_graph.trace(trained.model)
    return embed, score


def pictures(count, seed=0):
    return np.random.default_rng(seed).random((count, 3, 64, 64), dtype=np.float32)


def run(proto, **given):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # threads of a session this small wait for each other
    engine = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    return engine.run(None, given)


def stored(proto):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_the_steps_are_the_detector_s(batch, steps, trained):
    embed, score = steps
    with torch.inference_mode():
        features = trained.model.embed(torch.from_numpy(pictures(batch)))
        scores, maps = trained.model.score(features)
    (found,) = run(embed, images=pictures(batch))
    np.testing.assert_allclose(found, features.numpy(), rtol=1e-4, atol=1e-4)
    found, drawn = run(score, features=features.numpy())
    np.testing.assert_allclose(found, scores.numpy(), rtol=1e-4)
    np.testing.assert_allclose(drawn, maps.numpy(), rtol=1e-4, atol=1e-3)


def test_names_operators_and_versions(steps):
    embed, score = steps
    for proto, given, results in (
        (embed, "images", ["features"]),
        (score, "features", ["scores", "maps"]),
        (onnx_graph.join_graphs(embed, score), "images", ["scores", "maps"]),
    ):
        onnx.checker.check_model(proto, full_check=True)
        assert [i.name for i in proto.graph.input] == [given]
        assert [o.name for o in proto.graph.output] == results
        assert proto.ir_version == onnx_graph.IR_VERSION
        assert [(o.domain, o.version) for o in proto.opset_import if not o.domain] == [("", onnx_graph.OPSET)]
        assert {node.domain for node in proto.graph.node} == {""}  # every engine knows them
        names = [name for node in proto.graph.node for name in node.output]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("batch", [1, 5])
def test_joined_they_are_one_after_the_other(batch, steps):
    embed, score = steps
    before = [proto.SerializeToString(deterministic=True) for proto in steps]
    joined = onnx_graph.join_graphs(embed, score)
    assert [proto.SerializeToString(deterministic=True) for proto in steps] == before
    (features,) = run(embed, images=pictures(batch))
    for one, other in zip(run(joined, images=pictures(batch)), run(score, features=features), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    names = {name for node in joined.graph.node for name in node.output}
    assert "features" in names  # where a session can cut it
    assert {len(stored(joined))} == {len(stored(embed)) + len(stored(score))}


def test_the_same_name_in_both_steps_means_two_things():
    def step(given, results, weight):
        number = numpy_helper.from_array(np.float32([weight]), "weight")
        nodes = [helper.make_node("Add", [given, "weight"], ["inner"], "add")]
        nodes += [helper.make_node("Identity", ["inner"], [name], f"out_{name}") for name in results]
        values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n"]) for n in (given, *results)]
        made = helper.make_graph(nodes, "step", values[:1], values[1:], [number])
        return helper.make_model(
            made, opset_imports=[helper.make_opsetid("", onnx_graph.OPSET)], ir_version=onnx_graph.IR_VERSION
        )

    joined = onnx_graph.join_graphs(
        step("images", ["features"], 1.0), step("features", ["scores", "maps"], 10.0)
    )
    onnx.checker.check_model(joined, full_check=True)
    for found in run(joined, images=np.float32([0, 5])):
        assert found.tolist() == [11.0, 16.0]

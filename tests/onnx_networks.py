"""Small networks in ONNX, written by hand."""

import numpy as np
import onnx

node = onnx.helper.make_node
FLOAT = onnx.TensorProto.FLOAT


def constant(name, values, kind=np.int64):
    return onnx.numpy_helper.from_array(np.asarray(values, kind), name)


def network(nodes=(), constants=(), **more):
    """A network with the right inputs and outputs, which `nodes` may replace; "mean" [B, 64, 64] and
    "peak" [B] are there to be used."""
    base = [
        node("ReduceMean", ["images", "channels"], ["mean"], keepdims=0),
        node("ReduceMax", ["mean", "plane"], ["peak"], keepdims=0),
    ]
    made = {name for n in nodes for name in n.output}
    base += [node("Identity", [a], [b]) for a, b in (("mean", "maps"), ("peak", "scores")) if b not in made]
    tensor = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [*base, *nodes],
        "g",
        [tensor("images", FLOAT, ["batch", 3, 64, 64])],
        [tensor("scores", FLOAT, ["batch"]), tensor("maps", FLOAT, ["batch", 64, 64])],
        [constant("channels", [1]), constant("plane", [1, 2]), *constants],
    )
    opsets = [onnx.helper.make_opsetid(d, v) for d, v in (("", 18), ("evil", 1), ("com.microsoft", 1))]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8, **more)


def used(tensor, constants, *nodes):
    """A network whose scores need `tensor`."""
    total = [node("ReduceSum", [tensor], ["total"], keepdims=0), node("Add", ["peak", "total"], ["scores"])]
    return network([*nodes, *total], constants)


def weight(count):
    made = constant("w", [1.0], np.float32)
    made.dims[:] = [count]
    return made

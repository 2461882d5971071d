"""What PatchCore's own operators are in ONNX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import flawscope.methods.patchcore.quantized_search  # noqa: F401 - registers the operator


def translations() -> dict[Any, Callable[..., Any]]:
    """{torch operator: a function that builds it of ONNX operators}, for the exporter."""
    from onnx import TensorProto, helper
    from onnxscript import opset18

    op: Any = opset18  # its annotations are of values, and what is given here are names of values

    def group_minima(queries: Any, weights: Any, group: int) -> Any:
        # as the quantised networks' layers are written: an engine that knows them multiplies bytes, any other
        # multiplies the same whole numbers in fp32
        one, to_unsigned, none = (
            op.Constant(value=helper.make_tensor("value", kind, [], [number]))
            for kind, number in ((TensorProto.FLOAT, 1.0), (TensorProto.UINT8, 128), (TensorProto.INT8, 0))
        )
        rounded = op.DequantizeLinear(op.QuantizeLinear(queries, one, to_unsigned), one, to_unsigned)
        blocks, _, width = weights.shape
        minima = []
        for i in range(blocks):
            block = op.Gather(weights, op.Constant(value_int=i), axis=0)
            products = op.MatMul(rounded, op.DequantizeLinear(block, one, none))
            grouped = op.Reshape(products, op.Constant(value_ints=[-1, group, width // group]))
            minima.append(op.ReduceMin(grouped, op.Constant(value_ints=[1]), keepdims=0))
        return op.Concat(*minima, axis=1)

    return {torch.ops.flawscope.group_minima.default: group_minima}

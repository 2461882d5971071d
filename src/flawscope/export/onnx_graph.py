"""A detector as an ONNX graph: traced in its two steps, `embed` and `score`, reduced if asked for, joined.

Precision is a matter of `embed` alone. `score` compares features, and small differences between features that
are nearly equal decide: it stays in fp32.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flawscope.errors import FlawscopeError, InputError
from flawscope.methods.detector import Detector
from flawscope.runtime import onnx_metadata

if TYPE_CHECKING:
    from onnx import ModelProto

NOTHING: Mapping[Any, Any] = MappingProxyType({})
OPSET, IR = 18, 8  # the file format that came with the operators: ONNX Runtime 1.18 reads it
WORTH_HALVING = 4096  # numbers of a tensor
ACTIVATIONS = ("Clip", "Relu")  # that 8-bit numbers end at: what a convolution gives before is far larger
LAYOUTS = ("DepthToSpace", "Identity", "Reshape", "Squeeze", "Transpose", "Slice", "Gather", "Cast")
WHOLE = 3  # first convolutions that int8 leaves as they are
MEANT = 16  # batches of pictures that the means of 8-bit convolutions' inputs are measured on


class Embed(nn.Module):
    """A detector's first step as a module, which is what can be traced."""

    def __init__(self, model: Detector):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.embed(images)


class Score(nn.Module):
    """The second step. Where pictures are padded it looks at the images again, for what counts; a model that
    tells places apart is given those."""

    def __init__(self, model: Detector):
        super().__init__()
        self.model = model

    def forward(
        self, features: Tensor, images: Tensor | None = None, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        inside = None if images is None else self.model.inside(images)
        return self.model.score_at(positions, features, inside)


def trace(model: Detector, translations: Mapping[Any, Any] = NOTHING) -> tuple[ModelProto, ModelProto]:
    """`embed`, images to features, and `score`, features to scores and maps: two `onnx.ModelProto`, for
    pictures of the model's size, any number of them at once.

    Args:
        translations: of operators that the exporter does not know, `Method.operators`.
    """
    model.for_export()
    for part in model.modules():  # in place, activations take torch twice as long, for the same graph
        if "inplace" in vars(part):
            vars(part)["inplace"] = False
    held = {id(t): t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers())}
    if sum(held.values()) > onnx_metadata.LIMIT * 0.9:
        raise InputError(
            f"the model has {sum(held.values()) / 2**30:.1f} GiB and an .onnx file holds 2: "
            "fit with a smaller memory bank"
        )
    images = torch.zeros(2, 3, *model.size)
    with torch.inference_mode():
        features = torch.zeros_like(model.embed(images))
    given = {"features": features.clone()} | ({"images": images} if model.config.pads else {})
    if model.positions is not None:
        given["positions"] = torch.tensor([0, 1])
    embed = _traced(Embed(model), {"images": images}, ["features"], translations)
    return embed, _traced(Score(model), given, ["scores", "maps"], translations)


def _traced(
    module: nn.Module, given: Mapping[str, Tensor], results: list[str], translations: Mapping[Any, Any]
) -> ModelProto:
    batch = torch.export.Dim("batch", min=1)
    try:
        with _quiet(), torch.no_grad():
            program: Any = torch.onnx.export(
                module,
                kwargs=dict(given),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(given),
                output_names=results,
                dynamic_shapes={name: {0: batch} for name in given},
                external_data=False,
                verbose=False,
                custom_translation_table=dict(translations),
            )
            proto: ModelProto = program.model_proto
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # the exporter wraps the reason several times
            cause = cause.__cause__
        reason = " ".join(str(cause).split()) or type(cause).__name__
        raise FlawscopeError(f"torch {torch.__version__} cannot export this model: {reason:.200}") from error
    _forget_origin(proto)
    proto.ir_version = IR
    return proto


def _forget_origin(proto: ModelProto) -> None:
    """The exporter notes at every step which source line it came from, with this machine's paths."""
    graphs = [proto.graph]
    for part in (proto.graph, *proto.functions):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    while graphs:
        graph = graphs.pop()
        for entry in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
            entry.ClearField("doc_string")
            entry.ClearField("metadata_props")
        graphs += [a.g for node in graph.node for a in node.attribute if a.HasField("g")]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints and warns about its own insides."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


# ------------------------------------------------------------------------------------------------- reduction


def quantised(embed: ModelProto, batches: Iterable[NDArray[np.float32]]) -> ModelProto:
    """`embed` with its convolutions in 8 bits, their ranges measured on pictures `[B, 3, H, W]`.

    Weights are so small that every processor adds their products alike (`_tops`), and biases make up for
    what rounding them takes from a channel's mean (`_correct`): decision 0012.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Pictures(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = itertools.chain(first, rest)

        def get_next(self) -> Any:
            batch = next(self.left, None)
            return None if batch is None else {"images": batch}

    rest = iter(batches)
    first = list(itertools.islice(rest, MEANT))
    given = onnx.ModelProto()
    given.CopyFrom(embed)  # its weights are moved into a file that does not stay
    left = _in_fp32(given.graph)
    reduced = [node for node in given.graph.node if node.op_type == "Conv" and node.name not in left]
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in given.graph.initializer}
    tops = {node.input[1]: _tops(tensors[node.input[1]]) for node in reduced}
    _correct(given, reduced, tensors, tops, first)
    ranges = {name: [{"rmin": -top, "rmax": top} for top in channels] for name, channels in tops.items()}
    for channels in ranges.values():
        channels[0] |= {"quant_type": QuantType.QInt8, "symmetric": True, "axis": 0}  # said once
    with tempfile.TemporaryDirectory() as folder, _quiet():
        out = Path(folder) / "quantised.onnx"
        quantize_static(
            given,
            out,
            Pictures(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", *ACTIVATIONS],
            nodes_to_exclude=sorted(left),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"TensorQuantOverrides": ranges},
        )
        proto = onnx.load(out)
    proto.ir_version = IR
    return proto


def _in_fp32(graph: Any) -> set[str]:
    """Names of the nodes that int8 leaves as they are: some convolutions, and the activation after each.

    The first `WHOLE`, whose error all others make larger, also where their weights are used again, for
    another picture size; those whose input is also a feature, which OpenVINO would then give wrong; one that
    gives the features themselves, if only in another order: their highest values would be cut off; and those
    whose weights are computed.
    """
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    makers = {name: node for node in graph.node for name in node.output}
    last = makers[graph.output[0].name]
    while last.op_type in LAYOUTS:
        last = makers[last.input[0]]
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    early = {node.input[1] for node in convolutions[:WHOLE]}
    constant = {tensor.name for tensor in graph.initializer}
    inside = {"Conv", "Add", *ACTIVATIONS}
    left = [
        node
        for node in convolutions
        if node.input[1] in early
        or node.input[1] not in constant
        or node.name == last.name
        or any(reader.op_type not in inside for reader in readers[node.input[0]])
    ]
    after = [r for node in left for r in readers.get(node.output[0], []) if r.op_type in ACTIVATIONS]
    return {node.name for node in (*left, *after)}


def _tops(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """The number that 127 stands for in each output channel `[O]`: the largest sum of two weights of a sign.

    x86 processors without VNNI add two products of bytes in 16 bits and cut off what does not fit. Two
    weights, rounded, are 128 at most together, and 255 * 128 fits.
    """
    rows = weights.reshape(len(weights), -1)
    return np.maximum(*(np.sort((sign * rows).clip(0), axis=1)[:, -2:].sum(1) for sign in (1, -1)))


def _correct(
    proto: Any,
    convolutions: Sequence[Any],
    tensors: Mapping[str, NDArray[np.float32]],
    tops: Mapping[str, NDArray[np.float32]],
    batches: Sequence[NDArray[np.float32]],
) -> None:
    """Give each convolution a bias of its own, with which its channels keep their means when the weights are
    rounded (Nagel et al. 2019, Data-Free Quantization, section 4.2; the means of inputs are measured here).
    After a ReLU no input is negative, and errors of rounding add up.
    """
    import onnx
    import onnxruntime

    probe = onnx.ModelProto()
    probe.CopyFrom(proto)
    del probe.graph.output[:]
    names = sorted({node.input[0] for node in convolutions})
    for name in names:
        probe.graph.node.append(onnx.helper.make_node("GlobalAveragePool", [name], [f"{name}.mean"]))
        probe.graph.output.append(onnx.ValueInfoProto(name=f"{name}.mean"))
    engine = onnxruntime.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    found = [[values.mean(0).ravel() for values in engine.run(None, {"images": b})] for b in batches]
    means = {name: np.mean(v, axis=0) for name, v in zip(names, zip(*found, strict=True), strict=True)}
    for node in convolutions:
        weights, top = tensors[node.input[1]], tops[node.input[1]]
        step = (np.where(top > 0, top, 1) / 127)[:, None, None, None]
        lost = (weights - step * np.round(weights / step)).sum((2, 3))  # [O, I / groups]
        mean = means[node.input[0]].reshape(-1, lost.shape[1])  # [groups, I / groups]
        bias = (lost * np.repeat(mean, len(lost) // len(mean), axis=0)).sum(1)
        bias += sum(tensors[name] for name in node.input[2:])
        own = onnx.numpy_helper.from_array(bias.astype(np.float32), f"{node.name}.bias")
        proto.graph.initializer.append(own)
        node.input[2:] = [own.name]
    used = {name for node in proto.graph.node for name in node.input}
    kept = [tensor for tensor in proto.graph.initializer if tensor.name in used]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)


def halve(proto: ModelProto) -> None:
    """Store in fp16 every large tensor that loses nothing by it; computing stays in fp32."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for i, tensor in enumerate(proto.graph.initializer):
        if tensor.data_type != TensorProto.FLOAT:
            continue
        halves = as_halves(numpy_helper.to_array(tensor))
        if halves is not None:
            casts.append(
                helper.make_node("Cast", [f"{tensor.name}.fp16"], [tensor.name], to=TensorProto.FLOAT)
            )
            proto.graph.initializer[i].CopyFrom(numpy_helper.from_array(halves, f"{tensor.name}.fp16"))
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def as_halves(values: NDArray[np.float32]) -> NDArray[np.float16] | None:
    """The same numbers in fp16, or None where that would lose something, or gain nothing."""
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16)
    return halves if values.size >= WORTH_HALVING and np.array_equal(halves, values) else None


# --------------------------------------------------------------------------------------------------- joining


def join(embed: ModelProto, score: ModelProto) -> ModelProto:
    """One model: images to scores and maps, by way of `features`."""
    import onnx

    whole, head = onnx.ModelProto(), onnx.ModelProto()
    whole.CopyFrom(embed)
    head.CopyFrom(score)
    outside = {"images", "positions", "features", "scores", "maps"}

    def renamed(name: str) -> str:
        return f"score.{name}" if name and name not in outside else name

    graph = head.graph
    for node in graph.node:
        node.name = renamed(node.name)
        for names in (node.input, node.output):
            names[:] = [renamed(name) for name in names]
    for entry in (*graph.initializer, *graph.value_info):
        entry.name = renamed(entry.name)
    whole.graph.node.extend(graph.node)
    whole.graph.initializer.extend(graph.initializer)
    whole.graph.value_info.extend([*graph.value_info, *embed.graph.output])
    whole.graph.input.extend(entry for entry in graph.input if entry.name == "positions")
    del whole.graph.output[:]
    whole.graph.output.extend(graph.output)
    known = {(entry.domain, entry.version) for entry in whole.opset_import}
    whole.opset_import.extend(e for e in head.opset_import if (e.domain, e.version) not in known)
    return whole

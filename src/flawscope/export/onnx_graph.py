"""Turns a detector into an ONNX graph: traced in its two steps, `embed` and `score`, reduced if asked for,
joined. The file is written by `runtime.onnx_file`.

Precision is a matter of `embed` alone. `score` compares features, and small
differences between features that are nearly equal decide: it stays in fp32.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from flawscope.errors import FlawscopeError, InputError, one_line_message
from flawscope.methods.detector import Detector, Operator
from flawscope.runtime import onnx_file
from flawscope.runtime.session import RESIDUALS

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

NOTHING: Mapping[Operator, Operator] = MappingProxyType({})
OPSET, IR_VERSION = 18, 8  # the file format that came with the operators: ONNX Runtime 1.18 reads it


class EmbedModule(nn.Module):
    """Module of a detector's first step: only modules can be traced."""

    def __init__(self, model: Detector):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.embed(images)


class ScoreModule(nn.Module):
    """Module of the second step.

    Where pictures are padded it looks at the images again to see which pixels count.
    """

    def __init__(self, model: Detector):
        super().__init__()
        self.model = model

    def forward(self, features: Tensor, images: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.model.score(features, None if images is None else self.model.inside(images))


class ResidualModule(nn.Module):
    """Module of how pictures differ from good ones, for a model that names kinds of defects."""

    def __init__(self, model: Detector):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.residuals(images)


def trace(model: Detector) -> tuple[ModelProto, ModelProto]:
    """`embed`, images to features, and `score`, features to scores and maps: two `onnx.ModelProto`, for
    pictures of the model's size, any number of them at once.
    """
    prepare_trace(model)
    tensors = [*model.parameters(), *model.buffers()]
    held = {id(tensor): tensor.numel() * tensor.element_size() for tensor in tensors}  # each once
    if sum(held.values()) > onnx_file.MAX_PROTOBUF_BYTES * 0.9:
        raise InputError(
            f"the model has {sum(held.values()) / 2**30:.1f} GiB and an .onnx file holds 2: "
            "fit with a smaller memory bank"
        )
    images = torch.zeros(2, 3, *model.size)
    embed = trace_module(EmbedModule(model), {"images": images}, ["features"], model.operators())
    return embed, trace_score(model)


def prepare_trace(model: Detector) -> None:
    """Makes a model ready for tracing."""
    model.for_export()
    for part in model.modules():  # in place, activations take torch twice as long, for the same graph
        if "inplace" in vars(part):
            vars(part)["inplace"] = False


def trace_score(model: Detector) -> ModelProto:
    """`score`, features to scores and maps; `prepare_trace` the model before."""
    images = torch.zeros(2, 3, *model.size)
    with torch.inference_mode():
        features = torch.zeros_like(model.embed(images))
    given = {"features": features.clone()} | ({"images": images} if model.config.pads else {})
    return trace_module(ScoreModule(model), given, ["scores", "maps"], model.operators())


def trace_residuals(model: Detector) -> ModelProto:
    """Images to `residuals`; `prepare_trace` the model before."""
    given = {"images": torch.zeros(2, 3, *model.size)}
    return trace_module(ResidualModule(model), given, [RESIDUALS], model.operators())


def trace_module(
    module: nn.Module,
    given: Mapping[str, Tensor],
    results: list[str],
    translations: Mapping[Operator, Operator] = NOTHING,
) -> ModelProto:
    """Graph of a module with these inputs and results; `prepare_trace` the detector before."""
    batch = torch.export.Dim("batch", min=1)
    try:
        with silence_exporter(), torch.no_grad():
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
        reason = one_line_message(cause)
        raise FlawscopeError(f"torch {torch.__version__} cannot export this model: {reason}") from error
    _strip_source_notes(proto)
    _separate_biases(proto)
    proto.ir_version = IR_VERSION
    return proto


def _separate_biases(proto: ModelProto) -> None:
    """Gives each convolution a bias of its own: OpenVINO adds one that several share in a step of its own."""
    held = {entry.name: entry for entry in proto.graph.initializer}
    met = set()
    for node in proto.graph.node:
        if node.op_type == "Conv" and len(node.input) > 2 and (name := node.input[2]) in held:
            if name in met:
                copied = proto.graph.initializer.add()
                copied.CopyFrom(held[name])
                copied.name = node.input[2] = f"{name}.{node.output[0]}"
            met.add(name)


def _strip_source_notes(proto: ModelProto) -> None:
    """Removes the exporter's notes on source lines, which hold this machine's paths."""
    graphs = [proto.graph]
    for part in (proto.graph, *proto.functions):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    while graphs:
        graph = graphs.pop()
        for entries in (graph.node, graph.value_info, graph.input, graph.output, graph.initializer):
            for entry in entries:
                entry.ClearField("doc_string")
                entry.ClearField("metadata_props")
        for node in graph.node:
            graphs += [attribute.g for attribute in node.attribute if attribute.HasField("g")]


@contextlib.contextmanager
def silence_exporter() -> Iterator[None]:
    """Silences the exporter's prints and warnings about its own code."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


# --------------------------------------------------------------------------------------------------- joining


def join_graphs(embed: ModelProto, score: ModelProto, residuals: ModelProto | None = None) -> ModelProto:
    """Joins models into one: images to scores and maps, by way of `features`; and to `residuals`, if given.

    Weights that `residuals` has in common with the others are there once.
    """
    import onnx

    whole = onnx.ModelProto()
    whole.CopyFrom(embed)
    features = [*embed.graph.output]
    del whole.graph.output[:]
    for prefix, part in (("score", score), ("residuals", residuals)):
        if part is not None:
            head = onnx.ModelProto()
            head.CopyFrom(part)
            entries = whole.graph.initializer if prefix == "residuals" else ()
            _append(whole, head, prefix, {_content(entry): entry.name for entry in entries})
    whole.graph.value_info.extend(features)
    return whole


def _content(entry: TensorProto) -> bytes:
    """Digest of a tensor's type, shape and data."""
    data = entry.SerializeToString() if not entry.raw_data else entry.raw_data
    return hashlib.sha256(f"{entry.data_type} {[*entry.dims]} ".encode() + data).digest()


def _append(whole: ModelProto, head: ModelProto, prefix: str, weights: Mapping[bytes, str]) -> None:
    """Appends the graph of `head`, whose own names get a prefix. weights: names in `whole` by their content,
    which need not be there twice.
    """
    outside = {"images", "features", "scores", "maps", RESIDUALS}
    graph = head.graph
    contents = {entry.name: _content(entry) for entry in graph.initializer} if weights else {}
    shared = {name: weights[content] for name, content in contents.items() if content in weights}

    def renamed(name: str) -> str:
        return shared.get(name) or (f"{prefix}.{name}" if name and name not in outside else name)

    for node in graph.node:
        node.name = renamed(node.name)
        for names in (node.input, node.output):
            names[:] = [renamed(name) for name in names]
    weights_here = [entry for entry in graph.initializer if entry.name not in shared]
    for entry in (*weights_here, *graph.value_info):
        entry.name = renamed(entry.name)
    whole.graph.node.extend(graph.node)
    whole.graph.initializer.extend(weights_here)
    whole.graph.value_info.extend(graph.value_info)
    whole.graph.output.extend(graph.output)
    domains = {(entry.domain, entry.version) for entry in whole.opset_import}
    whole.opset_import.extend(e for e in head.opset_import if (e.domain, e.version) not in domains)

"""Turns a detector into an ONNX graph: its two steps, `embed` and `score`, are traced and then joined.

`runtime.onnx_file` writes the file. Only `embed` has a reduced precision. `score` compares features, and
small differences between nearly equal features decide: it stays in fp32.
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
# the file format that came with the operators: ONNX Runtime 1.18 reads it
OPSET = 18
IR_VERSION = 8


class EmbedModule(nn.Module):
    """Detector's first step as a module, because only modules can be traced."""

    def __init__(self, model: Detector):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of images `[B, 3, H, W]`."""
        return self.model.embed(images)


class ScoreModule(nn.Module):
    """Detector's second step as a module.

    Where pictures are padded, it takes the images too: they show which pixels count.
    """

    def __init__(self, model: Detector):
        super().__init__()
        self.model = model

    def forward(self, features: Tensor, images: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return scores `[B]` and maps `[B, H, W]` of features."""
        return self.model.score(features, None if images is None else self.model.inside(images))


class ResidualModule(nn.Module):
    """Differences of pictures from good ones as a module, for a model that names kinds of defects."""

    def __init__(self, model: Detector):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return the differences of images `[B, 3, H, W]`, cells `[B, C, h, w]`."""
        return self.model.residuals(images)


def trace(model: Detector) -> tuple[ModelProto, ModelProto]:
    """Trace a detector for images of its size, in batches of any length.

    Returns:
        Two graphs: `embed`, from images to features, and `score`, from features to scores and maps.

    Raises:
        InputError: The model is larger than an .onnx file can be.
        FlawscopeError: torch cannot export it.
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
    """Make a model ready for tracing; this changes the model."""
    model.for_export()
    for part in model.modules():  # in place, activations take torch twice as long, for the same graph
        if "inplace" in vars(part):
            vars(part)["inplace"] = False


def trace_score(model: Detector) -> ModelProto:
    """Trace the step from features to scores and maps, of a model after `prepare_trace`."""
    images = torch.zeros(2, 3, *model.size)
    with torch.inference_mode():
        features = torch.zeros_like(model.embed(images))
    given = {"features": features.clone()} | ({"images": images} if model.config.pads else {})
    return trace_module(ScoreModule(model), given, ["scores", "maps"], model.operators())


def trace_residuals(model: Detector) -> ModelProto:
    """Trace the network from images to `residuals`, of a model after `prepare_trace`."""
    given = {"images": torch.zeros(2, 3, *model.size)}
    return trace_module(ResidualModule(model), given, [RESIDUALS], model.operators())


def trace_module(
    module: nn.Module,
    given: Mapping[str, Tensor],
    results: list[str],
    translations: Mapping[Operator, Operator] = NOTHING,
) -> ModelProto:
    """Return the ONNX graph of a module, whose detector is ready (`prepare_trace`).

    Args:
        module: The module.
        given: An example of each input, by its name; any number of pictures `[B, ...]` may be given later.
        results: Names of the outputs.
        translations: ONNX functions for operators of torch that the exporter does not know.

    Raises:
        FlawscopeError: torch cannot export it.
    """
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
    """Give each convolution its own bias: OpenVINO adds a shared bias in a separate step."""
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
    """Remove the exporter's notes on source lines, which hold this machine's paths."""
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
    """Silence the exporter's prints and warnings about its own code."""
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
    """Join graphs to one network.

    Args:
        embed: Computes features of images.
        score: Computes scores and maps of features.
        residuals: Computes the residuals of features; None: the network has none. Weights that it has in
            common with the other graphs are stored once.
    """
    whole = _copied(embed)
    features = [*embed.graph.output]
    del whole.graph.output[:]
    _append(whole, _copied(score), "score", {})
    if residuals is not None:
        weights = {_content(entry): entry.name for entry in whole.graph.initializer}
        _append(whole, _copied(residuals), "residuals", weights)
    whole.graph.value_info.extend(features)
    return whole


def _copied(graph: ModelProto) -> ModelProto:
    import onnx

    copied = onnx.ModelProto()
    copied.CopyFrom(graph)
    return copied


def _content(entry: TensorProto) -> bytes:
    """Return a digest of a tensor's type, shape and data."""
    data = entry.SerializeToString() if not entry.raw_data else entry.raw_data
    return hashlib.sha256(f"{entry.data_type} {[*entry.dims]} ".encode() + data).digest()


def _append(whole: ModelProto, head: ModelProto, prefix: str, weights: Mapping[bytes, str]) -> None:
    """Append the graph of `head` to `whole`.

    Args:
        whole: The graph that grows.
        head: The graph to append; it is changed.
        prefix: Put before the names of `head`, except those of inputs and outputs.
        weights: Names of the weights of `whole`, by their content: those of `head` with such content are
            left out.
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

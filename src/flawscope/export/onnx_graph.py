"""Turns a detector into an ONNX graph: its two steps, `embed` and `score`, are traced and then joined.

`runtime.onnx_file` writes the file. Only `embed` can have a reduced precision. `score` stays in fp32: it
compares features, and small differences between nearly equal features decide.
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
OPSET = 18  # version of the ONNX operators
IR_VERSION = 8  # version of the file format that belongs to these operators: ONNX Runtime 1.18 reads it


class EmbedModule(nn.Module):
    """A detector's first step as a module, because only modules can be traced."""

    def __init__(self, model: Detector):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of images `[B, 3, H, W]`."""
        return self.model.embed(images)


class ScoreModule(nn.Module):
    """A detector's second step as a module.

    If pictures are padded, it takes the images, too: they show which pixels count.
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
        FlawscopeError: torch cannot export the model.
    """
    prepare_trace(model)
    tensors = [*model.parameters(), *model.buffers()]
    # by id: a tensor that several modules share counts once
    tensor_bytes = {id(tensor): tensor.numel() * tensor.element_size() for tensor in tensors}
    model_bytes = sum(tensor_bytes.values())
    if model_bytes > onnx_file.MAX_PROTOBUF_BYTES * 0.9:  # the rest is for the graph itself
        raise InputError(
            f"the model has {model_bytes / 2**30:.1f} GiB and an .onnx file holds 2: "
            "fit with a smaller memory bank"
        )
    images = torch.zeros(2, 3, *model.size)
    embed = trace_module(EmbedModule(model), {"images": images}, ["features"], model.operators())
    return embed, trace_score(model)


def prepare_trace(model: Detector) -> None:
    """Make a model ready for tracing; this changes the model."""
    model.for_export()
    # activations that compute in place double the time of tracing, and the graph is the same
    for module in model.modules():
        if "inplace" in vars(module):
            vars(module)["inplace"] = False


def trace_score(model: Detector) -> ModelProto:
    """Trace the step from features to scores and maps; `prepare_trace` has prepared the model."""
    images = torch.zeros(2, 3, *model.size)
    with torch.inference_mode():
        features = torch.zeros_like(model.embed(images))
    # the clone, made outside of inference mode, is an ordinary tensor
    examples = {"features": features.clone()}
    if model.config.pads:
        examples["images"] = images
    return trace_module(ScoreModule(model), examples, ["scores", "maps"], model.operators())


def trace_residuals(model: Detector) -> ModelProto:
    """Trace the network from images to `residuals`; `prepare_trace` has prepared the model."""
    examples = {"images": torch.zeros(2, 3, *model.size)}
    return trace_module(ResidualModule(model), examples, [RESIDUALS], model.operators())


def trace_module(
    module: nn.Module,
    examples: Mapping[str, Tensor],
    results: list[str],
    translations: Mapping[Operator, Operator] = NOTHING,
) -> ModelProto:
    """Trace a module of a model that `prepare_trace` has prepared, and return its ONNX graph.

    Args:
        module: The module.
        examples: An example of each input `[B, ...]`, by its name; the graph takes any number B of pictures.
        results: Names of the outputs.
        translations: ONNX functions for operators of torch that the exporter does not know.

    Raises:
        FlawscopeError: torch cannot export the model.
    """
    batch = torch.export.Dim("batch", min=1)
    try:
        with silence_exporter(), torch.no_grad():
            program: Any = torch.onnx.export(
                module,
                kwargs=dict(examples),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(examples),
                output_names=results,
                dynamic_shapes={name: {0: batch} for name in examples},
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
    tensors = {entry.name: entry for entry in proto.graph.initializer}
    used_names = set()
    for node in proto.graph.node:
        if node.op_type != "Conv" or len(node.input) < 3:  # inputs: images, weights and perhaps a bias
            continue
        bias_name = node.input[2]
        if bias_name not in tensors:
            continue
        if bias_name in used_names:
            bias_copy = proto.graph.initializer.add()
            bias_copy.CopyFrom(tensors[bias_name])
            bias_copy.name = f"{bias_name}.{node.output[0]}"
            node.input[2] = bias_copy.name
        used_names.add(bias_name)


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
        for node in graph.node:  # a node may hold graphs, such as the branches of an If
            graphs += [attribute.g for attribute in node.attribute if attribute.HasField("g")]


@contextlib.contextmanager
def silence_exporter() -> Iterator[None]:
    """Silence the exporter's prints and warnings about its own code."""
    previous_level = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(previous_level)


# --------------------------------------------------------------------------------------------------- joining


def join_graphs(embed: ModelProto, score: ModelProto, residuals: ModelProto | None = None) -> ModelProto:
    """Join graphs to one network.

    Args:
        embed: Computes features of images.
        score: Computes scores and maps of features.
        residuals: Computes the residuals of images; None: the network has no residuals. Weights that this
            graph shares with the others are stored once.
    """
    network = _copy_graph(embed)
    features = [*embed.graph.output]
    del network.graph.output[:]
    _append(network, _copy_graph(score), prefix="score", weights={})
    if residuals is not None:
        weights = {_content_digest(entry): entry.name for entry in network.graph.initializer}
        _append(network, _copy_graph(residuals), prefix="residuals", weights=weights)
    network.graph.value_info.extend(features)  # the features are inner values now: keep their types
    return network


def _copy_graph(graph: ModelProto) -> ModelProto:
    import onnx

    graph_copy = onnx.ModelProto()
    graph_copy.CopyFrom(graph)
    return graph_copy


def _content_digest(entry: TensorProto) -> bytes:
    """Return a digest of a tensor's type, shape and data."""
    data = entry.SerializeToString() if not entry.raw_data else entry.raw_data
    return hashlib.sha256(f"{entry.data_type} {[*entry.dims]} ".encode() + data).digest()


def _append(network: ModelProto, addition: ModelProto, prefix: str, weights: Mapping[bytes, str]) -> None:
    """Append a graph to another.

    Args:
        network: The graph that grows.
        addition: The graph to append; it is changed.
        prefix: Prefix for the names in `addition`, except those of inputs and outputs.
        weights: Names of the weights of `network`, by the digest of their content. `addition` uses these
            instead of its own weights with the same content.
    """
    public_names = {"images", "features", "scores", "maps", RESIDUALS}
    graph = addition.graph
    digests = {entry.name: _content_digest(entry) for entry in graph.initializer} if weights else {}
    shared_names = {name: weights[digest] for name, digest in digests.items() if digest in weights}

    def new_name(name: str) -> str:
        if name in shared_names:
            return shared_names[name]
        if not name or name in public_names:  # an optional input that is left out has an empty name
            return name
        return f"{prefix}.{name}"

    for node in graph.node:
        node.name = new_name(node.name)
        for names in (node.input, node.output):
            names[:] = [new_name(name) for name in names]
    own_weights = [entry for entry in graph.initializer if entry.name not in shared_names]
    for entry in (*own_weights, *graph.value_info):
        entry.name = new_name(entry.name)
    network.graph.node.extend(graph.node)
    network.graph.initializer.extend(own_weights)
    network.graph.value_info.extend(graph.value_info)
    network.graph.output.extend(graph.output)
    opsets = {(entry.domain, entry.version) for entry in network.opset_import}
    network.opset_import.extend(
        entry for entry in addition.opset_import if (entry.domain, entry.version) not in opsets
    )

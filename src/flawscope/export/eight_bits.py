"""Quantises `embed` to 8 bits: all of its convolutions if scores stay near enough, else without those that
add the most error (decisions 0012 and 0021)."""

from __future__ import annotations

import itertools
import math
import os
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact.certificate import difference_scales
from flawscope.calibration.threshold import Calibration
from flawscope.errors import pluralize
from flawscope.export.onnx_graph import IR_VERSION, silence_exporter
from flawscope.export.recalibrate import MAX_DEFECTIVE, subset, with_defects
from flawscope.progress import ProgressCallback, ProgressCounter, ignore_progress

if TYPE_CHECKING:
    from onnx import ModelProto

ACTIVATION_OPS = ("Clip", "Relu")  # after which 8-bit ranges are measured: convolutions' outputs are larger
LAYOUT_OPS = ("DepthToSpace", "Identity", "Reshape", "Squeeze", "Transpose", "Slice", "Gather", "Cast")
MEAN_BATCHES = 16  # batches of pictures that the means of 8-bit convolutions' inputs are measured on
# Root mean square error of scores, as a share of the distance from the median good score to the threshold.
# The certificate allows each of them half of that distance, five times as much.
MAX_SCORE_ERROR = 0.1


@dataclass(frozen=True)
class Layer:
    """Convolutions that share weights: pictures of several sizes go through the same ones."""

    weights: str
    nodes: list[str]
    operations: int  # multiplications for one picture


@dataclass(frozen=True)
class QuantizationSummary:
    """Extent of a network's computation in 8 bits.

    layers, fp32_layers: number of convolutional layers, and of those among them that stay in fp32.
    operations: the share of their multiplications that is in 8 bits.
    score_error: as `QuantizationErrorMeter` measures it; None: not measured.
    """

    layers: int
    fp32_layers: int
    operations: float
    score_error: float | None = None

    def describe(self) -> str:
        said = f"{self.layers - self.fp32_layers} of {pluralize(self.layers, 'convolution')} in 8 bits, "
        return said + f"{self.operations:.0%} of the multiplications"


class QuantizationErrorMeter:
    """Measures how far another `embed` than the trained model's moves the answers for good pictures and for
    simulated defects."""

    def __init__(
        self, embed: ModelProto, score: ModelProto, shown: NDArray[np.float32], calibration: Calibration
    ) -> None:
        self.images = np.concatenate([subset(shown, MAX_DEFECTIVE), with_defects(shown)])
        self.score = _open_session(score)
        self.scores, self.maps = self._run(embed)
        self.of_scores = difference_scales(calibration.scores, calibration.score_threshold, self.scores)
        self.of_maps = difference_scales(
            calibration.map_maxima, calibration.mask_threshold, self.maps.max((1, 2))
        )

    def __call__(self, embed: ModelProto) -> tuple[float, float]:
        """Root mean square changes of the scores and of the maps' pixels, as shares of the distance from the
        median good picture to the threshold (`certificate.difference_scales`)."""
        scores, maps = self._run(embed)
        away = (scores - self.scores) / self.of_scores, (maps - self.maps) / self.of_maps[:, None, None]
        found, drawn = (math.sqrt(float(np.square(part).mean())) for part in away)
        return (found, drawn) if math.isfinite(found + drawn) else (math.inf, math.inf)

    def _run(self, embed: ModelProto) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        engine = _open_session(embed)
        wanted = {i.name for i in self.score.get_inputs()}
        scores, maps = [], []
        for image in np.split(self.images, len(self.images)):
            given = {"images": image, "features": engine.run(["features"], {"images": image})[0]}
            found = self.score.run(["scores", "maps"], {n: v for n, v in given.items() if n in wanted})
            scores.append(found[0][0])
            maps.append(found[1][0])
        return np.array(scores, np.float64), np.array(maps, np.float64)


def quantize_embed(
    embed: ModelProto,
    batches: Iterable[NDArray[np.float32]],
    evidence: QuantizationErrorMeter | None = None,
    step: ProgressCallback = ignore_progress,
) -> tuple[ModelProto, QuantizationSummary]:
    """`embed` with convolutions in 8 bits, their ranges measured on pictures `[B, 3, H, W]`.

    All of them, where scores stay within `MAX_SCORE_ERROR`. Else the layers are measured one by one, and
    those whose error is large for the multiplications that they save stay in fp32: as few as will do.

    Args:
        evidence: None: all of them.
    """
    quantizer = Quantizer(embed, batches)
    if evidence is None:
        return quantizer.quantize(), quantizer.summarise(())

    def try_fp32(fp32_weights: Collection[str]) -> tuple[ModelProto, QuantizationSummary, bool]:
        """Makes a network with the layers of these weights in fp32; True: it is near enough."""
        made = quantizer.quantize(fp32_weights)
        away = evidence(made)[0]
        return made, quantizer.summarise(fp32_weights, away), away <= MAX_SCORE_ERROR

    everything, reduction, near = try_fp32(())
    if near or not quantizer.layers:
        return everything, reduction
    names = [layer.weights for layer in quantizer.layers]
    harm, advance = {}, ProgressCounter(step, "8-bit layers", len(names))
    for layer in quantizer.layers:
        only = evidence(quantizer.quantize([name for name in names if name != layer.weights]))[1]
        harm[layer.weights] = only**2 / layer.operations
        advance()
    order = sorted(names, key=lambda name: -harm[name])
    low, high, found = 0, len(order), None
    while high - low > 1:  # with `low` of them it is too far off
        middle = (low + high) // 2
        made, reduction, near = try_fp32(order[:middle])
        if near:
            high, found = middle, (made, reduction)
        else:
            low = middle
    return found or try_fp32(order)[:2]


class Quantizer:
    """Makes `embed` with any of its layers in 8 bits; ranges and biases are found once.

    Weights are so small that every processor adds their products alike (`_weight_ranges`), and biases undo
    the change that rounding them makes to a channel's mean (`_corrected_bias`): decision 0012.
    """

    def __init__(self, embed: ModelProto, batches: Iterable[NDArray[np.float32]]):
        import onnx

        rest = iter(batches)
        first = list(itertools.islice(rest, MEAN_BATCHES))
        self.embed = onnx.shape_inference.infer_shapes(embed)
        tensors = {t.name: onnx.numpy_helper.to_array(t) for t in embed.graph.initializer}
        convolutions = [node for node in embed.graph.node if node.op_type == "Conv"]
        means, operations = _measure_convolutions(embed, convolutions, first)
        readers = _consumers(embed.graph)
        self.activations = {
            node.name: [r.name for r in readers.get(node.output[0], []) if r.op_type in ACTIVATION_OPS]
            for node in convolutions
        }
        by_weights: dict[str, list[str]] = {}
        for node in convolutions:
            by_weights.setdefault(node.input[1], []).append(node.name)
        fp32_nodes = _fp32_only(embed.graph, convolutions, readers)
        all_layers = [
            Layer(weights, names, sum(operations[name] for name in names))
            for weights, names in by_weights.items()
        ]
        self.layers = [layer for layer in all_layers if fp32_nodes.isdisjoint(layer.nodes)]
        self.fp32_layers = [layer for layer in all_layers if not fp32_nodes.isdisjoint(layer.nodes)]
        self.weight_ranges = {layer.weights: _weight_ranges(tensors[layer.weights]) for layer in self.layers}
        self.biases = {
            node.name: _corrected_bias(node, tensors, self.weight_ranges[node.input[1]], means[node.name])
            for node in convolutions
            if node.input[1] in self.weight_ranges
        }
        self.ranges = _activation_ranges(embed, itertools.chain(first, rest))

    def quantize(self, fp32_weights: Collection[str] = ()) -> ModelProto:
        """Makes the network in 8 bits, with the layers of the weights `fp32_weights` in fp32."""
        import onnx
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        layers = [layer for layer in self.layers if layer.weights not in fp32_weights]
        chosen = {name for layer in layers for name in layer.nodes}
        model = onnx.ModelProto()
        model.CopyFrom(self.embed)
        for node in model.graph.node:
            if node.name in chosen:
                bias = onnx.numpy_helper.from_array(self.biases[node.name], f"{node.name}.bias")
                model.graph.initializer.append(bias)
                node.input[2:] = [bias.name]
        _drop_unused(model.graph)
        excluded = [name for name in self.activations if name not in chosen]
        excluded += [after for name in excluded for after in self.activations[name]]
        overrides = {
            layer.weights: [{"rmin": -top, "rmax": top} for top in self.weight_ranges[layer.weights]]
            for layer in layers
        }
        for channels in overrides.values():
            channels[0] |= {"quant_type": QuantType.QInt8, "symmetric": True, "axis": 0}  # said once
        with silence_exporter():
            quantizer = QDQQuantizer(
                model=model,
                per_channel=True,
                reduce_range=False,
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QUInt8,
                tensors_range=self.ranges,
                nodes_to_quantize=[],
                nodes_to_exclude=excluded,
                op_types_to_quantize=["Conv", *ACTIVATION_OPS],
                extra_options={"TensorQuantOverrides": overrides},
            )
            quantizer.quantize_model()
            _keep_in_fp32(quantizer.model.model.graph)
            quantizer.model.topological_sort()
        proto: ModelProto = quantizer.model.model
        proto.ir_version = IR_VERSION
        return proto

    def summarise(
        self, fp32_weights: Collection[str], score_error: float | None = None
    ) -> QuantizationSummary:
        """Describes the network that `quantize` makes."""
        reduced = [layer for layer in self.layers if layer.weights not in fp32_weights]
        every = [*self.layers, *self.fp32_layers]
        total, in_int8 = (sum(layer.operations for layer in of) for of in (every, reduced))
        return QuantizationSummary(
            len(every), len(every) - len(reduced), in_int8 / max(total, 1), score_error
        )


def _consumers(graph: Any) -> dict[str, list[Any]]:
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def _fp32_only(graph: Any, convolutions: Sequence[Any], readers: Mapping[str, Sequence[Any]]) -> set[str]:
    """Names of the convolutions that stay in fp32: those whose input is also a feature, which OpenVINO would
    compute wrongly; the one whose output are the features, since their highest values would be clipped; and
    those whose weights are computed."""
    makers = {name: node for node in graph.node for name in node.output}
    last = makers[graph.output[0].name]
    while last.op_type in LAYOUT_OPS:
        last = makers[last.input[0]]
    constant = {tensor.name for tensor in graph.initializer}
    inside = {"Conv", "Add", *ACTIVATION_OPS}
    return {
        node.name
        for node in convolutions
        if node.input[1] not in constant
        or node.name == last.name
        or any(reader.op_type not in inside for reader in readers[node.input[0]])
    }


def _weight_ranges(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weight that 127 stands for in each output channel `[O]`: the largest sum of two weights of one sign.

    x86 processors without VNNI add two products of bytes in 16 bits, and saturate. Two rounded weights are
    together 128 at most, and 255 * 128 fits.
    """
    rows = weights.reshape(len(weights), -1)
    return np.maximum(*(np.sort((sign * rows).clip(0), axis=1)[:, -2:].sum(1) for sign in (1, -1)))


def _corrected_bias(
    node: Any, tensors: Mapping[str, NDArray[Any]], top: NDArray[np.float32], means: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Bias of a convolution, corrected for the change that rounding its weights makes to the means of its
    channels (Nagel et al. 2019, Data-Free Quantization, section 4.2; the means of inputs are measured here).
    After a ReLU no input is negative, and errors of rounding add up."""
    weights = tensors[node.input[1]]
    step = (np.where(top > 0, top, 1) / 127)[:, None, None, None]
    lost = (weights - step * np.round(weights / step)).sum((2, 3))  # [O, I / groups]
    mean = means.reshape(-1, lost.shape[1])  # [groups, I / groups]
    bias = (lost * np.repeat(mean, len(lost) // len(mean), axis=0)).sum(1)
    return np.asarray(bias + sum(tensors[name] for name in node.input[2:]), np.float32)


def _keep_in_fp32(graph: Any) -> None:
    """Gives each fp32 convolution after 8-bit numbers its own DequantizeLinear, with a scale per channel.

    ONNX Runtime by itself quantises the weights of a convolution between two 8-bit tensors, with a zero point
    for which processors without VNNI saturate. A scale per channel keeps it from that; all are the same, so
    that the numbers do not change.
    """
    from onnx import helper, numpy_helper

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    for node in [node for node in graph.node if node.op_type == "Conv" and node.input[1] in tensors]:
        dequantize = makers.get(node.input[0])
        if dequantize is None or dequantize.op_type != "DequantizeLinear":
            continue
        (group,) = [a.i for a in node.attribute if a.name == "group"] or [1]
        channels = tensors[node.input[1]].dims[1] * group
        quantized, *numbers = dequantize.input  # scale and zero point
        names = [f"{node.name}.{name}" for name in ("input", "scale", "zero_point")]
        for number, name in zip(numbers, names[1:], strict=True):
            repeated = numpy_helper.to_array(tensors[number]).repeat(channels)
            graph.initializer.append(numpy_helper.from_array(repeated, name))
        graph.node.append(helper.make_node("DequantizeLinear", [quantized, *names[1:]], names[:1], axis=1))
        node.input[0] = names[0]
        if not any(dequantize.output[0] in reader.input for reader in graph.node):
            graph.node.remove(dequantize)


def _measure_convolutions(
    embed: ModelProto, convolutions: Sequence[Any], batches: Sequence[NDArray[np.float32]]
) -> tuple[dict[str, NDArray[np.float64]], dict[str, int]]:
    """Means of each convolution's input channels, and its multiplications for a picture, by its name."""
    import onnx

    probe = onnx.ModelProto()
    probe.CopyFrom(embed)
    del probe.graph.output[:]
    for node in convolutions:
        for op, name in (("GlobalAveragePool", node.input[0]), ("Shape", node.output[0])):
            result = f"{node.name}.{op}"
            probe.graph.node.append(onnx.helper.make_node(op, [name], [result]))
            probe.graph.output.append(onnx.ValueInfoProto(name=result))
        probe.graph.node.append(onnx.helper.make_node("Shape", [node.input[1]], [f"{node.name}.weights"]))
        probe.graph.output.append(onnx.ValueInfoProto(name=f"{node.name}.weights"))
    engine = _open_session(probe)
    names = [o.name for o in engine.get_outputs()]
    found = [dict(zip(names, engine.run(None, {"images": batch}), strict=True)) for batch in batches]
    means, operations = {}, {}
    for node in convolutions:
        pooled = [one[f"{node.name}.GlobalAveragePool"].mean(0).ravel() for one in found]
        means[node.name] = np.stack(pooled).mean(0, dtype=np.float64)
        cells = found[0][f"{node.name}.Shape"][2:]
        operations[node.name] = math.prod(map(int, [*cells, *found[0][f"{node.name}.weights"]]))
    return means, operations


def _activation_ranges(embed: ModelProto, batches: Iterator[NDArray[np.float32]]) -> Any:
    """Least and largest value of every tensor that may be in 8 bits."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader
    from onnxruntime.quantization.calibrate import create_calibrator

    class Pictures(CalibrationDataReader):
        def get_next(self) -> Any:
            batch = next(batches, None)
            return None if batch is None else {"images": batch}

    with tempfile.TemporaryDirectory() as folder, silence_exporter():
        path, augmented = (os.path.join(folder, name) for name in ("embed.onnx", "augmented.onnx"))
        onnx.save_model(embed, path)
        calibrator = create_calibrator(path, ["Conv", *ACTIVATION_OPS], augmented_model_path=augmented)
        calibrator.collect_data(Pictures())
        return calibrator.compute_data()


def _drop_unused(graph: Any) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _open_session(proto: ModelProto) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])

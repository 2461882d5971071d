"""Opens exported networks in OpenVINO, which converts them when it reads them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from flawscope.errors import FlawscopeError, InputError, missing_library_error, one_line_message
from flawscope.machine import default_thread_count
from flawscope.runtime.session import RESIDUALS, Compute, Engine, Graph
from flawscope.types import Array

if TYPE_CHECKING:
    from types import ModuleType

    import openvino

STEP_INPUTS = ("images", "features")  # inputs of the network's two steps, embed and score
# The arithmetic of the features, which is always set: by default OpenVINO takes bf16 where the CPU has it. A
# file of int8, of an earlier version, states by itself which operations are in int8.
PRECISION_HINTS = {"fp32": "f32", "int8": "f32", "bf16": "bf16"}

# -------------------------------------------------------------------------------------------- OpenVINO itself

_import_lock = Lock()
_core_lock = Lock()
_core: openvino.Core | None = None


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Keep OpenVINO's packages that are imported in this block from sending data.

    Unless the user opted out, `import openvino` reports to its makers and stores an identifier in the home
    folder. The import uses the package openvino_telemetry for this, and works without it. In this block,
    openvino_telemetry looks as if it were not installed.
    """
    name = "openvino_telemetry"
    with _import_lock:
        loaded_module = sys.modules.get(name)
        sys.modules[name] = None  # type: ignore[assignment]
        try:
            yield
        finally:
            sys.modules.pop(name, None)
            if loaded_module is not None:
                sys.modules[name] = loaded_module


def import_openvino() -> ModuleType:
    """Return the package openvino; raise InputError if it is not installed."""
    try:
        if "openvino" in sys.modules:  # imported by other code, with telemetry or without
            import openvino
        else:
            with without_telemetry():
                import openvino
    except ImportError:
        raise missing_library_error("running a model in OpenVINO", "openvino", extras="openvino") from None
    module: ModuleType = openvino
    return module


def shared_core() -> openvino.Core:
    """Return OpenVINO's `Core`: a single object for the life of the process.

    There must not be a second `Core`. Each one loads a CPU plugin that replaces this thread's stack for
    signal handlers, and restores the former stack when it is unloaded. If the first of two plugins is
    unloaded first, its stack is freed, and later the second plugin restores that freed stack. The next
    signal, such as Ctrl-C, then ends the process with a segmentation fault (OpenVINO 2026.4).

    The core has run once before it is returned. If several threads ran it for the first time at once, they
    could deadlock: one thread holds Python's lock while it waits for the binding's first import of numpy, and
    the thread that does this import waits for Python's lock.

    Raises:
        InputError: OpenVINO is not installed.
        FlawscopeError: OpenVINO cannot run here.
    """
    global _core
    with _core_lock:
        if _core is None:
            created = import_openvino().Core()
            try:
                _run_once(created)
            except Exception as error:  # RuntimeError, or what the binding turns it into
                raise FlawscopeError(f"OpenVINO cannot run here: {one_line_message(error)}") from None
            _core = created
        return _core


def _run_once(core: openvino.Core) -> None:
    """Run a small network with inputs and outputs of both types that models have, f32 and i64."""
    ov = import_openvino()
    types = (ov.Type.f32, ov.Type.i64)
    parameters = [ov.opset13.parameter([1], element_type) for element_type in types]
    model = ov.Model([ov.opset13.result(parameter) for parameter in parameters], parameters)
    request = core.compile_model(model, "CPU").create_infer_request()
    results = request.infer([np.zeros(1, np.float32), np.zeros(1, np.int64)])
    for value in results.values():
        np.array(value)  # the binding imports numpy here


# ----------------------------------------------------------------------------------------------- the engine


class OpenVino(Engine):
    """OpenVINO. Its devices are auto (the CPU), cpu, gpu and npu; its precisions are fp32, int8 and bf16."""

    runtime = "openvino"
    name = "OpenVINO"

    def __init__(self) -> None:
        shared_core()  # InputError where OpenVINO is missing, before any model is blamed

    def open(
        self, network: str | bytes, device: str = "auto", threads: int | None = None, precision: str = "fp32"
    ) -> Graph:
        """Open an .onnx file, or its bytes, as `Engine.open` does.

        With precision bf16 the network is split: its features are computed in bf16, the rest in fp32.
        """
        core = shared_core()
        device_name = _find_device(core, device)
        hint = _precision_hint(core, device_name, precision)
        # read, not converted: a conversion would also precompute tensors from the memory bank as constants
        whole_model = core.read_model(network)
        inputs = {
            model_input.get_any_name(): (model_input.element_type.get_type_name(), _shape(model_input))
            for model_input in whole_model.inputs
        }
        output_names = [output.get_any_name() for output in whole_model.outputs]
        results = [name for name in output_names if name != RESIDUALS]
        options: dict[str, str | int | bool] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": hint,
        }
        residual_model, model = _split_residuals(whole_model)
        on_cpu = device_name == "CPU"
        lanes = 1
        if on_cpu:
            # With pinning, two processes of one thread each would both run on the first core
            options["ENABLE_CPU_PINNING"] = False
            if threads is not None:
                options["INFERENCE_NUM_THREADS"] = threads
            # Two concurrent calls per thread: while one call waits, the thread computes the other call
            thread_count = threads or default_thread_count()
            lanes = 2 * thread_count if thread_count > 1 else 1
        parts = [model]
        if hint == "bf16" and len(results) > 1:  # only the features are computed in bf16, as in the export
            parts = _split_network(model)

        def compile_parts(**further_options: str | int | bool) -> Compute:
            """Compile the network's parts; all but the first compute in fp32."""
            compiled: list[openvino.CompiledModel] = []
            for index, part in enumerate(parts):
                part_options = options | further_options
                if index > 0:
                    part_options["INFERENCE_PRECISION_HINT"] = "f32"
                compiled.append(core.compile_model(part, device_name, part_options))
            return partial(_run_parts, compiled, results)

        # `lanes // 2` is the number of threads. With one stream per thread, each call of `run_alone` runs on
        # one thread. If there is only one lane, `run_alone` uses `run`, and this is not compiled.
        streams = {"NUM_STREAMS": lanes // 2, "INFERENCE_NUM_THREADS": lanes // 2}
        compile_alone = partial(compile_parts, **streams)
        if residual_model is None:
            return Graph(inputs, results, on_cpu, compile_parts(), lanes, compile_alone)

        def compile_residuals() -> Compute:
            fp32_options = options | {"INFERENCE_PRECISION_HINT": PRECISION_HINTS["fp32"]}
            compiled = core.compile_model(residual_model, device_name, fp32_options)
            return partial(_run_parts, [compiled], [RESIDUALS])

        return Graph(inputs, results, on_cpu, compile_parts(), lanes, compile_alone, compile_residuals)


def _split_residuals(model: openvino.Model) -> tuple[openvino.Model | None, openvino.Model]:
    """Return two parts of a network: what computes `RESIDUALS`, None if nothing does, and the rest."""
    ov = import_openvino()
    residuals = [result for result in model.get_results() if RESIDUALS in result.input_value(0).names]
    if not residuals:
        return None, model
    others = [result for result in model.get_results() if result not in residuals]
    inputs = model.get_parameters()
    return ov.Model(residuals, inputs, "residuals").clone(), ov.Model(others, inputs, "scores").clone()


def _shape(tensor: openvino.Output) -> list[int | None]:
    """Return the shape of an input; None for a side of any length."""
    return [int(side.get_length()) if side.is_static else None for side in tensor.partial_shape]


def _run_parts(
    parts: Sequence[openvino.CompiledModel], names: Sequence[str], inputs: Mapping[str, Array]
) -> list[Array]:
    """Run a network's parts one after the other, and return the results with these names."""
    values = dict(inputs)
    for part in parts:
        input_names = [name for part_input in part.inputs for name in part_input.names]
        part_inputs = {name: values[name] for name in input_names if name in STEP_INPUTS}
        # each call makes its own request, as several threads may call at once
        results = part.create_infer_request().infer(part_inputs)
        for output, value in results.items():  # an output can have several names
            values |= dict.fromkeys(output.names, value)
    return [np.array(values[name], np.float32) for name in names]


def _split_network(model: openvino.Model) -> list[openvino.Model]:
    """Split a network into two steps: from images to features, and from features to all other results.

    The second step gets the images, too, because OpenVINO reads the batch size from them.

    Raises:
        InputError: The network has no features.
    """
    ov = import_openvino()
    embed = model.clone()
    score = model.clone()
    features_result = ov.opset13.result(_find_features(embed))
    features = _find_features(score)
    # in the second step, the features are an input instead of a computed value
    parameter = ov.opset13.parameter(features.partial_shape, features.element_type)
    for target in features.get_target_inputs():
        target.replace_source_output(parameter.output(0))
    features.set_names(set())
    parameter.output(0).set_names({"features"})
    # all results but the features, which would be the input itself
    score_results = [result for result in score.get_results() if result.input_value(0) != parameter.output(0)]
    return [
        ov.Model([features_result], embed.get_parameters(), "embed"),
        ov.Model(score_results, [parameter, *score.get_parameters()], "score"),
    ]


def _find_features(model: openvino.Model) -> openvino.Output:
    """Return the output that contains the features; raise InputError unless there is exactly one."""
    # results are left out: they repeat the names of the outputs that they return
    operations = [operation for operation in model.get_ops() if operation.get_type_name() != "Result"]
    outputs = [output for operation in operations for output in operation.outputs()]
    features = [output for output in outputs if "features" in output.names]
    if len(features) != 1:
        raise InputError("its network has no features; export it anew")
    return features[0]


def _find_device(core: openvino.Core, name: str) -> str:
    """Return OpenVINO's name of a device; raise InputError if this machine does not have the device."""
    available = list(core.available_devices)
    device = "CPU" if name == "auto" else name.upper()
    if device in available or f"{device}.0" in available:
        return device
    names = ", ".join(["auto", *map(str.lower, available)])
    raise InputError(f"OpenVINO has no device {name} here: use one of {names}")


def _precision_hint(core: openvino.Core, device: str, precision: str) -> str:
    """Return OpenVINO's name of a precision; raise InputError where the device lacks the precision."""
    if precision not in PRECISION_HINTS:
        raise InputError(
            f"it is of precision {precision!s:.20}, and OpenVINO has {', '.join(PRECISION_HINTS)}"
        )
    if precision == "bf16" and "BF16" not in core.get_property(device, "OPTIMIZATION_CAPABILITIES"):
        raise InputError(f"it is of precision bf16, which this {device} lacks; export it in another one")
    return PRECISION_HINTS[precision]

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
# The arithmetic of the features, asked for by name: left to itself OpenVINO takes bf16 where the processor
# has it. A file of int8, as they were written once, says by itself where it is.
PRECISION_HINTS = {"fp32": "f32", "int8": "f32", "bf16": "bf16"}

# -------------------------------------------------------------------------------------------- OpenVINO itself

_import_lock = Lock()
_core_lock = Lock()
_core: openvino.Core | None = None


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Stop OpenVINO's packages, imported in this block, from sending data.

    Unless somebody opted out, `import openvino` reports to its makers and stores an identifier in the home
    folder. It works without its package for that: the block makes that package look missing.
    """
    name = "openvino_telemetry"
    with _import_lock:
        before = sys.modules.get(name)
        sys.modules[name] = None  # type: ignore[assignment]
        try:
            yield
        finally:
            sys.modules.pop(name, None)
            if before is not None:
                sys.modules[name] = before


def import_openvino() -> ModuleType:
    """Return the package openvino; raise InputError if it is not installed."""
    try:
        if "openvino" in sys.modules:  # imported by other code, telemetry or not
            import openvino
        else:
            with without_telemetry():
                import openvino
    except ImportError:
        raise missing_library_error("running a model in OpenVINO", "openvino", extras="openvino") from None
    found: ModuleType = openvino
    return found


def shared_core() -> openvino.Core:
    """Return OpenVINO's `Core`: a single object for the life of the process.

    Each `Core` loads a CPU plugin, which replaces this thread's stack for signal handlers, and restores the
    former stack when it is unloaded. Of two plugins that are not unloaded in reverse order, the second
    restores the first one's stack, which is gone: the next signal, such as Ctrl-C, ends the process with a
    segmentation fault (OpenVINO 2026.4).

    The core has run once before it is returned. When several threads run it for the first time together,
    they can deadlock: a thread holds Python's lock while it waits for the binding's first import of numpy,
    and the thread that does this import waits for Python's lock.

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
            except Exception as error:  # RuntimeError, or whatever its binding makes of one
                raise FlawscopeError(f"OpenVINO cannot run here: {one_line_message(error)}") from None
            _core = created
        return _core


def _run_once(core: openvino.Core) -> None:
    """Run a network with inputs and outputs of the two types that networks here have."""
    ov = import_openvino()
    parameters = [ov.opset13.parameter([1], kind) for kind in (ov.Type.f32, ov.Type.i64)]
    model = ov.Model([ov.opset13.result(parameter) for parameter in parameters], parameters)
    found = (
        core.compile_model(model, "CPU")
        .create_infer_request()
        .infer([np.zeros(1, np.float32), np.zeros(1, np.int64)])
    )
    for value in found.values():
        np.array(value)


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
        """Open an .onnx file, or its bytes; raise InputError where the device or its precision is missing.

        A network in bf16 is split: its features are computed in bf16, the rest in fp32.
        """
        device = _find_device(shared_core(), device)
        hint = _precision_hint(shared_core(), device, precision)
        # not converted: converting makes constants of tensors computed from the memory bank, too
        model = shared_core().read_model(network)
        inputs = {i.get_any_name(): (i.element_type.get_type_name(), _shape(i)) for i in model.inputs}
        results = [name for output in model.outputs if (name := output.get_any_name()) != RESIDUALS]
        options: dict[str, str | int | bool] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": hint,
        }
        apart, model = _take_residuals(model)
        on_cpu = device == "CPU"
        lanes = 1
        if on_cpu:
            # Pinned, two processes of one thread each would share the first core
            options["ENABLE_CPU_PINNING"] = False
            if threads is not None:
                options["INFERENCE_NUM_THREADS"] = threads
            # Two calls for each thread: while one waits, the thread computes the other
            count = threads or default_thread_count()
            lanes = 2 * count if count > 1 else 1
        parts = [model]
        if hint == "bf16" and len(results) > 1:  # of the features alone, as it was exported
            parts = _split_network(model)

        def compiled(**others: str | int | bool) -> Compute:
            """Compile the network's parts; all but the first compute in fp32."""
            chosen = options | others
            rest = chosen | {"INFERENCE_PRECISION_HINT": "f32"}
            made = [
                shared_core().compile_model(part, device, rest if k else chosen)
                for k, part in enumerate(parts)
            ]
            return partial(_run_parts, made, results)

        streams = {"NUM_STREAMS": lanes // 2, "INFERENCE_NUM_THREADS": lanes // 2}  # each thread has one
        alone = partial(compiled, **streams)
        if apart is None:
            return Graph(inputs, results, on_cpu, compiled(), lanes, alone)

        def compile_residuals() -> Compute:
            chosen = options | {"INFERENCE_PRECISION_HINT": PRECISION_HINTS["fp32"]}
            return partial(_run_parts, [shared_core().compile_model(apart, device, chosen)], [RESIDUALS])

        return Graph(inputs, results, on_cpu, compiled(), lanes, alone, compile_residuals)


def _take_residuals(model: openvino.Model) -> tuple[openvino.Model | None, openvino.Model]:
    """Divide the network into the part that computes `RESIDUALS`, None if it has none, and the rest."""
    ov = import_openvino()
    apart = [result for result in model.get_results() if RESIDUALS in result.input_value(0).names]
    if not apart:
        return None, model
    rest = [result for result in model.get_results() if result not in apart]
    inputs = model.get_parameters()
    return ov.Model(apart, inputs, "residuals").clone(), ov.Model(rest, inputs, "scores").clone()


def _shape(given: openvino.Output) -> list[int | None]:
    return [int(size.get_length()) if size.is_static else None for size in given.partial_shape]


def _run_parts(
    parts: Sequence[openvino.CompiledModel], names: Sequence[str], given: Mapping[str, Array]
) -> list[Array]:
    """Run a network's parts one after the other, and return the results of these names."""
    found = dict(given)
    for part in parts:  # a request of its own for each call: several threads may call at once
        inputs = {name: found[name] for i in part.inputs for name in i.names if name in STEP_INPUTS}
        results = part.create_infer_request().infer(inputs)
        found |= {name: value for output, value in results.items() for name in output.names}
    return [np.array(found[name], np.float32) for name in names]


def _split_network(model: openvino.Model) -> list[openvino.Model]:
    """Split the network into its two steps: images to features, and features to all other results.

    The second step gets the images too: OpenVINO reads the batch size from them.
    """
    ov = import_openvino()

    def features_of(model: openvino.Model) -> openvino.Output:
        made = [op for op in model.get_ops() if op.get_type_name() != "Result"]
        found = [output for op in made for output in op.outputs() if "features" in output.names]
        if len(found) != 1:
            raise InputError("its network has no features; export it anew")
        return found[0]

    embed = model.clone()
    score = model.clone()
    result = ov.opset13.result(features_of(embed))
    cut = features_of(score)
    given = ov.opset13.parameter(cut.partial_shape, cut.element_type)
    for target in cut.get_target_inputs():
        target.replace_source_output(given.output(0))
    cut.set_names(set())
    given.output(0).set_names({"features"})
    rest = [result for result in score.get_results() if result.input_value(0) != given.output(0)]
    return [
        ov.Model([result], embed.get_parameters(), "embed"),
        ov.Model(rest, [given, *score.get_parameters()], "score"),
    ]


def _find_device(core: openvino.Core, name: str) -> str:
    available = list(core.available_devices)
    wanted = "CPU" if name == "auto" else name.upper()
    if wanted in available or f"{wanted}.0" in available:
        return wanted
    names = ", ".join(["auto", *map(str.lower, available)])
    raise InputError(f"OpenVINO has no device {name} here: use one of {names}")


def _precision_hint(core: openvino.Core, device: str, precision: str) -> str:
    if precision not in PRECISION_HINTS:
        raise InputError(
            f"it is of precision {precision!s:.20}, and OpenVINO has {', '.join(PRECISION_HINTS)}"
        )
    if precision == "bf16" and "BF16" not in core.get_property(device, "OPTIMIZATION_CAPABILITIES"):
        raise InputError(f"it is of precision bf16, which this {device} lacks; export it in another one")
    return PRECISION_HINTS[precision]

"""Runs .onnx models in OpenVINO, which converts them when it reads them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawscope.artefact import files
from flawscope.artefact.model_file import Artefact
from flawscope.errors import FlawscopeError, InputError, needs, one_line
from flawscope.runtime.joint import Graph, JointExportedSession
from flawscope.runtime.session import ExportedSession

STEPS = ("images", "features", "positions")  # inputs of the network's two steps, embed and score
# The arithmetic of the features, asked for by name: left to itself OpenVINO takes bf16 where the processor
# has it. A network in int8, or with weights in fp16 (older files), says by itself where it is.
HINTS = {"fp32": "f32", "fp16": "f32", "int8": "f32", "bf16": "bf16"}

# -------------------------------------------------------------------------------------------- OpenVINO itself

_importing, _making = Lock(), Lock()
_core: Any = None


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Stops OpenVINO's packages, imported in this block, from sending data. Left to itself, `import openvino`
    already reports to a server of its makers and leaves a number for this person in the home folder, if
    nobody opted out. OpenVINO works without its package for that, so the block makes that package look
    missing."""
    name = "openvino_telemetry"
    with _importing:
        before = sys.modules.get(name)
        sys.modules[name] = None  # type: ignore[assignment]
        try:
            yield
        finally:
            sys.modules.pop(name, None)
            if before is not None:
                sys.modules[name] = before


def engine() -> Any:
    """The package openvino. InputError if it is not installed."""
    try:
        if "openvino" in sys.modules:  # somebody else's wish
            import openvino
        else:
            with without_telemetry():
                import openvino
    except ImportError:
        raise needs("running a model in OpenVINO", "openvino", extras="openvino") from None
    return openvino


def core() -> Any:
    """Returns OpenVINO's `Core`: one, for the life of the process.

    Each `Core` loads a CPU plugin, which replaces this thread's stack for signal handlers, and restores the
    former one when it is unloaded. Of two plugins that are not unloaded in reverse order, the second restores
    the first one's stack, which is gone: the next signal, such as Ctrl-C, ends the process with a
    segmentation fault (OpenVINO 2026.4).

    The core has run once before it is returned. When several threads run it for the first time together,
    they can deadlock: one holds Python's lock while it waits for the binding's first import of numpy, and the
    thread that does this import waits for Python's lock.
    """
    global _core
    with _making:
        if _core is None:
            made = engine().Core()
            try:
                _run_once(made)
            except Exception as error:  # RuntimeError, or whatever its binding makes of one
                raise FlawscopeError(f"OpenVINO cannot run here: {one_line(error)}") from None
            _core = made
        return _core


def _run_once(core: Any) -> None:
    """Runs a network with inputs and outputs of the two types that networks here have."""
    ov = engine()
    given = [ov.opset13.parameter([1], kind) for kind in (ov.Type.f32, ov.Type.i64)]
    model = ov.Model([ov.opset13.result(one) for one in given], given)
    found = (
        core.compile_model(model, "CPU")
        .create_infer_request()
        .infer([np.zeros(1, np.float32), np.zeros(1, np.int64)])
    )
    for value in found.values():
        np.array(value)


def read_network(model: str | os.PathLike[str] | bytes) -> Any:
    """Reads an .onnx file, or its bytes, as an `openvino.Model`. The network is not converted: converting
    makes constants of tensors computed from the memory bank, too. FlawscopeError if OpenVINO has no way to
    run it."""
    try:
        return core().read_model(model if isinstance(model, bytes) else os.fspath(model))
    except Exception as error:
        raise FlawscopeError(f"OpenVINO cannot convert this model: {one_line(error)}") from None


# ---------------------------------------------------------------------------------------------- the session


class OpenVinoSession(ExportedSession):
    """Session: images `[B, 3, H, W]` float32 to scores `[B]` and maps `[B, H, W]`, on a device of
    OpenVINO."""

    runtime, name = "openvino", "OpenVINO"

    def __init__(self, model: Any, device: str = "auto", threads: int | None = None, precision: str = "fp32"):
        """
        Args:
            model: an `openvino.Model` with any number of pictures a batch.
            device: auto (the CPU), cpu, gpu, npu.
            threads: of the CPU; None: as many as there are cores.
            precision: one of `HINTS`.
        """
        device = _device(core(), device)
        super().__init__(*_size(model), device == "CPU", threads)
        self._beside: list[Any] = []  # the same for `run_alone`; when it is asked
        self._compiling = Lock()
        try:
            self._compile = _compiler(model, device, threads, precision)
            self.parts = self._compile()
        except InputError:
            raise
        except Exception as error:  # RuntimeError, or whatever its binding makes of one
            raise InputError(f"OpenVINO cannot use this model: {one_line(error)}") from None

    @classmethod
    def open(
        cls,
        artefact: Artefact,
        path: str | os.PathLike[str],
        device: str = "auto",
        threads: int | None = None,
    ) -> OpenVinoSession:
        """The session of the artefact that was read from `path`."""
        core()  # whether it is here at all is no matter of this model
        try:
            session = cls(read_network(path), device, threads, artefact.manifest.calibration.precision)
        except FlawscopeError as error:
            raise files.refused(path, str(error)) from None
        return session.of_file(artefact, path)

    @property
    def lanes(self) -> int:
        """Two for each thread: while one call waits for the end of a picture, the thread has the next one."""
        return 2 * self.threads if self.on_cpu and self.threads > 1 else 1

    def _engine(self, alone: bool) -> list[Any]:
        if not alone or not self.on_cpu:
            return self.parts
        with self._compiling:
            if not self._beside:  # as many streams as threads: each has one
                count = {"NUM_STREAMS": self.threads, "INFERENCE_NUM_THREADS": self.threads}
                self._beside = self._compile(count)
        return self._beside

    def _computed(self, engine: Any, given: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        return _results(engine, given, ("scores", "maps"))


class JointOpenVinoSession(JointExportedSession):
    """Joint session on a device of OpenVINO."""

    runtime, name = OpenVinoSession.runtime, OpenVinoSession.name

    def _opened(self, network: bytes, precision: str) -> Graph:
        device, model = _device(core(), self.device), read_network(network)
        inputs, results = ([one.get_any_name() for one in end] for end in (model.inputs, model.outputs))
        parts = _compiler(model, device, self.threads, precision)()
        return Graph(inputs, results, device == "CPU", lambda given: _results(parts, given, results))


def _results(
    parts: Sequence[Any], given: Mapping[str, NDArray[Any]], names: Sequence[str]
) -> list[NDArray[Any]]:
    """Results of a network's parts, one after the other, by their names."""
    found = dict(given)
    for part in parts:  # a request of its own for each call: several threads may call at once
        inputs = {name: found[name] for i in part.inputs for name in i.names if name in STEPS}
        results = part.create_infer_request().infer(inputs)
        found |= {name: value for output, value in results.items() for name in output.names}
    return [np.array(found[name], np.float32) for name in names]


def _size(model: Any) -> tuple[tuple[int, int], bool]:
    """Height and width of the network's pictures, as declared, and whether it takes positions."""
    wrong = InputError("it has other inputs and outputs than it should; export it anew")
    try:
        given = {name: i for i in model.inputs for name in i.names}
        images, positions = given["images"], given.get("positions")
        others = len(model.inputs) - (1 if positions is None else 2)
        if others or (positions is not None and positions.element_type.get_type_name() != "i64"):
            raise wrong
        outputs = [name for output in model.outputs for name in ("scores", "maps") if name in output.names]
        shape = [int(d.get_length()) if d.is_static else None for d in images.partial_shape]
        right = "images" in images.names and images.element_type.get_type_name() == "f32"
    except Exception:
        raise wrong from None
    if not right or outputs != ["scores", "maps"] or len(model.outputs) != 2 or len(shape) != 4:
        raise wrong
    batch, channels, height, width = shape
    if batch is not None or channels != 3 or not height or not width:
        raise wrong
    return (height, width), positions is not None


def _compiler(model: Any, device: str, threads: int | None, precision: str) -> Callable[..., list[Any]]:
    """Function that compiles a network for a device: `_compiled` with other options yet to come."""
    hint = _hint(core(), device, precision)
    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
    if device == "CPU":
        # Pinned, two processes of one thread each would share the first core
        options["ENABLE_CPU_PINNING"] = False
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
    parts = _halves(model) if hint == "bf16" else [model]  # of the features alone, as it was exported
    return partial(_compiled, core(), parts, device, options)


def _compiled(
    core: Any, parts: list[Any], device: str, options: dict[str, Any], others: Mapping[str, Any] | None = None
) -> list[Any]:
    """Compiles the network's parts; all but the first compute in fp32."""
    chosen = options | dict(others or {})
    rest = chosen | {"INFERENCE_PRECISION_HINT": "f32"}
    return [core.compile_model(part, device, rest if k else chosen) for k, part in enumerate(parts)]


def _halves(model: Any) -> list[Any]:
    """Splits the network into its two steps: images to features, and features to all other results. The
    second is given the images too: OpenVINO reads the batch size from them."""
    ov = engine()

    def features_of(model: Any) -> Any:
        made = [op for op in model.get_ops() if op.get_type_name() != "Result"]
        found = [output for op in made for output in op.outputs() if "features" in output.names]
        if len(found) != 1:
            raise InputError("its network has no features; export it anew")
        return found[0]

    embed, score = model.clone(), model.clone()
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


def _device(core: Any, name: str) -> str:
    available = list(core.available_devices)
    wanted = "CPU" if name == "auto" else name.upper()
    if wanted in available or f"{wanted}.0" in available:
        return wanted
    names = ", ".join(["auto", *map(str.lower, available)])
    raise InputError(f"OpenVINO has no device {name} here: use one of {names}")


def _hint(core: Any, device: str, precision: str) -> str:
    if precision not in HINTS:
        raise InputError(f"it is of precision {precision!s:.20}, and OpenVINO has {', '.join(HINTS)}")
    if precision == "bf16" and "BF16" not in core.get_property(device, "OPTIMIZATION_CAPABILITIES"):
        raise InputError(f"it is of precision bf16, which this {device} lacks; export it in another one")
    return HINTS[precision]

"""Opens exported networks in ONNX Runtime, on the CPU or with CUDA."""

from __future__ import annotations

from functools import partial

import onnxruntime

from flawscope.errors import InputError
from flawscope.machine import default_thread_count
from flawscope.runtime.session import RESIDUALS, Compute, Engine, Graph

INPUT_TYPES = {"tensor(float)": "f32", "tensor(int64)": "i64"}


class OnnxRuntime(Engine):
    """ONNX Runtime. Its devices are auto (the CPU), cpu and cuda."""

    runtime = "onnxruntime"
    name = "ONNX Runtime"

    def open(
        self, network: str | bytes, device: str = "auto", threads: int | None = None, precision: str = "fp32"
    ) -> Graph:
        """Open an .onnx file, or its bytes, on the CPU or with CUDA; `precision` has no effect.

        Only a file on the CPU has lanes: each call on one core needs a second engine, opened from that file.
        """
        engine = _open_session(network, device, threads)
        inputs = {}
        for given in engine.get_inputs():
            sides = [side if isinstance(side, int) else None for side in given.shape]
            inputs[given.name] = INPUT_TYPES.get(given.type, ""), sides
        outputs = [output.name for output in engine.get_outputs()]
        results = [name for name in outputs if name != RESIDUALS]
        on_cpu = engine.get_providers()[0] == "CPUExecutionProvider"
        run = _run_for(engine, results, outputs)
        apart = (lambda: _run_for(engine, [RESIDUALS], outputs)) if RESIDUALS in outputs else None
        if not on_cpu or isinstance(network, bytes):
            return Graph(inputs, results, on_cpu, run, open_residuals=apart)
        # all calls of an engine share its threads and wait for each other's: a second engine, of one thread
        beside = lambda: _run_for(_open_session(network, "cpu", 1), results, outputs)  # noqa: E731
        return Graph(inputs, results, on_cpu, run, threads or default_thread_count(), beside, apart)


def _run_for(engine: onnxruntime.InferenceSession, wanted: list[str], outputs: list[str]) -> Compute:
    """Return a function that computes some of the outputs, and nothing that these do not need."""
    options = onnxruntime.RunOptions()
    options.only_execute_path_to_fetches = wanted != outputs
    return partial(engine.run, wanted, run_options=options)


def _open_session(model: str | bytes, device: str, threads: int | None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors come as exceptions; they need not be printed too
    if threads is not None:
        options.intra_op_num_threads = threads
    providers = _providers(device)
    if len(providers) > 1 and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # CUDA from beside torch, else as usual
    engine = onnxruntime.InferenceSession(model, options, providers=providers)
    if len(providers) > 1 and engine.get_providers() == ["CPUExecutionProvider"]:  # it does not report that
        raise InputError(
            "this ONNX Runtime cannot load CUDA: use --device cpu, or install the CUDA and cuDNN that its "
            "onnxruntime-gpu asks for"
        )
    return engine


def _providers(device: str) -> list[str | tuple[str, dict[str, str]]]:
    kind, _, number = device.partition(":")
    if kind in ("auto", "cpu") and not number:
        return ["CPUExecutionProvider"]
    if kind != "cuda" or (number and not number.isdigit()):
        raise InputError(f"ONNX Runtime has no device {device}: use auto, cpu or cuda")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise InputError("this ONNX Runtime has no CUDA: use --device cpu, or install onnxruntime-gpu")
    return [("CUDAExecutionProvider", {"device_id": number or "0", "use_tf32": "0"}), "CPUExecutionProvider"]

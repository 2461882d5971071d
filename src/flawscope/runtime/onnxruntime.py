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

        Only a network from a file, on the CPU, has more than one lane (`Graph.lanes`): calls on one core need
        a second session, which is opened from the file.
        """
        session = _open_session(network, device, threads)
        inputs = {}
        for model_input in session.get_inputs():
            sides = [side if isinstance(side, int) else None for side in model_input.shape]
            inputs[model_input.name] = INPUT_TYPES.get(model_input.type, ""), sides
        outputs = [output.name for output in session.get_outputs()]
        results = [name for name in outputs if name != RESIDUALS]
        on_cpu = session.get_providers()[0] == "CPUExecutionProvider"
        run = _compute_outputs(session, results, outputs)
        open_residuals = None
        if RESIDUALS in outputs:
            open_residuals = partial(_compute_outputs, session, [RESIDUALS], outputs)
        if not on_cpu or isinstance(network, bytes):
            return Graph(inputs, results, on_cpu, run, open_residuals=open_residuals)

        def open_alone() -> Compute:
            # a second session, of one thread: concurrent calls of the first session would wait for each other
            return _compute_outputs(_open_session(network, "cpu", 1), results, outputs)

        lanes = threads or default_thread_count()
        return Graph(
            inputs,
            results,
            on_cpu,
            run,
            lanes=lanes,
            open_alone=open_alone,
            open_residuals=open_residuals,
        )


def _compute_outputs(session: onnxruntime.InferenceSession, names: list[str], outputs: list[str]) -> Compute:
    """Return a function that computes some of a session's outputs, and runs only the needed operations.

    Args:
        session: The session.
        names: Names of the outputs to compute.
        outputs: Names of all outputs.
    """
    options = onnxruntime.RunOptions()
    options.only_execute_path_to_fetches = names != outputs
    return partial(session.run, names, run_options=options)


def _open_session(model: str | bytes, device: str, threads: int | None) -> onnxruntime.InferenceSession:
    """Open a network in ONNX Runtime; raise InputError where CUDA cannot be loaded."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors come as exceptions; they need not be printed too
    if threads is not None:
        options.intra_op_num_threads = threads
    providers = _providers(device)
    wants_cuda = len(providers) > 1
    if wants_cuda and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # loads torch's CUDA, if it is there
    session = onnxruntime.InferenceSession(model, options, providers=providers)
    # ONNX Runtime does not report that it falls back to the CPU
    if wants_cuda and session.get_providers() == ["CPUExecutionProvider"]:
        raise InputError(
            "this ONNX Runtime cannot load CUDA: use --device cpu, or install the CUDA and cuDNN that its "
            "onnxruntime-gpu asks for"
        )
    return session


def _providers(device: str) -> list[str | tuple[str, dict[str, str]]]:
    """Return ONNX Runtime's providers of a device; raise InputError where there is no such device."""
    kind, _, number = device.partition(":")
    if kind in ("auto", "cpu") and not number:
        return ["CPUExecutionProvider"]
    if kind != "cuda" or (number and not number.isdigit()):
        raise InputError(f"ONNX Runtime has no device {device}: use auto, cpu or cuda")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise InputError("this ONNX Runtime has no CUDA: use --device cpu, or install onnxruntime-gpu")
    return [("CUDAExecutionProvider", {"device_id": number or "0", "use_tf32": "0"}), "CPUExecutionProvider"]

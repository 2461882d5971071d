"""OpenVINO's own ways: how it computes, and what it does to the process."""

import subprocess
import sys

import pytest

import flawscope
from flawscope.errors import InputError
from flawscope.runtime import ExportedSession
from flawscope.runtime import openvino as runtime


def test_without_openvino_a_model_is_described_and_running_it_says_what_to_install(onnx_path, drawn):
    code = f"""
import sys
sys.modules["openvino"] = None  # as if it were not installed
from flawscope.cli import main
assert main(["info", {str(onnx_path)!r}]) == 0
picture = {str(drawn / "plate/test/good/000.png")!r}
assert main(["predict", {str(onnx_path)!r}, picture, "--engine", "openvino"]) == 2
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("flawscope: running a model in OpenVINO needs openvino: pip install ")
    assert done.stderr.count("\n") == 1


def test_after_models_were_closed_in_any_order_a_signal_is_heard(onnx_path, drawn):
    """With a plugin for each model, the second one to end would leave signals a stack that is gone."""
    part = drawn / "plate/test/good/000.png"
    code = f"""
import gc, signal, flawscope
for _ in range(3):
    first = flawscope.load({str(onnx_path)!r}, engine="openvino")
    second = flawscope.load({str(onnx_path)!r}, engine="openvino")
    first.predict({str(part)!r}), second.predict({str(part)!r})
    del first
    gc.collect()
    del second
    gc.collect()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("heard")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr


def test_threads_that_run_first_do_not_wait_for_each_other(onnx_path):
    """Without the run in `core` 19 of 20 such processes waited for ever."""
    code = f"""
import sys, threading
import numpy as np
import flawscope
model = flawscope.load({str(onnx_path)!r}, engine="openvino", threads=1)
images = np.zeros((1, 3, *model.session.size), np.float32)
sys.setswitchinterval(1e-6)
together = threading.Barrier(8)
def judge():
    together.wait()
    model.session.run(images)
threads = [threading.Thread(target=judge) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("judged")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "judged\n", done.stderr


class Processor:
    """A Core that has one device without bf16."""

    available_devices = ("CPU", "GPU.0")

    def get_property(self, device, name):
        return ["FP32", "INT8"]


def test_precisions_and_devices_are_named():
    for precision, hint in (("fp32", "f32"), ("fp16", "f32"), ("int8", "f32")):
        assert runtime._precision_hint(Processor(), "CPU", precision) == hint
    with pytest.raises(InputError, match="bf16, which this CPU lacks"):
        runtime._precision_hint(Processor(), "CPU", "bf16")
    with pytest.raises(InputError, match="fp32, fp16, int8, bf16"):
        runtime._precision_hint(Processor(), "CPU", "fp7")
    assert [runtime._find_device(Processor(), d) for d in ("auto", "cpu", "gpu", "gpu.0")] == [
        *("CPU", "CPU", "GPU", "GPU.0")
    ]
    for wrong in ("npu", "cuda", "mps", "cpu:1", ""):
        with pytest.raises(InputError, match=r"use one of auto, cpu, gpu\.0"):
            runtime._find_device(Processor(), wrong)


def test_it_computes_in_f32_although_the_processor_may_have_bf16(onnx_path):
    session = flawscope.load(onnx_path, engine="openvino", threads=1).session
    (compiled,) = session.graph.run.args[0]
    assert compiled.get_property("INFERENCE_PRECISION_HINT") == runtime.import_openvino().Type.f32
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1


def test_a_network_for_one_picture_at_a_time_is_refused(onnx_path):
    import onnx

    proto = onnx.load(onnx_path)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    with pytest.raises(InputError, match="other inputs and outputs"):
        ExportedSession(runtime.OpenVino(), proto.SerializeToString())

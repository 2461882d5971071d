"""OpenVINO's own ways: how it computes, and what it does to the process."""

import subprocess
import sys


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

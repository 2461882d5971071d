"""Exported files: damage, networks that mean harm behind right hashes, and metadata, with the onnx package as
the oracle."""

import json
import subprocess
import sys

import pytest

from flawscope.runtime import onnx_check
from flawscope.runtime import onnx_file as runtime
from onnx_networks import constant, node, used, weight

HUGE = [2**18, 2**17]  # of float32: 128 GiB
HUNGRY = {
    "constant": lambda: used("x", [constant("s", HUGE)], node("ConstantOfShape", ["s"], ["x"])),
    "pad": lambda: used("x", [constant("s", [0, 0, 0, 0, 2**19, 2**17])], node("Pad", ["mean", "s"], ["x"])),
    "more than numbers can count": lambda: used(
        "x", [constant("s", [2**32, 2**32])], node("ConstantOfShape", ["s"], ["x"])
    ),
    "less than nothing": lambda: used("x", [constant("s", [-5])], node("ConstantOfShape", ["s"], ["x"])),
    "a weight of 2^40": lambda: used("w", [weight(2**40)]),
    "twice as much 40 times": lambda: used(
        "x40", [], *[node("Concat", [f"x{k}", f"x{k}"], [f"x{k + 1}"], axis=0) for k in range(1, 40)],
        node("Identity", ["peak"], ["x1"]),
    ),
}  # fmt: skip


def test_a_network_that_wants_too_much_fails_in_one_line(onnx_path, tmp_path):
    """In a process that can get 3 GiB, where the machine would otherwise be short of memory."""
    artefact = runtime.read(onnx_path)
    for name, make in HUNGRY.items():
        network = make().SerializeToString()
        onnx_check.check(memoryview(network))  # nothing here that the check could know
        runtime.write(artefact, network, tmp_path / f"{name}.onnx")
    code = f"""
import json, resource
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30))
import numpy as np
import flawscope
for path in Path({str(tmp_path)!r}).glob("*.onnx"):
    try:
        said = repr(flawscope.load(path).predict(np.zeros((64, 64, 3), np.uint8)))
    except flawscope.FlawscopeError as error:
        said = str(error)
    print(json.dumps([path.stem, said]))
"""
    pytest.importorskip("resource", reason="Windows limits no memory: nothing to install")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = dict(json.loads(line) for line in done.stdout.splitlines())
    assert set(found) == set(HUNGRY)
    for name, said in found.items():
        assert said.startswith(("ONNX Runtime failed", "ONNX Runtime cannot use")), (name, said)
        assert "\n" not in said

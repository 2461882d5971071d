"""OpenVINO's own ways: how it computes, and what it does to the process."""

import pytest

import flawscope
from flawscope.errors import InputError
from flawscope.runtime import ExportedSession
from flawscope.runtime import openvino as runtime


class Processor:
    """A Core that has one device without bf16."""

    available_devices = ("CPU", "GPU.0")

    def get_property(self, device, name):
        return ["FP32", "INT8"]


def test_precisions_and_devices_are_named():
    for precision, hint in (("fp32", "f32"), ("int8", "f32")):
        assert runtime._precision_hint(Processor(), "CPU", precision) == hint
    with pytest.raises(InputError, match="bf16, which this CPU lacks"):
        runtime._precision_hint(Processor(), "CPU", "bf16")
    with pytest.raises(InputError, match="fp32, int8, bf16"):
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

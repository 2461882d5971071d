"""Exported routers: in every engine they answer, and recognise products, as before."""

import onnx
import pytest

from export_helpers import opened
from flawscope.cli import main
from flawscope.errors import FlawscopeError
from flawscope.export import onnx_graph
from flawscope.export.router_export import export_router


def test_one_product_in_another_precision_and_the_others_as_they_are(
    routers, bf16_in_name, two_products, tmp_path
):
    trained, out = routers / "line.safetensors", tmp_path / "line.zip"
    reduced = ["--precision", "bf16", "--product", "fabric", "--pictures", str(two_products)]
    assert main(["export", str(trained), "--out", str(out), *reduced]) == 0
    found = opened(out, "openvino")
    precisions = {name: one.calibration.precision for name, one in found.products.items()}
    assert precisions == {"fabric": "bf16", "plate": "fp32"}
    path = two_products / "plate/test/good/000.png"
    assert found.predict(path).score == pytest.approx(opened(trained).predict(path).score, rel=1e-4)


def test_a_network_that_recognises_otherwise_is_not_exported(routers, tmp_path, monkeypatch):
    traced = onnx_graph.trace_module

    def elsewhere(module, given, results, *others):
        proto = traced(module, given, results, *others)
        if results == ["descriptors"]:
            for node in proto.graph.node:
                node.output[:] = ["right" if name == "descriptors" else name for name in node.output]
            proto.graph.node.append(onnx.helper.make_node("Neg", ["right"], ["descriptors"]))
        return proto

    monkeypatch.setattr(onnx_graph, "trace_module", elsewhere)
    with pytest.raises(FlawscopeError, match="recognises products otherwise"):
        export_router(routers / "line.safetensors", tmp_path / "m.zip")
    assert not [*tmp_path.iterdir()]

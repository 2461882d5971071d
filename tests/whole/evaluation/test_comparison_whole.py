"""Two models on the same pictures, each of which sees one channel."""

import json

from flawscope.cli import main


def test_the_command_compares_a_model_with_its_export(model_path, onnx_path, drawn, capsys):
    call = ["compare", str(model_path), str(onnx_path), "--data", str(drawn), "--quiet"]
    assert main([*call, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    models = document["models"]
    assert (models["a"]["runtime"], models["b"]["runtime"]) == ("torch", "onnxruntime")
    assert document["changed"] == []
    assert all(abs(one["difference"]) < 1e-3 for one in document["metrics"].values())
    assert len(document["pictures"]) == document["images"]
    assert main(call) == 0
    out = capsys.readouterr().out
    assert "both decide alike on 11 pictures" in out
    assert "n/a" not in out
    assert any(line.startswith("image AUROC") and "+0.0000" in line for line in out.splitlines())

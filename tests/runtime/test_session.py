"""Engines: the same numbers from the same file, and one line where a file or a machine does not fit."""

import copy
import pickle

import numpy as np
import onnx
import pytest

import flawscope
from flawscope import predictor
from flawscope.errors import InputError
from flawscope.runtime import onnx_file
from flawscope.runtime.onnxruntime import OnnxRuntime
from flawscope.runtime.session import ExportedSession
from formats_helpers import path_fixture  # noqa: F401


@pytest.fixture
def session(engine, onnx_path):
    return flawscope.load(onnx_path, engine=engine, device="cpu").session


def pictures(count):
    return np.random.default_rng(0).random((count, 3, 64, 64), dtype=np.float32)


def test_numpy_in_and_out_as_with_torch(session, model_path):
    trained = flawscope.load(model_path, device="cpu").session
    for batch in (1, 3, 8):
        images = pictures(batch)
        scores, maps = session.run(images)
        assert (scores.shape, maps.shape) == ((batch,), (batch, *session.size))
        assert scores.dtype == maps.dtype == np.float32
        for found, expected in zip((scores, maps), trained.run(images), strict=True):
            assert expected.dtype == np.float32
            np.testing.assert_allclose(found, expected, rtol=1e-4)
        one = [session.run(image[None])[0][0] for image in images]
        np.testing.assert_allclose(scores, one, rtol=1e-5)  # whatever is beside it in the batch
    kept = scores.copy(), maps.copy()
    session.run(1 - images)
    np.testing.assert_array_equal(scores, kept[0])
    np.testing.assert_array_equal(maps, kept[1])


def test_manifest_samples_and_region_come_along(onnx_path, model_path):
    found, origin = (predictor.read_manifest(p).to_dict() for p in (onnx_path, model_path))
    assert "certificate" in found["facts"]
    for manifest in (found, origin):
        for name in ("certificate", "certificate_openvino"):
            manifest["facts"].pop(name, None)
        manifest.pop("versions")
    assert found == origin
    tensors, before = (flawscope.load(p, device="cpu").artefact.tensors for p in (onnx_path, model_path))
    assert set(tensors) == {"samples", "sample_maps", "roi"}
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, before[name], strict=True)


def test_a_file_that_changed_since_it_was_opened_is_not_saved_anew(onnx_path, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx_path.read_bytes())
    model = flawscope.load(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="it has changed since it was opened"):
        model.save(tmp_path / "other.onnx")
    assert not (tmp_path / "other.onnx").exists()


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_model_can_be_copied_and_pickled(again, path, drawn):
    model, picture = flawscope.load(path, device="cpu"), drawn / "plate/train/good/000.png"
    other = again(model)
    assert other.predict(picture).score == model.predict(picture).score
    assert other.manifest == model.manifest


def test_a_pickle_of_a_file_that_is_another_by_now_is_refused(onnx_path, tmp_path, refused):
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx_path.read_bytes())
    kept = pickle.dumps(flawscope.load(path))
    assert len(kept) < path.stat().st_size / 2  # of the network there is the place alone
    path.unlink()
    refused(lambda: pickle.loads(kept), str(path), "load it again")


def renamed(proto):
    for node in proto.graph.node:
        node.output[:] = ["masks" if name == "maps" else name for name in node.output]
    proto.graph.output[1].name = "masks"


def dimension(proto, number):
    return proto.graph.input[0].type.tensor_type.shape.dim[number]


NETWORKS = {
    "no graph": lambda proto: proto.ClearField("graph"),
    "nonsense": lambda proto: setattr(proto.graph.node[0], "op_type", "Nonsense"),
    "one channel": lambda proto: setattr(dimension(proto, 1), "dim_value", 1),
    "any size": lambda proto: setattr(dimension(proto, 2), "dim_param", "height"),
    "other outputs": renamed,
}


@pytest.mark.parametrize("what", NETWORKS)
def test_another_network_with_right_hashes_is_one_line(what, engine, onnx_path, tmp_path):
    proto, path = onnx.load(onnx_path), tmp_path / "bad.onnx"
    NETWORKS[what](proto)
    onnx_file.write(onnx_file.read(onnx_path), proto.SerializeToString(), path)
    with pytest.raises(InputError, match=str(path)) as error:
        flawscope.load(path, engine=engine)
    assert "\n" not in str(error.value)


class InTuples(OnnxRuntime):
    """ONNX Runtime, which says in tuples what it else says in lists."""

    def open(self, *given):
        graph = super().open(*given)
        inputs = {name: (kind, tuple(shape)) for name, (kind, shape) in graph.inputs.items()}
        return graph._replace(inputs=inputs, results=tuple(graph.results))


def test_results_and_shapes_are_the_same_in_lists_and_in_tuples(onnx_path):
    for engine in (OnnxRuntime(), InTuples()):
        for results in (["scores", "maps"], ("scores", "maps")):
            assert [*engine.open_checked(str(onnx_path), "it", results).results] == [*results]
        assert ExportedSession(engine, onnx_path).size == (64, 64)


@pytest.mark.parametrize("device", ["mps", "cuda:x", "cpu:1", "npu:x"])
def test_a_device_it_does_not_have(engine, onnx_path, device):
    with pytest.raises(InputError, match="no device"):
        flawscope.load(onnx_path, engine=engine, device=device)

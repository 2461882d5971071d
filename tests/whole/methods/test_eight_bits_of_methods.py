"""Exports in 8 bits of methods that hold pictures out: what they are calibrated on, and their ranges."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

import flawscope
from flawscope.datasets import list_pictures
from flawscope.export import eight_bits, onnx_graph
from flawscope.export.export import export
from flawscope.export.recalibrate import ExportPictures
from flawscope.runtime.torch import TorchSession


def test_an_export_is_calibrated_on_what_the_model_has_not_learnt(bf16_in_name, cases, tmp_path):
    """Of any reduced precision: here of one that reduces nothing."""
    out = tmp_path / "plate.onnx"
    case = cases("efficientad")
    model = case.fitted("strips")  # the contract's, which is traced once
    of = {p.name: p.role for p in model.manifest.pictures}
    learnt = [number for number, role in enumerate(of.values()) if role == "train"][:1]
    held = [number for number, role in enumerate(of.values()) if role == "calibration"][:2]
    pictures = [case.training_pictures("strips")[number] for number in (*learnt, *held)]
    pictures += case.prediction_pictures("strips")[:1]
    certificate = export(model.artefact, out, precision="bf16", pictures=pictures)
    assert certificate.passed
    exported = flawscope.load(out)
    assert exported.calibration.precision == "bf16"
    assert exported.calibration.count == 3  # two held out, one that is new
    score = exported.predict(pictures[-1]).score
    assert exported.calibration.scores[-1] == pytest.approx(score, rel=1e-3)


def test_eight_bits_do_not_end_where_good_pictures_do(cases, drawn, monkeypatch):
    """A logit that is cut off at the highest one of good pictures makes all defects alike. Here the logit is
    one channel of what the head is given, in which two pictures lie far apart, whatever 8 bits do to it."""

    # the model of the contract, traced once
    for name, value in (("ATTENTION_LAYERS", 1), ("PATCHES_PER_SIDE", (2, 4))):
        monkeypatch.setattr(f"flawscope.methods.training.prnet.network.{name}", value)
    artefact = cases("prnet").fitted("strips").artefact
    embed = onnx_graph.trace(TorchSession.open(artefact, "cpu").model)[0]
    head = [node for node in embed.graph.node if node.op_type == "Conv"][-1]

    def run(proto, image, output="features"):
        engine = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        return engine.run([output], {"images": image})[0]

    inside = onnx.ModelProto()
    inside.CopyFrom(embed)
    inside.graph.output.append(onnx.ValueInfoProto(name=head.input[0]))
    paths = [p for kind in ("good", "stain", "scratch") for p in list_pictures(drawn / f"plate/test/{kind}")]
    images = [artefact.manifest.preprocess(path)[0] for path in paths]
    images += [np.random.default_rng(0).random(images[0].shape, dtype=np.float32), 1 - images[0]]
    given = np.stack([run(inside, image, head.input[0])[0].max((1, 2)) for image in images])  # [N, C]
    tops = given.max(1)  # what 8 bits of each picture reach to
    away = np.minimum(given[None], tops[:, None, None]) - given[:, None]  # [ranged, beyond, C]
    ranged, beyond, channel = np.unravel_index(away.argmax(), away.shape)
    low, high = given[ranged, channel], given[ranged, channel] + away.max()
    step = tops[ranged] / 255  # of 8 bits; middle layers cut off some of it, too
    assert high - low > 60 * step

    tensors = {tensor.name: tensor for tensor in embed.graph.initializer}
    weights = np.zeros_like(numpy_helper.to_array(tensors[head.input[1]]))
    weights[:, channel, weights.shape[2] // 2, weights.shape[3] // 2] = 1
    tensors[head.input[1]].CopyFrom(numpy_helper.from_array(weights, head.input[1]))
    bias = np.zeros(len(weights), np.float32)
    tensors[head.input[2]].CopyFrom(numpy_helper.from_array(bias, head.input[2]))
    assert float(run(embed, images[ranged]).max()) == pytest.approx(low, rel=1e-5)
    found = run(eight_bits.quantize_embed(embed, [images[ranged]])[0], images[beyond])
    assert float(found.max()) > low + 20 * step


def test_ranges_know_defects_too(cases, drawn):
    artefact = cases("prnet").fitted().artefact
    paths = list_pictures(drawn / "plate/train/good")[:3]
    found = list(ExportPictures(artefact, paths).for_ranges())
    assert len(found) == 6
    for path, good, bad in zip(paths, found[::2], found[1::2], strict=True):
        np.testing.assert_array_equal(good, artefact.manifest.preprocess(path)[0])
        assert bad.shape == good.shape
        assert bad.dtype == good.dtype == np.float32
        changed = np.abs(bad - good).max(1) > 1 / 255
        assert 0 < changed.mean() < 0.9

"""The exported model answers as the trained one does, or there is none."""

import importlib.util
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tests.methods import tiny_transformers

import flawscope
from export_helpers import certificate_of, images_of, scores_of
from flawscope.artefact import certificate as certificates
from flawscope.artefact import model_file
from flawscope.artefact.certificate import BATCH_SIZES, certificates_from_facts
from flawscope.calibration.rows import scored
from flawscope.cli import main
from flawscope.datasets import list_pictures
from flawscope.errors import FlawscopeError, InputError
from flawscope.export import export as exporting
from flawscope.export import onnx_graph
from flawscope.export.export import export
from flawscope.methods.patchcore import model as views
from flawscope.methods.patchcore.model import Model
from flawscope.pictures.decoding import decode, pixel_hash
from flawscope.predictor import read_manifest
from flawscope.runtime import ExportedSession
from flawscope.runtime import onnx_file as runtime
from flawscope.runtime import torch as sessions

ROI = "0.1,0.2,0.8,0.9"
VARIANTS = {
    "two sizes, region of interest": {"size": "48+64", "roi": ROI},
    "a second backbone": {
        "size": "48+64",
        "second_backbone": tiny_transformers.NAMES[0],
        "second_stages": [2],
    },
    "padded, not square": {"size": "48x64", "keep_aspect": True, "score": "map"},
}
ENGINES = ("onnxruntime", "openvino")
TRAIN, UNSEEN = 12, 4  # pictures that the small model was fitted on, and good ones that it has not seen


def assert_parity(model, path, engine, count=15):
    """In batches of every size, and in one that nothing was compared in."""
    images, session = images_of(model, count), flawscope.load(path, engine=engine).session
    alone = [model.session.run(image[None]) for image in images]
    scores, maps = (np.concatenate(part) for part in zip(*alone, strict=True))
    for batch in (*BATCH_SIZES, 7, count):
        for start in range(0, count, batch):
            part = slice(start, start + batch)
            found, drawn = session.run(np.ascontiguousarray(images[part]))
            np.testing.assert_allclose(found, scores[part], rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(drawn, maps[part], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", VARIANTS)
def test_parity_of_other_models(name, drawn, small_backbone, tmp_path, monkeypatch):
    if "two" in name:
        monkeypatch.setattr(views, "MIN_BANK", 1)  # a screen before a memory bank this small
        small_backbone = {}  # whose distances are small beside the norms of its features
    settings = {**VARIANTS[name], **small_backbone}
    if second := settings.get("second_backbone"):
        settings["second_weights"] = str(tiny_transformers.weights(second, tmp_path))
    model = flawscope.fit(drawn, device="cpu", seed=0, **settings)
    monkeypatch.setattr(views, "BLOCK", 50)  # several blocks also of a small memory bank
    out = tmp_path / "model.onnx"
    export(model.artefact, out)
    for engine in ENGINES if importlib.util.find_spec("openvino") else ENGINES[:1]:
        assert certificate_of(out, engine).passed
        assert certificate_of(out, engine).score < 1e-4
        assert_parity(model, out, engine, 9)


def test_copies_and_what_cannot_be_read_do_not_count(bf16_in_name, model_path, train, unseen, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, source in (("a", train[3]), ("b", unseen[0]), ("c", train[3]), ("d", unseen[0])):
        shutil.copy(source, folder / f"{name}.png")
    (folder / "e.png").write_bytes(b"no picture")
    out = tmp_path / "m.onnx"
    export(model_path, out, precision="bf16", pictures=list_pictures(folder))
    hashes = [pixel_hash(decode(picture)) for picture in (train[3], unseen[0])]
    assert [row.hash for row in scored(read_manifest(out).pictures)] == hashes
    with pytest.raises(InputError, match="none of the pictures can be read"):
        export(model_path, tmp_path / "n.onnx", precision="bf16", pictures=[folder / "e.png"])


def of_other_pictures(path, unseen):
    """As it is after a calibration on others: those learnt from have no scores."""
    return flawscope.load(path).calibrate(unseen, force=True).artefact


def test_a_model_calibrated_on_others_needs_pictures_it_has_not_seen(
    bf16_in_name, model_path, train, unseen, tmp_path
):
    old, out = of_other_pictures(model_path, unseen), tmp_path / "m.onnx"
    with pytest.raises(InputError, match=r"none of the pictures can calibrate bf16.*has not seen") as error:
        export(old, out, precision="bf16", pictures=train)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
    cap = tmp_path / "cap.png"  # one black picture is a question of the model, which is written
    Image.fromarray(np.zeros((96, 96, 3), np.uint8)).save(cap)
    export(old, tmp_path / "asked.onnx", precision="bf16", pictures=[*unseen, cap])
    question, *_ = flawscope.load(tmp_path / "asked.onnx").questions
    assert "cap.png: shows nothing beside the others" in question
    export(old, out, precision="bf16", pictures=[*train, *unseen])
    model = flawscope.load(out)
    assert not model.questions
    assert (model.calibration.count, model.calibration.method) == (UNSEEN, "held out")
    np.testing.assert_allclose(model.calibration.scores, scores_of(model, unseen), rtol=1e-5)


def test_pictures_it_was_calibrated_on_anew_are_not_left_out(bf16_in_name, trained, unseen, tmp_path):
    """They were never in the memory bank: nothing is to be left out for them."""
    again, out = trained.calibrate(unseen, force=True), tmp_path / "m.onnx"
    export(again.artefact, out, precision="bf16", pictures=unseen)
    model = flawscope.load(out)
    np.testing.assert_allclose(model.calibration.scores, scores_of(model, unseen), rtol=1e-5)
    roles = [picture.role for picture in model.manifest.pictures]
    assert roles == ["train"] * TRAIN + ["calibration"] * UNSEEN


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_differs_too_much_leaves_no_file(
    bf16_in_name, precision, model_path, unseen, tmp_path, monkeypatch
):
    monkeypatch.setitem(certificates.TOLERANCE, precision, 0.0)
    pictures = unseen if precision != "fp32" else []
    out = tmp_path / "model.onnx"
    with pytest.raises(FlawscopeError, match="not the trained one, nothing written"):
        export(model_path, out, precision=precision, pictures=pictures)
    assert not list(tmp_path.iterdir())
    out.write_bytes(b"old")
    with pytest.raises(FlawscopeError, match="not the trained one"):
        export(model_path, out, precision=precision, pictures=pictures)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == {out: b"old"}


def test_a_network_that_cuts_defects_off_gets_no_certificate(
    bf16_in_name, model_path, train, tmp_path, monkeypatch
):
    """Good pictures score as they should: only defects tell."""
    import onnx

    threshold = np.float32(model_file.read(model_path).manifest.calibration.score_threshold)
    joined = onnx_graph.join_graphs

    def cut(*steps):
        proto = joined(*steps)
        for node in proto.graph.node:
            node.output[:] = ["uncut" if name == "scores" else name for name in node.output]
        proto.graph.initializer.append(onnx.numpy_helper.from_array(threshold, "most"))
        proto.graph.node.append(onnx.helper.make_node("Clip", ["uncut", "", "most"], ["scores"]))
        return proto

    monkeypatch.setattr(onnx_graph, "join_graphs", cut)
    with pytest.raises(FlawscopeError, match="scores of simulated defects by") as refused:
        export(model_path, tmp_path / "m.onnx", precision="bf16", pictures=train)
    assert float(str(refused.value).split("scores differ by at most ")[1].split(",")[0]) < 0.5
    assert not list(tmp_path.iterdir())


def test_an_export_computes_with_the_threads_that_it_is_told(model_path, tmp_path, monkeypatch, answer):
    before, opened = torch.get_num_threads(), []

    class Spied(ExportedSession):
        def __init__(self, engine, network, device, threads, precision):
            opened.append(threads)
            super().__init__(engine, network, device, threads, precision)

    monkeypatch.setattr(exporting, "ExportedSession", Spied)
    monkeypatch.setattr(sessions, "set_thread_count", opened.append)
    answer("export", model_path, "--out", tmp_path / "m.onnx", "--threads", "3", "--quiet")
    assert (set(opened), torch.get_num_threads()) == ({3}, before)


def test_ties_are_listed_and_not_counted(model_path, tmp_path, monkeypatch):
    """The second sample is one, and the engine chooses otherwise there."""
    run, asked = ExportedSession.run, []
    second = model_file.read(model_path).tensors["samples"][1].astype(np.float32) / 255.0

    def otherwise(self, images):
        scores, maps = run(self, images)
        return np.where([np.array_equal(i, second) for i in images], 2 * scores, scores), maps

    def ties(self, features, inside):
        asked.append(len(features))
        return torch.tensor([len(asked) % 3 == 2])

    monkeypatch.setattr(ExportedSession, "run", otherwise)
    with pytest.raises(FlawscopeError, match="not the trained one"):
        export(model_path, tmp_path / "m.onnx")
    monkeypatch.setattr(Model, "ties", ties)
    certificate = export(model_path, tmp_path / "m.onnx")
    assert asked == [1, 1, 1, 1, 1, 1]  # samples, and the same with defects
    assert certificate.passed
    assert (certificate.ties, certificate.pictures) == ((1,), 3)
    assert certificate_of(tmp_path / "m.onnx") == certificate


def test_without_samples_pictures_are_needed(bf16_in_name, model_path, drawn, tmp_path, capsys):
    artefact = model_file.read(model_path)
    bare = replace(
        artefact,
        manifest=replace(artefact.manifest, samples=()),
        tensors={k: v for k, v in artefact.tensors.items() if k not in ("samples", "sample_maps")},
    )
    path, out = tmp_path / "bare.safetensors", tmp_path / "bare.onnx"
    model_file.write(bare, path)
    assert main(["export", str(path), "--out", str(out)]) == 2
    assert "--pictures" in capsys.readouterr().err
    pictures = str(drawn / "plate/test/good")
    for precision, engine in (("fp32", "onnxruntime"), ("bf16", "openvino")):
        argv = ["export", str(path), "--out", str(out), "--pictures", pictures, "--precision", precision]
        assert main(argv) == 0
        said = capsys.readouterr().out
        assert said.startswith(engine)
        assert f", {precision}: " in said
        assert "4 pictures decided" in said
        assert set(runtime.read(out).tensors) == {"roi"}
        json.dumps(runtime.read_manifest(out).to_dict())


def test_export_and_info_in_a_reduced_precision(bf16_in_name, model_path, drawn, tmp_path, capsys):
    out = tmp_path / "m.onnx"
    argv = ["export", str(model_path), "--precision", "bf16", "--out", str(out)]
    assert main([*argv, "--pictures", str(drawn / "plate/train/good")]) == 0
    printed, said = capsys.readouterr()
    lines = [certificate.describe() for certificate in certificates_from_facts(read_manifest(out).facts)]
    assert printed.splitlines() == lines
    assert f"wrote {out}" in said
    assert {p.name for p in tmp_path.iterdir()} == {out.name}
    assert main(["info", str(out)]) == 0
    shown = [row for row in capsys.readouterr().out.splitlines() if row.startswith("exported")]
    assert [row.split(maxsplit=1)[1] for row in shown] == lines
    assert ", bf16: " in shown[0]
    assert shown[0].endswith(f"scores may differ by {certificates.TOLERANCE['bf16']:g}")

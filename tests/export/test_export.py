"""The exported model answers as the trained one does, or there is none."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import flawscope
from export_helpers import certificate_of, images_of, scores_of
from flawscope.artefact import model_file
from flawscope.artefact.certificate import BATCH_SIZES, certificates_from_facts
from flawscope.calibration.rows import scored
from flawscope.cli import main
from flawscope.errors import FlawscopeError, InputError, install_command
from flawscope.export import onnx_graph
from flawscope.export.export import export
from flawscope.export.recalibrate import _merge_rows
from flawscope.pictures.decoding import decode, pixel_hash
from flawscope.pictures.table import Picture
from flawscope.predictor import Predictor, read_manifest

ENGINES = ("onnxruntime", "openvino")
TRAIN, UNSEEN = 12, 4  # pictures that the small model was fitted on, and good ones that it has not seen


@pytest.fixture
def reduced(precision, exported):
    """The small model in each reduced precision, calibrated on `train` and `unseen`."""
    return exported(precision)


def test_nothing_of_this_machine_is_in_the_file(onnx_path, reduced):
    root = Path(flawscope.__file__).parents[2]
    for path in (onnx_path, reduced):
        for file in path.parent.iterdir():
            data = file.read_bytes()
            for origin in (root, path.parent.parent, Path.home(), "site-packages"):
                assert str(origin).encode() not in data, (file.name, origin)


def test_the_file_is_no_larger_than_the_model(exported, model_path):
    """The memory bank and the weights are in it once."""
    path = exported("fp32")
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert path.stat().st_size < 1.1 * model_path.stat().st_size


def test_a_reduced_precision_is_calibrated_anew(reduced, trained, train, unseen):
    model = flawscope.load(reduced)
    calibration, before = model.calibration, trained.calibration
    assert calibration.count == TRAIN + UNSEEN
    assert calibration.precision == certificate_of(reduced).precision != "fp32"
    assert calibration.runtime == model.session.runtime
    assert calibration.rate == before.rate
    assert calibration.method == before.method
    # the trained model leaves each out, too
    assert before.count == TRAIN
    np.testing.assert_allclose(calibration.scores[:TRAIN], before.scores, rtol=0.1)
    np.testing.assert_allclose(calibration.map_maxima[:TRAIN], before.map_maxima, rtol=0.1)
    assert np.median(calibration.scores[:TRAIN]) > np.median(scores_of(trained, train))
    # the others are simply scored, by this model
    np.testing.assert_allclose(calibration.scores[TRAIN:], scores_of(model, unseen), rtol=1e-5)
    np.testing.assert_allclose(calibration.scores[TRAIN:], scores_of(trained, unseen), rtol=0.1)
    assert calibration.scores != before.scores
    assert calibration.map_level == pytest.approx(before.map_level, rel=0.2)


def test_the_manifest_of_a_reduced_precision_says_so(reduced, trained, train, unseen):
    manifest = read_manifest(reduced)
    hashes = [pixel_hash(decode(picture)) for picture in (*train, *unseen)]
    assert [row.hash for row in scored(manifest.pictures)] == hashes
    roles = [picture.role for picture in manifest.pictures]
    assert roles == ["train"] * TRAIN + ["calibration"] * UNSEEN
    said = f"16 good pictures, {TRAIN} that it was fitted on and left out"
    assert any(said in note for note in manifest.notes)
    certificate = certificate_of(reduced)
    assert certificate.passed
    assert (certificate.pictures, certificate.batches) == (TRAIN + UNSEEN, BATCH_SIZES)
    assert certificate.precision == manifest.calibration.precision
    assert certificate.score_absolute > 0
    before = {**trained.manifest.to_dict(), "facts": 0}
    for name, value in manifest.to_dict().items():
        changed = ("calibration", "facts", "notes", "pictures", "samples", "versions")
        assert value == before[name] or name in changed


def test_a_reduced_precision_answers_alike_in_any_batch_and_on_another_machine(reduced, trained):
    model = flawscope.load(reduced)
    result = model.self_test()
    assert result.passed
    assert result.score < 1e-3  # it says what it said
    said = [sample["score"] for sample in model.manifest.samples]
    assert said != [sample["score"] for sample in trained.manifest.samples]
    images = images_of(trained, 9)
    scores = np.concatenate([model.session.run(image[None])[0] for image in images])
    for batch in (3, 8, 7):
        np.testing.assert_allclose(model.session.run(images[:batch])[0], scores[:batch], rtol=2e-2)
    np.testing.assert_allclose(scores, trained.session.run(images)[0], rtol=0.1)


def test_wrong_calls_are_one_line(model_path, onnx_path, tmp_path, capsys):
    for argv, reason in (
        ([str(onnx_path), "--out", "new.onnx"], "is an exported model: name the .safetensors file"),
        ([str(model_path), "--out", "new.pt"], "exported models are .onnx"),
        ([str(model_path), "--out", "new.safetensors"], "exported models are .onnx"),
        ([str(model_path), "--out", "new.bin"], "exported models are .onnx"),
        ([str(model_path), "--out", "new.xml"], "exported models are .onnx files: OpenVINO runs them too"),
        ([str(model_path), "--out", "no/new.onnx"], "there is no folder"),
        ([str(model_path), "--out", "new.onnx", "--pictures", "no"], "no"),
        ([str(tmp_path / "no.safetensors"), "--out", "new.onnx"], "there is no model"),
        (
            [str(model_path), "--out", "new.onnx", "--precision", "int8"],
            "int8 is gone: leave out --precision; PatchCore and a smaller",
        ),
        ([str(model_path), "--out", "new.onnx", "--precision", "bf16"], "bf16 is calibrated anew: give good"),
    ):
        argv[2] = str(tmp_path / argv[2])
        assert main(["export", *argv]) == 2, argv
        err = capsys.readouterr().err
        assert reason in err
        assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("engine", ENGINES)
def test_files_of_int8_still_open(engine, onnx_path, tmp_path):
    """They are no longer written."""
    model = flawscope.load(onnx_path, engine=engine)
    facts = {"certificate": {**model.manifest.facts["certificate"], "precision": "int8"}}
    calibration = replace(model.calibration, precision="int8")
    manifest = replace(model.manifest, calibration=calibration, facts={**model.manifest.facts, **facts})
    Predictor(replace(model.artefact, manifest=manifest), model.session).save(tmp_path / "int8.onnx")
    found = flawscope.load(tmp_path / "int8.onnx", engine=engine)
    assert found.self_test().passed
    assert found.calibration.precision == certificates_from_facts(found.manifest.facts)[0].precision == "int8"


def test_only_fp32_models_and_pictures_of_its_size_are_taken(model_path, tmp_path):
    artefact, out = model_file.read(model_path), tmp_path / "new.onnx"
    calibration = replace(artefact.manifest.calibration, precision="bf16")
    reduced = replace(artefact, manifest=replace(artefact.manifest, calibration=calibration))
    with pytest.raises(InputError, match="fit with --set precision=fp32"):
        export(reduced, out)
    tensors = {**artefact.tensors, "samples": np.zeros((1, 3, 8, 8), np.uint8)}
    with pytest.raises(InputError, match="size"):
        export(replace(artefact, tensors=tensors), out)
    with pytest.raises(InputError, match="no precision fp16: use one of fp32, bf16"):
        export(artefact, out, precision="fp16")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("precision", "absent", "extras"),
    [("fp32", "onnxscript", "export"), ("bf16", "openvino", "export,openvino")],
)
def test_a_package_that_is_missing_is_one_line(
    precision, absent, extras, model_path, tmp_path, capsys, monkeypatch
):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == absent else find(name, *rest)
    )
    argv = ["export", str(model_path), "--out", str(tmp_path / "m.onnx"), "--precision", precision]
    assert main(argv) == 2
    err = capsys.readouterr().err
    typed = install_command(absent, extras=extras)
    assert err == f"flawscope: export needs {absent}: {typed}\n"


def test_a_model_too_large_for_the_format_is_said_so(model_path, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_graph.onnx_file, "MAX_PROTOBUF_BYTES", 1000)
    with pytest.raises(InputError, match="file holds 2"):
        export(model_path, tmp_path / "new.onnx")


def test_what_the_exporter_cannot_do_is_one_line(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("step 3/3\nfailed") from ValueError("no such operator\nfor you")

    monkeypatch.setattr(onnx_graph.torch.onnx, "export", broken)
    with pytest.raises(FlawscopeError, match="no such operator for you") as error:
        onnx_graph.trace_module(onnx_graph.torch.nn.Identity(), {}, ["features"])
    assert "\n" not in str(error.value)


def test_an_operator_that_the_loader_refuses_is_found_before_anything_is_written(
    model_path, tmp_path, monkeypatch
):
    import onnx

    trace = onnx_graph.trace

    def with_another(model):
        embed, score = trace(model)
        square = onnx.numpy_helper.from_array(np.eye(2, dtype=np.float32), "square")
        score.graph.initializer.append(square)
        score.graph.node.append(onnx.helper.make_node("Det", ["square"], ["volume"]))
        return embed, score

    monkeypatch.setattr(onnx_graph, "trace", with_another)
    with pytest.raises(FlawscopeError, match="operator that is not allowed, 'Det'"):
        export(model_path, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("engine", ["torch", *ENGINES])
def test_self_test_fails_where_an_expectation_was_changed(engine, model_path, onnx_path):
    path = model_path if engine == "torch" else onnx_path
    model = flawscope.load(path, engine=None if engine == "torch" else engine, device="cpu")
    found = model.self_test()
    assert (found.passed, found.pictures, found.batches, found.runtime) == (True, 3, BATCH_SIZES, engine)
    for number, factor in ((0, 1.001), (2, 0.999)):
        samples = [dict(sample) for sample in model.manifest.samples]
        samples[number]["score"] *= factor
        manifest = replace(model.manifest, samples=tuple(samples))
        assert not Predictor(replace(model.artefact, manifest=manifest), model.session).self_test().passed


def test_a_certificate_that_is_none_is_said_so(onnx_path, tmp_path, capsys):
    model = flawscope.load(onnx_path)
    for wrong in ("passed", {}, {"precision": "fp7"}):
        facts = {**model.manifest.facts, "certificate": wrong}
        manifest = replace(model.manifest, facts=facts)
        Predictor(replace(model.artefact, manifest=manifest), model.session).save(tmp_path / "m.onnx")
        assert main(["info", str(tmp_path / "m.onnx")]) == 0
        assert "its certificate is damaged" in capsys.readouterr().out


def test_lost_pictures_that_are_not_given_do_not_count_beside_those_that_are():
    """A line's pictures stand in the place of the fit's: else the lost ones of both would count."""
    lost = [Picture(name, "calibration", name, k, counted=True) for k, name in enumerate(("a", "b"))]
    learnt = Picture("c", "train", "c", 2, 1.0, 1.0, 0.5, counted=True)
    new = Picture("d", "calibration", "d", 3, 1.2, 1.2, 0.5, counted=True)
    rows = _merge_rows((*lost, learnt), {0: new}, {"b", "d"})
    assert rows == (lost[1], learnt.forgotten(), new)

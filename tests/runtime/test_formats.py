"""Both kinds of model file do the same in every engine, and each is known by its suffix."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

import flawscope
from flawscope import predictor, runtime
from flawscope.cli import main
from flawscope.errors import InputError
from formats_helpers import engine_fixture, path_fixture  # noqa: F401

FIXTURES = {".safetensors": "model_path", ".onnx": "onnx_path"}


def test_a_rate_that_cannot_be_had_is_said_by_python_and_the_command(model_path, drawn, capsys):
    with pytest.warns(UserWarning, match=r"0\.1% cannot be promised"):
        flawscope.load(model_path, false_alarm_rate=0.001)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flawscope.load(model_path, false_alarm_rate=0.5)
        main(["predict", str(model_path), str(drawn), "--false-alarm-rate", "0.1%"])
    assert "0.1% cannot be promised" in capsys.readouterr().err


def test_an_engine_that_does_not_run_such_a_file_is_one_line(model_path, onnx_path, drawn, capsys):
    picture = str(drawn / "plate/test/good/000.png")
    assert main(["predict", str(model_path), picture, "--engine", "openvino"]) == 2
    err = capsys.readouterr().err
    assert f"cannot run model {model_path} with engine openvino: torch runs it; export it first" in err
    assert err.count("\n") == 1
    assert main(["predict", str(onnx_path), picture, "--engine", "tensorrt"]) == 2
    with pytest.raises(InputError, match="use one of onnxruntime, openvino"):
        flawscope.load(onnx_path, engine="torch")


def test_a_model_in_bf16_is_openvino_s(onnx_path):
    artefact = runtime.read_one(onnx_path)
    calibration = replace(artefact.manifest.calibration, precision="bf16")
    artefact = replace(artefact, manifest=replace(artefact.manifest, calibration=calibration))
    with pytest.raises(InputError, match="its bf16 is OpenVINO's alone"):
        runtime.open_session(artefact, onnx_path, "onnxruntime")
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flawscope.runtime.openvino._precision_hint", lambda *a: asked.append(a[2]) or "f32")
        assert runtime.open_session(artefact, onnx_path).runtime == "openvino"
    assert asked == ["bf16"]


def test_calibrate_writes_the_kind_it_was_given(path, drawn, tmp_path, capsys):
    argv = ["calibrate", str(path), "--good", str(drawn / "plate/test/good")]
    for suffix in {*FIXTURES, ".pt"} - {path.suffix}:
        assert main([*argv, "--out", str(tmp_path / f"new{suffix}")]) == 2
        assert f"should end in {path.suffix}" in capsys.readouterr().err
        with pytest.raises(InputError, match=rf"saved as \{path.suffix}; `flawscope export`"):
            flawscope.load(path, device="cpu").save(tmp_path / f"new{suffix}")
    assert not list(tmp_path.iterdir())


def test_the_suffix_may_be_in_capitals(path, tmp_path):
    (tmp_path / f"M{path.suffix.upper()}").symlink_to(path)
    assert predictor.read_manifest(tmp_path / f"M{path.suffix.upper()}") == predictor.read_manifest(path)


def test_another_suffix_is_one_line_with_the_kinds(model_path, tmp_path, capsys):
    wrong = tmp_path / "model.pt"
    with pytest.raises(InputError, match="there is no model"):
        flawscope.load(wrong)
    wrong.write_bytes(model_path.read_bytes())
    for read in (flawscope.load, predictor.read_manifest):
        with pytest.raises(InputError, match=r"\.safetensors or \.onnx files"):
            read(wrong)
    with pytest.raises(InputError, match="is a folder"):
        flawscope.load(tmp_path)
    assert main(["info", str(wrong)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_xml_file_of_an_older_version_is_one_line_with_the_remedy(tmp_path, capsys):
    old = tmp_path / "part.xml"
    with pytest.raises(InputError, match="there is no model"):
        flawscope.load(old)
    old.write_text("<net/>")
    for argv in (["info", str(old)], ["predict", str(old), str(old)]):
        assert main(argv) == 2
        err = capsys.readouterr().err
        assert err == (
            f"flawscope: cannot use model {old}: OpenVINO runs .onnx models now; "
            "export the .safetensors model as .onnx\n"
        )


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_that_make_no_sense_are_told_before_the_file_is_read(threads):
    with pytest.raises(InputError, match="1 or more"):
        flawscope.load("no.safetensors", threads=threads)


def test_the_engine_computes_with_so_many_threads(path, engine):
    import torch

    before = torch.get_num_threads()
    try:
        session = flawscope.load(path, engine=engine, device="cpu", threads=2).session
        count = {
            "torch": torch.get_num_threads,
            "onnxruntime": lambda: session.graph.run.func.__self__.get_session_options().intra_op_num_threads,
            "openvino": lambda: session.graph.run.args[0][0].get_property("INFERENCE_NUM_THREADS"),
        }[session.runtime]()
        assert count == 2 or (session.runtime == "openvino" and count == 1)  # it has no more than cores
        assert session.run(np.zeros((1, 3, *session.size), np.float32))[0].shape == (1,)
        if session.runtime != "torch":
            assert torch.get_num_threads() == before
    finally:
        torch.set_num_threads(before)


def test_a_file_that_was_replaced_is_not_opened_for_the_second_time(onnx_path, tmp_path):
    copy = tmp_path / "model.onnx"
    copy.write_bytes(onnx_path.read_bytes())
    session = flawscope.load(copy, threads=2).session
    copy.write_bytes(b"another model")
    picture = np.zeros((1, 3, *session.size), np.float32)
    for alone, together in zip(session.run_alone(picture), session.run(picture), strict=True):
        np.testing.assert_array_equal(alone, together)

"""Exports in a reduced precision of a method that holds pictures out: what they are calibrated on."""

import pytest

import flawscope
from flawscope.export.export import export


def test_an_export_is_calibrated_on_what_the_model_has_not_learnt(bf16_in_name, cases, tmp_path):
    """Of any reduced precision: here of one that reduces nothing."""
    out = tmp_path / "plate.onnx"
    case = cases("efficientad")
    model = case.fitted("padded")  # the contract's, which is traced once
    of = {p.name: p.role for p in model.manifest.pictures}
    learnt = [number for number, role in enumerate(of.values()) if role == "train"][:1]
    held = [number for number, role in enumerate(of.values()) if role == "calibration"][:2]
    pictures = [case.training_pictures("padded")[number] for number in (*learnt, *held)]
    pictures += case.prediction_pictures("padded")[:1]
    certificate = export(model.artefact, out, precision="bf16", pictures=pictures)
    assert certificate.passed
    exported = flawscope.load(out)
    assert exported.calibration.precision == "bf16"
    assert exported.calibration.count == 3  # two held out, one that is new
    score = exported.predict(pictures[-1]).score
    assert exported.calibration.scores[-1] == pytest.approx(score, rel=1e-3)

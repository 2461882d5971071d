"""A model with tiles in reduced precision: another detector, calibrated anew on whole pictures."""

import numpy as np
import pytest

import flawscope
from flawscope.artefact.certificate import Certificate
from flawscope.datasets import list_pictures

ROI = "0.4,0.2,0.95,0.9"
CLOSE = 0.1  # of a score


@pytest.fixture
def reduced(precision, tiled):
    """The small tiled model with a region of interest, calibrated on the pictures it was fitted on."""
    return tiled(".onnx", precision, roi=ROI)


def test_it_is_calibrated_anew_on_pictures(reduced, tiled, tiled_pictures):
    model, trained = flawscope.load(reduced), flawscope.load(tiled(roi=ROI), device="cpu")
    found, before = model.calibration, trained.calibration
    assert found.count == before.count == len(list_pictures(tiled_pictures / "train"))
    assert found.precision == reduced.parent.name.rsplit("-", 1)[1]
    np.testing.assert_allclose(found.scores, before.scores, rtol=CLOSE)
    np.testing.assert_allclose(found.map_maxima, before.map_maxima, rtol=CLOSE)
    assert found.map_level == pytest.approx(before.map_level, rel=0.1)
    assert model.manifest.fusion == trained.manifest.fusion
    assert model.manifest.preprocess == trained.manifest.preprocess
    np.testing.assert_array_equal(model.artefact.tensors["region"], trained.artefact.tensors["region"])
    certificate = Certificate.from_dict(model.manifest.facts["certificate"])
    assert certificate.passed
    assert certificate.pictures == found.count
    assert model.self_test().passed
    for kind in ("good", "odd"):
        for path in list_pictures(tiled_pictures / kind):
            one, other = model.predict(path), trained.predict(path)
            assert one.score == pytest.approx(other.score, rel=CLOSE)
            assert one.map.shape == other.map.shape

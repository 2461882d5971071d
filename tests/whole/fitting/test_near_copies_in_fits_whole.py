"""A fit finds pictures that show one part by itself, and counts parts."""

import numpy as np
import pytest
from PIL import Image

from flawscope.datasets.check import check
from flawscope.errors import InputError
from flawscope.fitting import joining
from flawscope.fitting.fitting import partial_fit
from flawscope.pictures.decoded import DecodedPictures
from flawscope.predictor.recalibration import recalibrate
from flawscope.predictor.recognition import KnownProduct
from flawscope.progress import ignore_progress
from near_copy_fits import SIDE, fitted, part

pytestmark = pytest.mark.copies


def test_near_copies_without_names_count_as_one_part():
    said = []
    made = fitted([part(k, view) for k in range(5) for view in range(3)], say=said.append)
    assert (made.calibration.count, made.calibration.unit_count) == (15, 5)
    assert made.calibration.expected_rate <= 1 / 6 + 1e-9
    assert "from 15 good pictures of 5 parts (leave-one-group-out)" in made.calibration.promise()
    assert any("near-duplicates: " in line and "Counted as 5 parts" in line for line in said)
    assert len({row.unit for row in made.manifest.pictures}) == 5


def test_parts_that_are_alike_stay_apart_and_both_readings_are_told():
    assert fitted([part(k) for k in range(12)]).calibration.unit_count == 12
    # whether alike parts or one part again, nobody can tell: both promises are given
    said = []
    assert fitted([part(0, view) for view in range(6)], say=said.append).calibration.unit_count == 6
    assert any(
        line.startswith("unsure: ") and "there is 1, and nothing can be promised" in line for line in said
    )
    rng = np.random.default_rng(0)
    grey = [np.clip(120 + rng.normal(0, 3, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8) for _ in range(6)]
    assert fitted(grey).calibration.unit_count == 6


@pytest.mark.parametrize(
    ("views", "group", "codes"),
    [
        ([(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (0, 5)], None, ["nearly-unsure"]),
        ([(k, view) for k in range(5) for view in range(2)], None, ["nearly-copy"] * 5),
        ([(k, view) for k in range(5) for view in range(2)], r"^\d", []),
    ],
)
def test_a_check_tells_in_one_line_what_a_fit_says(tmp_path, views, group, codes):
    for number, view in views:
        Image.fromarray(part(number, view)).save(tmp_path / f"{number}_{view}.png")
    said, report = [], check(tmp_path, group=group)
    fitted(str(tmp_path), group=group, say=said.append)
    assert [*report.remarks] == [line for line in said if "are nearly the same as others" in line]
    assert len(report.remarks) == len({*codes})
    assert [f"note: {line}" for line in report.remarks] == [
        line for line in report.finding_lines() if "same" in line
    ]
    assert [one.code for one in report.findings if one.code.startswith("nearly")] == codes
    (few,) = [one.message for one in report.findings if one.code == "few"]
    of = "" if codes == ["nearly-unsure"] else " of 5 parts"
    assert few.startswith(f"only {len(views)} pictures{of} to learn from: no false-alarm rate below 1")


def test_calibrating_goes_by_the_names_that_are_given():
    model = fitted([part(k) for k in range(8)], names=[f"p{k}" for k in range(8)], group=r"p\d+")
    new, names = [part(100 + k) for k in range(6)], [f"p{100 + k // 2}" for k in range(6)]
    decoded = DecodedPictures(new, model.manifest.preprocess.channels)
    made = recalibrate(model, decoded, names, ignore_progress, force=True)
    calibration = made.manifest.calibration
    assert (calibration.count, calibration.unit_count) == (6, 3)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_picture_of_nothing_is_refused_unless_told_otherwise(level):
    rng = np.random.default_rng(0)
    nothing = np.clip(level + rng.normal(0, 2, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
    images = [*(part(k) for k in range(8)), nothing]
    with pytest.raises(InputError, match=r"picture 8: shows nothing beside the others.*--force"):
        fitted(images)
    assert fitted(images, force=True).calibration.count == 9
    made = fitted(images[:-1])
    asked = made.calibrate([*(part(100 + k) for k in range(9)), nothing]).questions
    assert any("shows nothing beside the others" in line for line in asked)


def test_updates_and_calibrations_count_parts_and_fewer_are_refused():
    old = fitted([part(k) for k in range(6)])
    more = [part(50 + k, view) for k in range(2) for view in range(3)]
    new = partial_fit(old, more, device="cpu", check=False)
    assert (new.calibration.count, new.calibration.unit_count) == (12, 8)
    model = fitted([part(k) for k in range(8)])
    several = [part(100 + k, view) for k in range(3) for view in range(3)]
    asked = model.calibrate(several).questions
    assert any("9 good pictures of 3 parts can calibrate" in line for line in asked)
    assert model.calibrate(several, force=True).calibration.unit_count == 3


def test_near_copies_are_one_unit_where_products_are_recognised_too():
    """Else a copy is as near as a picture can be: new parts of the product lie farther than all of them."""
    shown = [part(k, view) for k in range(6) for view in range(2)]
    model = fitted(shown)
    network = joining.descriptor_model({"plate": model.artefact})
    known = joining.describe_product(network, model.artefact, shown, device="cpu").descriptors
    assert known.groups.tolist() == [row.unit for row in model.manifest.pictures]
    assert len({*known.groups.tolist()}) == 6
    distances = KnownProduct(known).distances
    near, far = distances(known.good, np.arange(12)), distances(known.good, known.groups)
    assert np.median(far) > 2 * np.median(near[near > 0])
    assert {*known.carriers.tolist()} <= {*known.groups.tolist()}

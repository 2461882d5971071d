"""What false-alarm rates mean for a model, from its scores alone."""

import re
from dataclasses import replace

import pytest

import flawscope
from flawscope.artefact.model_file import Manifest
from flawscope.artefact.rates import (
    OFFERED,
    check_rate,
    describe_rates,
    offered_rates,
    promise_facts,
    promise_of,
)
from flawscope.calibration.rows import calibrate
from flawscope.errors import InputError
from flawscope.pictures.table import Picture
from flawscope.views.preprocess import Preprocess


def test_each_rate_is_told_as_the_model_at_that_rate_tells_it(onnx_path):
    model = flawscope.load(onnx_path)
    rows = describe_rates(model.manifest)
    assert [row["rate"] for row in rows] == sorted({*OFFERED, 0.05}, reverse=True)
    for row in rows:
        moved = model.with_rate(row["rate"]).manifest
        assert row["threshold"] == moved.calibration.score_threshold
        assert row["expected"] == promise_of(moved).rate
        assert row["at_most"] == moved.calibration.rate_bound > row["expected"]  # of all rates at once
        sizes = moved.facts.get("simulated_defects", {}).get("sizes", {})
        counts = {size: [one["found"], one["defects"]] for size, one in sizes.items()}
        assert row["found"] == (counts if all(n >= 8 for _, n in counts.values()) else {})
        assert row["supported"] is (row["missing"] == 0) is (row["expected"] <= row["rate"] + 1e-9)


@pytest.fixture
def calibrated(onnx_path):
    """`calibrated(count)`: a model that was calibrated on so many good pictures."""

    def made(count, **more):
        model, values = flawscope.load(onnx_path), tuple(map(float, range(count)))
        known = replace(model.calibration, scores=values, map_maxima=values, **more)
        return model.with_calibration(known)

    return made


@pytest.mark.parametrize("count", [1, 9, 12, 19, 60])
def test_a_model_at_a_rate_keeps_it_or_is_refused(calibrated, count):
    """The lowest rate of n good pictures is 1 / (n + 1)."""
    model, lowest = calibrated(count), 1 / (count + 1)
    assert promise_of(model.with_rate(lowest + 1e-12).manifest).rate <= lowest + 1e-9
    with pytest.raises(InputError, match=f"calibrated on {count} good ones"):
        check_rate(model.manifest, 0.99 * lowest)
    supported = {row["rate"]: row["supported"] for row in describe_rates(model.manifest)}
    for rate, needed in offered_rates():
        assert (needed <= count) is supported[rate]


@pytest.mark.parametrize("count", [2, 5, 11, 12, 13, 60, 1234])
def test_the_rate_that_is_advised_can_be_chosen(calibrated, count):
    """Also where it is written with two digits: 8.4 % of 11 good pictures, not 8.3 %."""
    model = calibrated(count)
    with pytest.raises(InputError) as refused:
        check_rate(model.manifest, 1e-4)
    found = re.search(r"support (\S+) % or more", str(refused.value))
    check_rate(model.manifest, float(found[1]) / 100)
    assert float(found[1]) / 100 <= 1.1 / (count + 1)


def test_pictures_of_one_part_count_as_one(calibrated):
    model = calibrated(12, units=tuple(k // 3 for k in range(12)))
    assert promise_of(model.manifest).calibrated == 4
    with pytest.raises(InputError, match="calibrated on 4 good ones, which support 20 % or more"):
        check_rate(model.manifest, 0.05)


def test_a_model_that_promises_nothing_has_no_rate_to_change(calibrated):
    silent = calibrated(12, promised=False)
    assert not any(row["supported"] for row in describe_rates(silent.manifest))
    with pytest.raises(InputError, match="promises no false-alarm rate"):
        check_rate(silent.manifest, 0.2)


def test_more_pictures_are_asked_for_where_they_would_help(calibrated):
    """Pictures of which the parts were counted wrong lie above every threshold, whatever is added."""
    with pytest.raises(InputError, match="choose that, or learn from 88 more good pictures"):
        check_rate(calibrated(11).manifest, 0.01)
    wrong = calibrated(30, miscounted=2)
    with pytest.raises(InputError, match=r"choose that$"):
        check_rate(wrong.manifest, 0.05)


@pytest.mark.parametrize(
    ("units", "said"),
    [
        (range(24), (True, 24, 0, False)),
        ([k // 3 for k in range(24)], (True, 8, 11, True)),  # near-copies share a unit: other parts help
        ([0] * 24, (False, 24, 0, True)),  # one part alone
    ],
)
def test_what_pages_show_counts_parts_where_pictures_share_them(units, said):
    rows = [Picture(f"{k}.png", "train", f"{k}", unit, k, k, 8.0, True) for k, unit in enumerate(units)]
    calibration = calibrate(rows, 0.05, promised=len(set(units)) > 1)
    facts = promise_facts(Manifest("patchcore", {}, Preprocess(), calibration, pictures=tuple(rows)))
    assert (facts["promised"], facts["calibrated"], facts["missing"], facts["of_parts"]) == said

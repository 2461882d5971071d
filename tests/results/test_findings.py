"""Findings: what they do to the decision, and that whatever shows remarks shows them."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from flawscope.cli.output import prediction_line
from flawscope.pages.report.pages import predictions_page
from flawscope.pages.templates import LANGUAGES, PAGES
from flawscope.results.findings import (
    MIN_ANOMALOUS_SEVERITY,
    REASONS,
    Finding,
    describe_reasons,
    no_product,
    outside_light,
)
from flawscope.results.folder import RenderedPrediction
from flawscope.results.found_parts import FoundPart, FoundParts, PartSearch
from flawscope.results.prediction import Prediction, Recognition, ScoreLevels
from flawscope.results.table import PART_COLUMNS, ResultRow
from flawscope.views.frames import PartPose
from flawscope.views.geometry import Geometry

DUSTY = Finding("dusty", "<dust> on the lens", 0.02, decides=True)  # no module has heard of it
POSE = PartPose(40.0, 30.0, 12.0, 1.0, False, 20.0, 0.4)


def prediction():
    geometry = Geometry((64, 64), (8, 8), (0.125, 0.125), (0.0, 0.0))
    levels = ScoreLevels(5.0, 5.0, (0.0, 9.0))
    return Prediction(1.0, 0.4, -2.0, False, np.zeros((8, 8), np.float32), geometry, levels, "a.png")


def several(wrong=""):
    parts = tuple(FoundPart(k, 1.0, 0.4, -2.0, k == 2, 0.7, POSE) for k in (1, 2))
    return FoundParts(parts, 2, 2, wrong=wrong)


def test_a_finding_that_decides_makes_the_picture_anomalous_and_another_one_changes_nothing():
    good = prediction()
    told = good.noticing(outside_light())
    assert (told.p_value, told.severity, told.is_anomalous) == (0.4, -2.0, False)
    bad = told.noticing(DUSTY)
    assert (bad.p_value, bad.severity, bad.is_anomalous) == (0.02, MIN_ANOMALOUS_SEVERITY, True)
    assert bad.remark == "light outside the range; <dust> on the lens"
    worse = replace(good, p_value=0.001, severity=3.0).noticing(DUSTY)
    assert (worse.p_value, worse.severity) == (0.001, 3.0)
    assert good.noticing(no_product("none of these", 0.01)).p_value == 0.4  # a p-value of another question


def test_a_new_finding_is_shown_by_all_that_show_remarks():
    found = prediction().noticing(DUSTY)
    assert prediction_line(found).endswith("a.png  (<dust> on the lens)")
    assert json.loads(json.dumps(found.to_dict()))["findings"] == [
        {"code": "dusty", "words": "<dust> on the lens", "p_value": 0.02, "decides": True, "reasons": []}
    ]
    row = ResultRow.from_result(found)
    assert (row.decision, row.p_value, row.severity) == ("anomalous", 0.02, MIN_ANOMALOUS_SEVERITY)
    assert "<b>&lt;dust&gt; on the lens</b>" in found._repr_html_()
    page = predictions_page([row], [found], {"expected_rate": 0.05})
    assert [word in page for word in ("Noticed", "on the lens", "<dust>")] == [True, True, False]
    picture = np.full((64, 64, 3), 90, np.uint8)
    plain, noted = (RenderedPrediction(picture, *one.over(picture), one) for one in (prediction(), found))
    assert (plain.overlay != noted.overlay).any()


# Entries of the tables and documents, as they were when each remark was a field
ROWS = [
    ({}, "", {}),
    (
        {"parts": PartSearch(0.7, POSE)},
        "true 0.7 40.0 30.0 12.0 1.0 false 0.4 None None",
        {"part_found": True, "part_p_value": 0.7, "part_pose": POSE.to_dict()},
    ),
    (
        {"parts": PartSearch(0.1)},
        "false 0.1 None None None None  None None None",
        {"part_found": False, "part_p_value": 0.1, "part_pose": None},
    ),
    (
        {"parts": PartSearch(1.0, several=several())},
        "true 1.0 None None None None  None None 2",
        {"part_found": True, "part_p_value": 1.0, "found_parts": several().to_dict()},
    ),
    (
        {"parts": PartSearch(0.1, several=several("1 missing"))},
        "true 0.1 None None None None  None None 2",
        {"part_found": True, "part_p_value": 0.1, "found_parts": several("1 missing").to_dict()},
    ),
    ({"outside_light": False}, "", {"outside_light": False}),
    ({"outside_light": True}, "", {"outside_light": True}),
    ({"recognition": Recognition("a", "a", 0.3, (0.1, 0.5))}, "", {"product": "a", "product_p_value": 0.3}),
    ({"recognition": Recognition("a", "a", 1.0)}, "", {"product": "a", "product_p_value": None}),
    ({"recognition": Recognition(None, "a", 0.3, (0.4, 0.5))}, "", {"product": None, "product_p_value": 0.3}),
]
OPTIONAL = {"part_found", "part_p_value", "part_pose", "found_parts", "outside_light"}
OPTIONAL |= {"product", "product_p_value", "findings"}


@pytest.mark.parametrize(("answers", "columns", "entries"), ROWS)
def test_rows_and_documents_have_the_names_and_values_that_they_had(answers, columns, entries):
    found = replace(prediction(), **answers)
    row = ResultRow.from_result(found)
    if columns:
        assert " ".join(str(getattr(row, name)) for name in PART_COLUMNS) == columns
    else:
        assert {getattr(row, name) for name in PART_COLUMNS} == {"", None}
    document = found.to_dict()
    assert {key: document[key] for key in document if key in OPTIONAL} == entries
    said = entries.get("product", "") if "product" in entries else ""
    assert row.product == ("none of these" if said is None else said)
    assert row.product_p_value == entries.get("product_p_value")


def test_parts_counted_wrong_decide():
    (wrong,) = PartSearch(0.1, several=several("1 missing")).findings()
    assert (wrong.code, wrong.words, wrong.p_value, wrong.decides) == ("count_wrong", "1 missing", 0.1, True)
    (named,) = PartSearch(1.0, several=several()).findings()
    assert (named.words, named.decides) == ("part 2 of 2", False)
    assert PartSearch(0.7, POSE).findings() == ()
    assert [finding.words for finding in PartSearch(0.1).findings()] == ["part not found"]


def test_pages_say_reasons_as_the_words_do_and_in_each_language():
    texts = {name: PAGES.texts[name].flat for name in LANGUAGES}
    assert {code: texts["en"].get(f"common.reason_{code}") for code in REASONS} == REASONS
    reason = {"code": "length", "kind": None, "size": 1.23456, "relation": ">", "most": 12345}
    assert describe_reasons([reason]) == "region length 1.235 mm > 12345 mm"
    told = {name: PAGES.texts[name].reason(reason) for name in LANGUAGES}
    assert told["en"] == describe_reasons([reason])
    assert told["de"] == "Bereich: Länge 1,235 mm > 12345 mm"
    for code, text in REASONS.items():
        values = set(re.findall(r"\{(\w+)\}", text))
        for name in LANGUAGES:
            assert set(re.findall(r"\{(\w+)\}", texts[name][f"common.reason_{code}"])) == values, (name, code)

"""Challenge parts: until they have passed nothing is answered, whoever asks, also after a kill."""

import json
from datetime import UTC, datetime, time
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from PIL import Image

from challenge_helpers import HOUR, Line, settings_with
from flawscope_station.challenge.readiness import LEAST
from flawscope_station.challenge.resemblance import lies_alike, relative_boxes, resemblance
from flawscope_station.settings.shifts import moments
from flawscope_station.store.database import now
from flawscope_station.web.challenge_api import CHART_HEIGHT, CHART_WIDTH, score_chart
from station_helpers import again


def test_times_that_clocks_skip_or_repeat_come_once():
    berlin, half_past_two = ZoneInfo("Europe/Berlin"), time(2, 30)
    for first in (datetime(2026, 3, 28, tzinfo=UTC), datetime(2026, 10, 24, tzinfo=UTC)):
        at = round(first.timestamp() * 1e6)
        days = [moment for moment, _ in moments([half_past_two], berlin, at, range(3))]
        assert [(moment - at) // (24 * HOUR) for moment in days] == [0, 1, 2]
    assert not [*moments([], berlin, now(), range(3))]


def test_scores_are_drawn_between_the_lowest_and_the_highest():
    results = [{"score": score, "score_threshold": 4.0} for score in (1.0, 2.0, 5.0)]
    chart = score_chart(results)
    assert chart["scores"] == f"0.0,{CHART_HEIGHT:.1f} {CHART_WIDTH / 2:.1f},54.0 {CHART_WIDTH:.1f},0.0"
    assert {point.split(",")[1] for point in chart["thresholds"].split()} == {"18.0"}
    assert score_chart(results[:1]) is None
    assert score_chart([{"score": 4.0, "score_threshold": 4.0}] * 2) is not None, "a flat line"


def test_resemblance_is_that_of_moved_pictures():
    rng = np.random.default_rng(1)
    picture = np.asarray(
        Image.fromarray(rng.integers(0, 255, (12, 12, 3), np.uint8)).resize((256, 256)), np.uint8
    )
    moved = np.roll(picture, (16, -24), (0, 1))
    assert resemblance(picture, picture) == pytest.approx(1.0, abs=1e-6)
    assert resemblance(moved, picture) > 0.9
    assert resemblance(picture, moved) > 0.9
    assert resemblance(255 - picture, picture) < LEAST
    assert resemblance(np.full_like(picture, 7), picture) == pytest.approx(0.0, abs=1e-6), "nothing is seen"


def test_a_defect_lies_where_it_lay():
    regions = [{"box": [10, 20, 20, 40], "peak": 2.0}, {"box": [80, 160, 90, 180], "peak": 5.0}]
    boxes = relative_boxes(regions, 100, 200)
    assert boxes == [(0.8, 0.8, 0.9, 0.9), (0.1, 0.1, 0.2, 0.2)]
    assert lies_alike([(0.95, 0.75, 0.99, 0.8)], boxes)
    assert not lies_alike([(0.1, 0.1, 0.2, 0.2)], boxes)
    assert lies_alike([], [])
    assert json.loads(json.dumps(boxes)) == [list(box) for box in boxes]


def test_a_part_whose_picture_is_to_come_is_so_after_a_restart_and_can_be_removed(
    settings, open_station, judged
):
    """Nothing of it is in memory alone."""
    line = Line(open_station(**settings_with(settings)), judged)
    for name in ("g-1", "g-2"):
        line.client.post("/challenge/parts", json={"name": name, "expected": "good"}).raise_for_status()
    line.close()
    line = Line(open_station(**settings_with(settings)), judged)
    (gone,) = [one["id"] for one in line.state()["parts"] if one["name"] == "g-2"]
    line.client.delete(f"/challenge/parts/{gone}").raise_for_status()
    assert line.send(again(judged[0]), "g-2").json()["code"] == "not_ready"
    assert line.show("g-1") == "the challenge part g-1 is kept, and was judged as good"
    assert [(one["name"], one["views"]) for one in line.state()["parts"]] == [("g-1", [""])]

"""Pictures that are dark, white, the same again, of another form than learnt from; a camera whose binning or
region was changed."""

from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from flawscope.results.findings import Finding
from flawscope_station.drift import camera_checks
from flawscope_station.drift.camera_checks import MANY, OTHER_FORM, CameraChecks
from flawscope_station.inspecting.interlock import FrozenError
from flawscope_station.inspecting.ticket import RecordedInspection
from flawscope_station.sources.frames import pixel_hash
from frozen_ways import WAYS, shown
from station_helpers import ManualClock, one_part, recorded, taken, taken_part, taken_view

REMEMBERED = camera_checks.RECENT_PICTURES  # before the tests' stations forget them
WORDS = "the same picture comes again and again: start the camera or its program anew"
OTHER = (Finding(OTHER_FORM, "100 x 900 pixels instead of 512 x 512"),)


class Problems(dict[str, str]):
    def report(self, code: str, why: str | None, stops: bool = False) -> None:
        self.pop(code, None)
        if why:
            self[code] = why


def observe(check: CameraChecks, **given: Any) -> None:
    check.observe(RecordedInspection(1, taken(1, 1, **given), True))


@pytest.fixture
def problems():
    return Problems()


@pytest.fixture
def check(problems):
    return CameraChecks({1: "plate"}, problems.report)


@pytest.mark.parametrize(("brightness", "kind"), [(0.01, "dark"), (0.99, "overexposed")])
def test_five_pictures_that_show_nothing_are_a_problem_until_five_are_as_usual(
    check, problems, brightness, kind
):
    for k in range(40):
        observe(check, brightness=0.4 if k % 5 == 4 else brightness)
    assert problems == {}
    for _ in range(5):
        observe(check, brightness=brightness)
    assert list(problems) == [f"camera_{kind}_1"]
    assert check.facts(1) == {"watched": True, "problems": [kind]}
    for one in (0.4, 0.4, brightness, 0.4, 0.4, 0.4, 0.4):
        observe(check, brightness=one)
        assert check.facts(1)["problems"] == [kind]
    observe(check, brightness=0.4)
    assert (problems, check.facts(1)["problems"]) == ({}, [])


def test_what_good_parts_look_like_is_no_fault(check, problems):
    """Parts on black ground, and pictures whose brightness nobody knows."""
    seen: Any = SimpleNamespace(shifts=(0.0, 0.3))
    for _ in range(9):
        check.observe(RecordedInspection(1, taken(1, 1, brightness=0.001), True, (seen,)))
        observe(check)
    assert problems == {}
    seen.shifts = (-0.1, 0.0)
    for _ in range(5):
        check.observe(RecordedInspection(1, taken(1, 1, brightness=0.001), True, (seen,)))
    assert list(problems) == ["camera_dark_1"]


@pytest.fixture
def remembering(monkeypatch):
    monkeypatch.setattr(camera_checks, "RECENT_PICTURES", REMEMBERED)


def show(check: CameraChecks, pixels: str, key: str | None = None, **given: Any) -> bool:
    """Whether a picture is answered."""
    part = one_part(1, b"", "a.png", source=given.get("source", "http"), key=key)
    with suppress(FrozenError):
        check.release(part, taken(1, 1, **{"part": None, "view": None, **given, "pixels": pixels}))
        return True
    return False


def test_no_part_is_answered_by_the_pixels_of_another_until_there_are_new_ones(check, problems, remembering):
    assert show(check, "a")
    assert [show(check, "a", **one) for one in ({}, {"part": "P2"}, {"key": "k2"})] == [False] * 3
    assert problems == {"camera_frozen_1": f"plate: {WORDS}"}
    assert show(check, "b")
    assert (problems, show(check, "a"), problems) == ({}, False, {}), "whoever held it back sends it again"
    assert show(check, "a", view="top"), "views are apart"
    assert all(show(check, "c", source="camera") for _ in range(9)), "it knows its frames itself"


def test_a_picture_may_be_sent_again_of_its_part_or_under_its_key(problems, remembering):
    """Where an answer was lost: under its key at any time, under its number and batch for a minute."""
    clock = ManualClock()
    check = CameraChecks({1: "plate"}, problems.report, clock)
    assert show(check, "a", part="P1", batch="B1")
    assert show(check, "b", key="k1")
    for pixels, part in (("a", "P1"), ("b", None)):
        observe(check, pixels=pixels, part=part)
    for _ in range(9):
        assert show(check, "a", part="P1", batch="B1", key="k7")
        assert show(check, "b", key="k1", part="P9")
    assert problems == {}
    clock.advance(61)
    assert show(check, "b", key="k1")
    assert not show(check, "a", part="P1", batch="B1", key="k8")


def test_a_number_of_another_batch_names_another_part(check, problems, remembering):
    assert show(check, "a", part="P1", batch="B1")
    assert not show(check, "a", part="P1", batch="B2")
    assert not show(check, "a", part="P1", batch="B1"), "the pixels have come as another part"


def test_a_part_that_could_not_be_recorded_is_sent_again_when_it_can(problems, remembering):
    clock = ManualClock()
    check = CameraChecks({1: "plate"}, problems.report, clock)
    assert show(check, "a", part="P1")
    clock.advance(3600)
    assert show(check, "a", part="P1"), "it never had an answer"


def test_views_of_a_refused_part_may_come_again(check, problems, remembering):
    """The top is frozen, the bottom is not: with a new top, it is the part."""
    assert show_views(check, "N1", top="t1", bottom="b1")
    assert not show_views(check, "N2", top="t1", bottom="b2")
    assert show_views(check, "N2", top="t2", bottom="b2")


def show_views(check: CameraChecks, part: str, **pixels: str) -> bool:
    """Whether a part in views is answered."""
    views = [taken_view(view=name, pixels=of_view) for name, of_view in pixels.items()]
    with suppress(FrozenError):
        check.release(one_part(1, b"", "a.png"), taken_part(1, 1, views, views[0].view, part=part))
        return True
    return False


# Senders whose numbers come again: number and batch of the part that is sent k-th, and how many pictures the
# frozen camera gives in turn
REPEATING = {
    "nests": (lambda k: (f"{k % 8 + 1}", None), 1),
    "pallets": (lambda k: (f"P{k % 40}", "2026-48"), 1),
    "rework": (lambda k: (f"{4711 + k // 2}", None), 1),
    "two frames": (lambda k: (f"{k % 2}", None), 2),
    "type of part": (lambda k: ("A-100", "shift 1"), 1),
    "number of a PLC": (lambda k: (f"{k % 256}", "L1"), 1),
    "names of files": (lambda k: (f"image{k % 3}", None), 3),
    "no number": (lambda k: (None, None), 1),
}


@pytest.mark.parametrize("source", ["http", "folder"])
@pytest.mark.parametrize("way", REPEATING)
def test_no_frozen_picture_is_answered_where_part_numbers_come_again(
    check, problems, remembering, source, way
):
    """Each has a key of its own, as files have; the camera freezes after two rounds of all numbers."""
    label, turns = REPEATING[way]
    begins = 2 * len({label(k) for k in range(300)}) if way != "rework" else 40
    answered = []
    for k in range(begins + 200):
        pixels = f"{k}" if k < begins else f"{begins - turns + k % turns}"
        part, batch = label(k)
        answered.append(show(check, pixels, f"k{k}", part=part, batch=batch, source=source))
        if answered[-1]:
            observe(check, pixels=pixels, part=part, batch=batch)
    assert answered == [True] * begins + [False] * 200
    assert list(problems) == ["camera_frozen_1"]


def test_views_of_a_frozen_sender_with_nests_are_not_answered(check, problems, remembering):
    """One view is frozen, the other shows each part."""
    for k in range(16):
        assert show_views(check, f"{k % 8}", top=f"t{k}", bottom=f"b{k}")
    assert not any(show_views(check, f"{k % 8}", top="t15", bottom=f"b{k}") for k in range(16, 48))
    assert list(problems) == ["camera_frozen_1"]


@pytest.mark.parametrize("source", ["http", "folder"])
@pytest.mark.parametrize(("way", "first_refused"), WAYS)
def test_no_picture_of_a_sender_that_froze_is_new(check, problems, remembering, source, way, first_refused):
    """Each with its own part number and key, as of a camera of the station."""
    answered = [
        show(check, f"{pixel_hash(shown(way, k))}", f"k{k}", part=f"P{k}", source=source) for k in range(600)
    ]
    refused = [k for k, is_one in enumerate(answered) if not is_one]
    assert refused == ([] if first_refused is None else [*range(first_refused, 600)])
    assert bool(problems) is (first_refused is not None)


def test_a_frozen_sender_is_refused_and_the_product_is_not_ready(open_station, parts, remembering):
    running = open_station()
    url = f"{running.url}/api/v1/products/plate/inspections"
    assert httpx.post(url, content=parts[0]).status_code == 201
    for _ in range(3):
        answer = httpx.post(url, content=parts[0])
        assert (answer.status_code, answer.json()["code"]) == (503, "camera_frozen")
    assert httpx.get(f"{running.url}/readyz").status_code == 503
    assert len(recorded(running.station)) == 1
    assert httpx.post(url, content=parts[1]).status_code == 201
    assert httpx.get(f"{running.url}/readyz").status_code == 200


def test_three_pictures_in_a_row_of_another_form_are_a_problem(check, problems):
    for findings in ((), OTHER, OTHER, (), OTHER, OTHER):
        observe(check, findings=findings)
        assert problems == {}
    observe(check, findings=OTHER)
    assert problems == {"other_form_1": f"plate: {MANY} pictures in a row: {OTHER[0].words}"}
    observe(check, findings=())
    assert problems == {}
    check.observe(RecordedInspection(1, taken(2, 1, findings=OTHER), True))  # of a product without checks

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
from flawscope_station.inspecting.writer import RecordedInspection
from station_helpers import one_part, recorded, taken

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


def test_a_picture_that_comes_again_and_again_is_not_answered_until_there_is_another(check, problems):
    def show(pixels: str, seconds: float, **given: Any) -> bool:
        part = one_part(1, b"")
        with suppress(FrozenError):
            check.release(part, taken(1, 1, pixels=pixels, at=round(1e6 * seconds), **given))
            return True
        return False

    assert all(show("a", k) for k in range(20)), "so quickly somebody tries something"
    assert all(show("c", 300 + 9 * k, view="top" if k % 2 else "side") for k in range(18)), "views are apart"
    assert [show("d", 500 + 10 * k) for k in range(12)] == [True] * 9 + [False] * 3
    assert problems == {"camera_frozen_1": f"plate: {WORDS}"}
    assert show("e", 700)
    assert problems == {}
    assert not show("d", 701), "whoever held it back sends it again"
    assert (problems, show("g", 702)) == ({}, True)
    assert all(show("f", 800 + 10 * k, source="camera") for k in range(20)), "it knows its frames itself"


@pytest.mark.parametrize(
    ("pictures", "refused"), [("a", 11), ("ab", 10), ("abc", 9), ("abcd", 0), ("aaaaaaaab", 3)]
)
def test_a_camera_that_gives_its_last_pictures_in_turn_is_frozen(check, pictures, refused):
    """Up to three of them; nine repeats are let through, for a part may stand still."""
    last = camera_checks._Repeats()
    assert sum(last.note(pictures[k % len(pictures)], 10**7 * k)[1] for k in range(20)) == refused


def test_a_frozen_sender_is_refused_and_the_product_is_not_ready(open_station, parts, monkeypatch):
    monkeypatch.setattr(camera_checks, "FROZEN_MICROSECONDS", 0)
    running = open_station()
    url = f"{running.url}/api/v1/products/plate/inspections"
    for _ in range(9):
        assert httpx.post(url, content=parts[0]).status_code == 201
    answer = httpx.post(url, content=parts[0])
    assert (answer.status_code, answer.json()["code"]) == (503, "camera_frozen")
    assert httpx.get(f"{running.url}/readyz").status_code == 503
    assert len(recorded(running.station)) == 9
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

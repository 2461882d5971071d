"""Pictures of another size or form than learnt from, and a camera whose binning or region was changed."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from flawscope.results.findings import Finding
from flawscope_station.drift.forms import MANY, OTHER_FORM, FormCheck
from flawscope_station.inspecting.picture import Picture
from flawscope_station.inspecting.writer import RecordedInspection
from station_helpers import taken

OTHER = (Finding(OTHER_FORM, "100 x 900 pixels instead of 512 x 512"),)


class Problems(dict[str, str]):
    def report(self, code: str, why: str | None) -> None:
        self.pop(code, None)
        if why:
            self[code] = why


def observe(check: FormCheck, **given: Any) -> None:
    check.observe(RecordedInspection(1, taken(1, 1, **given), True))


def test_three_pictures_in_a_row_of_another_form_are_a_problem():
    problems: Any = Problems()
    check = FormCheck(None, {1: "plate"}, problems.report)  # type: ignore[arg-type]
    for findings in ((), OTHER, OTHER, (), OTHER, OTHER):
        observe(check, findings=findings)
        assert problems == {}
    observe(check, findings=OTHER)
    assert problems == {"other_form_1": f"plate: {MANY} pictures in a row: {OTHER[0].words}"}
    observe(check, findings=())
    assert problems == {}
    check.observe(RecordedInspection(1, taken(2, 1, findings=OTHER), True))  # of a product without checks


def test_another_size_of_a_cameras_frames_is_a_problem_at_the_first_one(open_station):
    """Compared with the first frame of the version, also after a restart; each camera by itself."""
    station = open_station().station
    number = station.products["plate"]

    def show(name: str, width: int, height: int, source: str = "camera") -> None:
        noise = np.random.default_rng(len(name)).integers(0, 255, (height, width, 3), dtype=np.uint8)
        data = io.BytesIO()
        Image.fromarray(noise).save(data, "PNG")
        (answer,) = station.inspector.submit([Picture(number, data.getvalue(), name, source)])
        answer.result(60)

    problems: Any = Problems()

    def checked() -> FormCheck:
        return FormCheck(station.store, {number: "plate"}, problems.report)

    def last(check: FormCheck, name: str, width: int, height: int, source: str = "camera") -> None:
        show(name, width, height, source)
        version = station.versions.number(number)
        new = taken(number, version, name=name, source=source, width=width, height=height)
        check.observe(RecordedInspection(1, new, True))

    check = checked()
    last(check, "camera1-a.png", 96, 64)
    last(check, "camera2-b.png", 64, 64)
    last(check, "sent.png", 32, 32, "http")
    assert problems == {}
    last(check, "camera1-c.png", 48, 32)
    assert list(problems) == [f"camera_size_{number}_1"]
    assert "camera 1 gives 48 x 32 pixels, and gave 96 x 64" in problems[f"camera_size_{number}_1"]
    last(check, "camera1-d.png", 96, 64)
    assert problems == {}
    last(checked(), "camera1-e.png", 96, 32)
    assert list(problems) == [f"camera_size_{number}_1"]

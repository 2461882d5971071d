"""The written page: whole, self-contained, and safe whatever the files are called."""

import json
import re

import pytest

from flawscope.pages.report import thumbnails
from report_page_helpers import Page


@pytest.mark.parametrize(
    ("good", "bad", "masks"),
    [((0.1,), (), True), ((), (0.9,), True), ((0.1, 0.2), (0.4, 0.9), False), ((0.1, 0.6), (0.3, 0.9), True)],
)
def test_it_works_with_what_there_is(run_of, tmp_path, good, bad, masks):
    text = run_of(good, bad, masks=masks).write(tmp_path / "report.html")
    pictures = json.loads(Page(text).scripts[0])
    assert len(pictures) == len(good) + len(bad)
    assert "nan" not in re.sub(r"base64,[^\"]*", "", text.lower()).replace("nano", "")


def test_pictures_that_have_gone_or_cannot_be_drawn_are_named_and_cost_no_report(
    run_of, tmp_path, monkeypatch
):
    drawn = thumbnails.picture_layers

    def broken(path, *rest):
        if path.name == "g1.png":
            raise OSError("encoder error")
        return drawn(path, *rest)

    monkeypatch.setattr(thumbnails, "picture_layers", broken)
    run = run_of((0.1, 0.2), (0.9,))
    run.result.pictures[0].item.path.unlink()
    pictures = json.loads(Page(run.write(tmp_path / "report.html")).scripts[0])
    assert [p["layers"] == "picture not readable" for p in pictures] == [True, False, True]


def test_what_has_no_room_is_left_out_and_the_report_says_so(run_of, tmp_path, monkeypatch):
    run = run_of((0.1, 0.2, 0.7), (0.9, 0.3))
    assert "There is room for" not in run.write(tmp_path / "report.html")
    monkeypatch.setattr(thumbnails, "MIN_SIDE", thumbnails.MAX_SIDE)
    made = thumbnails.thumbnails(run.result.pictures, range(5))
    sizes = {
        seen.item.path.name: sum(map(len, one.values()))
        for seen, one in zip(run.result.pictures, made, strict=True)
    }
    limit = sizes["g2.png"] + sizes["d1.png"]  # the mistakes
    monkeypatch.setattr(thumbnails, "PAGE_BYTES", limit)
    page = Page(run.write(tmp_path / "report.html"))
    pictures = json.loads(page.scripts[0])
    assert {p["name"] for p in pictures if isinstance(p["layers"], dict)} == {"good/g2.png", "dent/d1.png"}
    assert {p["layers"] for p in pictures if isinstance(p["layers"], str)} == {thumbnails.PAGE_FULL}
    words = " ".join("".join(page.words).split())
    assert "There is room for 2 pictures, those on the wrong side" in words
    assert "3 pictures left out" in words


def test_a_report_without_a_choice_of_thresholds_has_no_slider(report_path, run_of, tmp_path, monkeypatch):
    assert 'id="rate-slider"' in report_path.read_text(encoding="utf-8")
    monkeypatch.setattr("flawscope.pages.report.page.operating_points", lambda *_: [])
    text = run_of((0.1,), (0.9,)).write(tmp_path / "without.html")
    assert 'id="rate-slider"' not in text
    assert 'href="#rate"' not in text

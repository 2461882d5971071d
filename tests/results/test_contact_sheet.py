"""Contact sheets and animations: what they keep, how they are laid out, and that players understand them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from flawscope.errors import FlawscopeError, InputError
from flawscope.pictures.preprocess import Preprocess
from flawscope.results import contact_sheet as animation
from flawscope.results import drawing
from flawscope.results.contact_sheet import SheetRow, contact_sheet
from flawscope.results.folder import GAP, KEPT_EXTREMES, PANEL_HEIGHT, Example, KindExamples, PictureWriter
from flawscope.results.prediction import Prediction

STRIP = np.zeros((2, 2, 3), np.uint8)


@pytest.mark.parametrize("count", [1, KEPT_EXTREMES, 2 * KEPT_EXTREMES, 2 * KEPT_EXTREMES + 1, 500])
def test_a_kind_keeps_its_highest_and_lowest_scores(count):
    scores = np.random.default_rng(count).integers(0, 200, count).astype(float).tolist()  # with ties
    kind = KindExamples()
    for score in scores:
        if kind.would_show(score):
            kind.add(Example(str(score), score, STRIP, "", False))
    assert len(kind.examples) == min(count, 2 * KEPT_EXTREMES)  # whatever the number
    falling = sorted(scores, reverse=True)
    assert [e.score for e in kind.extremes(5)] == (falling[:3] + falling[-2:] if count > 5 else falling)
    assert [e.score for e in kind.extremes(2 * KEPT_EXTREMES)] == (
        falling if count <= 2 * KEPT_EXTREMES else falling[:KEPT_EXTREMES] + falling[-KEPT_EXTREMES:]
    )


def test_rows_have_headings_and_widths_of_their_own():
    black = np.zeros((40, 40, 3), np.uint8)
    first, second = SheetRow([black, black], ["a", "b"]), SheetRow([black], ["c"], width=90)
    plain = contact_sheet([first, second], (40, 40))
    headed = contact_sheet([first._replace(heading="first kind"), second], (40, 40))
    assert headed.height > plain.height
    assert headed.width == plain.width
    dark = np.argwhere((np.asarray(plain) == 0).all(axis=2))
    lower = dark[dark[:, 0] > dark[:, 0].min() + 45]
    assert lower[:, 1].min() == dark[:, 1].min() + 25  # the middle of its wider cell


def test_the_ground_truth_is_a_dashed_outline_and_never_hides_the_picture(tmp_path):
    """One pixel of a mask, and a map that found nothing: two panels, in the second one a dashed line."""
    size = (300, 300)
    Image.new("RGB", size[::-1], (240, 240, 240)).save(tmp_path / "part.png")
    mask = np.zeros(size, bool)
    mask[150, 150] = True
    geometry = Preprocess((16, 16)).geometry(size)
    nothing = np.zeros((16, 16), np.float32)
    found = Prediction(0.1, 0.9, -1.0, False, nothing, geometry, 0.5, 0.5, (0.0, 1.0))
    pictures = PictureWriter(tmp_path / "out", tmp_path, maps="none")
    pictures.add(tmp_path / "part.png", found, "pit", expected=True, truth=lambda: mask)
    (example,) = pictures.kinds["pit"].examples
    assert example.strip.shape == (PANEL_HEIGHT, 2 * PANEL_HEIGHT + GAP, 3)
    truth = (example.strip == drawing.TRUTH_COLOUR).all(axis=2)
    assert truth[:, : PANEL_HEIGHT + GAP].sum() == 0
    assert 2 <= truth[:, PANEL_HEIGHT + GAP :].sum() <= 200
    assert (example.strip.min(axis=2) < 200).sum() < 100  # no black square


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(60, 190, (60, 80, 3), dtype=np.uint8)


def test_images_captions_and_frames_are_where_they_belong(photo):
    lines = [
        SheetRow([photo, photo[:, :40]], ["first", "second\nline"], frames=[drawing.GOOD_COLOUR, None]),
        SheetRow([np.zeros((60, 80), bool)], [""], frames=[drawing.BAD_COLOUR]),
    ]
    sheet = contact_sheet(lines, (60, 80), title="A title", bar=drawing.colour_bar(0, 1, 0.5))
    pixels = np.asarray(sheet)
    assert sheet.mode == "RGB"
    windows = np.lib.stride_tricks.sliding_window_view(pixels, photo.shape)[:, :, 0]
    corners = np.argwhere(
        (windows[..., 0, 0, :] == photo[0, 0]).all(-1) & (windows[..., -1, -1, :] == photo[-1, -1]).all(-1)
    )
    assert len(corners) == 1  # unscaled
    top, left = corners[0]
    np.testing.assert_array_equal(pixels[top : top + 60, left : left + 80], photo)
    assert (pixels[top - 1, left : left + 80] == drawing.GOOD_COLOUR).all()
    assert (pixels == drawing.BAD_COLOUR).all(axis=2).any()
    caption = pixels[top + 62 : top + 76, left : left + 80]
    assert (caption.min(axis=2) < 100).any()
    for edge in (pixels[:4], pixels[-4:], pixels[:, :4], pixels[:, -4:]):
        assert (edge == 255).all()


def test_long_captions_stay_in_their_cell_and_proportions_are_kept(photo):
    sheet = np.asarray(contact_sheet([SheetRow([photo, photo], ["W" * 300, ""])], (60, 80)))
    assert (sheet[-30:, sheet.shape[1] // 2 + 4 :] == 255).all()
    flat = np.zeros((10, 100, 3), np.uint8)
    dark = (np.asarray(contact_sheet([SheetRow([flat], [""])], (50, 50))) == 0).all(axis=2)
    assert (dark.any(axis=1).sum(), dark.any(axis=0).sum()) == (5, 50)
    for lines in ([], [SheetRow([], [])], [SheetRow([np.zeros((3, 3))], ["a"])]):
        with pytest.raises(InputError):
            contact_sheet(lines, (9, 9))


# ------------------------------------------------------------------------------------------------ animation

SCALE = (0.0, 1.0, 0.5)
GREYS = (60, 120, 180)  # of the three panels


def shot(name: str = "x", size: tuple[int, int] = (40, 40), *, bad: bool = False) -> animation.Shot:
    first, second, third = (np.full((*size, 3), grey, np.uint8) for grey in GREYS)
    return animation.Shot(name, (first, second, third), "verdict", bad)


def share(image: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.asarray(image) == colour).all(axis=2).sum())


def test_picture_heat_map_and_outline_follow_each_other_in_frames_of_one_size() -> None:
    kinds = [[shot(), shot(size=(30, 60))], [shot(bad=True)], [shot()]]
    pictures, times = animation.animate(kinds, "title", SCALE)
    assert len(pictures) == len(times) == 2 * 3  # two turns, because one kind has two pictures
    assert len({picture.size for picture in pictures}) == 1
    assert all(500 <= time <= 5000 for time in times)
    for k, picture in enumerate(pictures):
        counts = [share(picture, (grey, grey, grey)) for grey in GREYS]
        assert np.argmax(counts) == k % 3
        assert counts[k % 3] >= 3 * 30 * 40
        framed = share(picture, drawing.BAD_COLOUR) > 100, share(picture, drawing.GOOD_COLOUR) > 100
        assert framed == ((k % 3 == 2),) * 2  # the verdict comes last


@pytest.mark.parametrize("kinds", [1, 2, 3, 4, 8, 11])
def test_every_kind_is_shown_and_few_kinds_fill_a_row(kinds: int) -> None:
    room = animation.shots_per_kind(kinds)
    shots = [[shot(f"{kind} {k}") for k in range(room)] for kind in range(kinds)]
    cells = animation.assign_cells(shots)
    assert min(kinds, 4) <= len(cells) <= animation.MAX_CELLS
    shown = {one.name for cell in cells for one in cell[: animation.MAX_TURNS]}
    assert shown == {f"{kind} {k}" for kind in range(min(kinds, animation.MAX_CELLS)) for k in range(room)}
    pictures, _ = animation.animate(shots, "", SCALE)
    assert len(pictures) <= 3 * animation.MAX_TURNS


def test_a_shot_is_small_outlined_and_keeps_its_proportions() -> None:
    picture = np.full((500, 1000, 3), 90, np.uint8)
    found = np.zeros((500, 1000), bool)
    found[200:300, 400:600] = True
    taken = animation.make_shot("x", picture, picture, found, "words", is_anomalous=True)
    assert {panel.shape for panel in taken.panels} == {(165, 330, 3)}
    assert (taken.panels[0] == 90).all()
    changed = np.argwhere((taken.panels[2] != 90).any(axis=2))
    scale = 330 / 1000
    assert abs(changed.min(axis=0) - np.array([200, 400]) * scale).max() <= 6
    assert abs(changed.max(axis=0) - np.array([300, 600]) * scale).max() <= 6


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_files_loop_and_show_every_frame_as_long_as_asked(tmp_path: Path, suffix: str) -> None:
    if suffix == ".webp" and not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    pictures, times = animation.animate([[shot(), shot(bad=True)]], "title", SCALE)
    path = tmp_path / f"a{suffix}"
    animation.save_animation(path, pictures, times)
    with Image.open(path) as image:
        assert image.is_animated
        assert image.n_frames == len(pictures)
        assert image.info["loop"] == 0
        for k, picture in enumerate(pictures):
            image.seek(k)
            image.load()
            assert image.info["duration"] == times[k]
            difference = np.asarray(image.convert("RGB")).astype(int) - np.asarray(picture)
            assert abs(difference).mean() < 3


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_a_file_that_would_be_too_large_gets_smaller_frames(tmp_path: Path, suffix: str) -> None:
    if suffix == ".webp" and not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    rng = np.random.default_rng(0)  # noise: nothing is harder to store
    pictures = [Image.fromarray(rng.integers(0, 256, (150, 200, 3), dtype=np.uint8)) for _ in range(3)]
    free, bounded = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    animation.save_animation(free, pictures, [100] * 3)
    most = free.stat().st_size // 3
    animation.save_animation(bounded, pictures, [100] * 3, most)
    assert most / 3 < bounded.stat().st_size <= most
    with Image.open(bounded) as image:
        assert image.n_frames == 3
        assert image.width / image.height == pytest.approx(4 / 3, abs=0.03)
    with pytest.raises(FlawscopeError, match="fewer pictures"):
        animation.save_animation(bounded, pictures, [100] * 3, 500)


def test_what_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one"):
        animation.animate([[], []], "", SCALE)
    pictures, times = animation.animate([[shot()]], "", SCALE)
    with pytest.raises(FlawscopeError, match="cannot write"):
        animation.save_animation(tmp_path / "none" / "a.gif", pictures, times)

"""The animated picture: what it shows in which order, how large it gets, and that players understand it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from flawscope.errors import FlawscopeError, InputError
from flawscope.results import contact_sheet as animation
from flawscope.results import drawing

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
        framed = share(picture, drawing.BAD) > 100, share(picture, drawing.GOOD) > 100
        assert framed == ((k % 3 == 2),) * 2  # the verdict comes last


@pytest.mark.parametrize("kinds", [1, 2, 3, 4, 8, 11])
def test_every_kind_is_shown_and_few_kinds_fill_a_row(kinds: int) -> None:
    room = animation.room(kinds)
    shots = [[shot(f"{kind} {k}") for k in range(room)] for kind in range(kinds)]
    cells = animation._shown(shots)
    assert min(kinds, 4) <= len(cells) <= animation.CELLS
    shown = {one.name for cell in cells for one in cell[: animation.TURNS]}
    assert shown == {f"{kind} {k}" for kind in range(min(kinds, animation.CELLS)) for k in range(room)}
    pictures, _ = animation.animate(shots, "", SCALE)
    assert len(pictures) <= 3 * animation.TURNS


def test_a_shot_is_small_outlined_and_keeps_its_proportions() -> None:
    picture = np.full((500, 1000, 3), 90, np.uint8)
    found = np.zeros((500, 1000), bool)
    found[200:300, 400:600] = True
    taken = animation.shot("x", picture, picture, found, "words", is_anomalous=True)
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
    with pytest.raises(InputError, match=r"\.gif or \.webp"):
        animation.save_animation(tmp_path / "a.png", pictures, times)
    with pytest.raises(FlawscopeError, match="cannot write"):
        animation.save_animation(tmp_path / "none" / "a.gif", pictures, times)

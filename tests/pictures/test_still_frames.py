"""Faults of camera, light and mount in frames of a part that lies still."""

import json

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from flawscope.errors import InputError
from flawscope.evaluation.repeatability import Repeatability
from flawscope.pictures.still_frames import MIN_FRAMES, check_still_frames
from flawscope.synthesis.demo.dataset import draw_picture

COUNT, SIDE = 14, 160


@pytest.fixture(scope="module", name="scene")
def scene_fixture():
    return draw_picture("plate", np.random.default_rng(3), size=SIDE)[0].astype(float)


def frames(scene, change=lambda picture, number: picture, noise=1.0, dtype=np.uint8, white=255):
    rng = np.random.default_rng(0)
    found = []
    for number in range(COUNT):
        lit = change(scene, number)
        noisy = lit + noise * rng.normal(size=lit.shape)
        found.append(np.clip(np.rint(noisy * white / 255), 0, white).astype(dtype))
    return found


def faults(pictures):
    return [one.name for one in check_still_frames(pictures).faults]


def shifted(picture, down, right):
    return ndimage.shift(picture, (down, right, 0), order=3, mode="nearest")


def with_shadow(picture, number):
    changed = picture.copy()
    changed[40:80, 20 + 6 * number : 50 + 6 * number] *= 0.7
    return changed


def with_blinks(picture, number):
    changed = picture.copy()
    for k in range(5):
        if (number + k) % 3 == 0:
            value = changed[20 + 9 * k, 30 + 7 * k].mean()
            changed[20 + 9 * k, 30 + 7 * k] = value + (90 if value < 140 else -90)
    return changed


def test_good_frames_have_no_fault(scene):
    report = check_still_frames(frames(scene))
    assert report.faults == []
    assert report.lines()[-1] == "nothing found"
    noise = next(one for one in report.measurements if one.name == "noise")
    assert noise.value == pytest.approx(1 / np.sqrt(3), rel=0.2)  # of the mean of three channels
    json.dumps(report.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("fault", "change"),
    [
        ("flicker", lambda picture, number: picture * (1 + 0.02 * np.sin(1.7 * number))),
        ("drift", lambda picture, number: picture * (1 + 0.004 * number)),
        ("sudden change", lambda picture, number: picture * (1.06 if number > 6 else 1)),
        ("colour", lambda picture, number: picture * np.array([1, 1, 1 + 0.005 * number])),
        ("shake", lambda picture, number: shifted(picture, np.sin(2.1 * number), np.cos(1.3 * number))),
        ("slow movement", lambda picture, number: shifted(picture, 0.12 * number, 0.1 * number)),
        ("edges", lambda picture, number: ndimage.gaussian_filter(picture, (4, 4, 0))),
        ("change of focus", lambda picture, number: ndimage.gaussian_filter(picture, [number % 3] * 2 + [0])),
        ("white pixels", lambda picture, number: picture * 256 / np.percentile(picture.mean(axis=2), 94)),
        ("changing places", with_shadow),
        ("blinking pixels", with_blinks),
    ],
)  # fmt: skip
def test_a_fault_is_named(scene, fault, change):
    assert fault in faults(frames(scene, change))


def test_bands_of_lamps_are_named(scene):
    rows = np.arange(SIDE)[:, None, None]
    light = lambda picture, number: picture * (1 + 0.03 * np.sin(rows / 14 + 2.1 * number))  # noqa: E731
    assert "bands" in faults(frames(scene, light))


def test_noise_is_named_in_grey_levels_of_any_depth(scene):
    grey = scene.mean(axis=2, keepdims=True)
    for pictures in (frames(grey, noise=6), frames(grey, noise=6, dtype=np.uint16, white=4095)):
        report = check_still_frames(pictures)
        assert [one.name for one in report.faults] == ["noise"]
        assert report.faults[0].value == pytest.approx(6, rel=0.15)


def test_repeated_frames_are_named_and_measured_once(scene):
    pictures = frames(scene)
    assert faults(pictures + [pictures[-1]] * 3) == ["repeated frames"]
    assert faults([pictures[0]] * COUNT) == ["repeated frames"], "nothing else can be measured"


def test_a_part_without_edges_tells_neither_focus_nor_movement():
    report = check_still_frames(frames(np.full((SIDE, SIDE, 3), 120.0)))
    unknown = [one.name for one in report.measurements if one.value is None]
    assert unknown == ["shake", "slow movement", "edges"]
    assert report.faults == []


def test_blocks_of_one_brightness_are_no_edges(scene):
    """As where a part is white all over."""
    white = np.clip(scene * 4, 0, 255)
    assert "white pixels" not in faults(frames(np.full_like(scene, 255.0), noise=0.01))
    assert check_still_frames(frames(white, noise=0.2)).measurements


def test_too_few_frames_and_other_sizes_are_refused(scene):
    pictures = frames(scene)
    with pytest.raises(InputError, match=f"give {MIN_FRAMES} or more"):
        check_still_frames(pictures[:4])
    with pytest.raises(InputError, match="frame 5: 100 x 160 pixels, the frames before 160 x 160"):
        check_still_frames([*pictures[:5], pictures[5][:, :100], *pictures[6:]])


def test_the_command_measures_a_folder(scene, tmp_path, run):
    for number, picture in enumerate(frames(scene, noise=9)):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    code, said, _ = run("data", "check", "--still", tmp_path)
    assert code == 1
    assert "! noise" in said
    assert json.loads(run("data", "check", "--still", tmp_path, "--json")[1])["still"]["frames"] == COUNT
    assert run("data", "check")[0] == 2
    assert run("data", "check", "--still", tmp_path, "--data", tmp_path)[0] == 2
    assert run("data", "check", "--again", tmp_path)[0] == 2


@pytest.mark.parametrize(
    ("severities", "is_fault"),
    [
        ((-2.0, -2.1, -1.9, -2.0, -2.05), False),
        ((-0.2, 0.1, -0.3, -0.1, 0.2), True),
        ((3.0, 3.1, 3.2), False),
    ],
)
def test_a_decision_that_is_chance_is_named(severities, is_fault):
    found = Repeatability.of(severities)
    assert found.is_fault == is_fault
    assert any("is chance" in line for line in found.lines()) == is_fault


def test_a_score_repeats_or_not_by_at_least_three_pictures():
    with pytest.raises(InputError, match="put it in five times"):
        Repeatability.of([1.0, 2.0])
    assert Repeatability.of([-1.0] * 4).to_dict()["distance"] is None

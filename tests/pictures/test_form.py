import pytest

from flawscope.pictures.form import mixed_sizes, size_in_form, usual_form


@pytest.mark.parametrize("form", [2, 0.5, 2.53, 3.3, 1 / 5, 12])
@pytest.mark.parametrize("side", [256, 384, 512, 1024])
def test_a_form_has_as_many_pixels_as_the_square(form, side):
    height, width = size_in_form(side, form)
    assert height % 16 == width % 16 == 0
    assert height * width == pytest.approx(side**2, rel=0.12)
    assert height / width == pytest.approx(form, rel=0.13)


def test_usual_forms_stay_squares_and_a_side_is_no_smaller_than_the_network_takes():
    assert size_in_form(250, 1.0) == size_in_form(250, 4 / 3) == size_in_form(250, 2 / 3) == (250, 250)
    assert size_in_form(256, 0.5, smallest=256) == (256, 256)
    assert size_in_form(512, 4.0, smallest=256) == (1024, 256)
    assert max(size_in_form(1024, 50.0)) <= 4096


def test_the_usual_form_is_that_of_most():
    strips = [(100, 200), (100, 210), (100, 300)] * 3
    assert usual_form(strips) == usual_form([*strips, (300, 100)]) == pytest.approx(100 / 210)
    assert usual_form([(100, 200)] * 4 + [(100, 140), (100, 100)]) == 0.5
    assert usual_form([]) == 1
    for others in (1, 2):  # the form of most would stretch the others four times, a square all of them twice
        assert usual_form([(100, 200)] * 4 + [(200, 100)] * others) == 1


def test_sizes_of_several_cameras_are_named_and_those_of_crops_are_not():
    two = [(480, 640)] * 20 + [(1024, 1024)] * 9
    assert mixed_sizes(two) == "640x480 (20), 1024x1024 (9)"
    assert mixed_sizes([(480, 640)] * 20 + [(960, 1280)] * 5) == "640x480 (20), 1280x960 (5)"
    chance = [(1024, 1024)]  # a stray picture, which another line names
    for sizes in (
        [],
        [(480, 640)] * 9,
        [(480, 640)] * 20 + chance,
        [(480, 640)] * 20 + [(640, 480)] * 9,  # a camera that is held upright, too
        [(100 * k, 640) for k in range(1, 7)] * 2,
        [(480 + k, 640 + 9 * k) for k in range(40)],
    ):
        assert mixed_sizes(sizes) == ""
    assert mixed_sizes([(480, 640)] * 20 + [(482, 640)] * 9) == ""  # alike

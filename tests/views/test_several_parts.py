"""Several drawn parts in a picture, whose places are known."""

from flawscope.views.several_parts_learning import expected_counts


def test_number_of_parts_is_that_of_nearly_all_good_pictures_or_a_range():
    assert expected_counts([6] * 19 + [5]) == (6, 6)
    assert expected_counts([3, 4, 6, 4]) == (3, 6)

"""Several drawn parts in a picture, whose places are known."""

import numpy as np

from brackets import SIDE, drawn
from flawscope.views.resampling import small_grey
from flawscope.views.several_parts import OVERVIEW_SIDE, SeveralParts
from flawscope.views.several_parts_learning import learn_several_parts


def test_parts_are_found_and_counted_and_other_objects_are_seen():
    good = [drawn(seed, range(seed % 3, 5 + seed % 3))[0] for seed in range(8)]
    learnt = learn_several_parts(
        [small_grey(one, 255.0, OVERVIEW_SIDE) for one in good],
        lambda i, side: small_grey(good[i], 255.0, side),
        "turn",
    )
    settings, reference = learnt.settings, learnt.reference
    assert (learnt.counts, settings.least, settings.most) == ([5] * 8, 5, 5)
    assert learnt.count_errors == [""] * 8
    assert SeveralParts.from_dict(settings.to_dict()) == settings
    assert reference.period == 1
    for cells, other in (
        (range(5), None),
        (range(4), None),
        (range(6), None),
        (range(5), 7),
        (range(0), None),
    ):
        picture, known = drawn(100 + len(cells), cells, other)
        small = small_grey(picture, 255.0, settings.side), small_grey(picture, 255.0, OVERVIEW_SIDE)
        found = settings.find(*small, reference)
        assert (len(found.poses), len(found.objects)) == (len(known), int(other is not None))
        at = np.array([(pose.x, pose.y) for pose in found.poses]).reshape(-1, 2) * SIDE / settings.side
        for place in known:  # the middle of the reference is not that of the drawing
            assert np.hypot(*(at - place).T).min() < 12

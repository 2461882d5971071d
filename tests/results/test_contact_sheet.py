"""What the contact sheet keeps and how it is laid out."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from flawscope.errors import InputError
from flawscope.pictures.preprocess import Preprocess
from flawscope.results import drawing
from flawscope.results.contact_sheet import contact_sheet
from flawscope.results.folder import GAP, KEPT, PANEL, Example, Kind, Pictures
from flawscope.results.prediction import Prediction

STRIP = np.zeros((2, 2, 3), np.uint8)


@pytest.mark.parametrize("count", [1, KEPT, 2 * KEPT, 2 * KEPT + 1, 500])
def test_a_kind_keeps_its_highest_and_lowest_scores(count):
    scores = np.random.default_rng(count).integers(0, 200, count).astype(float).tolist()  # with ties
    kind = Kind()
    for score in scores:
        if kind.wants(score):
            kind.add(Example(str(score), score, STRIP, "", False))
    assert len(kind.examples) == min(count, 2 * KEPT)  # whatever the number
    falling = sorted(scores, reverse=True)
    assert [e.score for e in kind.extremes(5)] == (falling[:3] + falling[-2:] if count > 5 else falling)
    assert [e.score for e in kind.extremes(2 * KEPT)] == (
        falling if count <= 2 * KEPT else falling[:KEPT] + falling[-KEPT:]
    )


def test_rows_have_headings_and_widths_of_their_own():
    black = np.zeros((40, 40, 3), np.uint8)
    rows = [([black, black], ["a", "b"]), ([black], ["c"])]
    plain = contact_sheet(rows, [(40, 40), (40, 90)])
    headed = contact_sheet(rows, [(40, 40), (40, 90)], headings=["first kind", None])
    assert headed.height > plain.height
    assert headed.width == plain.width
    dark = np.argwhere((np.asarray(plain) == 0).all(axis=2))
    lower = dark[dark[:, 0] > dark[:, 0].min() + 45]
    assert lower[:, 1].min() == dark[:, 1].min() + 25  # the middle of its wider cell
    with pytest.raises(InputError, match="one a row"):
        contact_sheet(rows, [(40, 40)])


def test_the_ground_truth_is_a_dashed_outline_and_never_hides_the_picture(tmp_path):
    """One pixel of a mask, and a map that found nothing: two panels, in the second one a dashed line."""
    size = (300, 300)
    Image.new("RGB", size[::-1], (240, 240, 240)).save(tmp_path / "part.png")
    mask = np.zeros(size, np.uint8)
    mask[150, 150] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    geometry = Preprocess((16, 16)).geometry(size)
    nothing = np.zeros((16, 16), np.float32)
    found = Prediction(0.1, 0.9, -1.0, False, nothing, geometry, 0.5, 0.5, (0.0, 1.0))
    pictures = Pictures(tmp_path / "out", tmp_path, maps="none")
    pictures.add(tmp_path / "part.png", found, "pit", (tmp_path / "mask.png",), expected=True)
    (example,) = pictures.kinds["pit"].examples
    assert example.strip.shape == (PANEL, 2 * PANEL + GAP, 3)
    truth = (example.strip == drawing.TRUTH).all(axis=2)
    assert truth[:, : PANEL + GAP].sum() == 0
    assert 2 <= truth[:, PANEL + GAP :].sum() <= 200
    assert (example.strip.min(axis=2) < 200).sum() < 100  # no black square

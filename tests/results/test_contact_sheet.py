"""Contact sheets: how they are laid out."""

import numpy as np
import pytest

from flawscope.errors import InputError
from flawscope.results import drawing
from flawscope.results.contact_sheet import SheetRow, contact_sheet


@pytest.fixture
def photo():
    return np.random.default_rng(0).integers(60, 190, (60, 80, 3), dtype=np.uint8)


def test_images_captions_and_frames_are_where_they_belong(photo):
    lines = [
        SheetRow([photo, photo[:, :40]], ["first", "second\nline"], frames=[drawing.GOOD_COLOUR, None]),
        SheetRow([np.zeros((60, 80), bool)], [""], frames=[drawing.BAD_COLOUR]),
    ]
    sheet = contact_sheet(lines, (60, 80), title="A title")
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

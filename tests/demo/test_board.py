from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from flawscope.datasets import open_dataset
from flawscope.demo.board import DEFECTS, draw_board
from flawscope.demo.board_design import EDGE, FOOTPRINTS, GRID, design
from flawscope.demo.dataset import draw_boards
from flawscope.errors import InputError

SIZE = (300, 420)


def longer_side(mask: np.ndarray) -> int:
    rows, columns = np.nonzero(mask)
    return int(max(np.ptp(rows), np.ptp(columns))) + 1


@pytest.mark.parametrize("defect", DEFECTS)
@pytest.mark.parametrize("extent", [(8, 20), (12, 13), (24, 36)])
def test_the_mask_is_exactly_what_the_defect_changed(defect: str, extent: tuple[float, float]) -> None:
    for seed in range(3):
        good, nothing = draw_board(np.random.default_rng(seed), (640, 720))
        bad, mask = draw_board(np.random.default_rng(seed), (640, 720), defect, extent)
        assert good.shape == bad.shape == (640, 720, 3)
        assert good.dtype == bad.dtype == np.uint8
        assert mask.dtype == np.bool_
        assert not nothing.any()
        assert (bad[~mask] == good[~mask]).all()
        assert np.abs(bad.astype(int) - good).max(-1)[mask].mean() >= 10
        assert extent[0] <= longer_side(mask) <= extent[1]
        assert ndimage.label(ndimage.binary_dilation(mask, np.ones((5, 5))))[1] == 1  # one defect


def test_sizes_are_pixels_and_not_shares_of_the_picture() -> None:
    """A larger board holds more parts of the same kinds."""
    small, large = design((768, 1024)), design((3000, 4000))
    assert len(large.parts) > 10 * len(small.parts)
    assert {part.kind for part in small.parts} <= set(FOOTPRINTS)
    sides = [longer_side(draw_board(np.random.default_rng(k), (1024, 1536), "spatter")[1]) for k in range(4)]
    assert all(8 <= side <= 20 for side in sides)


def test_tracks_keep_apart_and_off_the_parts() -> None:
    """No two tracks meet, and none crosses a part: every cell of the grid belongs to one at most."""
    board = design((1000, 1200))
    assert len(board.tracks) > 40
    taken: dict[tuple[int, int], int] = {}
    for number, track in enumerate(board.tracks):
        for point in track[1:]:
            assert taken.setdefault(point, number) == number
            assert all(EDGE <= v <= side - EDGE for v, side in zip(point, board.size, strict=True))
        for (r0, c0), (r1, c1) in itertools.pairwise(track):
            assert max(abs(r1 - r0), abs(c1 - c0)) == GRID
            if r0 != r1 and c0 != c1:  # the other diagonal belongs to the same track or to none
                assert taken.get((r0, c1), -1) != taken.get((r1, c0), -2)
    for part in board.parts:
        rows, columns = FOOTPRINTS[part.kind].turned(part.turns)
        inside = [
            (r, c)
            for r, c in taken
            if abs(r - part.row) < (rows // 2) * GRID and abs(c - part.column) < (columns // 2) * GRID
        ]
        assert not inside
    for row, column, down, right in board.gaps:
        assert (row + right * GRID // 2, column + down * GRID // 2) in taken
        assert (row - right * GRID // 2, column - down * GRID // 2) in taken


def test_good_boards_vary_but_little() -> None:
    boards = [draw_board(np.random.default_rng(k), SIZE)[0].astype(float) for k in range(6)]
    brightness = [b.mean() for b in boards]
    assert 0 < np.std(brightness) / np.mean(brightness) < 0.06
    for a, b in itertools.pairwise(boards):
        difference = np.abs(a - b)
        assert 2 < difference.mean() < 20  # the same design, moved by a few pixels


def test_the_same_seed_draws_the_same_board_and_no_global_state_is_used() -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, mask = draw_board(np.random.default_rng(7), SIZE, "scratch")
    second, again = draw_board(np.random.default_rng(7), SIZE, "scratch")
    other, _ = draw_board(np.random.default_rng(8), SIZE, "scratch")
    assert (first == second).all()
    assert (mask == again).all()
    assert (first != other).any()
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_boards_open_as_an_mvtec_data_set(tmp_path: Path) -> None:
    folder = draw_boards(
        tmp_path, train=2, good=1, bad_per_kind=1, size=SIZE, extent=(10, 14), defects=("spatter", "scratch")
    )
    assert folder == tmp_path / "board"
    dataset = open_dataset(tmp_path, "board")
    assert len(dataset.train) == 2
    assert len(dataset.test) == 3
    assert dataset.has_masks
    assert set(dataset.kinds) == {"good", "spatter", "scratch"}
    for kind in ("spatter", "scratch"):
        mask = np.asarray(Image.open(folder / "ground_truth" / kind / "000_mask.png"))
        assert mask.shape == SIZE
        assert 10 <= longer_side(mask > 0) <= 14
        stored = np.asarray(Image.open(folder / "test" / kind / "000.jpg"))
        assert stored.shape == (*SIZE, 3)
    first = (folder / "train" / "good" / "001.jpg").read_bytes()
    draw_boards(tmp_path, train=3, good=0, bad_per_kind=0, size=SIZE)
    assert (folder / "train" / "good" / "001.jpg").read_bytes() == first


def test_wrong_calls_are_refused_in_one_line(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="spatter"):
        draw_board(rng, SIZE, "dent")
    with pytest.raises(InputError, match="256"):
        draw_board(rng, (255, 4000))
    with pytest.raises(InputError, match="20 to 8"):
        draw_board(rng, SIZE, "spatter", (20, 8))
    with pytest.raises(InputError, match="bridge of 2 to 4 px"):  # tracks are farther apart
        draw_board(rng, SIZE, "bridge", (2, 4))
    with pytest.raises(InputError, match="at least 0"):
        draw_boards(tmp_path, train=-1)

"""Folders of textures and of seen defects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flawscope.datasets import list_pictures
from flawscope.datasets.seen_defects import list_seen, read_seen
from flawscope.errors import InputError
from flawscope.synthesis import TextureFolder, generated_texture


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def textures(tmp_path: Path) -> Path:
    """One of each sort, and a file that is none."""
    folder, rng = tmp_path / "textures", np.random.default_rng(0)
    colour = generated_texture((60, 40), rng)
    save(folder / "wood" / "1.png", colour)
    save(folder / "wood" / "2.jpg", generated_texture((700, 1100), rng))
    save(folder / "grey.bmp", colour[..., 0])
    save(folder / "deep.tif", colour[..., 0].astype(np.uint16) * 16)
    save(folder / "clear.png", np.dstack([colour, np.full((60, 40), 9, np.uint8)]))
    save(folder / "dot.png", colour[:1, :1])
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    return folder


def test_textures_of_any_sort_are_read_and_broken_ones_named(textures: Path) -> None:
    found = TextureFolder(textures)
    assert len(found) == 6
    assert len(found.skipped) == 1
    assert "broken.jpg" in found.skipped[0]
    assert found.left_out == 0
    rng = np.random.default_rng(1)
    sizes = set()
    for _ in range(60):
        one = found.draw(rng)
        assert one.dtype == np.uint8
        assert one.ndim == 3
        sizes.add(one.shape)
    assert sizes == {(60, 40, 3), (326, 512, 3), (1, 1, 3)}
    again = [TextureFolder(textures).draw(np.random.default_rng(2)) for _ in range(2)]
    assert (again[0] == again[1]).all()


def test_memory_is_bounded_and_every_subfolder_represented(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for kind in "abc":
        for k in range(10):
            save(tmp_path / kind / f"{k}.png", generated_texture((50, 50), rng))
    found = TextureFolder(tmp_path, side=32, memory=8 * 3 * 32 * 32)
    assert sum(p.nbytes for p in found.pictures) <= 8 * 3 * 32 * 32
    assert 6 <= len(found) <= 8
    assert len(found) + found.left_out == 30
    chosen = list_pictures(tmp_path)[:: -(-30 // 8)]
    assert {path.parent.name for path in chosen} == set("abc")
    assert len(TextureFolder(tmp_path, side=64, memory=1)) == 1


def test_a_folder_without_textures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such"):
        TextureFolder(tmp_path / "nothing")
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"no texture in .* can be read.*a\.png"):
        TextureFolder(tmp_path)


PICTURE = np.full((20, 30, 3), 90, np.uint8)
MASK = np.zeros((20, 30), np.uint8)
MASK[4:9, 5:12] = 255


@pytest.mark.parametrize(
    ("picture", "mask", "folder", "kind"),
    [
        ("pictures/1.png", "masks/1.png", "", "pictures"),
        ("images/1.jpg", "masks/1.png", "", "images"),
        ("1.png", "masks/1_mask.png", "", "set"),
        ("hole/1.png", "masks/hole/1.png", "", "hole"),
        ("hole/1.png", "ground_truth/hole/1_mask.png", "hole", "hole"),
        ("test/hole/1.png", "ground_truth/hole/1_mask.png", "", "hole"),
        ("test/hole/1.png", "ground_truth/hole/1_mask.png", "test", "hole"),
        ("test/hole/1.png", "ground_truth/hole/1_mask.png", "test/hole", "hole"),
        ("bad/hole/1.png", "masks/hole/1.png", "bad", "hole"),
    ],
)
def test_masks_are_found(tmp_path: Path, picture: str, mask: str, folder: str, kind: str) -> None:
    root = tmp_path / "set"
    save(root / picture, PICTURE)
    save(root / mask, MASK)
    save((root / picture).with_name("2.png"), PICTURE)  # without a mask
    (item,) = list_seen(root / folder)
    assert (item.path, item.kind, item.anomalous) == (root / picture, kind, True)
    read, marked = read_seen(item)
    assert read.shape == (20, 30, 3)
    assert marked.sum() == 35


@pytest.mark.parametrize("folder", ["", "test", "test/hole"])
def test_a_whole_data_set_gives_its_defects_and_no_good_picture(tmp_path: Path, folder: str) -> None:
    root = tmp_path / "set"
    for name in ("train/good/1.png", "test/good/1.png", "test/hole/1.png"):
        save(root / name, PICTURE)
    save(root / "ground_truth/hole/1_mask.png", MASK)
    assert [item.path for item in list_seen(root / folder)] == [root / "test/hole/1.png"]


def test_seen_defects_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    save(tmp_path / "1.png", PICTURE)
    with pytest.raises(InputError, match="no defective picture with a mask"):
        list_seen(tmp_path)
    save(tmp_path / "masks" / "1.png", MASK[:10])
    with pytest.raises(InputError, match=r"1\.png: it is 30x10, its picture 30x20"):
        read_seen(list_seen(tmp_path)[0])
    save(tmp_path / "masks" / "1.png", MASK * 0)
    with pytest.raises(InputError, match="empty"):
        read_seen(list_seen(tmp_path)[0])

"""Folders of textures."""

import numpy as np
import pytest
from PIL import Image

from flawscope.datasets import list_pictures
from flawscope.errors import InputError
from flawscope.synthesis import TextureFolder, generated_texture


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def textures(tmp_path):
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


def test_textures_of_any_sort_are_read_and_broken_ones_named(textures):
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


def test_memory_is_bounded_and_every_subfolder_represented(tmp_path):
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


def test_a_folder_without_textures_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no such"):
        TextureFolder(tmp_path / "nothing")
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"no texture in .* can be read.*a\.png"):
        TextureFolder(tmp_path)

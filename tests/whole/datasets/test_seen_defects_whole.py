"""Which pictures `--seen` means: a number, a folder or a list."""

import pytest

from flawscope.datasets.seen_defects import list_seen, read_seen
from flawscope.errors import InputError


def names(items):
    return [f"{item.path.parent.name}/{item.path.name}" for item in items]


def test_a_mask_without_a_folder_belongs_to_one_picture(tmp_path, save, mask):
    save(tmp_path / "masks/1.png", mask)
    save(tmp_path / "Normal/1.png")
    save(tmp_path / "cut/1.png")
    assert names(list_seen(tmp_path)) == ["cut/1.png"]  # good ones have no defects
    save(tmp_path / "dent/1.png")
    with pytest.raises(InputError):  # it may be that of either
        list_seen(tmp_path)
    save(tmp_path / "1.png")
    assert [item.path for item in list_seen(tmp_path)] == [tmp_path / "1.png"]


def test_seen_defects_that_cannot_be_read_are_named(tmp_path, save, mask):
    save(tmp_path / "1.png")
    save(tmp_path / "masks/1.png", mask[:10])
    with pytest.raises(InputError, match=r"1\.png: it is 48x10, its picture 48x48"):
        read_seen(list_seen(tmp_path)[0])
    save(tmp_path / "masks/1.png", mask * 0)
    with pytest.raises(InputError, match="empty"):
        read_seen(list_seen(tmp_path)[0])

"""Which pictures `--seen` means: a number, a folder or a list."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from flawscope.datasets import Dataset, Item, open_dataset
from flawscope.datasets.masks import union_masks
from flawscope.datasets.seen_defects import choose_seen, draw_seen, list_seen
from flawscope.errors import InputError
from flawscope.pictures import listing


@pytest.fixture
def tmp_path(tmp_path):
    """Masks are looked for in the folder above, too, and there lie other tests' pictures."""
    (deeper := tmp_path / "own/place").mkdir(parents=True)
    return deeper


def dataset_of(*counts, good=5, without=0):
    """So many pictures of kinds a, b, ...; `without` more of kind a have no mask."""
    root = Path("widget")
    items = [Item(root / f"test/good/{k}.png", "good", False) for k in range(good)]
    for kind, count in zip("abcdefg", counts, strict=False):
        items += [
            Item(root / f"test/{kind}/{k}.png", kind, True, (root / f"ground_truth/{kind}/{k}_mask.png",))
            for k in range(count)
        ]
    items += [Item(root / f"test/a/u{k}.png", "a", True) for k in range(without)]
    return Dataset(root, "widget", "mvtec", (), tuple(items))


def kinds(items):
    return sorted(Counter(item.kind for item in items).values())


@pytest.mark.parametrize(
    ("counts", "count", "expected"),
    [
        ((10, 10, 10), 9, [3, 3, 3]),
        ((10, 10, 10), 10, [3, 3, 4]),
        ((10, 10, 10), 2, [1, 1]),
        ((1, 10, 10), 9, [1, 4, 4]),
        ((1, 2, 10), 13, [1, 2, 10]),
        ((4,), 3, [3]),
        ((4, 4), 0, []),
    ],
)
def test_drawn_evenly_over_the_kinds(counts, count, expected):
    drawn = draw_seen(dataset_of(*counts), count, 0)
    assert kinds(drawn) == expected
    assert len({item.path for item in drawn}) == count
    assert all(item.anomalous and item.masks for item in drawn)


def test_drawn_by_the_seed_and_not_by_the_order_of_the_files():
    data = dataset_of(10, 10, 10)
    found = [{item.path for item in draw_seen(data, 7, seed)} for seed in range(6)]
    assert found[0] == {item.path for item in draw_seen(data, 7, 0)}
    assert found[0] == {item.path for item in draw_seen(replace(data, test=data.test[::-1]), 7, 0)}
    assert len(set(map(frozenset, found))) == 6
    # which kinds get one more, and which pictures of a kind, are drawn too
    more = {Counter(p.parent.name for p in paths).most_common(1)[0][0] for paths in found}
    assert len(more) > 1
    assert {p.stem for paths in found for p in paths} == set(map(str, range(10)))


def test_never_more_than_there_are():
    data = dataset_of(2, 2, without=3)
    for four in (4, "4", " 4 "):
        assert choose_seen(four, data, 5) == draw_seen(data, 4, 5)
    with pytest.raises(InputError, match="cannot draw 5 seen defects: widget has 4 defective test"):
        choose_seen(5, data)
    with pytest.raises(InputError, match="cannot draw 1 seen defect: a list of pictures has 0"):
        choose_seen(1)
    assert choose_seen(0) == []


def names(items):
    return [f"{item.path.parent.name}/{item.path.name}" for item in items]


def test_a_category_or_a_folder_of_them_gives_its_defective_test_pictures(mvtec):
    assert names(list_seen(mvtec)) == ["bent/000.png", "bent/001.png", "cut/000.png", "cut/001.png"]
    assert [item.masks[0].name for item in list_seen(mvtec)] == ["000_mask.png", "001_mask.png"] * 2
    shutil.copytree(mvtec, mvtec.parent / "other")
    found = choose_seen(mvtec.parent, open_dataset(mvtec))
    assert {item.path.parents[2].name for item in found} == {"widget"}
    with pytest.raises(InputError, match=r"other.*widget|widget.*other"):
        choose_seen(mvtec.parent)


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


def test_without_masks_it_is_told(tmp_path, save):
    save(tmp_path / "defects/a.png")
    with pytest.raises(
        InputError, match="no defective picture with a mask; put masks of the same names into"
    ):
        choose_seen(tmp_path / "defects")
    assert names(choose_seen(tmp_path / "defects", masked=False)) == ["defects/a.png"]
    save(tmp_path / "masks/b.png")
    with pytest.raises(InputError, match="no defective picture with a mask"):
        choose_seen(tmp_path / "masks")  # its pictures are not their own masks
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: the folder is empty"):
        choose_seen(tmp_path / "empty")


WHERE = [  # picture, mask, folder that is given, kind
    ("pictures/1.png", "masks/1.png", "", "pictures"),
    ("images/1.jpg", "masks/1.png", "", "images"),
    ("1.png", "masks/1_mask.png", "", "set"),
    ("1.png", "Masks/1.png", "", "set"),
    ("hole/1.png", "masks/hole/1.png", "", "hole"),
    ("hole/1.png", "ground_truth/hole/1_mask.png", "hole", "hole"),
    ("test/hole/1.png", "ground_truth/hole/1_mask.png", "", "hole"),
    ("test/hole/1.png", "ground_truth/hole/1_mask.png", "test", "hole"),
    ("test/hole/1.png", "ground_truth/hole/1_mask.png", "test/hole", "hole"),
    ("bad/hole/1.png", "masks/hole/1.png", "bad", "hole"),
]


@pytest.mark.parametrize(("picture", "mask_file", "folder", "kind"), WHERE)
def test_masks_are_found_in_a_folder_beside_it_or_above_it(
    tmp_path, save, mask, picture, mask_file, folder, kind
):
    root = tmp_path / "set"
    save(root / picture)
    save(root / mask_file, mask)
    save((root / picture).with_name("2.png"))  # without a mask
    if picture.startswith("test"):
        save(root / "train/good/1.png")
        save(root / "test/good/1.png")
    (item,) = list_seen(root / folder)
    assert (item.path, item.kind, item.anomalous) == (root / picture, kind, True)
    assert int(union_masks(item.masks, (48, 48)).sum()) == 100


@pytest.mark.parametrize("beside", ["good", "ok", "projects"])
def test_what_lies_beside_a_folder_of_defects_is_not_looked_through(
    tmp_path, save, mask, monkeypatch, beside
):
    """Such as a desk of which it is one folder, good pictures and masks of defects among the others."""
    desk = tmp_path / "desk"
    for name in ("1.png", f"{beside}/deep/2.png", "papers/deep/3.png"):
        save(desk / ("defects" if name == "1.png" else "") / name)
    save(desk / "masks/1.png", mask)
    listed, walked = listing.list_entries, list[str]()

    def note(folder, **given):
        walked.append(Path(folder).relative_to(tmp_path).as_posix())
        return listed(folder, **given)

    monkeypatch.setattr(listing, "list_entries", note)
    assert names(list_seen(desk / "defects")) == ["defects/1.png"]
    assert not [one for one in walked if one.endswith("deep")], walked


@pytest.mark.parametrize("seen", ["nowhere", "-1", "2.5", "", " ", "a\0b", "x" * 5000])
def test_what_is_none_of_these_is_told(seen, tmp_path, save, mask, monkeypatch):
    """Nothing is not the folder one is in."""
    save(tmp_path / "a.png")
    save(tmp_path / "masks/a.png", mask)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is neither a number, a folder nor a list") as caught:
        choose_seen(seen)
    assert len(str(caught.value)) < 400


@pytest.fixture
def listed(mvtec, tmp_path):
    """listed(*lines) gives the names of what a list in another folder means, for the data set of `mvtec`."""

    def read(*lines, data=True, encoding="utf-8", folder="lists"):
        path = tmp_path / folder / "seen.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(lines), encoding=encoding)
        return names(choose_seen(path, open_dataset(mvtec) if data else None))

    return read


def test_a_list_names_pictures_of_the_data_set_or_beside_it(listed, mvtec, tmp_path, save, mask):
    lines = ["# two", "", "test/cut/001.png", f"  {mvtec}/test/bent/000.png  ", "../widget/test/cut/000.png"]
    wanted = ["cut/001.png", "bent/000.png", "cut/000.png"]
    assert listed(*lines) == wanted
    assert listed(*lines, "test/cut/../cut/001.png") == wanted  # once
    assert listed(*lines[3:], data=False) == wanted[1:]
    with pytest.raises(InputError, match=r"names test/cut/001\.png, which is not there"):
        listed(*lines, data=False)
    windows = [f"{line}\r" for line in lines[2:3]]
    assert listed(*windows, encoding="utf-8-sig") == wanted[:1]
    save(tmp_path / "lists/own/7.png")
    save(tmp_path / "lists/own/masks/7/0.png", mask)  # beside the picture, of which it may have several
    save(tmp_path / "lists/own/masks/7/1.png", mask)
    assert listed("own/7.png", "test/cut/001.png") == ["own/7.png", "cut/001.png"]
    (mvtec / "ground_truth/cut/001_mask.png").unlink()
    with pytest.raises(InputError, match=r"names test/cut/001\.png, which has no mask: put one beside it"):
        listed("test/bent/000.png", "test/cut/001.png")
    dataset, path = open_dataset(mvtec), tmp_path / "lists/seen.txt"
    assert names(choose_seen(path, dataset, masked=False)) == ["bent/000.png", "cut/001.png"]
    assert len(choose_seen(4, dataset, masked=False)) == 4 > len(choose_seen(mvtec, dataset))
    assert len(choose_seen(mvtec, dataset, masked=False)) == 4
    for other, reason in (
        (mvtec / "test/cut/000.png", r"it is no text; give a text file of paths, or a folder"),
        (tmp_path / "lists/bad.xlsx", r"it is no text; give a text file of paths, or a folder"),
        (tmp_path / "lists/bad.txt", r"it is no text in UTF-8; save it as UTF-8$"),
        (tmp_path / "lists/bad.lst", r"it is no text in UTF-8; save it as UTF-8$"),
    ):
        if not other.exists():
            other.write_bytes("test/cut/001.png\n".encode("utf-16-le"))
        with pytest.raises(InputError, match=f"cannot read the list .*{reason}"):
            choose_seen(other)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("test/cut/009.png", "which is not there: mend the line"),
        ("test/cut", "which is not there"),
        ("x" * 5000, "which is not there"),
        ("test/good/000.png", "which is not among the defective pictures: drop the line"),
        ("train/good/000.png", "which has no mask"),
        ("ground_truth/cut/000_mask.png", "which has no mask"),
        ("# nothing", "names no picture: write one path a line"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(listed, line, reason):
    with pytest.raises(InputError, match=reason) as caught:
        listed(*(["test/cut/001.png"] if line[0] != "#" else []), line)
    assert "\n" not in str(caught.value)
    assert line[0] == "#" or line[:100] in str(caught.value)
    assert len(str(caught.value)) < 600

import os
from pathlib import Path

import pytest

from flawscope.datasets import list_pictures, open_dataset
from flawscope.errors import InputError
from flawscope.pictures.listing import natural_key


@pytest.fixture
def folder(tmp_path):
    for name in (
        "b10.png",
        "b9.PNG",
        "a/1.jpg",
        "a/._1.jpg",
        "a/notes.txt",
        ".git/x.png",
        "z.tiff",
        "@eaDir/y.png",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return tmp_path


def test_folder_is_recursive_and_in_natural_order(folder):
    found = [path.relative_to(folder).as_posix() for path in list_pictures(folder)]
    assert found == ["a/1.jpg", "b9.PNG", "b10.png", "z.tiff"]


@pytest.mark.parametrize("lost", ["", "predictions", "results.csv"])
def test_a_copy_of_results_without_its_hidden_list_is_no_folder_of_parts(folder, lost):
    """Nor is anything passed over where it is no such copy: these folders may be somebody else's."""
    copy = folder / "copy"
    for name in (
        "results.csv",
        "results.json",
        "predictions/1.json",
        "overlays/1.png",
        "maps/a/1.png",
        "2.png",
    ):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        if lost not in name or not lost:
            (copy / name).touch()
    if lost == "predictions":
        (copy / lost).rmdir()
    found = [path.relative_to(copy).as_posix() for path in list_pictures(copy)]
    assert found == (["2.png", "maps/a/1.png", "overlays/1.png"] if lost else ["2.png"])


def test_patterns_files_and_several_of_them(folder, monkeypatch):
    assert [p.name for p in list_pictures(f"{folder}/b*")] == ["b9.PNG", "b10.png"]
    assert [p.name for p in list_pictures(f"{folder}/**/*.jpg")] == ["1.jpg"]
    assert [p.name for p in list_pictures(f"{folder}/*")] == ["1.jpg", "b9.PNG", "b10.png", "z.tiff"]
    several = list_pictures([folder / "z.tiff", f"{folder}/b*", folder / "a", folder / "z.tiff"])
    assert [path.name for path in several] == ["z.tiff", "b9.PNG", "b10.png", "1.jpg"]  # each once
    brackets, notes = folder / "part[1].png", folder / "a/notes.txt"
    brackets.touch()
    assert list_pictures(str(brackets)) == [brackets]  # no pattern
    assert list_pictures(notes) == [notes]  # named outright
    monkeypatch.chdir(folder)
    assert list_pictures("a") == [Path("a/1.jpg")]


@pytest.mark.parametrize("spec", ["nowhere", "nowhere/*.png", "nothing", []])
def test_nothing_found_is_an_error(tmp_path, spec):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError) as caught:
        list_pictures(tmp_path / spec if isinstance(spec, str) else spec)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here: nothing to install")
@pytest.mark.parametrize(
    "address",
    ["rtsp://admin:secret@cam/1", "http://cam/video.mjpg?token=secret", "s3://secret/good", "file:///secret"],
)
def test_an_address_is_no_folder_and_its_password_is_not_repeated(address):
    for call in (list_pictures, open_dataset):
        with pytest.raises(InputError, match="save the pictures in a folder") as refused:
            call(address)
        assert "secret" not in str(refused.value)
    with pytest.raises(InputError, match="check the path"):
        list_pictures("C:/parts/none")


def test_a_pipe_is_not_opened_and_a_dead_link_is_kept(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert list_pictures(tmp_path) == [tmp_path / "gone.png"]


def test_natural_key_is_a_total_order():
    names = ["a", "A", "a1", "a01", "a1b", "1", "01", "1a", "²", "ä", "a/b", "a b", ""]
    keys = sorted(natural_key(name) for name in names)
    assert len(set(keys)) == len(names)

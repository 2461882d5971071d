"""The listing of a run on a cluster: what is meant, in which order, written and read in pieces."""

import io
import os
import random

import pytest

from flawscope.cluster import listing
from flawscope.cluster.listing import FileStore
from flawscope.errors import FlawscopeError, InputError
from flawscope.pictures.listing import list_inputs


@pytest.fixture
def listed(tmp_path):
    """`listed(*specs)`: all paths of a new listing, with a mark where they mean nothing, and its facts."""

    def make(*specs, stdin=None):
        store = FileStore(str(tmp_path / "out"))
        stream = None if stdin is None else io.BytesIO(stdin)
        made = listing.write([str(spec) for spec in specs], store, stream)
        return [one.path + "!" * bool(one.error) for one in listing.read(store, 0, made.inputs)], made

    return make


@pytest.fixture
def pictures(tmp_path):
    root = tmp_path / "pictures"
    for name in ("b/10.png", "b/9.png", "a.jpg", "c/d/1.tif", "notes.txt", "b/.hidden.png", "raw.xyz"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def test_folders_files_and_patterns_are_listed_as_by_the_plain_command(pictures, listed):
    for spec in (pictures, pictures / "b/9.png", f"{pictures}/*/*.png", f"{pictures}/*"):
        found, made = listed(spec)
        inputs, beside = list_inputs(str(spec))
        assert found == [str(path) for path in inputs]
        assert made.inputs == len(inputs)
        assert made.beside.first == [str(path) for path in beside]


def test_each_path_is_listed_once_where_it_comes_first(pictures, listed, tmp_path):
    found, _ = listed(pictures / "b", pictures / "a.jpg", pictures, pictures / "nowhere")
    inputs = [str(path) for path in list_inputs([pictures / "b", pictures])[0]]
    assert found == [*inputs[:2], str(pictures / "a.jpg"), *inputs[3:], f"{pictures}/nowhere!"]


def test_roots_are_the_folders_that_each_node_must_see(pictures, listed, tmp_path, monkeypatch):
    """Else its parts would hold errors alone."""
    monkeypatch.chdir(tmp_path)
    far = f"{pictures}/b/10.png\n{pictures}/c/d/1.tif\n".encode()
    assert listed("-", stdin=far)[1].roots == [str(pictures)]
    assert listed("-", stdin=far + b"near.png")[1].roots == [str(tmp_path), str(pictures)]
    gone = "\n".join(f"{pictures}/b/nothing/{k}.png" for k in range(2500)).encode()
    assert listed("-", stdin=gone)[1].roots == [str(pictures / "b")]  # as far as it is there
    assert listed(pictures / "b/9.png", pictures / "b")[1].roots == [str(pictures / "b")]
    assert listed("pictures")[1].roots == [str(tmp_path)]


def test_stdin_is_taken_line_by_line_as_by_the_plain_command(listed):
    found, made = listed("-", stdin=b"a//b.png\r\n\nc.png\na//b.png\n\xff.png")
    assert found == ["a/b.png", "c.png", "a/b.png", os.fsdecode(b"\xff.png")]
    assert listed("-", stdin=b"c.png\n")[1].digest != made.digest
    for other in (b"\x89PNG\0\0", "a.png\n".encode("utf-16-le"), "a.png\n".encode("utf-16-be")):
        with pytest.raises(InputError, match="no list of paths in UTF-8; save a list as UTF-8"):
            listed("-", stdin=other)


def test_what_means_nothing_alone_is_refused(pictures, listed):
    (pictures / "empty").mkdir()
    for spec in (pictures / "nowhere", pictures / "empty", f"{pictures}/*.bmp"):
        with pytest.raises(InputError, match=r"no such|no pictures in this folder|matches no picture"):
            listed(spec)
    with pytest.raises(InputError, match="no pictures given"):
        listed("-", stdin=b"\n")


def test_any_piece_can_be_read(listed, tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "ROW_GROUP_SIZE", 3)
    names = [f"{k}.png" for k in range(40)]
    assert listed("-", stdin="\n".join(names).encode())[0] == names
    store, rng = FileStore(str(tmp_path / "out")), random.Random(1)
    for _ in range(60):
        start, stop = sorted(rng.sample(range(41), 2))
        assert [one.path for one in listing.read(store, start, stop)] == names[start:stop]


def test_a_store_is_written_whole(tmp_path):
    store = FileStore(tmp_path / "here")
    assert store.list_names("parts") == []
    assert not store.exists("parts/a")
    store.write("parts/a", b"1")
    store.write("parts/a", b"22")
    assert (store.read("parts/a"), store.list_names("parts")) == (b"22", ["a"])
    with pytest.raises(FlawscopeError, match=r"cannot read .*/parts/b: "):
        store.read("parts/b")
    assert FileStore(str(tmp_path / "here")).is_within(tmp_path)
    assert not FileStore(str(tmp_path / "here")).is_within(tmp_path / "he")

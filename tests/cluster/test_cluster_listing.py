"""The listing of a run on a cluster: what is meant, in which order, written and read in pieces."""

import io
import os
import random
import sys

import numpy as np
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
    table = tmp_path / "more.txt"
    table.write_text(f"{pictures}/b/9.png\nnew.png\n\n{pictures}/a.jpg\nnew.png\n")
    found, _ = listed(pictures / "b", table, pictures, pictures / "nowhere")
    inputs = [str(path) for path in list_inputs([pictures / "b", pictures])[0]]
    assert found == [*inputs[:2], "new.png", str(pictures / "a.jpg"), *inputs[3:], f"{pictures}/nowhere!"]


def test_tables_name_the_pictures(listed, tmp_path):
    import pyarrow
    from pyarrow import csv, parquet

    names = ["x/1.png", "s3://bucket/2.png", "é.png", "", "x/1.png"]
    table = pyarrow.table({"number": [*range(5)], "path": names})
    csv.write_csv(table, tmp_path / "t.csv")
    for kind in (pyarrow.string(), pyarrow.binary(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())):
        parquet.write_table(table.set_column(1, "path", table["path"].cast(kind)), tmp_path / "t.parquet")
        for name in ("t.csv", "t.parquet"):
            assert listed(tmp_path / name)[0] == ["x/1.png", "s3://bucket/2.png", "é.png"]
    parquet.write_table(pyarrow.table({"file": names}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"t\.parquet: it has no column path, only file"):
        listed(tmp_path / "t.parquet")
    (tmp_path / "t.parquet").write_bytes(b"no table")
    with pytest.raises(InputError, match="cannot read table"):
        listed(tmp_path / "t.parquet")


def test_roots_are_the_folders_that_each_node_must_see(pictures, listed, tmp_path, monkeypatch):
    """Else its parts would hold errors alone."""
    monkeypatch.chdir(tmp_path)
    table = tmp_path / "t.txt"
    table.write_text(f"{pictures}/b/10.png\nfile:///far/1.png\n{pictures}/c/d/1.tif\n")
    assert listed(table)[1].roots == [str(pictures)]
    assert listed("-", stdin=table.read_bytes() + b"near.png")[1].roots == [str(tmp_path), str(pictures)]
    table.write_text("\n".join(f"{pictures}/b/nothing/{k}.png" for k in range(2500)))
    assert listed(table)[1].roots == [str(pictures / "b")]  # as far as it is there
    assert listed(pictures / "b/9.png", pictures / "b")[1].roots == [str(pictures / "b")]
    assert listed("pictures")[1].roots == [str(tmp_path)]


def test_stdin_is_taken_line_by_line_as_by_the_plain_command(listed):
    found, made = listed("-", stdin=b"a//b.png\r\n\nc.png\na//b.png\n\xff.png")
    assert found == ["a/b.png", "c.png", "a/b.png", os.fsdecode(b"\xff.png")]
    assert listed("-", stdin=b"c.png\n")[1].digest != made.digest
    with pytest.raises(InputError, match="no list of paths"):
        listed("-", stdin=b"\x89PNG\0\0")


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


def test_seen_paths_are_those_of_a_set():
    rng, seen, known = random.Random(2), np.empty(0, np.int64), set[str]()
    for _ in range(200):
        chunk = [str(rng.randrange(3000)) for _ in range(rng.randrange(1, 40))]
        expected = []
        for path in chunk:
            expected.append(path not in known)
            known.add(path)
        new, seen = listing._find_new(chunk, seen)
        assert new.tolist() == expected
    assert len(seen) == len(known)


def test_object_stores_are_listed_like_folders(listed, monkeypatch):
    import fsspec

    files = fsspec.filesystem("memory")
    for name in ("b/10.png", "b/9.png", "a.jpg", "notes.txt", "b/.hidden.png"):
        files.pipe_file(f"/shelf/{name}", b"")
    files.pipe_file("/tables/t.csv", b"path\nx.png\ns3://bucket/y.png\n")
    for spec, wanted in (
        ("memory://shelf", [f"memory:///shelf/{name}" for name in ("a.jpg", "b/9.png", "b/10.png")]),
        ("memory://shelf/b/*.png", ["memory:///shelf/b/9.png", "memory:///shelf/b/10.png"]),
        ("memory://shelf/b/9.png", ["memory://shelf/b/9.png"]),
        ("memory://tables/t.csv", ["x.png", "s3://bucket/y.png"]),
    ):
        assert listed(spec)[0] == wanted
    assert listed("memory://shelf")[1].beside.first == ["memory:///shelf/notes.txt"]
    monkeypatch.setitem(sys.modules, "s3fs", None)
    for spec, wrong in (
        ("memory://shelf/nothing", "no such file or folder"),
        ("memory://tables", "no pictures in this folder, only t.csv"),
        ("memory://shelf/*.bmp", "the pattern matches no picture"),
        ("nobody://knows", "Protocol not known"),
        ("s3://bucket/folder", "^s3://bucket/folder: Install s3fs to access S3;"),
    ):
        with pytest.raises(InputError, match=wrong):
            listed(spec)


def test_a_store_is_written_whole_wherever_it_is(tmp_path):
    for url in (str(tmp_path / "here"), f"file://{tmp_path}/there", "memory://place"):
        store = FileStore(url)
        assert store.list_names("parts") == []
        assert not store.exists("parts/a")
        store.write("parts/a", b"1")
        store.write("parts/a", b"22")
        assert (store.read("parts/a"), store.list_names("parts")) == (b"22", ["a"])
        with pytest.raises(FlawscopeError, match=r"cannot read .*/parts/b: "):
            store.read("parts/b")
    assert FileStore(str(tmp_path / "here")).is_within(tmp_path)
    assert not FileStore(str(tmp_path / "here")).is_within(tmp_path / "he")

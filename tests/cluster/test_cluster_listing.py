"""The listing of a run on a cluster: what is meant, in which order, written and read in pieces."""

from __future__ import annotations

import io
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("fsspec")

from flawscope.cluster import listing
from flawscope.cluster.listing import Entry, Store
from flawscope.errors import FlawscopeError, InputError
from flawscope.pictures.listing import list_inputs

List = Callable[..., tuple[list[Entry], listing.Listing]]


@pytest.fixture
def listed(tmp_path: Path) -> List:
    """`listed(*specs)`: all entries of a new listing, and what is known of it."""

    def make(*specs: object, stdin: bytes | None = None) -> tuple[list[Entry], listing.Listing]:
        store = Store(str(tmp_path / "out"))
        stream = None if stdin is None else io.BytesIO(stdin)
        made = listing.write([str(spec) for spec in specs], store, stream)
        return listing.read(store, 0, made.inputs), made

    return make


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    for name in ("b/10.png", "b/9.png", "a.jpg", "c/d/1.tif", "notes.txt", "b/.hidden.png", "raw.xyz"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def paths(found: list[Entry]) -> list[str]:
    return [one.path for one in found]


def test_folders_files_and_patterns_are_listed_as_by_the_plain_command(pictures: Path, listed: List) -> None:
    for spec in (pictures, pictures / "b/9.png", f"{pictures}/*/*.png", f"{pictures}/*"):
        found, made = listed(spec)
        inputs, beside = list_inputs(str(spec))
        assert paths(found) == [str(path) for path in inputs]
        assert made.inputs == len(inputs)
        assert (made.beside.count, made.beside.first) == (len(beside), [str(path) for path in beside])
    assert made.roots == [str(pictures)]


def test_each_path_is_listed_once_where_it_comes_first(pictures: Path, listed: List, tmp_path: Path) -> None:
    table = tmp_path / "more.txt"
    table.write_text(f"{pictures}/b/9.png\nnew.png\n\n{pictures}/a.jpg\nnew.png\n")
    found, _ = listed(pictures / "b", table, pictures)
    inputs = [str(path) for path in list_inputs([pictures / "b", pictures])[0]]
    assert paths(found) == [*inputs[:2], "new.png", str(pictures / "a.jpg"), *inputs[3:]]


def test_tables_name_the_pictures(pictures: Path, listed: List, tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import csv, parquet

    names = ["x/1.png", "s3://bucket/2.png", "é.png", "", "x/1.png"]
    table = pyarrow.table({"number": [*range(5)], "path": names})
    csv.write_csv(table, tmp_path / "t.csv")
    for kind in (pyarrow.string(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())):
        parquet.write_table(table.set_column(1, "path", table["path"].cast(kind)), tmp_path / "t.parquet")
        for name in ("t.csv", "t.parquet"):
            assert paths(listed(tmp_path / name)[0]) == ["x/1.png", "s3://bucket/2.png", "é.png"]
    parquet.write_table(pyarrow.table({"file": names}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"t\.parquet: it has no column path, only file"):
        listed(tmp_path / "t.parquet")
    (tmp_path / "t.parquet").write_bytes(b"no table")
    with pytest.raises(InputError, match="cannot read table"):
        listed(tmp_path / "t.parquet")


def test_roots_are_where_the_pictures_lie(pictures: Path, listed: List, tmp_path: Path) -> None:
    """Each node is to see them: else its parts would hold errors alone."""
    table = tmp_path / "t.txt"
    table.write_text(f"{pictures}/b/10.png\nfile:///far/1.png\nnear.png\n{pictures}/c/d/1.tif\n")
    assert listed(table)[1].roots == [str(pictures)]
    assert listed("-", stdin=table.read_bytes())[1].roots == [str(pictures)]
    table.write_text("\n".join(f"{pictures}/b/nothing/{k}.png" for k in range(2500)))
    assert listed(table)[1].roots == [str(pictures / "b")]  # as far as it is there
    found, made = listed(pictures / "b/9.png", pictures / "b/10.png", pictures / "b")
    assert (len(found), made.roots) == (2, [str(pictures / "b")])


def test_stdin_is_taken_line_by_line_as_by_the_plain_command(listed: List) -> None:
    found, made = listed("-", stdin=b"a//b.png\r\n\nc.png\na//b.png\n\xff.png")
    assert paths(found) == ["a/b.png", "c.png", "a/b.png", os.fsdecode(b"\xff.png")]
    again, same = listed("-", stdin=b"a//b.png\r\n\nc.png\na//b.png\n\xff.png")
    assert (again, same.digest) == (found, made.digest)
    assert listed("-", stdin=b"c.png\n")[1].digest != made.digest
    with pytest.raises(InputError, match="no list of paths"):
        listed("-", stdin=b"\x89PNG\0\0")


def test_what_means_nothing_stands_in_its_place(pictures: Path, listed: List) -> None:
    found, _ = listed(pictures / "b", pictures / "nowhere", pictures / "a.jpg")
    assert paths(found)[2:] == [str(pictures / "nowhere"), str(pictures / "a.jpg")]
    assert [bool(one.error) for one in found] == [False, False, True, False]
    assert "no such file or folder" in found[2].error
    (pictures / "empty").mkdir()
    for spec in (pictures / "nowhere", pictures / "empty", f"{pictures}/*.bmp"):
        with pytest.raises(
            InputError, match=r"no such file|no pictures in this folder|matches no picture|no such"
        ):
            listed(spec)
    with pytest.raises(InputError, match="no pictures given"):
        listed("-", stdin=b"\n")


def test_a_run_does_not_list_what_it_writes(pictures: Path) -> None:
    store = Store(str(pictures / "out"))
    store.write("parts/1.png", b"")
    made = listing.write([str(pictures)], store)
    assert not [one for one in listing.read(store, 0, made.inputs) if "out" in Path(one.path).parts]
    assert made.beside.first == [str(pictures / "notes.txt")]


def test_any_piece_can_be_read(listed: List, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "GROUP", 3)
    monkeypatch.setattr(listing, "FILE", 12)
    names = [f"{k}.png" for k in range(40)]
    found, made = listed("-", stdin="\n".join(names).encode())
    assert made.inputs == 40
    assert len(list((tmp_path / "out/listing").iterdir())) == 4
    store, rng = Store(str(tmp_path / "out")), random.Random(1)
    for _ in range(60):
        start, stop = sorted(rng.sample(range(41), 2))
        assert paths(listing.read(store, start, stop)) == names[start:stop]
    assert paths(listed("-", stdin=b"1.png")[0]) == ["1.png"]  # a shorter one in its place
    assert paths(found) == names


def test_seen_paths_are_those_of_a_set() -> None:
    rng, seen, known = random.Random(2), np.empty(0, np.int64), set[str]()
    for _ in range(200):
        chunk = [str(rng.randrange(3000)) for _ in range(rng.randrange(1, 40))]
        expected = []
        for path in chunk:
            expected.append(path not in known)
            known.add(path)
        new, seen = listing._new(chunk, seen)
        assert new.tolist() == expected
    assert len(seen) == len(known)


def test_object_stores_are_listed_like_folders(listed: List) -> None:
    import fsspec

    files = fsspec.filesystem("memory")
    for name in ("b/10.png", "b/9.png", "a.jpg", "notes.txt", "b/.hidden.png"):
        files.pipe_file(f"/shelf/{name}", b"")
    files.pipe_file("/tables/t.csv", b"path\nx.png\ns3://bucket/y.png\n")
    found, made = listed("memory://shelf")
    assert paths(found) == [f"memory:///shelf/{name}" for name in ("a.jpg", "b/9.png", "b/10.png")]
    assert made.beside.first == ["memory:///shelf/notes.txt"]
    assert paths(listed("memory://shelf/b/*.png")[0]) == [
        f"memory:///shelf/b/{name}" for name in (".hidden.png", "9.png", "10.png") if name[0] != "."
    ]
    assert paths(listed("memory://shelf/b/9.png")[0]) == ["memory://shelf/b/9.png"]
    assert paths(listed("memory://tables/t.csv")[0]) == ["x.png", "s3://bucket/y.png"]
    for spec, wrong in (
        ("memory://shelf/nothing", "no such file or folder"),
        ("memory://tables", "no pictures in this folder, only t.csv"),
        ("memory://shelf/*.bmp", "the pattern matches no picture"),
        ("nobody://knows", "Protocol not known"),
    ):
        with pytest.raises(InputError, match=wrong):
            listed(spec)


def test_a_missing_library_for_an_object_store_is_named(
    listed: List, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(InputError, match=r"^s3://bucket/folder: Install s3fs to access S3$"):
        listed("s3://bucket/folder")


def test_a_store_is_written_whole_wherever_it_is(tmp_path: Path) -> None:
    for url in (str(tmp_path / "here"), f"file://{tmp_path}/there", "memory://place"):
        store = Store(url)
        assert store.names("parts") == []
        assert not store.exists("parts/a")
        store.write("parts/a", b"1")
        store.write("parts/a", b"22")
        assert (store.read("parts/a"), store.names("parts")) == (b"22", ["a"])
        with pytest.raises(FlawscopeError, match=r"cannot read .*/parts/b: "):
            store.read("parts/b")
    assert Store(str(tmp_path / "here")).lies_in(tmp_path)
    assert not Store(str(tmp_path / "here")).lies_in(tmp_path / "he")

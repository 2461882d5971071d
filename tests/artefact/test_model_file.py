"""The model file: what is written is read, writing is atomic, a bad file is one line and never a surprise."""

import contextlib
import hashlib
import json
import os
import struct
import sys
import threading
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from flawscope.artefact import model_file
from flawscope.artefact.files import atomic_write, check_writable
from flawscope.artefact.model_file import (
    FORMAT,
    METADATA_KEY,
    OLDEST_FORMAT,
    Artefact,
    Manifest,
    pack_images,
    read,
    unpack_images,
    write,
)
from flawscope.calibration.rows import calibrate
from flawscope.errors import FlawscopeError, InputError
from flawscope.pictures.table import Picture
from flawscope.views.preprocess import Preprocess
from flawscope.views.tiles import Fusion


def example(**changes):
    rng = np.random.default_rng(0)
    pictures = (
        Picture("ab" * 32, "train", "a/ü.png", 0, 1.0, 3.0, 0.5, True),
        Picture("cd" * 32, "dropped", "b.png", 1),
        Picture("ef" * 32, "train", "c.png", 2, 2.0, 4.0, 0.5, True),
        Picture("01" * 32, "calibration", "of the line", 3, 0.1 + 0.2, 5.0, 0.5, True, True),
        Picture("23" * 32, "calibration", "d.png", 2, counted=True),
    )
    manifest = Manifest(
        method="patchcore",
        config={"size": "32", "ratio": 0.1, "weights": None},
        preprocess=Preprocess((32, 48), True, (16, 16), 4095.0),
        calibration=calibrate(pictures, method="held out"),
        backbone={"name": "tiny", "origin": "nowhere", "licence": "none"},
        category="Schraube ⌀5",
        pictures=pictures,
        facts={"bank": 3, "seconds": 1.25},
        notes=('a note with "quotes"\nand a line',),
        samples=({"name": "a/ü.png", "score": 1.5, "map_maximum": 2.5},),
        versions={"flawscope": "0.1"},
    )
    tensors = {
        "bank": rng.random((3, 5), dtype=np.float32),
        "half": rng.random((2, 2)).astype(np.float16),
        "double": rng.random(3),
        "samples": rng.integers(0, 256, (1, 3, 4, 4), dtype=np.uint8),
        "table": np.arange(6, dtype=np.int32).reshape(3, 2),
        "long": np.arange(-2, 2),
        "deep": np.arange(3, dtype=np.uint16),
        "roi": np.array([[True, False], [False, True]]),
        "empty": np.zeros((0, 7), np.float32),
        "scalar": np.float32(4.0).reshape(()),
        "strided": np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::2],
    }
    return Artefact(replace(manifest, **changes), tensors)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    file = tmp_path_factory.mktemp("artefact") / "model.safetensors"
    write(example(), file)
    return file


def split(path):
    body = path.read_bytes()
    (length,) = struct.unpack("<Q", body[:8])
    return json.loads(body[8 : 8 + length]), body[8 + length :]


def join(header, data, path, *, honest=True):
    """A file with this header; `honest` puts right hashes into it, so that only the content is hostile."""
    if honest and isinstance(header, dict):
        meta = header["__metadata__"]
        meta["sha256"] = hashlib.sha256(data).hexdigest()
        run = meta.setdefault(model_file.RUN_KEY, "{}")
        meta.setdefault("run_sha256", hashlib.sha256(run.encode()).hexdigest())
        meta["header_sha256"] = model_file._header_hash(meta[METADATA_KEY], header)
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + data)
    return path


def with_tensors(path, data, **tensors):
    """A model file with these entries of tensors and right hashes."""
    manifest = json.dumps(example().manifest.to_dict())
    return join({"__metadata__": {METADATA_KEY: manifest}, **tensors}, data, path)


def refused(path, match=None):
    """The one line with which `read` refuses the file."""
    with pytest.raises(InputError, match=match) as caught:
        read(path)
    text = str(caught.value)
    assert "\n" not in text
    assert path.name in text
    return text


def test_what_is_written_is_read_and_written_again_as_the_same_file(path, tmp_path):
    want, got = example(), read(path)
    assert got.manifest == want.manifest
    assert set(got.tensors) == set(want.tensors)
    for name, tensor in want.tensors.items():
        np.testing.assert_array_equal(got.tensors[name], tensor, strict=True)
        assert got.tensors[name].flags.writeable  # torch takes them over
    write(read(path), tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_the_file_is_ordinary_safetensors(path):
    from safetensors import numpy as safetensors

    loaded = safetensors.load_file(path)
    for name, tensor in example().tensors.items():
        np.testing.assert_array_equal(loaded[name], tensor, strict=True)
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])
    assert (8 + length) % 8 == 0  # tensors are aligned for whoever maps the file


def test_the_manifest_is_read_without_the_tensors(tmp_path):
    """A sparse file that claims 200 GB of tensors: reading those would be noticed."""
    bank = {"dtype": "U8", "shape": [200 * 10**9], "data_offsets": [0, 200 * 10**9]}
    file = with_tensors(tmp_path / "huge.safetensors", b"", bank=bank)
    try:
        os.truncate(file, file.stat().st_size + 200 * 10**9)
    except OSError:
        pytest.skip("this file system holds no sparse files: nothing to install")
    assert model_file.read_manifest(file) == example().manifest


def test_numbers_that_json_does_not_know_are_not_written(tmp_path):
    with pytest.raises(ValueError):
        write(example(facts={"radius": float("nan")}), tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, MemoryError, SystemExit, RuntimeError])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, interruption):
    file = tmp_path / "m.safetensors"
    file.write_bytes(b"old")

    def interrupted():
        with atomic_write(file) as stream:
            stream.write(b"new" * 10_000)
            raise interruption

    with pytest.raises(interruption):
        interrupted()
    assert file.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["m.safetensors"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failing_system_call_is_one_line(tmp_path, monkeypatch, call):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    file = tmp_path / "m.safetensors"
    file.write_bytes(b"old")
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(FlawscopeError, match="No space left on device") as caught:
        write(example(), file)
    assert not isinstance(caught.value, InputError)  # exit code 1, not 2
    assert file.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["m.safetensors"]


def test_what_a_run_took_stands_apart_from_the_model(tmp_path):
    """Two fits with one seed differ in it alone, also in their hashes."""
    headers = []
    for seconds, threads in ((1.5, 2), (60.25, 16)):
        facts = {"steps": 3, "seconds_total": seconds, "threads": threads, "summary": [f"{seconds} s"]}
        write(example(facts=facts), tmp_path / "m.safetensors")
        assert read(tmp_path / "m.safetensors").manifest.facts == facts
        header, data = split(tmp_path / "m.safetensors")
        run = header["__metadata__"].pop(model_file.RUN_KEY)
        assert json.loads(run)["threads"] == threads
        del header["__metadata__"]["run_sha256"]
        headers.append((header, data))
    assert headers[0] == headers[1]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no POSIX permissions: nothing to install")
@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_permissions_follow_the_umask_which_is_never_changed(tmp_path, monkeypatch, umask):
    """It is the process's: other threads make files too."""

    def change(mask):
        raise AssertionError("the umask was changed")

    before = os.umask(umask)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "umask", change)
            write(example(), tmp_path / "m.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "m.safetensors").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_reader_sees_the_old_or_the_new_file_never_a_part(tmp_path):
    file = tmp_path / "m.safetensors"
    models = [example(category=c * 1000) for c in "ab"]
    write(models[0], file)
    stop = threading.Event()

    def overwrite():
        while not stop.is_set():
            for model in models:
                write(model, file)

    thread = threading.Thread(target=overwrite)
    thread.start()
    try:
        for _ in range(100):
            assert read(file).manifest.category in ("a" * 1000, "b" * 1000)
    finally:
        stop.set()
        thread.join()


def test_a_missing_folder_is_told_before_and_while_writing_and_asking_makes_nothing(tmp_path):
    file = tmp_path / "no" / "m.safetensors"
    with pytest.raises(InputError, match="no folder"):
        check_writable(file)
    with pytest.raises(FlawscopeError, match="cannot write"):
        write(example(), file)
    assert check_writable(tmp_path / "m.safetensors", ".safetensors") == tmp_path / "m.safetensors"
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="end in"):
        check_writable(tmp_path / "m.onnx", ".safetensors")
    with pytest.raises(InputError, match="folder"):
        check_writable(tmp_path)


def test_every_truncation_is_refused(path, tmp_path):
    body = path.read_bytes()
    file = tmp_path / "cut.safetensors"
    (length,) = struct.unpack("<Q", body[:8])
    for size in sorted({*range(12), *range(12, len(body), 37), 7 + length, 8 + length, len(body) - 1}):
        file.write_bytes(body[:size])
        refused(file)


def test_every_byte_matters(path, tmp_path):
    """A flipped bit anywhere in the file, header and tensors, is noticed."""
    body = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    file = tmp_path / "flipped.safetensors"
    for offset in [*range(8), *range(8, len(body), 3)]:
        bit = 1 << int(rng.integers(8))
        body[offset] ^= bit
        file.write_bytes(body)
        body[offset] ^= bit
        refused(file)


def test_extra_bytes_and_an_altered_threshold_are_noticed_even_in_the_manifest_alone(path, tmp_path):
    (tmp_path / "long.safetensors").write_bytes(path.read_bytes() + b"\0")
    refused(tmp_path / "long.safetensors")
    with pytest.raises(InputError, match="extra data"):
        model_file.read_manifest(tmp_path / "long.safetensors")
    (tmp_path / "m.safetensors").write_bytes(path.read_bytes().replace(b"0.05", b"0.95"))
    with pytest.raises(InputError, match="altered"):
        model_file.read_manifest(tmp_path / "m.safetensors")


NO_MODEL = {
    "empty": b"",
    "zeros": bytes(4096),
    "text": b"This is not a model, but it is long enough to look at.\n" * 20,
    "picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "endless header": struct.pack("<Q", 2**64 - 1) + b"{}",
    "header of 2^40": struct.pack("<Q", 2**40) + b"{}" * 100,
    "header over the file's end": struct.pack("<Q", 1000) + b"{}" * 100,
    "no JSON": struct.pack("<Q", 8) + b"{{{{{{{{",
    "no UTF-8": struct.pack("<Q", 8) + b"\xff\xfe\xfd\xfc\xff\xff\xff\xff",
    "JSON, no object": struct.pack("<Q", 8) + b"[1,2,3] ",
    "no metadata": struct.pack("<Q", 8) + b"{}      ",
    "deep JSON": struct.pack("<Q", 200_000) + b"[" * 100_000 + b"]" * 100_000,
    "deep objects": struct.pack("<Q", 500_000) + b'{"a":' * 100_000,
    "metadata as list": struct.pack("<Q", 24) + b'{"__metadata__":[1,2,3]}',
}


@pytest.mark.parametrize("name", NO_MODEL)
def test_what_is_no_model_is_refused(name, tmp_path):
    (tmp_path / "m.safetensors").write_bytes(NO_MODEL[name])
    refused(tmp_path / "m.safetensors", "cannot use model")


def test_another_tools_safetensors_is_no_model(tmp_path):
    from safetensors import numpy as safetensors

    safetensors.save_file({"a": np.zeros(3)}, tmp_path / "m.safetensors", metadata={"format": "pt"})
    refused(tmp_path / "m.safetensors", "not a flawscope model")


def test_a_pickle_is_not_opened(tmp_path):
    """A torch checkpoint that would write a file if anybody unpickled it."""
    mark = tmp_path / "executed"
    payload = b"cos\nsystem\n(S'touch " + os.fsencode(mark) + b"'\ntR."
    bare, packed = tmp_path / "m.pt", tmp_path / "n.pt"
    bare.write_bytes(payload)
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("archive/data.pkl", payload)
    for file in (bare, packed):
        refused(file)
    assert not mark.exists()


def test_what_is_no_file_is_refused_at_once(tmp_path):
    refused(tmp_path, "folder")
    refused(tmp_path / "nothing.safetensors", "there is no model")
    (tmp_path / "file").write_bytes(b"x")
    refused(tmp_path / "file" / "m.safetensors", "cannot read model")
    loop = tmp_path / "loop.safetensors"
    loop.symlink_to(loop)
    refused(loop, "cannot read model")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.safetensors")  # to open it would wait for ever
        refused(tmp_path / "pipe.safetensors", "ordinary file")


def bank(**changes):
    return {"dtype": "F32", "shape": [3, 5], "data_offsets": [0, 60], **changes}


HOSTILE_TENSORS = {
    "negative shape": bank(shape=[-3, -5]),
    "shape too large": bank(shape=[2**40, 2**40]),
    "product beyond 64 bits": bank(shape=[2**63, 2**63, 60]),
    "shape of floats": bank(shape=[3.0, 5]),
    "shape of truths": bank(shape=[True, 15]),
    "shape of text": bank(shape="35"),
    "a hundred dimensions": bank(shape=[1] * 99 + [15]),
    "lie about dtype": bank(dtype="F64"),
    "unknown dtype": bank(dtype="BF16"),
    "dtype as list": bank(dtype=["F32"]),
    "no dtype": {"shape": [3, 5], "data_offsets": [0, 60]},
    "gap before": bank(data_offsets=[4, 64]),
    "backwards": bank(data_offsets=[60, 0]),
    "negative offset": bank(data_offsets=[-60, 0]),
    "beyond the end": bank(shape=[30, 50], data_offsets=[0, 6000]),
    "three offsets": bank(data_offsets=[0, 30, 60]),
    "offsets as text": bank(data_offsets="06"),
    "list": [1, 2],
    "nothing": None,
    "text": "F32",
}


@pytest.mark.parametrize("name", HOSTILE_TENSORS)
def test_hostile_tensors_are_refused_before_anything_is_allocated(name, tmp_path):
    file = with_tensors(tmp_path / "m.safetensors", bytes(60), bank=HOSTILE_TENSORS[name])
    refused(file)
    with pytest.raises(InputError):
        model_file.read_manifest(file)


def test_a_shape_of_zero_times_very_much_is_refused(tmp_path):
    """No byte is missing, yet numpy cannot make it."""
    hollow = bank(shape=[0, 2**47, 2**47, 2**47], data_offsets=[0, 0])
    refused(with_tensors(tmp_path / "m.safetensors", b"", bank=hollow), "shape")


@pytest.mark.parametrize(
    ("first", "second"), [((0, 40), (20, 60)), ((0, 60), (0, 60)), ((0, 20), (40, 60)), ((20, 40), (40, 60))]
)
def test_overlaps_and_gaps_are_refused(tmp_path, first, second):
    a, b = ({"dtype": "U8", "shape": [end - at], "data_offsets": [at, end]} for at, end in (first, second))
    refused(with_tensors(tmp_path / "m.safetensors", bytes(60), a=a, b=b), "overlap or leave gaps")


def test_truth_values_are_true_or_false(tmp_path):
    roi = {"dtype": "BOOL", "shape": [3], "data_offsets": [0, 3]}
    refused(with_tensors(tmp_path / "m.safetensors", bytes([0, 1, 7]), roi=roi), "true and false")


def manifest_file(path, change):
    data = example().manifest.to_dict()
    data = change(data) or data
    text = data if isinstance(data, str) else json.dumps(data)
    return join({"__metadata__": {METADATA_KEY: text}}, b"", path)


@pytest.mark.parametrize("older", range(1, OLDEST_FORMAT))
def test_a_format_of_before_a_release_is_refused_in_one_line(older):
    with pytest.raises(
        InputError, match=rf"format {older}, of before a release, and this one reads {FORMAT}"
    ):
        Manifest.from_dict({**example().manifest.to_dict(), "format": older})


def test_a_calibration_of_other_pictures_is_not_written(tmp_path):
    known = example().manifest.calibration
    other = example(calibration=replace(known, scores=(1.0, 2.0, 9.0)))
    with pytest.raises(FlawscopeError, match="not that of the model's pictures"):
        write(other, tmp_path / "m.safetensors")


def test_a_newer_format_names_the_version_to_upgrade_to(tmp_path):
    newer = {"format": FORMAT + 1, "versions": {"flawscope": "9.7.3"}}
    text = refused(manifest_file(tmp_path / "m.safetensors", lambda d: d.update(newer)), "upgrade")
    assert "9.7.3" in text
    assert "fit anew" not in text


@pytest.mark.parametrize("versions", [None, [], "9", {}, {"flawscope": None}])
def test_a_newer_format_with_a_strange_manifest_is_still_one_line(tmp_path, versions):
    """It may lack whatever this version knows, and hash its header in another way."""
    file = tmp_path / "m.safetensors"
    text = json.dumps({"format": 99, "versions": versions})
    refused(join({"__metadata__": {METADATA_KEY: text, "sha256": ""}}, b"", file, honest=False), "upgrade")


MANIFESTS = {
    "list": lambda d: "[1]",
    "number": lambda d: "7",
    "no JSON": lambda d: "{",
    "NaN": lambda d: d.update(facts={"a": float("nan")}),
    "deep": lambda d: "[" * 100_000 + "]" * 100_000,
    "summary as number": lambda d: d.update(facts={"summary": 5}),
    "summary of numbers": lambda d: d.update(facts={"summary": [5]}),
    "seconds as text": lambda d: d.update(facts={"seconds_total": "a"}),
    "seconds of ages": lambda d: d.update(facts={"seconds_total": 1e300}),
    "seconds of a view as text": lambda d: d.update(facts={"seconds_view": "a"}),
    "no format": lambda d: d.pop("format") and None,
    "format 0": lambda d: d.update(format=0),
    "format as text": lambda d: d.update(format="1"),
    "config as list": lambda d: d.update(config=[1]),
    "config as number": lambda d: d.update(config=3),
    "preprocess as text": lambda d: d.update(preprocess="stretch"),
    "preprocess null": lambda d: d.update(preprocess=None),
    "size of millions": lambda d: d["preprocess"].update(size=["a", 3]),
    "unknown preprocess key": lambda d: d["preprocess"].update(colour=3),
    "calibration null": lambda d: d.update(calibration=None),
    "calibration of nothing": lambda d: d["pictures"].update(counted=[False] * 5),
    "calibration of 10^400": lambda d: d["pictures"]["median"].__setitem__(0, 10**400),
    "a score alone": lambda d: d["pictures"]["maximum"].__setitem__(0, None),
    "a column cut": lambda d: d["pictures"]["unit"].pop(),
    "no column": lambda d: d["pictures"].pop("role") and None,
    "counted by a number": lambda d: d["pictures"]["counted"].__setitem__(0, 1),
    "unit of text": lambda d: d["pictures"]["unit"].__setitem__(0, "0"),
    "pictures as number": lambda d: d.update(pictures=3),
    "pictures of text": lambda d: d.update(pictures=["a"]),
    "samples of numbers": lambda d: d.update(samples=[1]),
    "notes as number": lambda d: d.update(notes=3),
    "versions as list": lambda d: d.update(versions=["a"]),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_damaged_manifests_are_refused(name, tmp_path):
    file = manifest_file(tmp_path / "m.safetensors", MANIFESTS[name])
    refused(file)
    with pytest.raises(InputError):
        model_file.read_manifest(file)


@pytest.mark.parametrize("key", sorted({*example().manifest.to_dict()}))
def test_a_manifest_without_an_entry_is_refused(key, tmp_path):
    refused(manifest_file(tmp_path / "m.safetensors", lambda d: d.pop(key) and None))


def with_tiles(**changes):
    """A manifest of tiles; None removes an entry. Nothing is taken over that was not changed."""
    data = example().manifest.to_dict()
    data["preprocess"].update(crop=None, tile=[64, 96], overlap=0.25)
    data["fusion"] = {"score": "map", "factor": 1.5, "shift": -0.25}
    for key, value in changes.items():
        where = next((d for d in (data["preprocess"], data["fusion"]) if key in d), data)
        if value is None:
            del where[key]
        else:
            where[key] = value
    return data


def test_tiles_are_in_the_manifest_and_only_where_there_are_some():
    data = with_tiles()
    found = Manifest.from_dict(data)
    assert (found.preprocess.tile, found.preprocess.overlap) == ((64, 96), 0.25)
    assert found.fusion == Fusion("map", 1.5, -0.25)
    assert found.to_dict() == data
    plain = example().manifest.to_dict()
    assert "fusion" not in plain
    assert not {"tile", "overlap"} & plain["preprocess"].keys()


HUGE = 10**400
TILES = {
    "fusion without tiles": ({"tile": None}, "a model with tiles has a fusion"),
    "tiles without fusion": ({"fusion": None}, "a model with tiles has a fusion"),
    "tiles and crop": ({"crop": [16, 16]}, "crop and tile"),
    "tile as text": ({"tile": "96"}, "two whole numbers"),
    "tile of fractions": ({"tile": [64.5, 96]}, "two whole numbers"),
    "negative tile": ({"tile": [-64, 96]}, "two whole numbers"),
    "tile of one pixel": ({"tile": [1, 1]}, "choose 1/8 to 1024 times"),
    "tile beyond floats": ({"tile": [HUGE, HUGE]}, "tile is"),
    "overlap of two": ({"overlap": 2}, "share of a tile"),
    "overlap as text": ({"overlap": "0.25"}, "share of a tile"),
    "overlap beyond floats": ({"overlap": HUGE}, "share of a tile"),
    "overlap that is no number": ({"overlap": float("nan")}, "share of a tile"),
    "factor of zero": ({"factor": 0}, "factor above 0"),
    "factor that is no number": ({"factor": float("nan")}, "factor above 0"),
    "factor that float32 does not have": ({"factor": 1e300}, "factor above 0"),
    "factor that is zero in float32": ({"factor": 1e-300}, "factor above 0"),
    "factor beyond floats": ({"factor": HUGE}, "too large"),
    "factor as text": ({"factor": "1"}, "are numbers"),
    "shift that float32 does not have": ({"shift": -1e300}, "both finite"),
    "another score": ({"score": "sum"}, "fusion by 'sum'"),
    "fusion as list": ({"fusion": [1, 2]}, "score, factor and shift"),
    "fusion of more": ({"fusion": {"score": "map", "factor": 1, "shift": 0, "rule": 1}}, "nothing else"),
}


@pytest.mark.parametrize("name", TILES)
def test_tiles_that_make_no_sense_are_one_line(name):
    changes, match = TILES[name]
    with pytest.raises(InputError, match=match) as caught:
        Manifest.from_dict(with_tiles(**changes))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


REGIONS = {
    "another size": np.ones((48, 32), np.bool_),
    "one dimension more": np.ones((1, 32, 48), np.bool_),
    "no pixels": np.ones((0, 0), np.bool_),
    "numbers": np.ones((32, 48), np.uint8),
    "nothing counts": np.zeros((32, 48), np.bool_),
}


@pytest.mark.parametrize("name", [*REGIONS, "no tiles", "no marks"])
def test_a_region_that_does_not_fit_its_tiles_is_one_line(name, tmp_path):
    file, region = tmp_path / "m.safetensors", REGIONS.get(name, np.ones((32, 48), np.bool_))
    manifest = example(preprocess=Preprocess((32, 48))).manifest
    if name != "no tiles":
        manifest = Manifest.from_dict(with_tiles())
    manifest = replace(manifest, config={**manifest.config, "masked": name != "no marks"})
    artefact = Artefact(manifest, {})
    artefact.tensors["region"] = region  # nobody looks
    write(artefact, file)
    refused(file, "region of interest does not fit its tiles: fit anew")
    artefact.tensors["region"] = np.eye(32, 48, dtype=np.bool_)
    if name not in ("no tiles", "no marks"):
        write(artefact, file)
        np.testing.assert_array_equal(read(file).tensors["region"], np.eye(32, 48, dtype=np.bool_))


def test_random_damage_to_the_manifest_is_an_input_error_or_nothing(tmp_path):
    """Fuzzing with right hashes: any value may become any other."""
    rng = np.random.default_rng(0)
    values = [None, True, -1, 0, 10**400, 1.5, "", "x", [], [[]], {}, {"a": 1}]

    def damage(node):
        if rng.random() < 0.06:
            return values[rng.integers(len(values))]
        if isinstance(node, dict):
            return {k: damage(v) for k, v in node.items()}
        if isinstance(node, list):
            return [damage(v) for v in node]
        return node

    passed = 0
    for number in range(500):
        data = damage(with_tiles() if number % 2 else example().manifest.to_dict())
        with contextlib.suppress(InputError):
            Manifest.from_dict(data if isinstance(data, dict) else {})
            passed += 1
    assert passed < 500


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"ratio": "much"}, "ratio"),
        ({"size": str(10**9)}, "size"),
        ({"size": [64, 64]}, "size"),
        ({"size": "48+64"}, "fit"),
        ({"stages": []}, "stages"),
    ],
)
def test_a_config_that_makes_no_sense_is_one_line(model_path, tmp_path, config, match):
    from flawscope import load

    model = read(model_path)
    manifest = replace(model.manifest, config={**model.manifest.config, **config})
    write(replace(model, manifest=manifest), tmp_path / "m.safetensors")
    with pytest.raises(InputError, match=match) as caught:
        load(tmp_path / "m.safetensors")
    assert "\n" not in str(caught.value)


LEVELS = np.arange(256, dtype=np.float32).reshape(1, 16, 16) / np.float32(255)


def test_eight_bits_and_marked_padding_come_back_exactly():
    """The value v of a padded pixel stands as -1 - v: also 0, and also 1."""
    whole = np.arange(256).reshape(LEVELS.shape)
    for image, kind, stored in ((LEVELS, np.uint8, whole), (-1 - LEVELS, np.int16, -1 - whole)):
        packed = pack_images(image)
        np.testing.assert_array_equal(packed, stored.astype(kind), strict=True)
        np.testing.assert_array_equal(unpack_images(packed), image, strict=True)


@pytest.mark.parametrize("value", [0.5, -1.3, 1 / 7, -0.25, 2.0, np.nan, -np.inf])
def test_what_eight_bits_would_change_stays_float(value):
    images = np.full((2, 3, 4, 4), value, np.float32)
    images[0] = 0
    packed = pack_images(images)
    assert packed.dtype == np.float32
    np.testing.assert_array_equal(unpack_images(packed), images)

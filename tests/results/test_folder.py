"""What is written to disk: where, and what is in it."""

import json
import os
import resource
import signal
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from flawscope.artefact.files import FullDiskError, check_replaceable, check_writable, write_error
from flawscope.cli.common import check_results_folder
from flawscope.errors import FlawscopeError, InputError
from flawscope.pictures.listing import OUTPUT_LIST
from flawscope.pictures.masks import read_mask
from flawscope.results import run as runs
from flawscope.results.folder import MAPS, PictureWriter
from flawscope.results.prediction import Prediction, ScoreLevels
from flawscope.results.run import ResultsFolder
from flawscope.results.table import COLUMNS, OutputFiles, ResultRow, TableWriter, Unjudged, read_table
from flawscope.views.preprocess import Preprocess

SIZE = (16, 16)
SPOT = np.zeros(SIZE)
SPOT[4:8, 4:8] = 1.0


def predicted(path, values=0.9, picture=(40, 60)):
    """Prediction with this map, or of a spot so high."""
    values = values * SPOT if isinstance(values, float) else values
    return Prediction(
        score=float(values.max()),
        p_value=0.5,
        severity=float(values.max() - 0.5) / 0.1,
        is_anomalous=bool(values.max() > 0.5),
        map=values.astype(np.float32),
        geometry=Preprocess(SIZE).geometry(picture),
        levels=ScoreLevels(0.5, 0.5, (0.0, 1.0)),
        path=str(path),
    )


def predict(path, values=0.9, picture=(40, 60)):
    """The same, of a picture that is drawn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", picture[::-1], (90, 90, 90)).save(path)
    return predicted(path, values, picture)


def files(folder):
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    return found - {OUTPUT_LIST}


def test_the_files_hold_the_map_the_mask_and_an_overlay_of_the_pictures_size(tmp_path):
    path, out = tmp_path / "data/test/dent/000.png", tmp_path / "out"
    pictures = PictureWriter(out, tmp_path / "data")
    pictures.add(path, predict(path, 1.5))
    written = {f"{folder}/dent/000.png" for folder in ("overlays", "maps", "masks")}
    assert files(out) == written | {"maps/scale.json"}
    np.testing.assert_array_equal(read_mask(out / "masks/dent/000.png"), SPOT > 0.5)
    map16 = np.array(Image.open(out / "maps/dent/000.png"))
    np.testing.assert_array_equal(map16, 65535 * SPOT)  # 0..1 is the fixed colour range
    assert Image.open(out / "overlays/dent/000.png").size == (60, 40)
    pictures.add(path, predict(path, picture=(1000, 5000)))
    assert Image.open(out / "overlays/dent/000.png").size == pytest.approx((2048, 2048 / 5), abs=1)
    PictureWriter(tmp_path / "plain", tmp_path / "data", maps="none").add(path, predict(path))
    assert files(tmp_path / "plain") == {"overlays/dent/000.png", "masks/dent/000.png"}


def test_nothing_is_written_above_the_output_folder(tmp_path, monkeypatch):
    here, out = tmp_path / "a/b/c", tmp_path / "a/out"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    outside = tmp_path / "elsewhere/x.png"
    prediction = predict(outside)
    before, pictures = files(tmp_path), PictureWriter(out)
    for path in (outside, Path("../../../elsewhere/x.png")):
        pictures.add(path, prediction)
    assert {name[:6] for name in files(tmp_path) - before} == {"a/out/"}


def test_pictures_of_one_name_do_not_overwrite_each_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pictures = PictureWriter(tmp_path / "out")
    for name in ("in/a.png", "in/a.jpg", "v1.2/b.jpg", "v1.3/b.jpg"):
        pictures.add(Path(name), predict(tmp_path / name))
    written = files(tmp_path / "out/overlays")
    assert len(written) == 4
    pictures.add(Path("in/a.jpg"), predict(tmp_path / "in/a.jpg"))  # the same one again is no other
    assert files(tmp_path / "out/overlays") == written


def test_pictures_that_would_share_a_name_keep_their_suffix_in_any_order(tmp_path):
    paths = [tmp_path / name for name in ("001.bmp", "001.png", "b.jpg", "B.JPG", "deep/001.tif", "e.jpg")]
    for order in (paths, paths[::-1]):
        pictures = PictureWriter(tmp_path / "out", tmp_path, inputs=order)
        names = {path.relative_to(tmp_path).as_posix(): pictures.name(path) for path in order}
        assert names["001.bmp"] == "001.bmp"
        assert names["001.png"] == "001.png"  # its overlay is 001.png.png, and nothing is 001.png
        assert (names["deep/001.tif"], names["e.jpg"]) == ("deep/001", "e")
        assert {names["b.jpg"].casefold(), names["B.JPG"].casefold()} == {"b.jpg", "b.jpg_"}
    one_by_one = PictureWriter(tmp_path / "out", tmp_path)  # what comes later is not known
    assert [one_by_one.name(path) for path in paths[:2]] == ["001.bmp", "001"]


def test_long_names_are_cut_and_stay_apart(tmp_path):
    stem = "ü" * 124  # 248 bytes: the longest that a picture may have, and too long with .json
    pictures = PictureWriter(tmp_path / "out", tmp_path)
    names = set()
    for last in "ab":
        path = tmp_path / f"{stem}{last}.png"
        pictures.add(path, predict(path))
        names.add(pictures.name(path))
    assert len(names) == len(files(tmp_path / "out/overlays")) == 2
    assert all(len(os.fsencode(name)) < 240 for name in names)


def test_a_file_in_the_way_is_one_line(tmp_path):
    (tmp_path / "out").write_text("in the way")
    path = tmp_path / "data/test/dent/000.png"
    prediction = predict(path)
    with pytest.raises(FlawscopeError, match=r"cannot write .*out/overlays.*Not a directory"):
        PictureWriter(tmp_path / "out", tmp_path / "data").add(path, prediction)


@pytest.mark.parametrize("maps", MAPS)
def test_every_kind_of_map_can_be_read_back_with_what_stands_beside_it(tmp_path, maps):
    values = 2.7 * SPOT + 1
    prediction = replace(predict(tmp_path / "x.png", values), levels=ScoreLevels(0.5, 2.0, (0.5, 4.5)))
    PictureWriter(tmp_path / "out", tmp_path, maps=maps).add(tmp_path / "x.png", prediction)
    facts = json.loads((tmp_path / "out/maps/scale.json").read_text())
    assert facts["format"] == maps
    path = tmp_path / f"out/maps/x{MAPS[maps][0]}"
    stored = np.load(path) if maps == "npy" else np.asarray(Image.open(path))
    assert stored.dtype == (np.uint16 if maps == "png16" else np.float32)
    known = {"low": facts["low"], "high": facts["high"]}
    formula = facts["value"].replace(",", ";").split(";")[0]  # what it says is how to read it
    read = eval(formula, {}, {**known, "pixel": stored.astype(float), "element": stored.astype(float)})
    np.testing.assert_allclose(read, prediction.map, atol=4 / 65535)
    np.testing.assert_array_equal(read > facts["mask_threshold"], prediction.mask)


def test_a_table_is_read_back_as_it_was_written(tmp_path):
    path = tmp_path / "x.csv"
    first = predicted('a "quoted", name.png', picture=(32, 64))
    rows = [ResultRow.from_result(first), ResultRow.from_result(Unjudged("b\nb.png", "empty; copy it again"))]
    table = TableWriter(path)
    for row in rows:
        table.add(row)
    table.close()
    text = path.read_bytes().decode("utf-8")
    assert text.startswith("\ufeff")  # by which Excel knows UTF-8
    assert text.count("\ufeff") == 1
    header = text[1:].splitlines()[0]
    assert header == (
        "path,score,p_value,severity,decision,threshold,regions,error,near,"
        "part,places,largest_px,largest_mm,largest_x,largest_y,time,remark"
    )
    assert read_table(path) == rows
    assert rows[0].boxes == [(16.0, 8.0, 32.0, 16.0)]  # the picture is 4 times as wide as the map
    assert read_table(path)[0].score == 0.9  # no digit is lost
    path.write_bytes(path.read_bytes()[3:])  # without the mark of UTF-8
    assert read_table(path) == rows
    path.write_text("path,new,score,severity,decision\na.png,7,0.9,2,anomalous\n")  # of another version
    assert read_table(path) == [ResultRow("a.png", 0.9, severity=2.0, decision="anomalous")]


@pytest.mark.parametrize("text", ["a,b\n1,2\n", ",".join(COLUMNS) + "\nx,much,,,,,,\n"])
def test_another_table_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(InputError, match=r"x\.csv"):
        read_table(tmp_path / "x.csv")


def test_a_row_that_does_not_fit_leaves_the_rows_before_it_whole(tmp_path):
    path = tmp_path / "x.csv"
    table = TableWriter(path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (450, limits[1]))
        names = [f"picture {k}.png" for k in range(9)]
        for name in names[:6]:
            table.add(ResultRow(name, 0.5))
        with pytest.raises(FlawscopeError, match=r"x\.csv"):
            table.add(ResultRow("n" * 200, 0.5))  # of which a part fits
        assert [row.path for row in read_table(path)] == names[:6]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    table.add(ResultRow("after.png", 0.5))  # there is space again
    table.close()
    assert [row.path for row in read_table(path)] == [*names[:6], "after.png"]


def test_a_second_run_removes_what_the_first_one_wrote_and_nothing_else(tmp_path):
    first = ResultsFolder(tmp_path, None, pytest.fail)
    for name in ("a.png", "line\nbreak.png", "deep/c.png"):
        first.add_details(predicted(name))
    first.write_summary({})
    first.table.close()
    first.workbook.close()
    for mine in ("notes.txt", "break.png", "predictions/mine.json"):
        (tmp_path / mine).write_text("mine")
    said = []
    second = ResultsFolder(tmp_path, None, said.append)
    second.add_details(predicted("b.png"))
    second.write_summary({})
    second.table.close()
    second.workbook.close()
    mine = {"notes.txt", "break.png", "predictions/mine.json"}
    own = {"results.csv", "results.xlsx", "results.json", "predictions/b.json"}
    assert files(tmp_path) == mine | own
    assert said == [f"{tmp_path}: 6 files of an earlier run removed", f"{tmp_path}: 3 other files left alone"]


@pytest.mark.parametrize("held", ["results.csv", "results.json", "predictions/a.json", "report.html"])
def test_of_a_run_whose_file_is_open_elsewhere_nothing_is_removed(tmp_path, monkeypatch, held):
    """As Excel holds a table on Windows, where it can then be neither renamed nor removed."""
    first = ResultsFolder(tmp_path, None, pytest.fail)
    first.add_details(predicted("a.png"))
    first.write_summary({})
    first.output.path("report.html").write_text("page")
    first.table.close()
    first.workbook.close()
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    rename, unlink = os.rename, os.unlink

    def locked(call):
        def act(path, *more):
            if Path(path) == tmp_path / held:
                raise PermissionError(13, "The file is being used by another process")
            return call(path, *more)

        return act

    monkeypatch.setattr(os, "rename", locked(rename))
    monkeypatch.setattr(os, "unlink", locked(unlink))
    monkeypatch.setattr(Path, "unlink", lambda path: os.unlink(path))
    for start in (
        lambda: ResultsFolder(tmp_path, None, pytest.fail),
        lambda: check_results_folder(str(tmp_path)),
        lambda: check_replaceable(tmp_path / held),
        lambda: check_writable(tmp_path / held),
    ):
        with pytest.raises(
            InputError, match="used by another process; close it where it is open, or"
        ) as said:
            start()
        assert str(tmp_path / held) in str(said.value)
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before


def test_a_list_that_leads_outside_removes_nothing_there(tmp_path):
    out, other = tmp_path / "out", tmp_path / "other"
    for folder in (out, other):
        folder.mkdir()
        (folder / "x.png").write_text("x")
    (out / "link").symlink_to(other)
    named = ["../other/x.png", str(other / "x.png"), "link/x.png", "a/../x.png", 3, ""]
    (out / OUTPUT_LIST).write_text("".join(json.dumps(name) + "\n" for name in named))
    said = []
    OutputFiles(out).remove_earlier(said.append)
    assert said == [f"{out}: 1 other file left alone"]
    assert (other / "x.png").exists()
    (out / "results.csv").write_text("mine")  # of somebody else: never replaced
    with pytest.raises(InputError, match=r"results\.csv is there already"):
        ResultsFolder(out, None, said.append)
    assert (out / "results.csv").read_text() == "mine"


def test_the_most_severe_keep_their_maps(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "MAX_MAP_BYTES", 2 * SPOT.size * 4)
    results = ResultsFolder(tmp_path, None, pytest.fail)
    for height in (0.2, 0.9, 0.6, 0.9, 0.1):
        results.add_details(predicted("x.png", height))
    assert [p.score for p in results.severest] == [0.9, 0.9]


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    results = ResultsFolder(tmp_path, None, pytest.fail)

    monkeypatch.setattr(Path, "write_text", Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(FlawscopeError, match="No space left on device; free some space"):
        results.add_details(predicted("a.png"))


def test_a_full_disk_is_told_once_and_what_is_missing_in_a_line(tmp_path):
    told = []
    errors = runs.WriteErrors(told.append)
    full = OSError(28, "No space left on device")
    for kind, folder in (
        ("picture", "overlays"),
        ("picture", "maps"),
        ("JSON file", "predictions"),
        ("row", ""),
    ):
        with errors.collect(kind):
            raise write_error(tmp_path / folder / "x", full)
    with errors.collect("page"):
        raise FlawscopeError("another reason")
    assert [line.partition(": ")[2] for line in told[:1]] == [
        "No space left on device; free some space or choose another --out"
    ]
    assert told[1:] == ["another reason"]
    assert errors.lines() == [
        "could not be written: 2 pictures, 1 JSON file, 1 row, 1 page; all others are there"
    ]
    assert runs.WriteErrors(told.append).lines() == []
    assert isinstance(write_error(tmp_path / "x", full), FullDiskError)


def test_a_workbook_that_finds_no_room_leaves_nothing_to_end_later(tmp_path, monkeypatch):
    """An archive that is open when its disk is full is ended by Python later, with a traceback."""
    results = ResultsFolder(tmp_path / "out", None, lambda line: None)
    results.add_to_workbook(predicted("a.png"))
    written = []

    class Full:
        """A file that takes nothing, and to which no archive may be tied."""

        def write(self, data):
            written.append(len(data))
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        results.workbook.book.save(Full(), ())
    assert len(written) == 1
    assert results.tables == ["results.csv"]

"""What a run leaves in its results folder, and what it leaves alone."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from flawscope.errors import FlawscopeError, InputError
from flawscope.pictures.listing import OWN_LIST, pictures_in
from flawscope.pictures.preprocess import Preprocess
from flawscope.results import run as runs
from flawscope.results.prediction import Prediction
from flawscope.results.run import Results
from flawscope.results.table import COLUMNS, OwnFiles, Row, Table, Unjudged, read_table


def predicted(path: str, height: float = 0.9) -> Prediction:
    values = np.zeros((16, 16), np.float32)
    values[4:8, 4:8] = height
    return Prediction(
        score=height,
        p_value=0.1,
        severity=(height - 0.5) * 10,
        is_anomalous=height > 0.5,
        map=values,
        geometry=Preprocess((16, 16)).geometry((32, 64)),
        score_threshold=0.5,
        mask_threshold=0.5,
        colour_range=(0.0, 1.0),
        path=path,
    )


def files(folder: Path) -> set[str]:
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    return found - {OWN_LIST}


def test_every_input_has_a_row_and_a_file_that_equals_its_json_line(tmp_path: Path) -> None:
    results = Results(tmp_path, None, pytest.fail)
    given = [
        predicted("parts/a.png"),
        Unjudged("parts/b.heic", "cannot read; convert"),
        predicted("c.png", 0.2),
    ]
    for one in given:
        results.add(one)
    results.write_facts({"judged": 2})
    results.finish()
    with open(tmp_path / "results.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "path",
        "score",
        "p_value",
        "severity",
        "decision",
        "threshold",
        "regions",
        "error",
    ]
    assert [row["path"] for row in rows] == ["parts/a.png", "parts/b.heic", "c.png"]
    assert [row["decision"] for row in rows] == ["anomalous", "", "good"]
    assert rows[0]["regions"] == "16 8 32 16"  # the picture is 4 times as wide as the map, and twice as high
    assert rows[1]["error"] == "cannot read; convert"
    for one, name in zip(given, ("parts/a", "parts/b", "c"), strict=True):
        assert json.loads((tmp_path / f"predictions/{name}.json").read_text()) == one.to_dict()
    assert json.loads((tmp_path / "results.json").read_text()) == {"judged": 2}


def test_a_table_is_read_back_as_it_was_written_and_goes_on_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    rows = [Row.of(predicted('a "quoted", name.png')), Row.of(Unjudged("b\nb.png", "empty; copy it again"))]
    for row in rows:
        table = Table(path, append=True)
        table.add(row)
        table.close()
    assert read_table(path) == rows
    assert rows[0].boxes == [(16.0, 8.0, 32.0, 16.0)]
    assert read_table(path)[0].score == 0.9  # no digit is lost
    parquet = pytest.importorskip("pyarrow.parquet")
    table = Table(tmp_path / "x.parquet")
    for row in rows:
        table.add(row)
    table.close()
    found = parquet.read_table(tmp_path / "x.parquet")
    assert found.column_names == list(COLUMNS)
    assert [Row(**values) for values in found.to_pylist()] == rows


@pytest.mark.parametrize("text", ["a,b\n1,2\n", ",".join(COLUMNS) + "\nx,much,,,,,,\n"])
def test_another_table_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(InputError, match=r"x\.csv"):
        read_table(tmp_path / "x.csv")


def test_a_second_run_removes_what_the_first_one_wrote_and_nothing_else(tmp_path: Path) -> None:
    first = Results(tmp_path, None, pytest.fail)
    for name in ("a.png", "line\nbreak.png", "deep/c.png"):
        first.add(predicted(name))
    first.write_facts({})
    first.finish()
    for mine in ("notes.txt", "break.png", "predictions/mine.json"):
        (tmp_path / mine).write_text("mine")
    said: list[str] = []
    second = Results(tmp_path, None, said.append)
    second.add(predicted("b.png"))
    second.write_facts({})
    second.finish()
    mine = {"notes.txt", "break.png", "predictions/mine.json"}
    assert files(tmp_path) == mine | {"results.csv", "results.json", "predictions/b.json"}
    assert said == [
        f"{tmp_path}: 5 files of an earlier run removed",
        f"{tmp_path}: 3 other files left alone",
    ]


def test_a_list_that_leads_outside_removes_nothing_there(tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    for folder in (out, other):
        folder.mkdir()
        (folder / "x.png").write_text("x")
    (out / "link").symlink_to(other)
    named = ["../other/x.png", str(other / "x.png"), "link/x.png", "a/../x.png", 3, ""]
    (out / OWN_LIST).write_text("".join(json.dumps(name) + "\n" for name in named))
    said: list[str] = []
    OwnFiles(out).begin(said.append)
    assert said == [f"{out}: 1 other file left alone"]
    assert (other / "x.png").exists()
    (out / "results.csv").write_text("mine")  # of somebody else: never replaced
    with pytest.raises(InputError, match=r"results\.csv is there already"):
        Results(out, None, lambda line: None)
    assert (out / "results.csv").read_text() == "mine"


def test_what_flawscope_wrote_is_nobodys_input(tmp_path: Path) -> None:
    """As when `--out` lies in the folder of pictures and the call is repeated."""
    from PIL import Image

    Image.new("RGB", (64, 32)).save(tmp_path / "a.png")
    results = Results(tmp_path / "results", tmp_path, pytest.fail)
    results.pictures.add(tmp_path / "a.png", predicted(str(tmp_path / "a.png")))
    assert (tmp_path / "results/overlays/a.png").exists()
    assert pictures_in(tmp_path) == [tmp_path / "a.png"]


def test_the_most_severe_keep_their_maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "SHOWN", 2 * predicted("x.png").map.nbytes)
    results = Results(tmp_path, None, pytest.fail)
    for height in (0.2, 0.9, 0.6, 0.9, 0.1):
        results.add(predicted("x.png", height))
    assert [p.score for p in results.shown] == [0.9, 0.9]


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = Results(tmp_path, None, pytest.fail)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(FlawscopeError, match="No space left on device; free some space"):
        results.add(predicted("a.png"))

"""What a call leaves behind and names: every input, whatever it is, and whatever goes wrong."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from flawscope.cli import main, output
from flawscope.datasets.dataset import remark
from flawscope.errors import FlawscopeError, InputError
from flawscope.predictor import Predictor
from flawscope.results.folder import Pictures
from flawscope.results.prediction import Mismatch
from flawscope.results.table import Row, read_table

pytest.importorskip("torch")

Capture = pytest.CaptureFixture[str]
PLAIN = ["--maps", "none", "--animation", "none"]


def run(capsys: Capture, *argv: str | Path) -> tuple[int, str, str]:
    code = main([str(word) for word in argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def mixed(drawn: Path, tmp_path: Path) -> Path:
    """A folder as it comes: good, defective, several in a file, a video, a note, and what has no suffix."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    good = drawn / "plate/train/good/000.png"
    shutil.copy(good, folder / "a.png")
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "b.png")
    with Image.open(good) as first:
        first.save(folder / "c.gif", save_all=True, append_images=[first.rotate(90)])
    (folder / "d.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    (folder / "e.txt").write_text("a note")
    shutil.copy(good, folder / "f")
    return folder


def test_every_input_of_a_folder_has_a_line_a_row_and_a_file(
    capsys: Capture, model_path: Path, mixed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code, printed, err = run(capsys, "predict", model_path, mixed, "--json", "--out", out, *PLAIN)
    lines = [json.loads(line) for line in printed.splitlines()]
    assert [Path(line["path"]).name for line in lines] == ["a.png", "b.png", "c.gif", "d.mp4", "f"]
    assert [line["decision"] for line in lines] == ["good", "anomalous", lines[2]["decision"], None, "good"]
    assert [row.path for row in read_table(out / "results.csv")] == [line["path"] for line in lines]
    found = [json.loads(path.read_text()) for path in (out / "predictions").rglob("*.json")]
    assert sorted(found, key=lambda one: one["path"]) == lines
    facts = json.loads((out / "results.json").read_text())
    assert (facts["inputs"], facts["judged"], facts["unjudged"], facts["complete"]) == (5, 4, 1, True)
    assert code == 1
    assert "d.mp4: it is a video; take single pictures out of it" in err
    assert "1 picture was skipped" in err
    assert f"the first of each is taken: {mixed / 'c.gif'} (2)" in err
    assert f"1 file beside the pictures not looked at: {mixed / 'e.txt'}" in err


def test_only_anomalous_ones_are_shown_and_the_table_has_all(
    capsys: Capture, model_path: Path, mixed: Path, tmp_path: Path
) -> None:
    (mixed / "c.gif").unlink()
    out = tmp_path / "out"
    call = ["predict", model_path, mixed, "--only-anomalous", "--out", out, *PLAIN, "--quiet"]
    _, printed, _ = run(capsys, *call)
    assert [line.split()[-1] for line in printed.splitlines()] == [str(mixed / "b.png")]
    assert [p.stem for p in (out / "overlays").rglob("*.png")] == ["b"]
    assert {p.stem for p in (out / "predictions").rglob("*.json")} == {"b", "d"}  # and what was not judged
    assert [row.decision for row in read_table(out / "results.csv")] == ["good", "anomalous", "", "good"]


def test_a_table_alone(capsys: Capture, model_path: Path, mixed: Path, tmp_path: Path) -> None:
    out = tmp_path / "all.csv"
    _, printed, _ = run(capsys, "predict", model_path, mixed / "a.png", "--json", "--out", out)
    (row,), one = read_table(out), json.loads(printed)
    assert (row.path, row.score, row.p_value) == (one["path"], one["score"], one["p_value"])
    assert [p.name for p in tmp_path.iterdir() if p != mixed] == ["all.csv"]
    code, _, err = run(capsys, "predict", model_path, mixed, "--out", out, "--maps", "tiff")
    assert (code, "--maps has nothing to write to" in err) == (2, True)
    code, _, err = run(capsys, "predict", model_path, mixed, "--out", tmp_path / "no/x.csv")
    assert (code, "there is no folder" in err) == (2, True)


def test_an_earlier_run_is_named_and_leaves_nothing(
    capsys: Capture, model_path: Path, mixed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(capsys, "predict", model_path, mixed / "a.png", "--out", out, *PLAIN, "--quiet")
    (out / "mine.txt").write_text("mine")
    _, _, err = run(capsys, "predict", model_path, mixed / "b.png", "--out", out, *PLAIN)
    assert "of an earlier run removed" in err
    assert f"{out}: 1 other file left alone" in err
    assert [p.stem for p in (out / "overlays").rglob("*.png")] == ["b"]
    assert (out / "mine.txt").read_text() == "mine"


def test_somebody_elses_file_stops_the_call_before_it_begins(
    capsys: Capture, mixed: Path, tmp_path: Path
) -> None:
    (tmp_path / "results.csv").write_text("mine")
    for argv in (["predict", "no.onnx", mixed], ["evaluate", "no.onnx", "--data", mixed]):
        code, _, err = run(capsys, *argv, "--out", tmp_path)
        assert code == 2
        if argv[0] == "predict":
            assert "results.csv is there already" in err
    assert (tmp_path / "results.csv").read_text() == "mine"


def test_a_full_disk_stops_no_judging_and_is_said_once(
    capsys: Capture, model_path: Path, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise FlawscopeError("cannot write to it: No space left on device; free some space")

    monkeypatch.setattr(Pictures, "add", full)
    code, printed, err = run(capsys, "predict", model_path, mixed / "[ab].png", "--out", tmp_path / "out")
    assert (code, len(printed.splitlines())) == (1, 2)
    assert err.count("No space left on device") == 1
    assert "no more pictures are written, the remaining inputs are judged" in err
    assert [row.decision for row in read_table(tmp_path / "out/results.csv")] == ["good", "anomalous"]


def test_an_interrupted_call_keeps_what_was_judged(
    capsys: Capture, model_path: Path, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Predictor.stream

    def stopping(self, *given, **options):  # type: ignore[no-untyped-def]
        for count, one in enumerate(stream(self, *given, **options)):
            if count == 2:
                raise KeyboardInterrupt
            yield one

    monkeypatch.setattr(Predictor, "stream", stopping)
    out = tmp_path / "out"
    code, printed, err = run(capsys, "predict", model_path, mixed, "--out", out, *PLAIN)
    assert (code, len(printed.splitlines())) == (130, 2)
    assert f"interrupted after 2 inputs of 5; their results are in {out}" in err
    assert len(read_table(out / "results.csv")) == 2
    assert json.loads((out / "results.json").read_text())["complete"] is False


@pytest.mark.parametrize("place", ["printing", "counting"])
def test_ctrl_c_between_counting_a_picture_and_writing_it_keeps_both_alike(
    capsys: Capture,
    model_path: Path,
    mixed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    owner, name = (output, "show_result") if place == "printing" else (Mismatch, "add")
    called, real = [], getattr(owner, name)

    def stopping(*given: object, **options: object) -> None:
        real(*given, **options)
        called.append(given)
        if len(called) == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(owner, name, stopping)
    out = tmp_path / "out"
    code, printed, err = run(capsys, "predict", model_path, mixed, "--json", "--out", out, *PLAIN)
    assert (code, len(printed.splitlines())) == (130, 2)
    assert "interrupted after 2 inputs of 5" in err
    assert len(read_table(out / "results.csv")) == 2
    assert len(list((out / "predictions").rglob("*.json"))) == 2
    assert len(list((out / "overlays").rglob("*.png"))) == 2
    assert json.loads((out / "results.json").read_text())["inputs"] == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_picture_that_cannot_be_printed_is_not_counted(
    capsys: Capture, model_path: Path, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in `predict --out DIR | head -1`."""
    monkeypatch.setattr(output, "show_result", Mock(side_effect=[None, BrokenPipeError]))
    out = tmp_path / "out"
    code, _, err = run(capsys, "predict", model_path, mixed, "--out", out, *PLAIN)
    assert (code, "unexpected" in err) == (1, False)
    assert len(read_table(out / "results.csv")) == 1
    assert json.loads((out / "results.json").read_text())["inputs"] == 1


def test_evaluate_writes_its_figures_before_any_picture(
    capsys: Capture, model_path: Path, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise FlawscopeError("cannot write to it: No space left on device; free some space")

    monkeypatch.setattr(Pictures, "take", full)
    root, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(drawn / "plate", root)
    (root / "test/good/broken.png").write_bytes(b"")
    shutil.copy(root / "train/good/000.png", root / "test/good/learnt.png")
    code, printed, err = run(capsys, "evaluate", model_path, "--data", root, "--out", out, *PLAIN, "--json")
    assert code == 1
    assert err.splitlines()[-1].startswith("flawscope: cannot write to it: No space left")
    document = json.loads(printed)
    assert json.loads((out / "results.json").read_text()) == document
    rows = read_table(out / "results.csv")
    assert len(rows) == len(list(root.glob("test/*/*.png")))
    why = {Path(row.path).stem: row.error for row in rows if row.error}
    assert "it is empty" in why["broken"]
    assert why["learnt"] == "left out: the model was fitted or calibrated on it"
    judged = [row for row in rows if not row.error]
    assert len(judged) == document["images"]
    assert len(list((out / "predictions").rglob("*.json"))) == len(rows)


def test_evaluate_into_a_table_alone(capsys: Capture, model_path: Path, drawn: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.csv"
    assert run(capsys, "evaluate", model_path, "--data", drawn, "--out", out, "--quiet")[0] == 0
    rows = read_table(out)
    assert len(rows) == len(list(drawn.glob("plate/test/*/*.png")))
    assert all(isinstance(row, Row) and row.decision for row in rows)


def test_fit_names_what_it_does_not_learn_from(capsys: Capture, mixed: Path, tmp_path: Path) -> None:
    (mixed / "b.png").unlink()
    out = tmp_path / "m.safetensors"
    call = ["fit", "--data", mixed, "--size", "64", "--no-check", "--device", "cpu", "--out", out]
    code, _, err = run(capsys, *call)
    assert code == 0
    assert "mixed: 2 good pictures (folder layout)" in err
    assert "not learnt from: 2 files of formats that are not read: d.mp4, f" in err
    assert "1 file with several pictures; the first of each is taken: c.gif (2)" in err
    assert "1 file beside the pictures not looked at: e.txt" in err
    assert f"`flawscope export {out} --out {out.with_suffix('.onnx')}`" in err


def test_a_pattern_that_says_nothing_is_told_at_once(mixed: Path) -> None:
    paths = [mixed / name for name in ("part1_top.png", "part1_side.png", "part2_top.png")]
    assert remark(paths, None) == remark(paths, r"part\d") == ""
    assert remark(paths, r"png").startswith("--group 'png' matches the same text in all names")
    assert remark(paths, r".*").startswith("--group '.*' matches another text in each name")
    with pytest.raises(InputError, match=r"--group 'xyz' matches no file name such as part1_top.png"):
        remark(paths, "xyz")


def test_fit_tells_a_pattern_that_matches_nothing_before_it_reads_a_picture(
    capsys: Capture, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flawscope.pictures.decoding.load", lambda *_: pytest.fail("too late"))
    call = ["fit", "--data", mixed, "--group", "xyz", "--out", tmp_path / "m.safetensors"]
    code, _, err = run(capsys, *call)
    assert code == 2
    assert "matches no file name" in err


def test_a_benchmark_prints_its_figures_where_no_table_can_be_written(
    capsys: Capture, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flawscope.benchmark import run as runs
    from flawscope.benchmark.cell import Store
    from flawscope.benchmark.tables import Results

    metrics = {"image_auroc": 0.9, "pixel_auroc": 0.8}
    document = {"evaluation": {"metrics": metrics}, "skipped": []}

    def work_off(grid, store, plan, pool, live, after):  # type: ignore[no-untyped-def]
        for _ in range(2):
            after(Results(grid, {cell.name: document for cell in grid.cells}, {}))

    def full(*_: object) -> None:
        raise FlawscopeError("cannot write it: No space left on device; free some space")

    monkeypatch.setattr(runs, "run", work_off)
    monkeypatch.setattr(Store, "read", lambda self, cell: document)
    monkeypatch.setattr("flawscope.cli.benchmark._write", full)
    code, printed, err = run(capsys, "benchmark", "--data", drawn, "--out", tmp_path / "out")
    assert code == 1
    assert "0.9000" in printed
    assert err.count("No space left on device") == 2  # at once, and at the end


def test_a_cell_that_cannot_be_written_tells_its_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    from flawscope.benchmark import cell

    def full(*_: object) -> None:
        raise FlawscopeError("cannot write it: No space left on device; free some space")

    monkeypatch.setattr(cell, "write_json", full)
    with pytest.raises(FlawscopeError, match=r"free some space; measured: image_auroc 0.9000$"):
        cell._write("x.json", {"evaluation": {"metrics": {"image_auroc": 0.9, "au_pro": None}}})

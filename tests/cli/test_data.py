"""`data check` and `demo`."""

import shlex

from flawscope.cli import data, main
from flawscope.datasets import open_dataset
from flawscope.synthesis.demo import dataset


def test_a_demo_may_only_be_drawn(tmp_path, monkeypatch, capsys):
    few = {"good": 1, "bad_per_kind": 1, "size": 64}
    whole = dataset.draw_dataset
    monkeypatch.setattr(dataset, "draw_dataset", lambda root, **how: whole(root, **{**how, **few}))
    call = ["demo", "--category", "fabric", "--train", "2", "--only-draw", "--out", str(tmp_path), "--quiet"]
    assert main(call) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'fabric'}\n"
    assert len(open_dataset(tmp_path, "fabric").train) == 2
    assert {p.name for p in tmp_path.iterdir()} == {"fabric"}


def test_the_demo_says_how_the_program_is_typed_here(tmp_path, monkeypatch):
    """By its name where that is found, else by the way to it from where one stands."""
    program = tmp_path / "some where" / ".venv" / "bin" / "flawscope"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program.parent / "python"))
    here, inside, module = tmp_path / "some where", program.parents[1], "/usr/lib/flawscope/__main__.py"
    python = shlex.quote(str(program.parent / "python").lstrip("/"))
    for path, folder, called, typed in (
        (program.parent, ".", program, "flawscope"),
        (tmp_path, here, program, ".venv/bin/flawscope"),
        (tmp_path, here, ".venv/bin/flawscope", ".venv/bin/flawscope"),
        (tmp_path, inside, program, "bin/flawscope"),
        (tmp_path, "/", program, shlex.quote(str(program).lstrip("/"))),
        (tmp_path, "/", module, f"{python} -m flawscope"),
    ):
        monkeypatch.setenv("PATH", str(path))
        monkeypatch.chdir(folder)
        monkeypatch.setattr("sys.argv", [str(called), "demo"])
        assert data._program_words() == typed


def test_what_the_demo_prints_can_be_typed_whatever_the_folder_is_called(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("flawscope.cli.program.main", lambda words: 0)
    monkeypatch.setattr("sys.argv", ["flawscope", "demo"])
    monkeypatch.setattr(dataset, "draw_dataset", lambda *given, **how: None)
    code, _, said = run("demo", "--out", "my demo's")
    assert code == 0
    calls = [shlex.split(line) for line in said.splitlines() if line.startswith("$ ")]
    assert [words[2] for words in calls] == ["fit", "evaluate", "predict", "info", "fit"]
    assert calls[0][4] == "my demo's/data"
    assert not [word for words in calls for word in words if word in ("my", "demo's")]

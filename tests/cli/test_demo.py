"""`flawscope demo --category board`: what is drawn, and what becomes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

import flawscope.cli
from flawscope.cli import main
from flawscope.datasets import open_dataset
from flawscope.demo import dataset
from flawscope.demo.dataset import draw_boards
from flawscope.pictures.decoding import decode

SMALL = ["--category", "board", "--train", "2", "--picture-size", "420x300"]


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"good": 1, "bad_per_kind": 1}
    monkeypatch.setattr(dataset, "draw_boards", lambda root, **how: draw_boards(root, **{**how, **few}))


def test_boards_are_drawn_and_nothing_is_fitted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", *SMALL, "--only-draw", "--out", str(tmp_path / "boards"), "--quiet"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'boards' / 'board'}\n"
    drawn = open_dataset(tmp_path / "boards", "board")
    assert len(drawn.train) == 2
    assert len(drawn.kinds) == 6  # good, and five types of defect
    assert drawn.has_masks
    assert decode(drawn.train[0].path).shape == (300, 420, 3)
    assert {p.name for p in (tmp_path / "boards").iterdir()} == {"board"}


def test_boards_are_fitted_for_their_smallest_defect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []
    real = flawscope.cli.main

    def spy(argv: list[str]) -> int:
        calls.append(argv)
        return 0

    monkeypatch.setattr(flawscope.cli, "main", spy)
    out = str(tmp_path / "out")
    assert real(["demo", *SMALL, "--defect-size", "10-14", "--out", out, "--quiet"]) == 0
    assert [call[0] for call in calls] == ["fit", "evaluate"]
    assert calls[0][calls[0].index("--min-defect") + 1] == "10px"
    assert "--min-defect" not in calls[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--picture-size", "800x600"], "are for boards: add --category board"),
        (["--category", "fabric", "--defect-size", "8-20"], "are for boards: add --category board"),
        (["--category", "board", "--picture-size", "4000"], "--picture-size 4000: write two numbers"),
        (["--category", "board", "--defect-size", "8-20px"], "--defect-size 8-20px: write two numbers"),
        (["--category", "board", "--picture-size", "100x900"], "at least 256 pixels"),
        (["--category", "boards"], "choose of plate, fabric, board"),
        (["--train", "0"], "write 1 or more"),
    ],
)
def test_wrong_calls_are_refused_in_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", *options, "--only-draw", "--out", str(tmp_path), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert not list(tmp_path.rglob("*.png"))

"""`flawscope demo`: what is drawn, and which calls are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from flawscope.cli import main
from flawscope.datasets import open_dataset
from flawscope.synthesis.demo import dataset


def test_only_drawn_and_nothing_fitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {"good": 1, "bad_per_kind": 1, "size": 64}
    whole = dataset.draw_dataset
    monkeypatch.setattr(dataset, "draw_dataset", lambda root, **how: whole(root, **how, **few))
    call = ["demo", "--category", "fabric", "--train", "2", "--only-draw", "--out", str(tmp_path), "--quiet"]
    assert main(call) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'fabric'}\n"
    assert len(open_dataset(tmp_path, "fabric").train) == 2
    assert {p.name for p in tmp_path.iterdir()} == {"fabric"}


@pytest.mark.parametrize("options", [["--category", "plates"], ["--train", "0"]])
def test_wrong_calls_are_refused(options: list[str], tmp_path: Path) -> None:
    assert main(["demo", *options, "--only-draw", "--out", str(tmp_path), "--quiet"]) == 2
    assert not list(tmp_path.rglob("*.png"))

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


@pytest.mark.slow
def test_it_ends_with_the_path_of_a_report(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the pictures that a user gets, which the network sees smaller."""
    for library in ("torch", "matplotlib", "jinja2"):
        pytest.importorskip(library)
    from flawscope.methods.patchcore import Config

    monkeypatch.setattr(Config, "sizes", ((64, 64),))
    assert main(["demo", "--out", str(tmp_path), "--train", "6", "--quiet"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == str(tmp_path / "results" / "report.html")
    assert Path(last).stat().st_size < 10_000_000

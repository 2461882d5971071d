"""The command `review`: what it serves, what it says, and before and after."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flawscope.cli import main
from flawscope.results.review import DEFECT, GOOD
from flawscope.results.review.server import ReviewServer

pytest.importorskip("jinja2")

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def results(model_path: Path, tmp_path: Path, capsys: Capture) -> Path:
    """Of three pictures of noise, which no model takes for good parts."""
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for name in "abc":
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / f"in/{name}.png")
    call = ["predict", str(model_path), str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--quiet"]
    assert main(call) == 0
    assert capsys.readouterr().out.count("anomalous") == 3
    return tmp_path / "out"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[ReviewServer]:
    """The person decides at once: the first picture is fine, the second a defect."""
    seen: list[ReviewServer] = []

    def serve(review: ReviewServer) -> None:
        seen.append(review)
        review.server.server_close()
        for number, decision in enumerate((GOOD, DEFECT)):
            if not review.session.decisions().get(number):
                review.session.decide(number, decision)

    monkeypatch.setattr(ReviewServer, "serve", serve)
    monkeypatch.setattr("webbrowser.open", lambda url: pytest.fail(f"opened {url}"))
    return seen


def test_it_says_where_the_page_is_and_how_to_go_on(
    results: Path, served: list[ReviewServer], capsys: Capture
) -> None:
    assert main(["review", str(results), "--no-browser"]) == 0
    err = capsys.readouterr().err
    assert served[0].url in err
    assert "2 of 3 pictures decided: 1 good, 1 defect" in err
    assert f"fit --update MODEL --data {results / 'review'} " in err
    assert f"--seen {results / 'review/defect'}" in err
    assert len(list((results / "review/good").iterdir())) == 1


def test_before_and_after_says_what_was_learnt(
    results: Path, served: list[ReviewServer], model_path: Path, capsys: Capture
) -> None:
    """The same model again: nothing changes. Then one that has learnt from the picture which is fine."""
    after = ["review", str(results), "--after", str(model_path), "--quiet"]
    assert main(after) == 2
    assert "review first" in capsys.readouterr().err
    assert main(["review", str(results), "--json"]) == 2
    assert main(["review", str(results), "--no-browser", "--quiet"]) == 0
    capsys.readouterr()
    assert main([*after, "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert document["summary"] == ["0 of 1 false alarm gone", "1 of 1 defect found, 1 before"]
    for one in document["pictures"]:
        assert one["before"]["score"] == pytest.approx(one["after"]["score"], rel=1e-3)
        assert one["before"]["decision"] == one["after"]["decision"] == "anomalous"
        assert not one["learnt"]
    new = results / "new.safetensors"
    call = ["fit", "--update", str(model_path), "--data", str(results / "review"), "--out", str(new)]
    assert main([*call, "--no-check", "--quiet"]) == 2
    assert "called good" in capsys.readouterr().err, "noise looks like no good part"
    assert main([*call, "--no-check", "--quiet", "--force"]) == 0
    assert main(["review", str(results), "--after", str(new), "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "1 of 1 false alarm gone" in out
    assert "has learnt from 1 of the good pictures" in out
    assert "before and after" in (results / "review/after.html").read_text(encoding="utf-8")

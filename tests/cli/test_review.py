"""The command `review`: what it serves, and what it says."""

import numpy as np
import pytest
from PIL import Image

from flawscope.cli import main
from flawscope.results.review import DEFECT, GOOD
from flawscope.results.review.server import ReviewServer


@pytest.fixture
def results(model_path, tmp_path, capsys):
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
def served(monkeypatch):
    """The person decides at once: the first picture is fine, the second a defect."""
    seen = []

    def serve(review):
        seen.append(review)
        review.server.server_close()
        for number, decision in enumerate((GOOD, DEFECT)):
            if not review.session.decisions().get(number):
                review.session.decide(number, decision)

    monkeypatch.setattr(ReviewServer, "serve", serve)
    monkeypatch.setattr("webbrowser.open", lambda url: pytest.fail(f"opened {url}"))
    return seen


def test_it_says_where_the_page_is_and_how_to_go_on(results, served, capsys):
    assert main(["review", str(results), "--no-browser"]) == 0
    err = capsys.readouterr().err
    assert served[0].url in err
    assert "2 of 3 pictures decided: 1 good, 1 defect" in err
    assert f"fit --update MODEL --data {results / 'review'} " in err
    assert f"--seen {results / 'review/defect'}" in err
    assert len(list((results / "review/good").iterdir())) == 1

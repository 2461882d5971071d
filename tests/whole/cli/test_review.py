"""The command `review`: what it serves, and what it says."""

import numpy as np
import pytest
from PIL import Image

from flawscope.pages.review.server import ReviewServer
from flawscope.pages.review.session import DEFECT, GOOD


@pytest.fixture
def results(model_path, tmp_path, answer):
    """Of three pictures of noise, which no model takes for good parts."""
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for name in "abc":
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / f"in/{name}.png")
    printed = answer("predict", model_path, tmp_path / "in", "--out", tmp_path / "out", "--quiet")
    assert printed.count("anomalous") == 3
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


def test_it_says_where_the_page_is_and_how_to_go_on(results, served, run):
    code, _, err = run("review", results, "--no-browser")
    for said in (
        served[0].url,
        "2 of 3 pictures decided: 1 good, 1 defect",
        f"fit --update MODEL --data {results / 'review'} ",
        f"--seen {results / 'review/defect'}",
    ):
        assert said in err
    assert code == 0
    assert len(list((results / "review/good").iterdir())) == 1

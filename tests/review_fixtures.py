"""A results folder as `predict --out` leaves it: three anomalous pictures and a good one, of one product."""

import shutil

import numpy as np
import pytest
from PIL import Image

from flawscope.pages.review.session import ReviewSession, read_review_pictures
from flawscope.results.prediction import Prediction, ScoreLevels
from flawscope.results.run import ResultsFolder
from flawscope.results.table import Unjudged
from flawscope.views.preprocess import Preprocess

SIZE = (48, 64)  # of a picture
NAMES = {"a/part.png": 0.9, "b/part.png": 0.8, "b/part.jpg": 0.7, "fine.png": 0.2}  # name -> score


def predicted(path, score, spot=(slice(4, 8), slice(8, 12))):
    values = np.zeros((16, 16), np.float32)
    values[spot] = score
    return Prediction(
        score=score,
        p_value=0.1,
        severity=(score - 0.5) * 10,
        is_anomalous=score > 0.5,
        map=values,
        geometry=Preprocess((16, 16)).geometry(SIZE),
        levels=ScoreLevels(0.5, 0.5, (0.0, 1.0)),
        path=str(path),
    )


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("review")
    results = ResultsFolder(root / "results", root / "in", lambda line: None, maps="none")
    rng = np.random.default_rng(0)
    for name, score in NAMES.items():
        path = root / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8)).save(path)
        found = predicted(path, score)
        results.table.add_result(found)
        results.add_details(found)
        results.pictures.add(path, found)
    results.table.add_result(Unjudged("broken.png", "broken.png is empty"))
    results.add_details(Unjudged("broken.png", "broken.png is empty"))
    results.write_summary({})
    results.table.close()
    return root


@pytest.fixture
def run(run_folder, tmp_path):
    """Its own copy: `results` and the pictures in `in`, which the table names where they lay first."""
    shutil.copytree(run_folder / "results", tmp_path / "results")
    shutil.copytree(run_folder / "in", tmp_path / "in")
    table = tmp_path / "results/results.csv"
    table.write_text(table.read_text().replace(str(run_folder), str(tmp_path)))
    for file in (tmp_path / "results/predictions").rglob("*.json"):
        file.write_text(file.read_text().replace(str(run_folder), str(tmp_path)))
    return tmp_path


@pytest.fixture
def session(run):
    return ReviewSession(read_review_pictures(run / "results"), run / "results/review")

"""`flawscope agreement`, and its page."""

import hashlib
import json
import re
import shutil

import pytest

import aiag
from brightness import HOSTILE, draw, model
from flawscope.artefact.model_file import write
from flawscope.results.table import TableWriter


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "trials.csv"
    lines = ["part,appraiser,trial,decision,reference", *map(",".join, aiag.rows())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_the_example_of_aiag(answer, table, tmp_path):
    found = json.loads(answer("agreement", table, "--json", "--out", tmp_path / "page.html", said="page: "))
    assert [one["grade"] for one in found["appraisers"]] == ["unacceptable"] * 3
    assert found["appraisers"][0]["effectiveness"]["number"] == 42
    assert found["claim"] == {"miss_rate": 0.02, "parts_by_misses": {"0": 149, "1": 236, "2": 313, "3": 386}}
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    for text in (
        "42 of 50, 84\N{NO-BREAK SPACE}%",
        "0.923 (good)",
        "must be a new picture of the part",
        hashlib.sha256(table.read_bytes()).hexdigest(),
        "G G D",
    ):
        assert text in page
    assert page.count('<tr><th scope="row"><bdi>') == 3 + 11  # appraisers' decisions, disputed parts
    answer("agreement", table, printed="kappa against the reference 0.879 (good)")


def test_a_claim_alone_says_how_many_parts_it_takes(answer, table):
    answer("agreement", "--claim", "1%", printed="299 with none missed, 473 with 1 missed")
    answer("agreement", "--claim", "0.01%", printed="at most 0.01\N{NO-BREAK SPACE}%")  # not 0 %
    answer("agreement", "--claim", "1e-9", code=2, said="expected 0.000001 and more")
    answer("agreement", "--out", "page.html", code=2, said="--out needs a study")
    answer("agreement", table, "--out", "page.pdf", code=2, said="a page ends in .html")


def test_a_model_and_people_from_pictures_to_the_page(answer, tmp_path):
    """Two runs of a model, the second on the same files for one part, and a person with a hostile name."""
    for k, level in enumerate((0.1, 0.2, 0.3)):
        draw(tmp_path / f"one/good/p{k}.png", level)
        draw(tmp_path / f"two/good/p{k}.png", level + 0.01)
    for folder in ("one", "two"):
        draw(tmp_path / folder / "dent/p9.png", 0.9)
    learnt = tmp_path / "one/good/p0.png"
    write(model(seen={"train": [learnt]}).artefact, tmp_path / "m.safetensors")
    for name in ("one", "two"):
        (tmp_path / f"r_{name}").mkdir()
        writer = TableWriter(tmp_path / f"r_{name}/results.csv")
        for path in sorted((tmp_path / name).rglob("*.png")):
            writer.add_result(model().predict(path))
        writer.close()
        (tmp_path / f"r_{name}/results.json").write_text('{"model": "m.safetensors"}')
    person = HOSTILE.replace('"', '""')
    rows = [f'{p},"{person}",{k},good' for p in ("p0", "p1", "p2", "p9") for k in "12"]
    people = "\n".join(["part,appraiser,trial,decision", *rows])
    (tmp_path / "people.csv").write_text(people, encoding="utf-8")
    trials = [tmp_path / name for name in ("r_one", "r_two", "people.csv")]
    how = ["--reference", tmp_path / "one", "--model", tmp_path / "m.safetensors"]
    found = json.loads(answer("agreement", *trials, "--json", *how, "--out", tmp_path / "p.html"))
    ours, person = found["appraisers"]
    assert (ours["miss_rate"]["rate"], person["miss_rate"]["rate"]) == (0, 1)
    assert ours["misses_at_most"] == pytest.approx(0.95)  # one defective part says next to nothing
    assert any("1 part the very same score in two trials" in line for line in found["remarks"])
    assert found["remarks"][0] == "4 parts show little, whatever the grade: take 50 at least"
    assert any("has learnt from 1 picture" in line for line in found["remarks"])
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert hashlib.sha256((tmp_path / "m.safetensors").read_bytes()).hexdigest() in page
    assert "<img" not in page
    assert not re.findall(r"(?:https?:)?//[\w.-]+\.\w+", page)
    shutil.rmtree(tmp_path / "one")
    gone = ("agreement", tmp_path / "r_one", "--reference", tmp_path / "one")
    answer(*gone, code=2, said="there is no")

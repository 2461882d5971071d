"""What `fit`, `info`, the report and JSON say about simulated defects, and that it can be left out."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path

import pytest

pytest.importorskip("torch")

from flawscope.cli import main

SAID = re.compile(r"small (\d) of \d.*medium (\d) of \d.*large (\d) of \d.*at a false-alarm rate of")


@pytest.fixture(scope="module")
def fitted(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A model, and what was said when it was fitted."""
    out, said = tmp_path_factory.mktemp("check") / "m.safetensors", io.StringIO()
    with contextlib.redirect_stderr(said):
        assert main(["fit", "--data", str(drawn), "--size", "64", "--out", str(out), "--no-samples"]) == 0
    return out, said.getvalue()


def test_it_is_said_by_every_face(
    capsys: pytest.CaptureFixture[str], drawn: Path, fitted: tuple[Path, str], tmp_path: Path
) -> None:
    model, err = fitted
    assert SAID.search(err)
    assert main(["info", str(model)]) == 0
    said = next(line for line in capsys.readouterr().out.splitlines() if "simulated defects found" in line)
    counts = SAID.search(said)
    assert counts
    assert main(["info", str(model), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["facts"]["simulated_defects"]
    assert [str(one["found"]) for one in facts["sizes"].values()] == [*counts.groups()]
    assert [len(one["interval"]) for one in facts["sizes"].values()] == [2, 2, 2]
    assert main(["evaluate", str(model), "--data", str(drawn), "--out", str(tmp_path), "--quiet"]) == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "simulated defects found" in page
    assert said.split("found", 1)[1].strip() in page


def test_no_check_leaves_it_out(
    capsys: pytest.CaptureFixture[str], drawn: Path, fitted: tuple[Path, str], tmp_path: Path
) -> None:
    bare, more = tmp_path / "bare.safetensors", tmp_path / "more.safetensors"
    words = ["--data", str(drawn), "--no-check", "--quiet"]
    assert main(["fit", *words, "--size", "64", "--no-samples", "--out", str(bare)]) == 0
    new = tmp_path / "new" / "train" / "good"
    new.mkdir(parents=True)
    for path in sorted((drawn / "plate/test/good").glob("*.png")):
        (new / path.name).write_bytes(path.read_bytes())
    words = ["--data", str(tmp_path / "new"), "--no-check", "--quiet"]
    assert main(["fit", *words, "--update", str(fitted[0]), "--out", str(more)]) == 0
    capsys.readouterr()
    for path in (bare, more):
        assert main(["info", str(path)]) == 0
        said = capsys.readouterr().out
        assert "simulated defects found" not in said
        assert ("not measured after the model was extended" in said) == (path == more)

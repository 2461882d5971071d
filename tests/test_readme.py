"""Every command and every Python block of the README and of docs/ runs, in order, on drawn pictures."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flawscope.cli import main
from flawscope.datasets.synthetic import draw_picture

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [  # each may use what the ones before it made
    README,
    *(ROOT / "docs" / f"{name}.md" for name in ("deployment", "efficientad", "teacher", "simulation")),
]
SIDE = 128  # pixels of a drawn picture
NOT_HERE = ("pip", "make")  # they change the machine
SOON = {"fit": "0.25", "distill": "0.6"}  # minutes, for what may take half an hour


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of every fenced block."""
    return re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def commands(text: str) -> Iterator[list[str]]:
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            words = shlex.split(line[2:])
            yield [SOON[words[1]] if last == "--minutes" else word for last, word in pairwise(["", *words])]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with pictures where the README has them: names tell the part, two pictures of each."""
    rng = np.random.default_rng(3)

    def draw(path: str, defect: str | None = None) -> None:
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_picture("fabric", rng, defect, 0.2, size=SIDE)[0]).save(target)

    for k in range(12):
        draw(f"pictures/good/part{k // 2:02d}_{'ab'[k % 2]}.png")
    for k, defect in enumerate(("hole", "thread", "stain")):
        draw(f"pictures/bad/{defect}/{k}.png", defect)
    for k in range(6):
        draw(f"more_pictures/{k}.png")
    for k in range(20):
        draw(f"photographs/{k}.png")
    for name in ("001", "002"):
        draw(f"new_pictures/{name}.png")
    draw("new_pictures/007.png", "hole")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_everything_in_the_pages_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("torch", "onnx", "onnxscript", "openvino"):
        pytest.importorskip(name)
    ran = 0
    for page in PAGES:
        for language, text in blocks(page):
            if language == "python":
                exec(compile(text, str(page), "exec"), {})
                ran += 1
                continue
            assert language == "console", f"a block of {language} that nothing runs"
            for words in commands(text):
                if words[0] in NOT_HERE:
                    continue
                assert words[0] == "flawscope"
                wanted = 3 if "--fail-on-anomaly" in words else 0  # there is a hole among the new pictures
                code = main(words[1:])
                assert code == wanted, f"{shlex.join(words)}\n{capsys.readouterr().err}"
                ran += 1
    assert ran > 20
    assert (folder / "found" / "contact_sheet.png").is_file()
    assert (folder / "results" / "results.json").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert links
    for link in links:
        assert link.startswith("https://arxiv.org/") or (page.parent / link).exists(), link

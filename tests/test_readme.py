"""Every command and every Python block of the README and of docs/ runs, in order, on drawn pictures.

What is left out is time: training ends after two steps, and the graph of the same weights is traced once.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flawscope.cli import main
from flawscope.demo.dataset import draw_picture

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [
    README,
    *(
        ROOT / "docs" / f"{name}.md"
        for name in (
            *("first-detector", "resolution-and-threshold", "few-defects", "large-data", "troubleshooting"),
            *("cards", "benchmark", "deployment", "efficientad", "prnet", "teacher", "simulation"),
        )
    ),
]
SIDE = 128  # pixels of a drawn picture
NOT_HERE = ("pip", "make")  # they change the machine
MODEL = "part.safetensors"  # that other pages have from the README


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of every fenced block."""
    return re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def commands(text: str) -> Iterator[list[str]]:
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            yield shlex.split(line[2:])


def draw_pictures(folder: Path) -> None:
    """Pictures where the README has them: names tell the part, two pictures of each."""
    rng = np.random.default_rng(3)

    def draw(path: str, defect: str | None = None, mask: str | None = None) -> None:
        picture, marked = draw_picture("fabric", rng, defect, 0.2, size=SIDE)
        for name, pixels in ((path, picture), (mask, marked)):
            if name is not None:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(folder / name)

    for k in range(12):
        draw(f"pictures/good/part{k // 2:02d}_{'ab'[k % 2]}.png")
    for k, defect in enumerate(2 * ("hole", "thread", "stain")):
        draw(f"pictures/bad/{defect}/{k}.png", defect, f"pictures/masks/{defect}/{k}.png")
    for k in range(6):
        draw(f"more_pictures/{k}.png")
    for k in range(20):
        draw(f"photographs/{k}.png")
    for k in range(4):
        draw(f"materials/{k}.png")
    for name in ("001", "002"):
        draw(f"new_pictures/{name}.png")
    draw("new_pictures/007.png", "hole")


@pytest.fixture(scope="session")
def workplace(shared: Callable[[str, Callable[[Path], Any]], Path]) -> Path:
    """A folder with the pictures, and the model that the README's first fit makes of them. Read only."""

    def fill(folder: Path) -> None:
        draw_pictures(folder)
        assert main(["fit", "--data", f"{folder / 'pictures'}", "--out", f"{folder / MODEL}"]) == 0

    return shared("workplace", fill)


@pytest.fixture
def soon(trace_once: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes minutes takes seconds."""
    from flawscope.export import onnx_graph
    from flawscope.methods import training
    from flawscope.methods.efficientad import distill

    monkeypatch.setattr(onnx_graph, "trace", trace_once)
    for run in (training.Trainer, distill.Run):
        monkeypatch.setattr(run, "fix_steps", lambda run, seconds: setattr(run, "steps", 2))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_everything_in_the_pages_runs(
    page: Path,
    workplace: Path,
    soon: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("openvino")
    folder = tmp_path / "here"
    shutil.copytree(workplace, folder)
    if page == README:
        (folder / MODEL).unlink()  # it says how to make one
    monkeypatch.chdir(folder)
    ran = 0
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
    assert ran > (20 if page == README else 0)
    if page == README:
        assert (folder / "found" / "contact_sheet.png").is_file()
        assert (folder / "results" / "results.json").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert links
    for link in links:
        assert link.startswith("https://arxiv.org/") or (page.parent / link).exists(), link

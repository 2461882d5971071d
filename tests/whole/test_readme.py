"""Every command and every Python block of the README and of docs/ runs, in order, on generated pictures.

What is left out is time: training ends after two steps, PatchCore and PRN see
small pictures, EfficientAD's networks are narrow, the cells of a benchmark run in this process, the same call
on the same files runs once for all pages, a backbone is read once, the graph of the same weights is traced
once.
"""

import hashlib
import io
import re
import shlex
import shutil
import subprocess
import textwrap
import threading
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flawscope.cli import main
from flawscope.pages.review.session import DEFECT, GOOD
from flawscope.synthesis.demo import dataset
from flawscope.synthesis.demo.dataset import draw_dataset, draw_picture
from flawscope.testing import check_method
from flawscope_station.cli import serve
from flawscope_station.learning import jobs
from flawscope_station.learning.process import Worker
from flawscope_station.settings.station import read_settings
from flawscope_station.setup import drafts
from flawscope_station.web import app

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```", re.M | re.S)  # also within a list
# packages of their own, see below
ELSEWHERE = ("adding-a-method.md", "adding-a-connection.md")
PAGES = [
    README,
    *(
        page
        for page in sorted((ROOT / "docs").glob("*.md"))
        if page.name not in ELSEWHERE and BLOCK.search(page.read_text(encoding="utf-8"))
    ),
]
SIDE = 128  # pixels of a generated picture
NOT_HERE = ("pip", "make", "git", "docker")  # they change the machine
MAKING = ("fit", "export")  # calls whose result is one file
MODEL = "part.safetensors"  # which other pages take over from the README
LARGEST = 96  # PatchCore and PRN see one size, a quarter of what is asked for, at most this


def decide_all(review):
    """In the place of a person at the page: the most severe picture is a defect, the others are good."""
    for number in range(len(review.session.pictures)):
        review.session.decide(number, DEFECT if number == 0 else GOOD)
    review.server.server_close()


def blocks(page):
    """(language, text) of every fenced block."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [(language, textwrap.dedent(text)) for _, language, text in found]


def commands(text):
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            yield shlex.split(line[2:])


def draw_pictures(folder):
    """Pictures where the README has them: names tell the part, two pictures of each."""
    rng = np.random.default_rng(3)

    def draw(path, defect=None, mask=None, size=SIDE):
        picture, marked = draw_picture("fabric", rng, defect, 0.2, size=size)
        for name, pixels in ((path, picture), (mask, marked)):
            if name is not None:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(folder / name)

    for k in range(12):
        draw(f"pictures/good/part{k // 2:02d}_{'ab'[k % 2]}.png")
    for k, defect in enumerate(3 * ("hole", "thread", "stain")):
        draw(f"pictures/bad/{defect}/{k}.png", defect, f"pictures/masks/{defect}/{k}.png")
    for k in range(5):
        draw(f"large_pictures/{k}.png", size=300)
    names = [f"more_pictures/{k}" for k in range(12)]  # as many as a model of `pictures` was calibrated on
    names += [f"{folder}/{k}" for k in range(4) for folder in ("photographs", "materials")]
    for name in (*names, "new_pictures/001", "new_pictures/002"):
        draw(f"{name}.png")
    draw("new_pictures/007.png", "hole")
    draw_products(folder, rng)
    for trial in ("trial1", "trial2"):  # of known parts, which a person has inspected, too
        for k in range(2):
            draw(f"known/{trial}/good/p{k}.png")
            draw(f"known/{trial}/defective/d{k}.png", "hole")
    still, _ = draw_picture("fabric", rng, size=SIDE)
    for k in range(12):  # of a camera whose noise is small
        frame = np.clip(np.rint(still + rng.normal(0, 1, still.shape)), 0, 255).astype(np.uint8)
        for name in (f"frames/{k:02d}", f"put_in_again/{k:02d}"):
            (folder / name).parent.mkdir(exist_ok=True)
            Image.fromarray(frame).save(folder / f"{name}.png")
    rows = [f"{part},Eva,{trial},ok" for part in ("p0", "p1", "d0", "d1") for trial in (1, 2)]
    (folder / "people.csv").write_text("\n".join(["part,appraiser,trial,decision", *rows]))


def draw_products(folder, rng):
    """Three products of a line: drawn parts, one of them in other colours."""
    for product, drawn in {"fabric": "fabric", "plate": "plate", "tile": "plate"}.items():
        order = [2, 0, 1] if product == "tile" else [0, 1, 2]
        names = [f"products/{product}/good/{k}.png" for k in range(10)]
        names += [f"more_products/{product}/good/{k}.png" for k in range(4)]
        names += [f"products/{product}/bad/hole/0.png", f"mixed_pictures/{product}.png"]
        for name in names:
            defect = dataset.CATEGORIES[drawn].defects[0] if "/bad/" in name else None
            picture = draw_picture(drawn, rng, defect, 0.2, size=SIDE)[0][..., order]
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ascontiguousarray(picture)).save(folder / name)


@pytest.fixture(scope="session")
def workplace(shared):
    """A folder with the pictures. Read only."""
    return shared("workplace", draw_pictures)


class Here:
    """A benchmark's cells in this process."""

    most = 1

    def __init__(self, *_):
        self.over: list[tuple[str, Any]] = []

    def start(self, label, _, *given):
        from flawscope.evaluation.benchmark.cell import fit_and_evaluate

        self.over.append((label, fit_and_evaluate(*given, lambda *_: None, lambda _: None)))

    def ended(self, _):
        over, self.over = self.over, []
        return over


class LearnsHere(Worker):
    """In the place of a station's process that learns, which knows nothing of what is made small here."""

    def run(self, work, job, step):
        return work(job, step)


@pytest.fixture
def soon(teacher_path, monkeypatch):
    """What takes minutes takes seconds."""
    from flawscope.evaluation.benchmark import run as runs
    from flawscope.methods.patchcore import record as patchcore
    from flawscope.methods.settings import PictureSettings
    from flawscope.methods.training import trainer
    from flawscope.methods.training.efficientad import model
    from flawscope.methods.training.prnet import record as prnet
    from flawscope.pages.review import server
    from flawscope.pages.review import session as review

    sizes = PictureSettings.sizes.fget
    reduced = lambda size: tuple(min(LARGEST, side // 4) for side in size)  # noqa: E731
    smaller = property(lambda config: (reduced(sizes(config)[-1]),))
    for method in (patchcore, prnet):
        monkeypatch.setattr(method.METHOD.config, "sizes", smaller)
    monkeypatch.setattr(model, "packaged_teacher", lambda _: teacher_path)
    monkeypatch.setattr(runs, "Processes", Here)
    # a process of its own would see whole pictures
    for module in (drafts, jobs):
        monkeypatch.setattr(module, "Worker", LearnsHere)
    # what is refused is tested elsewhere: models of so few and small pictures find hardly anything
    monkeypatch.setattr("flawscope.fitting.update_evaluation.MIN_KEPT_SHARE", 0.0)
    monkeypatch.setattr("flawscope.fitting.one_update.find_defect_like", lambda *_: set())
    monkeypatch.setattr(server.ReviewServer, "serve", decide_all)
    flagged = review.read_review_pictures
    monkeypatch.setattr(
        review, "read_review_pictures", lambda results, *, every: flagged(results, every=True)
    )
    few = {"train": 12, "good": 4, "bad_per_kind": 1, "size": SIDE}
    monkeypatch.setattr(dataset, "draw_dataset", lambda root, **how: draw_dataset(root, **{**how, **few}))
    monkeypatch.setattr(trainer.Trainer, "_plan_steps", lambda run, *_: setattr(run, "steps", 1))


class Stations:
    """Those that a page starts go on beside it until its end, each on a free port."""

    PORT = "127.0.0.1:8080"  # where the pages have them

    def __init__(self):
        self.servers: list[app.StationServer] = []
        self.threads: list[threading.Thread] = []
        self._serve = serve.run

    def run(self, args):
        """In the place of `flawscope serve`."""
        self.end()
        args.port = 0
        begun = len(self.servers)
        thread = threading.Thread(target=self._serve, args=(args,), daemon=True)
        self.threads.append(thread)
        thread.start()
        until = time.monotonic() + 60
        while len(self.servers) == begun or not self.servers[-1].started:
            assert thread.is_alive(), "the station does not start"
            assert time.monotonic() < until
            time.sleep(0.02)
        return 0

    def there(self, text):
        """With the address of the last one."""
        return text.replace(f"http://{self.PORT}", self.servers[-1].url) if self.servers else text

    def end(self):
        for server, thread in zip(self.servers, self.threads, strict=True):
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()


@pytest.fixture
def stations(monkeypatch):
    found = Stations()
    whole = app.StationServer.__init__

    def made(server, *args):
        whole(server, *args)
        found.servers.append(server)

    monkeypatch.setattr(app.StationServer, "__init__", made)
    monkeypatch.setattr(serve, "run", found.run)
    monkeypatch.setattr("sys.stdin", io.StringIO("a long password\n"))
    yield found
    found.end()


def call(words, shared):
    """`flawscope WORDS` in the current folder. A file that the same call has made before, from the same
    files, is copied; a run that goes on has nothing left to do."""
    if words[0] not in MAKING:
        return main(words)
    at = words.index("--out") + 1
    out = Path(words[at])
    asked = [word for word in (*words[:at], out.suffix, *words[at + 1 :]) if word != "--resume"]
    digest = hashlib.sha256(repr(asked).encode())
    for word in words[:at] + words[at + 1 :]:
        if Path(word).is_file():
            digest.update(Path(word).read_bytes())

    def make(folder):
        code = main([*words[:at], f"{folder / f'made{out.suffix}'}", *words[at + 1 :]])
        assert code == 0, shlex.join(words)

    for made in shared(f"made-{digest.hexdigest():.16}", make).iterdir():
        shutil.copy(made, out.with_suffix(made.suffix))
    return 0


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.smoke] * (page.name == "first-detector.md")) for page in PAGES],
    ids=lambda page: page.name,
)
def test_everything_in_the_pages_runs(page, workplace, shared, soon, stations, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "here"
    shutil.copytree(workplace, folder)
    monkeypatch.chdir(folder)
    if page != README:
        call(["fit", "--data", "pictures", "--out", MODEL], shared)
    ran = 0
    for language, text in blocks(page):
        if language == "python":
            exec(compile(stations.there(text), str(page), "exec"), {})
        elif language == "yaml" and text.startswith("# tolerances.yaml"):
            Path("tolerances.yaml").write_text(text, encoding="utf-8")
        elif language == "yaml":
            Path("station.yaml").write_text(text, encoding="utf-8")
            Path("database_password").write_text("secret", encoding="utf-8")
            Path("common.yaml").write_text("products: {plate: {model: part.safetensors}}\n")
            monkeypatch.setenv("STATION", "press-4")
            monkeypatch.setenv("HUB", "hub.example")
            assert read_settings("station.yaml").products
        else:
            assert language in ("console", "bibtex"), f"a block of {language} that nothing runs"
        ran += language in ("python", "yaml")
        for words in commands(text) if language == "console" else ():
            here = [stations.there(word) for word in words]
            if words[0] in NOT_HERE or (words[0] == "curl" and not shutil.which("curl")):
                continue
            if words[0] == "curl":
                subprocess.run(here, check=True)
            else:
                assert words[0] == "flawscope"
                wanted = 3 if "--fail-on-anomaly" in words else 0  # there is a hole among the new pictures
                assert call(here[1:], shared) == wanted, f"{shlex.join(words)}\n{capsys.readouterr().err}"
            ran += 1
    assert ran > (7 if page == README else 0)
    if page == README:
        assert (folder / "demo" / "results" / "report.html").is_file()
        assert (folder / "found" / "report.html").is_file()
        assert (folder / "results" / "results.json").is_file()


def test_the_method_of_the_page_keeps_the_contract(page_method, monkeypatch):
    """The blocks that name a file are packages, which are installed as pip does it; the last one checks."""
    page_method("meanpicture")
    found = dict(blocks(ROOT / "docs" / "adding-a-method.md"))  # the last of each language
    points = tomllib.loads(found["toml"])["project"]["entry-points"]["flawscope.methods"]
    assert points == {"meanpicture": "flawscope_meanpicture:METHOD"}
    exec(found["python"], {})
    # and the one that learns in steps
    check_method(page_method("redrawn"), settings={"size": "64", "steps": 3, "batch": 2})


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("target", "extras", "last"),
    [("demo", '".[train]"', "flawscope demo"), ("test", '".[train,', "python -m pytest")],
)
def test_the_first_screen_has_the_commands_that_set_everything_up(target, extras, last, tmp_path):
    """What the demo needs, and for tests all of it."""
    screen = "\n".join(README.read_text(encoding="utf-8").splitlines()[:30])
    assert f"$ make {target} " in screen
    fresh = ["make", "--dry-run", target, f"VENV={tmp_path / 'venv'}"]
    steps = subprocess.run(fresh, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = [steps.index(step) for step in ("-m venv", "pip install", extras, last)]
    assert found == sorted(found)
    assert (",dev]" in steps) is (target == "test")


@pytest.mark.smoke
def test_the_landing_page_stays_one():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert any(line.startswith("make test ALL=1") for line in run)

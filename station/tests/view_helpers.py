"""Parts in several views: pictures, a model that judges them, and what a station has recorded of them."""

import hashlib
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import flawscope
from flawscope import Prediction
from flawscope.cli import main
from flawscope.predictor import tolerating
from flawscope.results.findings import tolerance_finding
from flawscope.results.tolerance import Tolerances
from flawscope_station.client import Client
from flawscope_station.core.station import Station
from flawscope_station.settings.station import ProductSettings
from small_network import SMALL_NETWORK
from station_helpers import NAME, Running, Served, everything, png, until

VIEWS = ("left", "right", "top")
API = f"/api/v1/products/{NAME}"


def view(part: int, name: str, defect: bool = False) -> bytes:
    """PNG of a drawn part from one side."""
    k = VIEWS.index(name)
    rng = np.random.default_rng([part, k])
    picture = np.full((80, 80, 3), (60, 80 + 50 * k, 120), np.float64)
    picture[20:60, 20 + 8 * k : 60] = 150
    if defect:
        picture[34:44, 44:54] = 30
    return png((picture + rng.normal(0, 3, picture.shape)).clip(0, 255).astype(np.uint8))


def whole(
    part: int, bad: str | None = None, views: Sequence[str] = ("top", "left", "right")
) -> dict[str, bytes]:
    """Pictures of a part from all sides."""
    return {name: view(part, name, name == bad) for name in views}


def fit_parts(model: Path, views: Sequence[str]) -> None:
    """Fit a model that judges parts by these views."""
    (good := model.parent / "good").mkdir()
    for part in range(9):
        for name in views:
            (good / f"p{part}_{name}.png").write_bytes(view(part, name))
    how: dict[str, Any] = {"part": r"p\d+", "each_view": False, "size": 64, "check": False, "device": "cpu"}
    flawscope.fit(good, **how, **SMALL_NETWORK).save(model)


@pytest.fixture(name="part_model", scope="session")
def part_model_fixture(shared):
    """Judges parts of three views. Read only."""
    fill = lambda folder: fit_parts(folder / "part.safetensors", VIEWS)  # noqa: E731
    return shared("part-model", fill) / "part.safetensors"


@pytest.fixture(name="pair_model", scope="session")
def pair_model_fixture(shared):
    """Judges parts of the views left and top. Read only."""
    fill = lambda folder: fit_parts(folder / "pair.safetensors", ("left", "top"))  # noqa: E731
    return shared("pair-model", fill) / "pair.safetensors"


def exported(model: Path, shared: Callable[..., Path]) -> Path:
    """Return the model as exported: a station that is started again and again loads no torch. Read only."""

    def fill(folder: Path) -> None:
        assert main(["export", str(model), "--out", str(folder / "model.onnx"), "--quiet"]) == 0

    return shared(f"exported-{model.stem}", fill) / "model.onnx"


def bad_at_the_top(model: flawscope.Predictor, views: Sequence[str]) -> int:
    """Return a part whose other views the model calls good, each alone."""

    def is_good(part: int) -> bool:
        return not any(model.predict(view(part, one)).is_anomalous for one in views if one != "top")

    return next(part for part in range(30, 200) if is_good(part))


class Tolerated:
    """A model with a scale, and a file of tolerances that allow every defect until they are tightened, with
    `by_length`. part: one that is bad at the top alone."""

    TEXT = "version: 1\npicture: [80, 80]\nrules: [{kind: any, length: 1000}]\n"

    def __init__(self, model: Path, views: Sequence[str], folder: Path):
        scaled = flawscope.load(model, device="cpu", threads=1).with_scale(0.1)
        self.model, self.rules = folder / "scaled.safetensors", folder / "tolerances.yaml"
        scaled.save(self.model)
        self.rules.write_text(self.TEXT)
        self.part = bad_at_the_top(scaled, views)

    def tighten(self, station: Station) -> None:
        self.rules.write_text(self.TEXT.replace("1000", "0.001").replace("version: 1", "version: 2"))
        until(lambda: (station.tolerances.in_force(1) or {})["version"] == "2")


@pytest.fixture(name="by_length")
def by_length_fixture(monkeypatch):
    """Rules of more than 1 mm tolerate every defect, others none: small pictures tell no size."""

    def apply(found: Prediction, numbers: object, rules: Tolerances) -> Prediction:
        length = rules.rules[0].length
        return found.noticing(tolerance_finding(length is not None and length > 1, (), rules.version))

    monkeypatch.setattr(tolerating, "apply_tolerances", apply)


def post(url: str, files: dict[str, bytes], **query: str) -> httpx.Response:
    sent = [("files", (name, data)) for name, data in files.items()]
    headers = {"Idempotency-Key": query.pop("key")} if "key" in query else {}
    return httpx.post(f"{url}{API}/inspections", params=query, files=sent, headers=headers, timeout=60)


def recorded_parts(url: str, sent: Mapping[str, Mapping[str, bytes]]) -> dict[str, dict[str, Any]]:
    """Return a station's inspections by part; check that each is there once, whole, and made from its own
    pictures.

    sent: pictures by part and view.
    """
    found = everything(url)
    for one in found:
        own = {name: hashlib.sha256(data).hexdigest() for name, data in sent[one["part"]].items()}
        assert {view["view"]: view["picture"] for view in one["views"]} == own
        assert one["picture"] == own[one["view"]]
    parts = {one["part"]: one for one in found}
    assert len(parts) == len(found), "a part twice"
    return parts


def lives(served: Served, kills: int, seconds: float) -> Iterator[bool]:
    """Start a station again and again, and kill it within so many seconds; yield whether this is the last
    life, in which it is not killed."""
    rng = random.Random(0)
    for _ in range(kills):
        served.start(240)
        timer = threading.Timer(rng.uniform(0.0, seconds), served.kill)
        timer.start()
        yield False
        timer.join()
        until(lambda: served.process is not None and served.process.poll() is not None)
    served.start(240)
    yield True


@pytest.fixture(name="line")
def line_fixture(part_model, open_station):
    """`line(part_deadline="1 s", ...)` opens a station that judges parts."""

    def opened(**product: Any) -> Running:
        more = {name: product.pop(name) for name in ("mqtt", "limits") if name in product}
        return open_station(products={NAME: ProductSettings(str(part_model), **product)}, **more)

    return opened


@pytest.fixture(name="client")
def client_fixture(line):
    with Client(line().url) as made:
        yield made


def decided(url: str, count: int) -> list[dict[str, Any]]:
    """The parts, the newest first, as soon as there are so many."""

    def found() -> Any:
        every = httpx.get(f"{url}{API}/inspections").json()["inspections"]
        return every if len(every) >= count else None

    return list(until(found))

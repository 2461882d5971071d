"""A station that begins with nothing, and what people send to it."""

import io
import zipfile
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from flawscope_station.settings.station import Limits, Settings
from flawscope_station.setup.drafts import Drafts
from flawscope_station.setup.job import run_job
from small_network import SMALL_NETWORK
from station_fixtures import place_of
from station_helpers import opened, until

NEW = "/api/v1/new"


def empty_settings(store: Path) -> Settings:
    limits = Limits(upload="2 MB", pixels=4_000_000, stalled=10.0)
    return Settings(store=str(store), port=0, device="cpu", threads=1, limits=limits)


def small_fit(job: dict[str, Any], step: Any) -> dict[str, Any]:
    """Do the job with the small network, unless another method or a search is asked for."""
    given = dict(job.get("given", {}))
    if given and "auto" not in given and given.get("method", "patchcore") == "patchcore":
        job = {**job, "given": {**given, **SMALL_NETWORK}}
    return run_job(job, step)


def patient_fit(job: dict[str, Any], step: Any) -> dict[str, Any]:
    """Do the job as `small_fit`, with time for simulated defects of each size on a slow machine, too."""
    from flawscope.fitting import simulated_defects

    simulated_defects.MIN_SECONDS = 20.0  # type: ignore[misc]  # of this process alone
    return small_fit(job, step)


def questionable_fit(job: dict[str, Any], step: Any) -> dict[str, Any]:
    """Learn nothing, at once: the facts of a model that leaves much to be asked."""
    odd = [{"name": "000.png", "score": 3.0, "reason": "high"}]
    empty: dict[str, Any] = {key: [] for key in ("failures", "notes", "questions", "examples", "rates")}
    facts = {
        "promise": "",
        "promised": True,
        "rate": 0.2,
        "wanted_rate": 0.05,
        "calibrated": 4,
        "missing": 15,
    }
    facts |= {"interval": [0.01, 0.6], "threshold": 1.0, "pictures": 4, "seconds": 1.0, "search": None}
    return {**empty, **facts, "odd": odd, "found": {"medium": [2, 12], "large": [11, 12]}}


@pytest.fixture(name="empty")
def empty_fixture(request, tmp_path):
    with closing(opened(empty_settings(tmp_path / "store"), place_of(request.node))) as made:
        made.station.components[Drafts].work = small_fit
        yield made


@pytest.fixture(name="http")
def http_fixture(empty):
    with httpx.Client(base_url=empty.url, timeout=120) as client:
        yield client


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def begin(http: httpx.Client, name: str = "plate") -> dict[str, Any]:
    answer = http.post(NEW, json={"name": name})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


PNG = {"Content-Type": "image/png"}


STEPS, SMALL = 41, {"window": 41, "border": 0}


def small(settings: dict[str, Any], job: dict[str, Any], step: Any) -> dict[str, Any]:
    """Do the job with small steps and a checkpoint after each; note how many steps are left."""
    # here, as in the station: torch, which waits as the process has been told before it is loaded
    from flawscope.fitting import fitting
    from flawscope.methods.task import Budget

    fitting.Budget = partial(Budget, checkpoint_interval=0.0)  # type: ignore[misc,assignment]  # of this process alone
    given = {key: value for key, value in job["given"].items() if key != "minutes"}
    given |= {"steps": STEPS, "training": "fp32", **settings}

    def told(stage: str, done: int, total: int) -> None:
        if stage.startswith("training"):
            with Path(job["model"]).with_suffix(".steps").open("a") as file:
                file.write(f"{total}\n")
        step(stage, done, total)

    return run_job({**job, "given": given}, told)


def send(http: httpx.Client, name: str, data: bytes, product: str = "plate") -> httpx.Response:
    return http.post(f"{NEW}/{product}/pictures", params={"name": name}, content=data, headers=PNG)


def begin_with(http: httpx.Client, pictures: list[Path]) -> None:
    begin(http)
    for path in pictures:
        send(http, path.name, path.read_bytes())


def results(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 201, answer.text
    return list(answer.json()["results"])


def listed(http: httpx.Client, product: str = "plate") -> dict[str, list[str]]:
    return dict(http.get(f"{NEW}/{product}/pictures").json())


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return buffer.getvalue()


def send_zip(http: httpx.Client, data: bytes, name: str = "all.zip") -> httpx.Response:
    headers = {"Content-Type": "application/zip"}
    return http.post(f"{NEW}/plate/pictures", params={"name": name}, content=data, headers=headers)


def done(http: httpx.Client) -> dict[str, Any]:
    def state() -> dict[str, Any] | None:
        found: dict[str, Any] = http.get(f"{NEW}/plate").json()
        return None if found["stage"] in ("queued", "running") else found

    found: dict[str, Any] = until(state)
    assert found["stage"] == "ready", found["error"]
    return found

"""A training that somebody stops on the page goes on where it was, and ends: PRN."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from station_helpers import opened, until

from flawscope.artefact.state_file import checkpoint_of
from flawscope.fitting import fitting
from flawscope.methods.task import Budget
from flawscope.station.learning.process import Worker
from flawscope.station.settings.station import Settings
from flawscope.station.setup.job import work

NEW, STEPS = "/api/v1/new", 41
SMALL = {"size": "64", "width": 0.25, "batch": 2, "training": "fp32"}


def small(job: dict[str, Any], step: Any) -> dict[str, Any]:
    """Do the job with small steps and a checkpoint after each; note how many steps are left."""
    fitting.Budget = partial(Budget, every=0.0)  # type: ignore[misc,assignment]  # of this process alone
    given = {key: value for key, value in job["given"].items() if key != "minutes"}
    given |= {"steps": STEPS, **SMALL}

    def told(stage: str, done: int, total: int) -> None:
        with Path(job["model"]).with_suffix(".steps").open("a") as file:
            file.write(f"{total}\n")
        step(stage, done, total)

    return work({**job, "given": given}, told)


@pytest.mark.slow
def test_a_training_that_was_stopped_goes_on_and_ends(tmp_path: Path, drawn: Path) -> None:
    running = opened(Settings(store=str(tmp_path / "store"), port=0, device="cpu", threads=1))
    drafts = running.station.drafts
    drafts.worker = Worker(small)
    try:
        with httpx.Client(base_url=running.url, timeout=120) as http:
            http.post(NEW, json={"name": "plate"}).raise_for_status()
            for path in sorted((drawn / "plate" / "train" / "good").iterdir()):
                picture = {"name": path.name}, path.read_bytes()
                http.post(f"{NEW}/plate/pictures", params=picture[0], content=picture[1]).raise_for_status()
            http.post(f"{NEW}/plate/learn", json={"method": "prnet"}).raise_for_status()
            model = drafts.draft("plate").model
            until(checkpoint_of(model).is_file)
            stopped = http.post(f"{NEW}/plate/stop").json()
            assert (stopped["stage"], stopped["goes_on"]) == ("stopped", True)
            steps = model.with_suffix(".steps")
            before = {int(line) for line in steps.read_text().split()}
            assert STEPS in before
            steps.unlink()
            http.post(f"{NEW}/plate/learn", json={"method": "prnet", "go_on": True}).raise_for_status()
            until(lambda: http.get(f"{NEW}/plate").json()["stage"] not in ("waiting", "learning"))
            state = http.get(f"{NEW}/plate").json()
            assert state["stage"] == "ready", state["error"]
            assert STEPS not in {int(line) for line in steps.read_text().split()}
            assert not state["goes_on"]
            assert http.post(f"{NEW}/plate/live").json()["method"] == "prnet"
    finally:
        running.close()

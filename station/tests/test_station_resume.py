"""A training that somebody stops on the page goes on where it was, and ends. That each method resumes its own
training is tested with the library."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from flawscope.artefact.state_file import checkpoint_path
from flawscope_station.learning.process import Worker
from flawscope_station.settings.station import Settings
from flawscope_station.setup.drafts import Drafts
from flawscope_station.setup.job import run_job
from station_helpers import opened, until

NEW, STEPS = "/api/v1/new", 41
METHOD, SMALL = "efficientad", {"window": 41, "border": 0}


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


@pytest.mark.slow
def test_a_training_that_was_stopped_goes_on_and_ends(
    tmp_path: Path, drawn: Path, teacher_path: Path
) -> None:
    running = opened(Settings(store=str(tmp_path / "store"), port=0, device="cpu", threads=1))
    drafts = running.station.parts[Drafts]
    drafts.worker = Worker(partial(small, {**SMALL, "teacher": str(teacher_path)}))
    try:
        with httpx.Client(base_url=running.url, timeout=120) as http:
            http.post(NEW, json={"name": "plate"}).raise_for_status()
            for path in sorted((drawn / "plate" / "train" / "good").iterdir()):
                picture = {"name": path.name}, path.read_bytes()
                http.post(f"{NEW}/plate/pictures", params=picture[0], content=picture[1]).raise_for_status()
            http.post(f"{NEW}/plate/learn", json={"method": METHOD}).raise_for_status()
            model = drafts.draft("plate").model
            until(checkpoint_path(model).is_file)
            stopped = http.post(f"{NEW}/plate/stop").json()
            assert (stopped["stage"], stopped["goes_on"]) == ("stopped", True)
            steps = model.with_suffix(".steps")
            assert {int(line) for line in steps.read_text().split()} == {STEPS}
            steps.unlink()
            http.post(f"{NEW}/plate/learn", json={"method": METHOD, "go_on": True}).raise_for_status()
            until(lambda: http.get(f"{NEW}/plate").json()["stage"] not in ("waiting", "learning"))
            state = http.get(f"{NEW}/plate").json()
            assert state["stage"] == "ready", state["error"]
            (left,) = {int(line) for line in steps.read_text().split()}
            assert left < STEPS
            assert not state["goes_on"]
            assert http.post(f"{NEW}/plate/live").json()["method"] == METHOD
    finally:
        running.close()

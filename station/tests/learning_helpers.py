"""What the tests of learning share: drawn parts, and somebody who sends them and says what they are."""

from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import httpx
import numpy as np

from flawscope.synthesis.demo.dataset import draw_picture
from station_helpers import inspected, png, until

NAME = "plate"
API = f"/api/v1/products/{NAME}"


def drawn_part(seed: int, defect: str | None = None, stained: bool = False) -> bytes:
    """A plate of 96 pixels a side, as the model knows them; stained: good, with a mark it has never seen."""
    picture = draw_picture("plate", np.random.default_rng(seed), defect, 0.6, size=96)[0].copy()
    if stained:
        picture[30:46, 30:46] = (20, 120, 40)
    return png(picture)


class Line:
    """Somebody who sends parts and says what they are."""

    def __init__(self, url: str):
        self.http = httpx.Client(base_url=url, timeout=60)

    def send(self, data: bytes, name: str = "part.png") -> dict[str, Any]:
        return inspected(self.http, data, name)

    def say(self, number: int, verdict: str) -> None:
        answer = self.http.post(f"{API}/inspections/{number}/verdict", json={"verdict": verdict})
        assert answer.status_code == 200, answer.text

    def shift(self, stains: int = 3) -> dict[str, list[int]]:
        """Good parts, stained ones that are flagged and called good, and defects that are found."""
        found: dict[str, list[int]] = {"passed": [], "stained": [], "defects": []}
        for seed in range(100, 104):
            one = self.send(drawn_part(seed), f"good-{seed}.png")
            if one["decision"] == "good":
                found["passed"].append(one["id"])
        for seed in range(200, 200 + stains):
            one = self.send(drawn_part(seed, stained=True), f"stained-{seed}.png")
            assert one["decision"] == "anomalous", one["score"]
            self.say(one["id"], "good")
            self.say(one["id"], "good")  # looked at twice
            found["stained"].append(one["id"])
        for seed, kind in ((300, "missing_part"), (301, "contamination"), (302, "crack")):
            one = self.send(drawn_part(seed, kind), f"defect-{seed}.png")
            self.say(one["id"], "defect")
            if one["decision"] == "anomalous":
                found["defects"].append(one["id"])
        return found

    def learn(self, **how: Any) -> dict[str, Any]:
        answer = self.http.post(f"{API}/learning", json=how)
        assert answer.status_code == 201, answer.text
        return self.ended(answer.json()["id"])

    def ended(self, number: int) -> dict[str, Any]:
        def done() -> Any:
            one = self.http.get(f"{API}/candidates/{number}").json()
            return one if one["status"] not in ("queued", "running") else None

        return dict(until(done))

    def active(self) -> int:
        return int(self.http.get(API).json()["version"])

    def use(self, version: int, **body: Any) -> httpx.Response:
        return self.http.post(f"{API}/versions/{version}/activate", json=body)


def echo(pipe: Connection, pixels: int, niceness: int) -> None:
    """In place of the process that learns: tells of a step, and gives back each job, unless it is to fail or
    to wait."""
    with suppress(EOFError):
        while True:
            _, job = pipe.recv()
            pipe.send(("step", ("echo", 1, 1)))
            if "fail" in job:
                pipe.send(("error", "this one cannot be done"))
            elif "wait" not in job:
                pipe.send(("done", {"job": job}))


def stained_once(line: Line) -> list[int]:
    """False alarms that stand out like defects, each called good once."""
    found = [
        line.send(drawn_part(seed, stained=True), f"stained-{seed}.png")["id"] for seed in (200, 201, 202)
    ]
    for number in found:
        line.say(number, "good")
    line.say(line.send(drawn_part(300, "missing_part"), "defect.png")["id"], "defect")
    return found


def fail_to_write(job: dict[str, Any], step: Any) -> None:
    """Fail as a library that writes a file: its error says nothing, and came from the system's."""
    try:
        if job.get("path"):
            raise OSError(job["errno"], "no room", "/srv/station/models/plate.safetensors")
        raise OSError(job["errno"], "no room")
    except OSError as error:
        raise RuntimeError("the file could not be written") from error

"""What unit and end-to-end tests need: test_station_challenge.py, whole/test_station_challenge_whole.py."""

from dataclasses import replace
from typing import Any

import httpx

from flawscope_station.challenge.challenge import Challenge
from flawscope_station.core.station import Station
from flawscope_station.settings.station import Settings
from station_helpers import NAME, Running, Served, again

HOUR = 3_600_000_000


class Line:
    """A station that asks for challenges, and what is shown to it."""

    def __init__(self, running: Running | Served, judged: tuple[bytes, bytes]):
        self.running, self.pictures = running, {"g-1": judged[0], "d-1": judged[1]}
        self.client = httpx.Client(base_url=f"{running.url}/api/v1/products/{NAME}", timeout=60)

    @property
    def station(self) -> Station:
        assert isinstance(self.running, Running)
        return self.running.station

    @property
    def challenge(self) -> Challenge:
        return self.station.components[Challenge]

    def close(self) -> None:
        assert isinstance(self.running, Running)
        self.running.close()

    def send(self, data: bytes, part: str = "") -> httpx.Response:
        return self.client.post("/inspections", params={"part": part} if part else {}, content=data)

    def show(self, name: str, data: bytes | None = None) -> str:
        """What is answered to a challenge part, always as a refusal."""
        answer = self.send(again(self.pictures[name]) if data is None else data, name)
        assert (answer.status_code, answer.json()["code"]) == (409, "not_production"), answer.text
        return str(answer.json()["error"])

    def state(self) -> dict[str, Any]:
        return dict(self.client.get("/challenge").json())

    def page(self, language: str = "en") -> str:
        headers = {"Accept-Language": language}
        answer = self.client.get(f"{self.running.url}/{NAME}/challenge", headers=headers)
        assert answer.status_code == 200
        return answer.text

    def add(self, name: str, expected: str, inspection: int) -> httpx.Response:
        return self.client.post(
            "/challenge/parts",
            json={"inspection": inspection, "name": name, "expected": expected, "note": "x"},
        )

    def answers_good(self) -> bool:
        """Whether a good picture is answered as such."""
        answer = self.send(again(self.pictures["g-1"]), "4711")
        assert answer.status_code == 201 or answer.json()["code"] == "not_ready", answer.text
        return answer.status_code == 201

    def pass_all(self) -> None:
        for name in self.pictures:
            assert "passed" in self.show(name)


def settings_with(settings: Settings, *times: str, **more: Any) -> dict[str, Any]:
    return {"products": {NAME: replace(settings.products[NAME], challenge=times, **more)}}

"""Where in the broker things are. docs/station-mqtt.md lists them."""

from __future__ import annotations

from dataclasses import dataclass

from flawscope.station.sinks.outbox import VERDICT

ONLINE, OFFLINE = "online", "offline"
MOST_ID = 23  # characters of a client's name that every broker takes (MQTT 3.1.1, 3.1.3.1)


@dataclass(frozen=True)
class Topics:
    """Of one station. Names of stations and products have no letter that means something in a topic."""

    prefix: str
    station: str

    @property
    def status(self) -> str:
        """online or offline, retained; the broker itself says offline when the station is gone."""
        return f"{self.prefix}/{self.station}/status"

    @property
    def problem(self) -> str:
        """What a person should see to, retained."""
        return f"{self.prefix}/{self.station}/problem"

    @property
    def echo(self) -> str:
        """The station's own: it sends a word here and waits until it comes back."""
        return f"{self.prefix}/{self.station}/echo"

    def state(self, product: str) -> str:
        """The last inspection and totals, retained."""
        return f"{self.prefix}/{self.station}/{product}/state"

    def of(self, product: str, type: str) -> str:
        """Of inspections, or of verdicts."""
        return f"{self.prefix}/{self.station}/{product}/{'verdict' if type == VERDICT else 'inspection'}"

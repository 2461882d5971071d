"""What tests of both floors need: test_station_plugins.py, whole/test_station_plugins_whole.py."""

import csv
from dataclasses import dataclass
from pathlib import Path

from plugin_helpers import LINE, plugins_fixture, reels_fixture, settings_text  # noqa: F401


def ids(path: Path) -> list[str]:
    """Of the inspections in a CSV file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [row["id"] for row in csv.DictReader(file)]


@dataclass(frozen=True)
class Careless:
    file: str

"""What deploy/ holds for a station."""

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy/flawscope-station.service"


@pytest.fixture(name="compose", scope="module")
def compose_fixture():
    return dict(yaml.safe_load((ROOT / "compose.yaml").read_text()))

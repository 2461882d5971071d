"""Times in settings: what no thread can wait for is refused before a station starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from flawscope.errors import InputError
from flawscope_station.settings.sources import read_source
from flawscope_station.settings.values import time_of


@pytest.mark.parametrize("text", ["10000000000000000000000 s", "99999 h", f"{'9' * 400} s"])
def test_a_time_beyond_a_year_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a time"):
        time_of(text, "deadline")
    for name in ("latency", "lost_after", "every"):
        with pytest.raises(InputError, match=name):
            read_source({"camera": "rtsp://192.0.2.20/stream", name: text}, Path())


def test_a_week_is_a_time() -> None:
    assert time_of("168 h", "deadline") == 7 * 86400

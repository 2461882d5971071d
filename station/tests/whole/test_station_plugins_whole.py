"""Sources, sinks and connections of other packages: found by their entry points, checked by their records,
true to the contract. Those of examples/line stand for what others write."""

from typing import Any

import pytest

from flawscope_station.settings.plugins import (
    Plugin,
)
from flawscope_station.testing import check_sink, check_source
from plugin_helpers import LINE, Careless, ids, plugins_fixture, reels_fixture, settings_text  # noqa: F401

pytestmark = pytest.mark.usefixtures("plugins")


def test_the_examples_keep_the_contract(reels, model_file, tmp_path):
    from emulated_line.csv_file import CSV
    from emulated_line.reel import REEL

    check_source(REEL, {"folder": str(reels["mixed"])}, model_file)
    path = tmp_path / "found.csv"
    check_sink(CSV, {"file": str(path)}, model_file, lambda: ids(path))


def test_a_sink_that_counts_twice_or_loses_is_found(model_file, tmp_path):
    from emulated_line.csv_file import CsvFile

    class Twice(CsvFile):
        def send(self, message: Any) -> None:
            self._known = set()
            super().send(message)

    class Lost(CsvFile):
        def send(self, message: Any) -> None:
            if message.number != 2:
                super().send(message)

    for kind, said in ((Twice, "counts twice"), (Lost, "4 of 6|5 of 6")):
        path = tmp_path / f"{kind.__name__}.csv"
        with pytest.raises(AssertionError, match=said):
            check_sink(
                Plugin("csv", Careless, kind), {"file": str(path)}, model_file, lambda path=path: ids(path)
            )


def test_a_source_that_gives_nothing_or_one_frame_for_all_is_found(reels, model_file, monkeypatch):
    from emulated_line.reel import REEL, Reel, ReelSettings

    class Idle(Reel):
        next_shot = forget = None

        def __getattribute__(self, name: str) -> Any:
            if name in ("next_shot", "forget"):
                raise AttributeError(name)
            return super().__getattribute__(name)

    class SameKey(Reel):
        def picture(self, shot: Any, key: str | None) -> Any:
            return super().picture(shot, key or "one for all")

    monkeypatch.setattr("flawscope_station.testing.WAIT_TIMEOUT", 3.0)
    for kind, said in ((Idle, "gives no picture"), (SameKey, "share an inspection")):
        with pytest.raises(AssertionError, match=said):
            check_source(Plugin("reel", ReelSettings, kind), {"folder": str(reels["good"])}, model_file)
    with pytest.raises(AssertionError, match="a trigger is not refused"):
        check_source(REEL, {"folder": str(reels["good"])}, model_file, away=list, back=list)

"""Sources, sinks and connections of other packages: found by their entry points, checked by their records,
true to the contract. Those of examples/line stand for what others write."""

import socketserver
import threading
from typing import Any

import pytest

from flawscope_station.settings.plugins import (
    Plugin,
)
from flawscope_station.settings.station import read_settings
from flawscope_station.testing import check_sink, check_source
from plugin_helpers import LINE, Careless, ids, plugins_fixture, reels_fixture, settings_text  # noqa: F401
from station_helpers import NAME, opened, until

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


def test_a_source_that_gives_nothing_or_refuses_no_trigger_is_found(reels, model_file, monkeypatch):
    from emulated_line.reel import REEL, Reel, ReelSettings

    class Idle(Reel):
        next_shot = forget = None

        def __getattribute__(self, name: str) -> Any:
            if name in ("next_shot", "forget"):
                raise AttributeError(name)
            return super().__getattribute__(name)

    monkeypatch.setattr("flawscope_station.testing.WAIT_TIMEOUT", 3.0)
    with pytest.raises(AssertionError, match="gives no picture"):
        check_source(Plugin("reel", ReelSettings, Idle), {"folder": str(reels["good"])}, model_file)
    with pytest.raises(AssertionError, match="a trigger is not refused"):
        check_source(REEL, {"folder": str(reels["good"])}, model_file, away=list, back=list)


class MailServer(socketserver.ThreadingTCPServer):
    """SMTP as far as a mail needs it. Attributes: mails: their subjects, in order of coming."""

    allow_reuse_address = True

    def __init__(self):
        self.mails = list[str]()
        self.refuses = False
        super().__init__(("127.0.0.1", 0), MailSession)


class MailSession(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"421 later\r\n" if self.server.refuses else b"220 here\r\n")
        while line := self.rfile.readline():
            if line[:4].upper() != b"DATA":
                self.wfile.write(b"221 bye\r\n" if line[:4].upper() == b"QUIT" else b"250 ok\r\n")
                continue
            self.wfile.write(b"354 go on\r\n")
            while (line := self.rfile.readline()) != b".\r\n":
                if line.startswith(b"Subject: "):
                    self.server.mails.append(line[9:].decode().strip())
            self.wfile.write(b"250 taken\r\n")


def test_who_listens_hears_of_each_problem_once_as_it_begins_and_ends(
    settings, reels, model_file, tmp_path, monkeypatch
):
    monkeypatch.setattr("flawscope_station.monitoring.problems.LOOK_INTERVAL", 60.0)  # it is woken
    path = tmp_path / "station.yaml"
    with MailServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        mail = f"connections: [{{mail: {{server: 127.0.0.1, port: {server.server_address[1]}, to: a@b.c}}}}]"
        path.write_text(settings_text(settings, {NAME: f"{model_file} {reels['good']}"}, mail))
        running = opened(read_settings(path))
        station = running.station
        try:
            station.report("camera_away_1_1", "the cable is out")
            until(lambda: server.mails == ["camera_away: see to it"])
            server.refuses = True
            station.report("camera_away_1_1", "the cable is still out")  # no news
            station.report("camera_away_1_1", None)
            until(lambda: [one for one in station.problems() if one.kind == "thread_failed"])
            server.refuses = False
            until(lambda: "camera_away: over" in server.mails)
            assert server.mails.count("camera_away: see to it") == 1
        finally:
            server.refuses = False
            running.close()
            server.shutdown()
        assert not [one for one in threading.enumerate() if one.name == "mail"]

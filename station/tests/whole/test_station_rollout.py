"""A model for two stations of this process: it stays where nothing is told, else it goes back."""

import os
import signal
import time

import pytest

from flawscope import cli
from flawscope.cli import main
from flawscope.errors import FlawscopeError, InputError
from flawscope_station.cli import rollout
from flawscope_station.cli.rollout import StationAddress, read_stations, roll_out
from flawscope_station.client import Client, RefusedError
from station_helpers import NAME, PATIENCE


@pytest.fixture
def line(open_station, tmp_path):
    """Two stations, the canary first."""
    return [open_station(store=str(tmp_path / name)) for name in ("one", "two")]


def hashes(line) -> list[str]:
    return [next(v.hash for v in Client(one.url).versions(NAME) if v.active) for one in line]


def addresses(line) -> list[StationAddress]:
    return [StationAddress(one.url) for one in line]


def test_all_stations_get_it_the_canary_first_and_each_is_a_line(line, other_model):
    said, waited, before = [], [], hashes(line)

    def wait(seconds: float) -> None:
        waited.append(seconds)
        is_of_canary = len(waited) <= 3
        assert (hashes(line)[1] == before[1]) == is_of_canary, "the others wait for the canary"

    assert roll_out(other_model, addresses(line), 25.0, said.append, wait=wait)
    assert waited == [10.0, 10.0, 5.0] * 2
    assert len({*hashes(line)}) == 1
    assert hashes(line)[0] != before[0]
    assert [text.partition(": ")[0] for text in said] == [one.url for one in line]
    assert roll_out(other_model, addresses(line), 0.0, said.append)
    assert said[-1].endswith("judges already")


def test_one_that_is_run_again_goes_on_from_a_canary_that_has_the_model(line, other_model):
    """By the file's hash, whatever its version is; an alarm that the canary had by then ends nothing."""
    said, before = list[str](), hashes(line)
    assert roll_out(other_model, addresses(line)[:1], 0.0, said.append)
    line[0].station.report(f"drift_{line[0].station.products[NAME]}", "scores are higher")
    assert roll_out(other_model, addresses(line), 10.0, said.append, wait=lambda seconds: None)
    assert said[1] == f"{line[0].url}: version 2 judges already"
    assert said[2] == f"{line[1].url}: version 2 judges, 1 before"
    assert len({*hashes(line)}) == 1
    assert hashes(line)[0] not in before


def test_a_problem_of_the_canary_keeps_the_others_as_they_were(
    line, other_model, tmp_path, capsys, monkeypatch
):
    before = hashes(line)
    line[0].station.report("drift_unknown", "that was there before")

    def trouble(seconds: float) -> None:
        line[0].station.report(f"drift_{line[0].station.products[NAME]}", "scores are higher")

    monkeypatch.setattr(roll_out, "__defaults__", ("", trouble))
    file = tmp_path / "stations.yaml"
    file.write_text("stations:\n" + "".join(f"  - url: {one.url}\n" for one in line))
    words = ["station", "rollout", str(other_model), "--stations", str(file), "--minutes", "1"]
    assert main(words) == 1
    told = capsys.readouterr().out.splitlines()
    assert "scores are higher" in told[1]
    assert told[2].endswith("judges again")
    assert len(told) == 3, "the second was not asked for anything"
    assert hashes(line) == before


def test_an_alarm_of_a_later_one_sends_all_back(line, other_model):
    before, said, waited = hashes(line), list[str](), list[float]()
    drift = f"drift_{line[1].station.products[NAME]}"

    def wait(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            line[1].station.report(drift, "scores are higher")

    assert not roll_out(other_model, addresses(line), 10.0, said.append, wait=wait)
    assert waited == [10.0, 10.0]
    assert said[2].startswith(f"{line[1].url}: {drift}")
    assert hashes(line) == before


def test_what_was_there_before_or_is_not_of_the_product_sends_nobody_back(line, other_model):
    said, product = list[str](), line[1].station.products[NAME]
    line[1].station.report(f"drift_{product}", "that was there before the model")

    def wait(seconds: float) -> None:
        if len({*hashes(line)}) == 1:  # the second has the model, too
            line[1].station.report("cooling", "the fan stands still", stops=True)

    assert roll_out(other_model, addresses(line), 20.0, said.append, wait=wait)
    assert len({*hashes(line)}) == 1
    told = f"{line[1].url}: not of {NAME}: cooling: the fan stands still"
    assert [text for text in said if "cooling" in text] == [told], "once"


def test_who_interrupts_it_leaves_no_station_with_the_model(line, other_model, tmp_path):
    """Ctrl-C and SIGTERM are the same: the program that runs it says so."""
    before, said = hashes(line), list[str]()

    def interrupt(seconds: float) -> None:
        assert hashes(line)[0] != before[0]
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PATIENCE)

    file = tmp_path / "stations.yaml"
    file.write_text("stations:\n" + "".join(f"  - url: {one.url}\n" for one in line))
    words = ["station", "rollout", str(other_model), "--stations", str(file), "--minutes", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roll_out, "__defaults__", ("", interrupt))
        patch.setattr(cli, "show", said.append)
        assert main(words) == 130
    assert hashes(line) == before
    assert said[-1] == f"{line[0].url}: version 1 judges again"


def test_a_station_that_is_lost_is_named_with_what_may_judge_and_how_to_go_on(line, other_model):
    said, waited = list[str](), list[float]()

    def wait(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 1:
            line[0].close()

    assert not roll_out(other_model, addresses(line), 60.0, said.append, "the command", wait)
    assert "cannot be reached" in said[1]
    assert said[-1] == f"{line[0].url}: version 2 or 1 judges {NAME}; to go on: the command"


def test_a_look_without_an_answer_is_no_alarm(line, other_model, monkeypatch):
    """A link that is away for a moment."""
    real, failures = Client.read, [FlawscopeError("it cannot be reached")] * (rollout.MISSED_LOOKS - 1)

    def read(client: Client, path: str) -> object:
        if waited and failures:
            raise failures.pop()
        return real(client, path)

    waited: list[float] = []
    monkeypatch.setattr(Client, "read", read)
    assert roll_out(other_model, addresses(line), 60.0, lambda line: None, wait=waited.append)
    assert not failures
    assert len({*hashes(line)}) == 1


def test_where_a_later_one_refuses_it_all_go_back(line, other_model, monkeypatch):
    before, said = hashes(line), []
    real = rollout.RolloutStation.use

    def use(station: rollout.RolloutStation, model: object) -> str:
        if station.name == line[1].url:
            raise RefusedError("it is refused", 403, "role_too_small")
        return real(station, model)

    monkeypatch.setattr(rollout.RolloutStation, "use", use)
    assert not roll_out(other_model, addresses(line), 0.0, said.append)
    assert hashes(line) == before
    assert [text.partition(": ")[2] for text in said[2:]] == ["version 1 judges again", "nothing was changed"]


def test_a_station_that_cannot_be_asked_keeps_all_as_they_are(line, other_model):
    before = hashes(line)
    absent = StationAddress("http://127.0.0.1:1", NAME)
    with pytest.raises(FlawscopeError, match="cannot be reached"):
        roll_out(other_model, [*addresses(line), absent], 0.0, lambda line: None)
    assert hashes(line) == before


def test_a_version_with_another_file_than_meant_is_not_activated(line, other_model):
    with Client(line[0].url) as station:
        version = station.add_version(other_model, NAME)
        with pytest.raises(RefusedError, match="another file") as refused:
            station.activate(NAME, version.id, "0" * 64)
        assert (refused.value.status, refused.value.code) == (409, "other_version")
        assert station.activate(NAME, version.id, version.hash).version == version.id


def test_the_list_says_what_is_wrong_in_it(tmp_path):
    file = tmp_path / "stations.yaml"
    file.write_text("stations:\n  - url: http://a\n    token_file: a.token\n")
    (one,) = read_stations(file)
    assert one.token_file == str(tmp_path / "a.token")
    for text, why in {"stations: []": "no stations", "stations:\n  - where: x": "unknown setting"}.items():
        file.write_text(text)
        with pytest.raises(InputError, match=why):
            read_stations(file)

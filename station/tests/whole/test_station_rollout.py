"""A model for two stations of this process: it stays where nothing is told, else it goes back."""

import pytest

from flawscope.cli import main
from flawscope.errors import FlawscopeError, InputError
from flawscope_station.cli import rollout
from flawscope_station.cli.rollout import StationAddress, read_stations, roll_out
from flawscope_station.client import Client, RefusedError
from station_helpers import NAME


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
        assert hashes(line)[1] == before[1], "the others wait for the canary"

    assert roll_out(other_model, addresses(line), 25.0, said.append, wait)
    assert waited == [10.0, 10.0, 5.0]
    assert len({*hashes(line)}) == 1
    assert hashes(line)[0] != before[0]
    assert [text.partition(": ")[0] for text in said] == [one.url for one in line]
    assert roll_out(other_model, addresses(line), 0.0, said.append)
    assert said[-1].endswith("judges already")


def test_a_problem_of_the_canary_keeps_the_others_as_they_were(
    line, other_model, tmp_path, capsys, monkeypatch
):
    before = hashes(line)
    line[0].station.report("drift_unknown", "that was there before")

    def trouble(seconds: float) -> None:
        line[0].station.report(f"drift_{line[0].station.products[NAME]}", "scores are higher")

    monkeypatch.setattr(roll_out, "__defaults__", (trouble,))
    file = tmp_path / "stations.yaml"
    file.write_text("stations:\n" + "".join(f"  - url: {one.url}\n" for one in line))
    words = ["station", "rollout", str(other_model), "--stations", str(file), "--minutes", "1"]
    assert main(words) == 1
    told = capsys.readouterr().out.splitlines()
    assert "scores are higher" in told[1]
    assert told[2].endswith("judges again")
    assert len(told) == 3, "the second was not asked for anything"
    assert hashes(line) == before


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

"""Webhooks and folders: what was inspected arrives, whatever happens to the other side or the station."""

import json
import time

import pytest

from flawscope.errors import InputError
from flawscope_station.client import Client
from flawscope_station.sinks import webhook
from flawscope_station.sinks.outbox import Message
from sink_fixtures import soon_fixture, with_sinks_fixture  # noqa: F401
from sink_helpers import SECRET, codes, make_sink, send
from station_helpers import NAME, until


def test_a_folder_gets_files(with_sinks, parts, tmp_path):
    folder = tmp_path / "a" / "found"
    running = with_sinks(make_sink(folder=str(folder)))
    with Client(running.url) as client:
        good = client.inspect(parts[0], name="shift 1/good ü.png")
        bad = client.inspect(parts[-1], name="../../bad.png")
        client.verdict(bad.id, "defect")
    until(lambda: len(list(folder.glob("*/*.json"))) == 3)
    day = f"{good.at:%Y-%m-%d}"
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {
        *(f"{day}/{good.id:06}-good.{ending}" for ending in ("json", "png")),
        *(f"{day}/{bad.id:06}-bad{ending}" for ending in (".json", ".png", "-overlay.webp")),
        f"{day}/{bad.id:06}-bad-verdict-1.json",
    }
    assert (folder / day / f"{bad.id:06}-bad.png").read_bytes() == parts[-1]
    written = json.loads((folder / day / f"{bad.id:06}-bad.json").read_text())
    assert written["data"]["files"] == {
        "picture": f"{bad.id:06}-bad.png",
        "overlay": f"{bad.id:06}-bad-overlay.webp",
    }
    assert (written["data"]["name"], written["data"]["picture"]) == ("bad.png", bad.picture)
    plain = json.loads((folder / day / f"{good.id:06}-good.json").read_text())
    assert plain["data"]["missing"] == "nothing stands out on the picture"
    said = json.loads((folder / day / f"{bad.id:06}-bad-verdict-1.json").read_text())
    assert said["data"]["said"]["verdict"] == "defect"


def test_nothing_is_overwritten_and_nothing_written_twice(with_sinks, parts, tmp_path):
    folder = tmp_path / "found"
    running = with_sinks(make_sink(folder=str(folder)))
    day = folder / time.strftime("%Y-%m-%d", time.gmtime())
    day.mkdir()
    for ending in (".json", "-2.png"):
        (day / f"000001-part{ending}").write_text("somebody's")
    with Client(running.url) as client:
        client.inspect(parts[-1], name="part.png")
    until(lambda: (day / "000001-part-3.json").exists())
    assert (day / "000001-part.json").read_text() == (day / "000001-part-2.png").read_text() == "somebody's"
    assert (day / "000001-part-3.png").read_bytes() == parts[-1]
    ((delivery, outbox),) = running.station.sinks.for_product(NAME)
    before = sorted(path.name for path in day.iterdir())
    place = outbox.cursor
    outbox.cursor = place._replace(inspection=0)
    (message,) = outbox.read_batch(10).messages
    outbox.cursor = place
    assert isinstance(message, Message)
    delivery.sink.send(message)
    assert sorted(path.name for path in day.iterdir()) == before


def test_a_folder_that_is_away_is_shown_and_filled_when_it_is_back(with_sinks, parts, tmp_path):
    folder, elsewhere = tmp_path / "found", tmp_path / "elsewhere"
    running = with_sinks(make_sink(folder=str(folder), picture="none"))
    folder.rename(elsewhere)
    sent = send(running.url, parts, range(3))
    until(lambda: any("is not there" in one.text for one in running.station.problems()))
    assert not folder.exists(), "a share that is away is not made anew on this disk"
    elsewhere.rename(folder)
    until(lambda: len(list(folder.glob("*/*.json"))) == len(sent))
    until(lambda: not codes(running))


@pytest.mark.parametrize("text", [None, "", "word", "whsec_", "whsec_AAAA", "whsec_!!", f"{SECRET}\nword"])
def test_a_secret_that_cannot_be_had_is_one_line(text, tmp_path):
    path = tmp_path / "secret"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=r"secret_file: .*secret") as caught:
        webhook.Webhook(webhook.WebhookSettings("http://127.0.0.1:9", secret_file=str(path)))
    assert not text or len(text) < 5 or text.split()[-1] not in str(caught.value).replace("line `whsec_`", "")

"""A key names a request and a part's number a part."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from flawscope_station.client import Client
from flawscope_station.settings.sources import read_source
from flawscope_station.settings.station import ProductSettings
from identity_helpers import count, post, used
from station_helpers import until


def test_other_bytes_under_a_key_are_refused_unjudged(open_station, parts):
    good, other, bad = parts[0], parts[1], parts[-1]
    running = open_station()
    with httpx.Client(base_url=f"{running.url}/api/v1/", timeout=60) as api:
        first = post(api, good, key="0001").json()
        form = post(api, good, other, key="f", form=True).json()
        labelled = post(api, good, key="l", part="4711", batch="b").json()
        post(api, b"broken", good, key="g", form=True)
    running.close()
    running = open_station()
    judged = Counter[str]()
    submit = running.station.inspector.submit_all

    def counted(sent: Any) -> Any:
        judged.update(one.key for one in sent)
        return submit(sent)

    running.station.inspector.submit_all = counted
    with httpx.Client(base_url=f"{running.url}/api/v1/", timeout=60) as api:
        there = count(api)
        for data in (bad, b"no picture", good + b"\0"):
            assert used(post(api, data, key="0001")), "other bytes"
        assert "inspection 1" in post(api, bad, key="0001").json()["error"]
        for several in ((good, bad), (other, good), (good,), (good, other, bad), (bad, good, other)):
            assert used(post(api, *several, key="f", form=True)), "another form"
        assert used(post(api, good, key="f")), "one picture in the place of a form"
        assert used(post(api, good, key="g", form=True)), "also where the form's first one was none"
        assert used(post(api, good, key="0001", form=True))
        for query in ({"part": "4712", "batch": "b"}, {"part": "4711"}, {}):
            assert used(post(api, good, key="l", **query)), "another part"
        assert judged == Counter()
        assert count(api) == there
        again = post(api, good, key="0001", name="called otherwise")
        assert (again.status_code, again.json()) == (200, first)
        assert post(api, good, other, key="f", form=True).json() == form
        assert post(api, good, key="l", part=" 4711 ", batch="b").json() == labelled
        assert post(api, good, key="0001/0").status_code == 201, "no key of a form's picture"
        metrics = httpx.get(f"{running.url}/metrics").text
        assert 'reason="key_used"' in metrics


@pytest.mark.both_databases
def test_of_two_pictures_at_once_with_one_key_one_is_judged(api, parts):
    """Whoever sent it gets its answer, however often, and never the other one's refusal."""
    for turn in range(8):
        with ThreadPoolExecutor(8) as pool:
            sent = [pool.submit(post, api, parts[k % 2], key=f"k{turn}") for k in range(8)]
            answers = [one.result() for one in sent]
        refused = [used(answer) for answer in answers]
        assert sum(refused) == 4
        assert len(set(refused[::2])) == len(set(refused[1::2])) == 1
        assert len({answer.json().get("id") for answer in answers}) == 2
        assert count(api) == turn + 1


def test_a_folder_reads_parts_from_names(open_station, settings, parts, tmp_path):
    folder = tmp_path / "in"
    (folder / "lot7").mkdir(parents=True)
    for name in ("lot7/4711_a.png", "4712_b.png", "other.png", f"{'1' * 120}_a.png"):
        (folder / name).write_bytes(parts[0])
    pattern = r"(?:(?P<batch>\w+)/)?(?P<part>\d+)_[ab]\.png$"
    source = read_source({"folder": str(folder), "pattern": pattern}, tmp_path)
    model = settings.products["plate"].model
    running = open_station(products={"plate": ProductSettings(model, sources=(source,))})
    with Client(running.url) as client:
        until(lambda: len(list(client.search())) == 4)
        found = {one.name: (one.part, one.batch) for one in client.search()}
    assert found["lot7/4711_a.png"] == ("4711", "lot7")
    assert found["4712_b.png"] == ("4712", None)
    assert found["other.png"] == (None, None)
    assert found[f"{'1' * 120}_a.png"] == ("1" * 120, None)

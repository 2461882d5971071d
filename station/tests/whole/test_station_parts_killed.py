"""Parts in several views at a station that is killed: every part that was handed in is recorded, or whoever
handed it in was told that it is not, and none is made from pictures of two parts.

KILLS and PARTS say how many.
"""

import json
import os
import random
import threading
import time

import httpx

from station_helpers import until
from view_helpers import exported, lives, part_model_fixture, post, recorded_parts, whole  # noqa: F401

KILLS, PARTS = int(os.environ.get("KILLS", "3")), int(os.environ.get("PARTS", "40"))


def test_parts_by_http(part_model, shared, serve):
    """Those that were answered stay as they were, whatever is sent again."""
    served = serve({"model": str(exported(part_model, shared))})
    sent = {f"p{number}": whole(number) for number in range(PARTS)}
    answered: dict[str, int] = {}
    for _ in lives(served, KILLS, 1.5):
        for name in [*list(answered)[-3:], *(name for name in sent if name not in answered)]:
            try:
                answer = post(served.url, sent[name], part=name, key=name)
            except (httpx.TransportError, json.JSONDecodeError):
                break
            assert answer.status_code == 201, answer.text
            (only,) = answer.json()["results"]
            number = only["inspection"]["id"]
            assert number == answered.setdefault(name, number)
    found = recorded_parts(served.url, sent)
    assert {name: one["id"] for name, one in found.items()} == answered
    assert len(answered) == PARTS


def test_parts_by_folder(part_model, shared, serve, tmp_path):
    """Their files come in any order, those of several parts at once."""
    (incoming := tmp_path / "incoming").mkdir()
    source = {"folder": str(incoming), "then": str(tmp_path / "done")}
    served = serve({"model": str(exported(part_model, shared)), "sources": [source]})
    sent = {f"p{number}": whole(number) for number in range(PARTS)}

    def write() -> None:
        rng, names = random.Random(1), [*sent]
        for begin in range(0, PARTS, 3):
            files = [(part, *one) for part in names[begin : begin + 3] for one in sent[part].items()]
            rng.shuffle(files)
            for part, name, data in files:
                (incoming / f".{part}").write_bytes(data)
                (incoming / f".{part}").rename(incoming / f"{part}_{name}.png")
                time.sleep(0.02)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    for is_last in lives(served, KILLS, 2.5):
        if is_last:
            until(lambda: not writer.is_alive())
            while left := len([*incoming.iterdir()]):
                until(lambda left=left: len([*incoming.iterdir()]) < left)
    found = recorded_parts(served.url, sent)
    assert found.keys() == sent.keys()

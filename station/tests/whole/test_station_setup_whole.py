"""Products that are made on the pages, by the API: from no model to one that inspects."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import flawscope
from brackets import drawn as drawn_tray
from flawscope.artefact import model_file
from flawscope.artefact.files import checkpoint_path
from flawscope.cli import main
from flawscope.errors import InputError
from flawscope.machine import usable_cores
from flawscope.pictures.decoding import decode
from flawscope.synthesis.demo import dataset
from flawscope_station.cli import serve
from flawscope_station.client import Client
from flawscope_station.core.page_products import MADE_ON_PAGES
from flawscope_station.learning.process import StoppedError
from flawscope_station.settings.sources import CameraSourceSettings
from flawscope_station.settings.station import ProductSettings
from flawscope_station.setup import drafts
from flawscope_station.store.backup import backup, restore
from flawscope_station.web.app import SHUTDOWN_SECONDS
from forked_station import ForkedStation
from setup_helpers import (
    NEW,
    PNG,
    SMALL,
    STEPS,
    begin,
    begin_with,
    done,
    empty_fixture,
    empty_settings,
    encoded,
    http_fixture,
    listed,
    results,
    send,
    send_zip,
    small,
    zipped,
)
from small_network import SMALL_NETWORK
from station_helpers import NAME, Running, Served, failing, free_port, opened, until

__all__ = ["empty_fixture", "http_fixture"]

# How many defects are simulated depends on the time
TIMES = ("created", "facts.simulated_defects", "facts.memory_peak", "facts.memory_predicted")


def searches(job: dict[str, Any], step: Any) -> dict[str, Any]:
    """Try settings until it is interrupted, and then learn for ever."""
    with suppress(KeyboardInterrupt):
        while True:
            step("trying the settings as given", 0, 1)
    while True:
        step("features", 0, 1)


def never_ends(job: Any, step: Any) -> dict[str, Any]:
    time.sleep(600)
    raise AssertionError


@pytest.fixture(scope="module")
def good(drawn):
    return sorted((drawn / "plate" / "train" / "good").iterdir())


def learnt(http: httpx.Client, **how: Any) -> dict[str, Any]:
    """Its state when it has learnt."""
    assert http.post(f"{NEW}/plate/learn", json={"size": "64", **how}).status_code == 200
    return done(http)


def checked(http: httpx.Client) -> dict[str, list[str]]:
    """The pictures that each finding of the check names."""
    check = until(lambda: (found := http.get(f"{NEW}/plate").json()["check"]) and found["current"] and found)
    return {one["code"]: one["pictures"] for one in check["findings"]}


def test_from_nothing_to_a_product_that_inspects(empty, http, good, drawn, tmp_path):
    """The whole way by the API; the model is that of `flawscope fit` but for times, and is there again."""
    assert http.get("/").headers["location"] == "/-/new"
    assert http.get("/readyz").status_code == 200
    begin(http)
    for path in good:
        assert results(send(http, path.name, path.read_bytes()))[0]["status"] == "kept"
    assert listed(http)["pictures"] == [path.name for path in good]

    found = learnt(http)
    result = found["result"]
    assert (result["pictures"], result["calibrated"]) == (12, 12)
    assert result["rate"] == pytest.approx(1 / 13)
    assert result["interval"] == pytest.approx([1 - 0.975 ** (1 / 12), 1 - 0.025 ** (1 / 12)])
    assert result["missing"] == 7
    assert len(result["odd"]) == 8
    assert result["odd"] == sorted(result["odd"], key=lambda one: -one["score"])
    for one in result["examples"]:
        assert decode(http.get(f"{NEW}/plate/examples/{one['file']}").content).shape == (64, 64, 3)
    missed = http.get(f"{NEW}/plate/report")
    assert "attachment" in missed.headers["content-disposition"]
    assert result["promise"] in missed.text

    check_model(empty, http, tmp_path)
    bad = next(iter(sorted((drawn / "plate" / "test").glob("[!g]*/*.png"))))
    files = [("files", (path.name, path.read_bytes())) for path in (bad, good[0])]
    tried = http.post(f"{NEW}/plate/try", files=files).json()["results"]
    assert [one["name"] for one in tried] == [bad.name, good[0].name]
    assert all(one["overlay"] for one in tried)

    assert http.post(f"{NEW}/plate/live").json()["version"] == 1
    promised = http.get("/api/v1/products/plate").json()["promised"]
    assert promised == {"version": 1, **{key: result[key] for key in promised if key != "version"}}
    with Client(empty.url) as client:
        inspected = client.inspect(bad.read_bytes(), product="plate")
        assert inspected.score == pytest.approx(tried[0]["score"], rel=1e-4)
    assert http.get("/").headers["location"] == "/plate/live"
    assert http.get("/plate/live").status_code == 200
    assert http.post(NEW, json={"name": "Plate"}).json()["code"] == "name_taken"

    settings = empty.station.settings
    empty.close()
    backup(settings, tmp_path / "station.tar")
    restored = empty_settings(tmp_path / "restored")
    restore(tmp_path / "station.tar", restored)
    another = opened(restored)
    assert list(another.station.products) == ["plate"]
    assert another.station.products["plate"] in another.station.versions.models.active
    another.close()
    again = opened(empty_settings(Path(settings.store)))
    try:
        assert list(again.station.products) == ["plate"]
        with httpx.Client(base_url=again.url, timeout=60) as back:
            assert back.get("/api/v1/products/plate").json()["inspections"] == 1
            assert back.delete(f"{NEW}/plate").status_code == 204
            assert back.get(f"{NEW}/plate").status_code == 404
            said = back.get("/api/v1/audit", params={"about": "deletions"}).json()["entries"]
            assert said[0]["text"] == "pictures of the new product plate"
            assert back.get("/api/v1/products/plate").status_code == 200
            assert back.post(NEW, json={"name": "plate"}).json()["pictures"] == 0  # to teach it anew
    finally:
        again.close()


def test_a_live_product_is_removed_keeps_its_records_and_can_come_back(empty, http, model_file, parts):
    begin(http)
    station, told = empty.station, []
    station.addresses.on_added.append(lambda number, name, product: told.append(name))

    def make_live(station):
        station.sources.setdefault("plate", [])
        begun = station.components[drafts.Drafts].draft("plate").state["at"]
        facts = {"draft": {"begun": begun, "by": "test", "learnt": 7}}
        product = ProductSettings(str(model_file))
        station.addresses.add_product("plate", product, MADE_ON_PAGES, "test", facts)

    def inspect(http):
        return http.post("/api/v1/products/plate/inspections", content=parts[0], headers=PNG).status_code

    make_live(station)
    assert begin(http)["live"] == {"version": 1, "by": "test", "learnt": 7}
    assert inspect(http) == 201
    station.report("drift_1", "good parts look different", stops=True)
    assert 'id="remove-product"' in http.get("/plate/models").text
    assert http.delete("/api/v1/products/plate").status_code == 204
    assert http.get("/api/v1/products").json() == {"products": []}
    assert (inspect(http), http.get("/plate/live").status_code) == (404, 404)
    assert http.get("/").headers["location"] == "/-/new"
    assert (http.get("/readyz").status_code, http.get("/api/v1/status").json()["problems"]) == (200, [])
    assert http.get("/metrics").status_code == 200
    assert begin(http)["live"] is None
    text = http.get("/api/v1/audit", params={"about": "deletions"}).json()["entries"][0]["text"]
    assert text == "product plate; its records are kept"
    make_live(station)
    assert inspect(http) == 201
    assert http.get("/api/v1/products/plate").json()["inspections"] == 2
    assert told == ["plate"], "sinks and drift know it already"
    assert http.delete("/api/v1/products/plate").status_code == 204
    empty.close()
    again = opened(empty_settings(Path(station.settings.store)))
    try:
        assert list(again.station.products) == []
    finally:
        again.close()


@pytest.mark.listens
def test_a_live_page_of_a_product_that_somebody_removes_ends_its_stream(empty, http, model_file):
    """Without an error of the server: the page asks for the reason."""
    empty.station.sources.setdefault("plate", [])
    empty.station.addresses.add_product("plate", ProductSettings(str(model_file)), MADE_ON_PAGES, "test")
    with http.stream("GET", "/api/v1/products/plate/live") as stream:
        lines = stream.iter_lines()
        assert next(lines) == "event: state"
        empty.station.addresses.remove_product("plate", "anna")
        for _ in lines:
            pass
    assert http.get("/api/v1/products/plate").status_code == 404


def test_a_product_that_the_settings_name_is_removed_there(running):
    with httpx.Client(base_url=running.url, timeout=60) as http:
        refused = http.delete(f"/api/v1/products/{NAME}")
        assert (refused.status_code, refused.json()["code"]) == (409, "name_taken")
        assert "take it out there" in refused.json()["error"]
        page = http.get(f"/{NAME}/models").text
    assert "take it out of the settings file" in page
    assert 'id="remove-product"' not in page


def test_how_pictures_are_seen_is_found_out_and_told(empty, http, good):
    """Learning again goes on with what was tried; only PatchCore is searched for."""
    begin_with(http, good)
    for _ in range(2):
        found = learnt(http, auto=10)
        assert found["auto"] == 10
        search = found["result"]["search"]
        assert search["chosen"] == [{"key": "given", "value": ""}]
        assert search["ended"]
        assert [one["found"][1] for one in search["trials"]] == [32]
    assert "How the pictures are seen" in http.get(f"{NEW}/plate/report").text
    refused = http.post(f"{NEW}/plate/learn", json={"auto": 10, "method": "efficientad"})
    assert (refused.status_code, "patchcore" in refused.json()["error"]) == (422, True)


def check_model(empty: Running, http: httpx.Client, tmp_path: Path, *options: str) -> None:
    """Assert that the model is that of `flawscope fit` with these options, but for times."""
    folder, mine = empty.station.files.folder / "new" / "plate" / "plate", tmp_path / "fit.safetensors"
    words = ["--size", "64", "--device", "cpu", "--threads", str(usable_cores()), *options]
    words += [word for name, value in SMALL_NETWORK.items() for word in ("--set", f"{name}={value}")]
    assert main(["fit", "--data", str(folder), "--out", str(mine), *words]) == 0
    sent = tmp_path / "sent.safetensors"
    sent.write_bytes(http.get(f"{NEW}/plate/model").content)
    one, two = model_file.read(sent), model_file.read(mine)
    assert one.tensors.keys() == two.tensors.keys()
    assert all(one.tensors[key].tobytes() == two.tensors[key].tobytes() for key in one.tensors)
    facts = timeless(one.manifest), timeless(two.manifest)
    assert facts[0].keys() == facts[1].keys()
    assert {key for key in facts[0] if facts[0][key] != facts[1][key]} == set()


def test_a_question_is_shown_and_going_live_accepts_it(empty, http):
    """Misfires among the good pictures: what was learnt is there, and a click says that they are good."""
    begin(http)
    for k in range(20):
        picture = dataset.draw_picture("plate", np.random.default_rng([3, k]), size=64)[0]
        if k >= 18:
            picture[32:] = 0
        send(http, f"{k:02}.png", encoded(Image.fromarray(picture)))
    result = learnt(http, size="64")["result"]
    (question,) = result["questions"]
    assert question.startswith("18.png, 19.png lie apart")
    page = http.get("/-/new/plate").text
    assert "A question about the pictures" in page
    assert http.post(f"{NEW}/plate/live").json()["version"] == 2
    manifests = [model_file.read_manifest(empty.station.versions.path(1, number)) for number in (1, 2)]
    assert [one.questions for one in manifests] == [(question,), ()], "a number names one file for ever"
    manifest = manifests[1]
    assert any(note == f"accepted: {question}" for note in manifest.notes)
    assert "version 2: accepted of version 1: 18.png" in http.get("/api/v1/audit").text


def test_light_and_region_are_those_of_a_fit(empty, http, good, tmp_path):
    begin_with(http, good[:20])
    found = learnt(http, light=0.1, roi="0.1,0.1,0.9,0.9")
    check_model(empty, http, tmp_path, "--light", "10%", "--roi", "0.1,0.1,0.9,0.9")
    assert (found["light"], found["result"]["missing"]) == (0.1, 7)
    assert http.post(f"{NEW}/plate/learn", json={"group": "x"}).status_code == 422, "by `flawscope fit` alone"


def test_parts_that_lie_anyhow_are_a_fits(http, tmp_path):
    begin(http)
    for number in range(6):
        tray = encoded(Image.fromarray(drawn_tray(number, range(2))[0]))
        send(http, f"{number}.png", tray)
    found = learnt(http, align="turn", several=True)
    assert (found["align"], found["several"]) == ("turn", True)
    (tmp_path / "sent.safetensors").write_bytes(http.get(f"{NEW}/plate/model").content)
    model = flawscope.load(tmp_path / "sent.safetensors", device="cpu")
    assert len(model.predict(tray).found_parts.parts) == 2
    files = [("files", ("tray.png", tray))]
    assert http.post(f"{NEW}/plate/try", files=files).json()["results"][0]["overlay"]


def timeless(manifest: Any) -> dict[str, Any]:
    """All that a manifest tells, but for times and memory, which differ from run to run."""
    told = manifest.to_dict()
    told |= {f"facts.{key}": value for key, value in told.pop("facts").items()}
    told["facts.summary"] = [line for line in told["facts.summary"] if not line.startswith("memory: ")]
    told["notes"] = [note for note in told["notes"] if "simulated defects" not in note]  # time sets how many
    return {key: value for key, value in told.items() if key not in TIMES and "seconds" not in key}


def test_a_settings_file_without_products_and_no_model_at_all_are_allowed(tmp_path):
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    (tmp_path / "station.yaml").write_text("name: hall-1\n")
    for words in ([], [str(tmp_path / "station.yaml")]):
        assert serve.station_settings(parser.parse_args(words)).products == {}
    with pytest.raises(InputError, match="name its file first"):
        serve.station_settings(parser.parse_args(["--folder", "in"]))


@pytest.mark.parametrize(
    ("folders", "told"),
    [
        (
            "good|bad",
            "all.zip: which folders hold good pictures? bad (2, not good by its name), good",
        ),
        (
            "MT_Free|MT_Blowhole",
            "MT_Blowhole (2), MT_Free (2, good by its name): pack the good ones alone",
        ),
        ("2024-05-01|2024-05-02", ""),
        ("Gutteile", ""),
    ],
)
def test_folders_of_a_zip_are_asked_about(http, good, folders, told):
    begin(http)
    names = [f"{folder}/{k}.png" for folder in folders.split("|") for k in range(2)]
    files = {name: path.read_bytes() for name, path in zip(names, good, strict=False)}
    answer = send_zip(http, zipped(files)).json()
    assert told in answer.get("error", "")
    assert len(listed(http)["pictures"]) == (0 if told else len(files))


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ("OK_1 2 3", "ok (1, good by name)"),
        ("iO_1 iO_2 x_3", "(2, good by name)"),
        ("1 2 3", ""),
        ("gut_1 gut_2", ""),
    ],
)
def test_names_that_call_a_part_of_them_good_are_a_question_before_learning(empty, http, good, names, told):
    """As at `fit`. It is none where somebody leaves the others out, or says that all are good."""
    made = empty.station.components[drafts.Drafts]
    made.queue.worker.run = failing(StoppedError())
    begin(http)
    for name, path in zip(names.split(), good, strict=False):
        send(http, f"{name}.png", path.read_bytes())
    answer = http.post(f"{NEW}/plate/learn", json={})
    if told:
        assert (answer.status_code, answer.json()["code"]) == (409, "question")
        assert told in answer.json()["error"]
        assert http.get(f"{NEW}/plate").json()["stage"] == "collecting"
        answer = http.post(f"{NEW}/plate/learn", json={"all_good": True})
        wanted = [f"{name}.png" for name in names.split() if "_" not in name or name.startswith("x")]
        made.draft("plate").move(wanted, out=True)
        made.draft("plate").refuse_unknown()
    assert answer.json()["stage"] in ("queued", "running")


def test_pictures_that_all_have_sizes_of_their_own_are_not_offered_to_be_left_out(http, good):
    begin(http)
    for k in range(5):
        send(http, f"{k}.png", encoded(Image.open(good[0]).resize((50 + k // 2, 60 + k // 2))))
    assert checked(http)["mixed-sizes"] == []


def test_the_check_names_the_pictures_that_are_concerned(http, good):
    begin_with(http, good)
    send(http, "copy.bmp", encoded(Image.open(good[3]), "BMP"))  # the same pixels in another file
    send(http, "small.png", encoded(Image.open(good[4]).resize((50, 50))))
    pictures = checked(http)
    assert sorted(pictures["copy"]) == sorted(["copy.bmp", good[3].name])
    assert pictures["mixed-sizes"] == ["small.png"]


def test_learning_is_stopped_and_what_was_not_begun_is_said(http, good):
    """Then it learns at the rate that is chosen, and the result says what each rate would mean."""
    begin(http)
    assert "fewer than 2 pictures" in http.post(f"{NEW}/plate/learn", json={}).json()["error"]
    for path in good:
        send(http, path.name, path.read_bytes())
    assert http.post(f"{NEW}/plate/live").json()["error"].startswith("plate has no model yet")
    assert http.post(f"{NEW}/plate/try", content=b"x", headers=PNG).status_code == 422
    unknown = http.post(f"{NEW}/plate/learn", json={"method": "magic"})
    assert "no method called magic" in unknown.json()["error"]
    http.post(f"{NEW}/plate/learn", json={})
    until(lambda: http.get(f"{NEW}/plate").json()["stage"] == "running")
    wait = http.post(f"{NEW}/plate/leave-out", json={"pictures": [good[0].name]})
    assert "is learning from its pictures" in wait.json()["error"]
    assert http.post(f"{NEW}/plate/stop").json()["stage"] == "stopped"
    rates = [{"false_alarm_rate": rate} for rate in (0, 1, -0.1, "5%")]
    for wrong in ({"roi": "left"}, {"align": "upside down"}, {"light": 0.5}, *rates):
        assert http.post(f"{NEW}/plate/learn", json=wrong).status_code == 422
    found = learnt(http, roi="0.1,0.1,0.9,0.9", false_alarm_rate=0.2)
    result = found["result"]
    assert (found["roi"], found["size"], result["pictures"]) == ("0.1,0.1,0.9,0.9", "64", 12)
    assert (result["wanted_rate"], result["options"]["false_alarm_rate"]) == (0.2, 0.2)
    assert result["rate"] == pytest.approx(2 / 13)
    rows = {row["rate"]: row for row in result["rates"]}
    assert rows[0.2]["supported"] is rows[0.1]["supported"] is True
    assert (rows[0.05]["supported"], rows[0.05]["missing"]) == (False, 7)
    assert rows[0.2]["found"] == result["found"]
    shares = [[row["threshold"], row["expected"]] for row in result["rates"]]
    assert [one[0] for one in shares] == sorted(one[0] for one in shares)


def test_a_stop_before_the_first_step_holds(empty, http, good, monkeypatch):
    """Between the choice of a draft and its beginning."""
    made = empty.station.components[drafts.Drafts]
    next_job, found = made.jobs.next_unfinished, list[Any]()

    def stopped_meanwhile() -> Any:
        found.append(next_job())
        if found[-1] is not None:
            made.stop_learning(made.draft("plate"))
        return found[-1]

    monkeypatch.setattr(made.jobs, "next_unfinished", stopped_meanwhile)
    begin_with(http, good[:2])
    http.post(f"{NEW}/plate/learn", json={})
    until(lambda: len([one for one in found if one is not None]) and found[-1] is None)
    assert len([one for one in found if one is not None]) == 1, "it is not begun again"
    assert http.get(f"{NEW}/plate").json()["stage"] == "stopped"


def test_a_stop_of_a_search_keeps_the_best_so_far_and_a_second_ends_all(empty, http, good):
    empty.station.components[drafts.Drafts].work = searches
    begin_with(http, good[:2])
    http.post(f"{NEW}/plate/learn", json={"auto": 10}).raise_for_status()
    trying = "trying the settings as given"
    until(lambda: (http.get(f"{NEW}/plate").json()["step"] or {}).get("stage") == trying)
    assert http.post(f"{NEW}/plate/stop").json()["stage"] == "running"
    until(lambda: http.get(f"{NEW}/plate").json()["step"]["stage"] == "features")
    assert http.post(f"{NEW}/plate/stop").json()["stage"] == "stopped"


def test_a_training_that_was_stopped_goes_on_and_ends(empty, http, good, teacher_path):
    """That each method resumes its own training is tested with the library."""
    made, how = empty.station.components[drafts.Drafts], {"method": "efficientad"}
    made.work = partial(small, {**SMALL, "teacher": str(teacher_path)})
    begin_with(http, good)
    http.post(f"{NEW}/plate/learn", json=how).raise_for_status()
    model = made.draft("plate").model
    until(checkpoint_path(model).is_file)
    stopped = http.post(f"{NEW}/plate/stop").json()
    assert (stopped["stage"], stopped["goes_on"]) == ("stopped", True)
    steps = model.with_suffix(".steps")
    assert {int(line) for line in steps.read_text().split()} == {STEPS}
    steps.unlink()
    http.post(f"{NEW}/plate/learn", json={**how, "go_on": True}).raise_for_status()
    assert not done(http)["goes_on"]
    (left,) = {int(line) for line in steps.read_text().split()}
    assert left < STEPS
    assert http.post(f"{NEW}/plate/live").json()["method"] == how["method"]


@pytest.mark.listens
def test_a_station_that_ends_does_not_wait_for_a_trial(empty, http):
    begin(http)
    made = empty.station.components[drafts.Drafts]
    made.draft("plate").change(result={"found": {}})
    made.work = never_ends
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(
            http.post, f"{NEW}/plate/try", content=encoded(Image.new("RGB", (8, 8))), headers=PNG
        )
        until(lambda: made.trier.pid is not None)
        begun = time.monotonic()
        empty.close()
        assert time.monotonic() - begun < SHUTDOWN_SECONDS  # in which requests may end
        assert answer.result().json() == {"error": "the station ends", "code": "failed"}


def test_a_result_stays_until_there_is_another(http, good):
    """While something else is learnt, when that is stopped, and when it fails: model, report, examples."""
    begin_with(http, good[:8])
    first = learnt(http, roi="0.1,0.1,0.9,0.9")["result"]
    files = {name: http.get(f"{NEW}/plate/{name}").content for name in ("model", "report")}

    def is_as_before() -> bool:
        state = http.get(f"{NEW}/plate").json()
        assert state["result"] == first
        assert state["result"]["options"]["roi"] == "0.1,0.1,0.9,0.9"
        assert http.get(f"{NEW}/plate/model").content == files["model"]
        assert http.get(f"{NEW}/plate/report").status_code == 200
        assert all(
            http.get(f"{NEW}/plate/examples/{one['file']}").status_code == 200 for one in first["examples"]
        )
        return not state["changed"]

    assert http.post(f"{NEW}/plate/learn", json={"size": "64"}).json()["stage"] in ("queued", "running")
    assert is_as_before()
    http.post(f"{NEW}/plate/stop")
    assert is_as_before()
    http.post(f"{NEW}/plate/learn", json={"size": "banana"})  # what only the fit can tell
    until(lambda: http.get(f"{NEW}/plate").json()["stage"] == "failed")
    failed = http.get(f"{NEW}/plate").json()
    assert "banana" in failed["error"]
    assert failed["error_options"] == []
    assert is_as_before()
    tried = http.post(f"{NEW}/plate/try", files=[("files", (good[0].name, good[0].read_bytes()))])
    assert tried.json()["results"][0]["overlay"]
    assert http.post(f"{NEW}/plate/live").json()["version"] == 1
    assert http.get(f"{NEW}/plate").json()["live_is_this"]
    second = learnt(http)
    assert (second["live_is_this"], second["result"]["options"]["roi"]) == (False, None)
    assert http.get(f"{NEW}/plate/model").content != files["model"]


def killed(tmp_path: Path, good: list[Path], times: int, seed: int = 0) -> None:
    """Kills a station at random moments of the way, and sends what is not confirmed again."""
    rng, store = random.Random(seed), tmp_path / "store"
    served = ForkedStation(["--station", str(store), "--device", "cpu", "--threads", "1"], free_port())
    pictures = {f"{k:04d}.png": variant(good[k % len(good)], k) for k in range(6 * times + 10)}
    confirmed: dict[str, bytes] = {}
    stages: set[str] = set()
    for number in range(times + 1):
        served.start(240)
        with httpx.Client(base_url=served.url, timeout=60) as http:
            last = number == times
            learns = number % 5 == 0
            wait = rng.uniform(0, 1.5 if number % 3 else 6)
            killer = threading.Thread(target=kill_later, args=(served, wait), daemon=True)
            if not last and not learns:
                killer.start()
            try:
                begin(http)
                there = listed(http)
                assert sorted(confirmed) == [*confirmed] == sorted(there["pictures"])[: len(confirmed)]
                for name, data in pictures.items():
                    if name not in confirmed and (number % 3 or last) and len(confirmed) < 6 * number + 10:
                        assert results(send(http, name, data))[0]["status"] in ("kept", "known")
                        confirmed[name] = data
                if learns:
                    http.post(f"{NEW}/plate/learn", json={"size": "64"})
                    if not last:
                        killer.start()  # it learns, however slow the machine is
                while not last:
                    stages.add(http.get(f"{NEW}/plate").json()["stage"])
                    time.sleep(0.05)
                assert done(http)["stage"] == "ready"  # what was begun before is finished
                assert learnt(http)["result"]["pictures"] == len(confirmed)
                assert http.post(f"{NEW}/plate/live").status_code == 200
            except (httpx.TransportError, json.JSONDecodeError):
                assert not last, served.said()
                until(lambda: served.process is not None and served.process.poll() is not None)
    kept = {path.name: path.read_bytes() for path in (store / "new" / "plate" / "plate").iterdir()}
    assert all(kept[name] == data for name, data in confirmed.items())
    assert len(confirmed) >= 10
    assert stages
    served.kill(signal.SIGTERM)


def kill_later(served: Served, seconds: float) -> None:
    time.sleep(seconds)
    served.kill()


def variant(path: Path, number: int) -> bytes:
    """The picture with a pixel of its own."""
    pixels = np.array(Image.open(path).convert("RGB"))
    pixels[number // 90 % 90, number % 90] = (number % 256, 0, 0)
    return encoded(Image.fromarray(pixels))


def test_a_killed_station_has_every_confirmed_picture_and_goes_on(tmp_path, good):
    killed(tmp_path, good, int(os.environ.get("KILLS", "6")))


def test_a_run_that_the_station_was_killed_in_goes_on_at_the_start(empty, http, good):
    begin_with(http, good[:8])
    http.post(f"{NEW}/plate/learn", json={"size": "64"})
    until(lambda: http.get(f"{NEW}/plate").json()["stage"] == "running")
    empty.close()
    again = opened(empty_settings(Path(empty.station.settings.store)))
    try:
        with httpx.Client(base_url=again.url, timeout=60) as back:
            assert done(back)["result"]["pictures"] == 8
    finally:
        again.close()


def test_a_product_of_the_settings_without_a_model_is_made_by_its_own_camera(open_station, settings):
    """It has no model, and inspects nothing; then it inspects what its camera shows, also after a restart."""
    address = "lavfi:testsrc2=size=96x64:rate=25,realtime"
    camera = CameraSourceSettings(address, "trigger", latency="1 ms")
    products = {**settings.products, "lid": ProductSettings(sources=(camera,))}
    running = open_station(products=products)
    with httpx.Client(base_url=running.url, timeout=120) as http:
        lid = "/api/v1/products/lid"
        until(lambda: http.get(lid).json()["sources"][0]["state"] == "running")
        assert http.post(f"{lid}/trigger").json()["code"] == "no_model"
        assert [one["code"] for one in http.get("/readyz").json()["problems"]] == ["no_model_2"]
        assert [http.get(f"/lid/{page}").status_code for page in ("live", "models", "trends")] == [200] * 3
        begin(http, "lid")
        for _ in range(4):
            answer = http.post(f"{NEW}/lid/capture", json={"product": "lid"})
            assert results(answer)[0]["status"] == "kept"
        http.post(f"{NEW}/lid/learn", json={"size": "64"}).raise_for_status()
        until(lambda: http.get(f"{NEW}/lid").json()["stage"] == "ready")
        http.post(f"{NEW}/lid/live").raise_for_status()
        assert http.post(f"{lid}/trigger").status_code == 201
        assert http.get("/readyz").json()["problems"] == []
    running.close()
    running = open_station(products=products)
    with httpx.Client(base_url=running.url, timeout=60) as http:
        until(lambda: http.get(lid).json()["sources"][0]["state"] == "running")
        assert http.post(f"{lid}/trigger").status_code == 201

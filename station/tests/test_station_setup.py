"""Products that are made on the pages, by the API: from no model to one that inspects."""

from __future__ import annotations

import errno
import io
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from PIL import Image

from flawscope.artefact.tried import TRIED, Choice, Trial
from flawscope.fitting.proposals import Recipe, propose_views
from flawscope.methods.options import NEW_PRODUCT
from flawscope_station.settings.sources import CameraSourceSettings
from flawscope_station.settings.station import ProductSettings
from flawscope_station.setup import draft, drafts
from flawscope_station.setup import job as setup_job
from flawscope_station.setup.job import search_facts
from flawscope_station.web import setup_api
from flawscope_station.web.templates import PAGES
from setup_helpers import (
    NEW,
    begin,
    begin_with,
    empty_fixture,
    encoded,
    http_fixture,
    listed,
    results,
    send,
    send_zip,
    zipped,
)
from station_helpers import NAME, failing, until

__all__ = ["empty_fixture", "http_fixture"]


@pytest.fixture(autouse=True)
def no_check(monkeypatch):
    """The check of pictures is a process, which begins where a busy machine takes longer than its pause."""
    monkeypatch.setattr(drafts, "SETTLE_SECONDS", 3600.0)


@pytest.fixture(scope="module")
def good(drawn):
    return sorted((drawn / "plate" / "train" / "good").iterdir())


@pytest.mark.parametrize("language", ["en", "de", "fr"])
def test_every_way_of_seeing_pictures_has_words(language):
    recipes = [Recipe(), *(Recipe({"align": kind}) for kind in ("shift", "turn", "full"))]
    recipes += propose_views(Recipe({"align": "turn", "several": True}), (500, 500), judged_by_given=True)
    recipes += propose_views(Recipe(), (2000, 2000), judged_by_given=True)
    trials = tuple(Trial(one.flags, simulated=(0.5,)) for one in recipes)
    told = search_facts({TRIED: Choice("--align turn --min-defect 31px", "it gains", trials).to_dict()})
    assert told["options"] == {"align": "turn", "min_defect": "31px"}
    texts = PAGES.texts[language].flat
    for one in (told["chosen"], *(trial["seen"] for trial in told["trials"])):
        assert {f"new.seen_{how['key']}" for how in one} <= texts.keys()


# What `data check` may find in a folder of good pictures, beside what the page leaves out
CHECKED = (
    *("unreadable", "plain", "frames", "channels", "copy", "nearly-copy", "nearly-unsure", "mixed-sizes"),
    *("mixed-modes", "called-otherwise", "reduced"),
)


@pytest.mark.parametrize("language", ["en", "de", "fr"])
def test_what_the_check_finds_has_words_without_options_of_the_command_line(language):
    texts = PAGES.texts[language].flat
    for code in CHECKED:
        for word in ("find", "do"):
            assert "--" not in texts[f"new.{word}_{code.replace('-', '_')}"]


def test_what_is_no_picture_is_said_in_one_line_and_the_rest_is_kept(empty, http, good, monkeypatch):
    begin(http)
    whole = good[0].read_bytes()
    broken = send(http, "a.png", whole[: len(whole) // 2])
    assert broken.status_code == 422
    truncated = "cannot read picture a.png: the file is truncated; copy it again [FS-G71]"
    assert broken.json()["error"] == truncated
    assert "photo.dng is a camera's raw file" in send(http, "photo.dng", whole).json()["error"]
    files = {
        "parts/one.png": whole,
        "parts/cut.png": whole[:200],
        "../../out.png": good[1].read_bytes(),
        "/etc/out.png": good[1].read_bytes(),
        "C:\\out.png": good[1].read_bytes(),
        "parts/notes.txt": b"no picture",
        "__MACOSX/._one.png": b"beside",
        "parts/large.bmp": b"BM" + bytes(3 * 1024**2),
        "parts/two.png": good[2].read_bytes(),
    }
    found = results(send_zip(http, zipped(files)))
    assert [one["name"] for one in found if one["status"] == "kept"] == ["one.png", "two.png"]
    told = {one["name"]: one["error"] for one in found if one["status"] == "refused"}
    assert len(told) == 6
    assert all("\n" not in line for line in told.values())
    outside = [name for name, line in told.items() if "leads out of the zip" in line]
    assert outside == ["../../out.png", "/etc/out.png", "C:\\out.png"]
    assert "larger than 2 MB" in told["parts/large.bmp"]
    codes = {one["name"]: one["code"] for one in found}
    assert (codes["parts/cut.png"], codes["parts/large.bmp"]) == ("unreadable", "too_large")
    assert (codes["../../out.png"], codes["one.png"]) == (None, None)
    assert listed(http)["pictures"] == ["one.png", "two.png"]
    assert "no zip file" in send_zip(http, b"PK\x03\x04 no zip").json()["error"]
    monkeypatch.setattr(draft, "MAX_UNPACKED_BYTES", 1024)
    bomb = zipped({"bomb.png": bytes(10**6)})
    assert "which pictures do not" in send_zip(http, bomb).json()["error"]
    assert "holds no file" in send_zip(http, zipped({})).json()["error"]
    assert not [*empty.station.files.folder.rglob("*.part")]
    assert not (empty.station.files.folder.parent / "out.png").exists()


def test_pictures_of_a_folder_of_defects_are_refused_by_name(http, good):
    begin(http)
    answer = send(http, "part/niO/3.png", good[0].read_bytes())
    assert (answer.status_code, answer.json()["code"]) == (422, "defects")
    assert "part/niO/3.png is not good by its name, or its folder's" in answer.json()["error"]
    assert results(send(http, "part/iO/3.png", good[0].read_bytes()))[0]["name"] == "3.png"
    answer = send(http, "cam2_NG_0004.png", good[1].read_bytes())
    assert (answer.status_code, answer.json()["code"]) == (422, "defects")
    files = {f"{k}.png": path.read_bytes() for k, path in enumerate(good[:3])}
    answer = send_zip(
        http, zipped({**files, "../l.csv": b"", "l.csv": b"file,label\n0.png,OK\n2.png,NG"})
    ).json()
    assert (
        "all.zip: which pictures are good? . (1, nothing is said), NG (1, not good by l.csv)"
        in answer["error"]
    )
    assert listed(http)["pictures"] == ["3.png"]


def test_a_product_takes_so_many_pictures_and_no_more(http, good, monkeypatch):
    monkeypatch.setattr(draft, "MAX_PICTURES", 3)
    begin(http)
    found = results(send_zip(http, zipped({path.name: path.read_bytes() for path in good})))
    assert [one["status"] for one in found] == ["kept", "kept", "kept", "refused"]  # the others are not read
    assert "plate has 3 pictures, which is enough" in found[-1]["error"]
    assert found[-1]["code"] == "full"


def test_names_are_kept_unless_another_picture_has_them(http, good):
    """A retry finds the picture there, also one that was left out meanwhile."""
    begin(http)
    one, two = good[0].read_bytes(), good[1].read_bytes()
    assert results(send(http, "C:\\photos\\IMG 1.PNG", one))[0]["name"] == "IMG 1.PNG"
    assert results(send(http, "IMG 1.PNG", two))[0]["name"] == "IMG 1-2.PNG"
    assert results(send(http, "other.png", one)) == [
        {"name": "IMG 1.PNG", "status": "known", "error": None, "code": None}
    ]
    assert results(send(http, "…", good[2].read_bytes()))[0]["name"] == "….png"
    left = http.post(f"{NEW}/plate/leave-out", json={"pictures": ["IMG 1.PNG"]}).json()
    assert (left["pictures"], left["left_out"]) == (2, 1)
    assert results(send(http, "again.png", one))[0]["status"] == "known"
    assert listed(http)["left_out"] == ["IMG 1.PNG"]
    back = http.post(f"{NEW}/plate/leave-out", json={"pictures": ["IMG 1.PNG"], "undo": True}).json()
    assert (back["pictures"], back["left_out"]) == (3, 0)
    wrong = http.post(f"{NEW}/plate/leave-out", json={"pictures": ["../plate/IMG 1.PNG"]})
    assert wrong.status_code == 404


def test_telephones_turn_pictures_and_the_page_shows_them_upright(http):
    begin(http)
    lying = Image.fromarray(np.tile(np.arange(200, dtype=np.uint8), (100, 1)))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    assert results(send(http, "turned.jpg", encoded(lying, "JPEG", exif=exif)))[0]["status"] == "kept"
    for side in (320, 400):
        shown = http.get(f"{NEW}/plate/pictures/turned.jpg", params={"side": side})
        assert Image.open(io.BytesIO(shown.content)).size == (100, 200)


def test_a_name_that_no_product_can_have_is_refused(http):
    for name in ("api", "../x", "a b", "", "a" * 65):
        answer = http.post(NEW, json={"name": name})
        assert (answer.status_code, answer.json()["error"].count("\n")) == (422, 0)


def test_a_name_that_differs_in_capital_letters_alone_is_refused(open_station, settings):
    """Of a product of the settings, of a live one, and of one that is taught: one file on some disks."""
    running = open_station(products={NAME: settings.products[NAME], "lid": ProductSettings()})
    with httpx.Client(base_url=running.url, timeout=60) as http:
        begin(http, "cap")
        for name in (NAME.upper(), "Lid", "CAP"):
            refused = http.post("/api/v1/new", json={"name": name})
            assert (refused.status_code, refused.json()["code"]) == (409, "name_taken")
            assert "in capital letters alone" in refused.json()["error"]
        for name in ("lid", "cap"):
            begin(http, name)


def test_two_people_send_the_same_pictures_at_once(empty, good):
    """Each picture is kept once, and each sender hears that it is there."""

    def person(_: int) -> list[str]:
        with httpx.Client(base_url=empty.url, timeout=120) as http:
            begin(http)
            return [results(send(http, path.name, path.read_bytes()))[0]["status"] for path in good]

    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(person, range(4)))
    assert [sorted(several) for several in zip(*said, strict=True)] == [["kept", *["known"] * 3]] * len(good)
    with httpx.Client(base_url=empty.url) as http:
        assert listed(http)["pictures"] == [path.name for path in good]


def test_a_search_is_one_stage_that_ends_with_its_minutes(monkeypatch, tmp_path):
    """Its settings are no stages: the time that is left would begin anew with each."""
    clock, told = iter((100.0, 104.0, 104.0 + 116)), []

    def search(pictures, *, step, **options):
        step("near-duplicates", 1, 2)
        step("trying the settings as given", 0, 1)
        step("trying --size 256+768", 3, 8)

    monkeypatch.setattr("flawscope.fitting.fit_auto", search, raising=False)
    monkeypatch.setattr(setup_job, "time", SimpleNamespace(monotonic=clock.__next__))
    monkeypatch.setattr("flawscope.open_dataset", lambda folder, good: folder)
    asked = {"given": {"auto": 2}, "pictures": [], "device": "cpu"}
    setup_job._fit_auto(asked, tmp_path / "m", lambda *step: told.append(step))
    assert told == [("near-duplicates", 1, 2), ("trying", 0, 116), ("trying", 116, 116)]


@pytest.mark.parametrize(
    ("options", "conflict"),
    [
        ({"several": True}, ["several", "align", True]),
        ({"min_defect": 5, "size": "64"}, ["min_defect", "size", False]),
    ],
)
def test_what_does_not_go_together_is_refused_at_once(http, good, options, conflict):
    """The page asks before anybody waits, and learning refuses it for programs."""
    together = {"align": "turn", "roi": "0.1,0,0.9,1", "min_defect": 9, "light": 0.1}
    begin_with(http, good[:2])
    asked = http.post(f"{NEW}/plate/options", json=options).json()["conflicts"]
    assert conflict in [[one["first"], one["second"], one["is_missing"]] for one in asked]
    refused = http.post(f"{NEW}/plate/learn", json=options)
    assert (refused.status_code, refused.json()["code"]) == (422, "conflict")
    assert http.get(f"{NEW}/plate").json()["stage"] == "collecting"
    assert http.post(f"{NEW}/plate/options", json=together).json() == {"conflicts": []}


PAGE_OPTIONS = [option for option in NEW_PRODUCT if option.form.kind != "text"]


def test_the_page_has_one_control_for_each_option_that_it_asks_for(http, good):
    """And the API has each: a further option is a record in the library, and texts."""
    begin_with(http, good[:2])
    page = http.get("/-/new/plate").text
    controls = re.findall(r'data-option="(\w+)" data-kind="(\w+)"', page)
    assert sorted(name for name, _ in controls) == sorted(option.name for option in PAGE_OPTIONS)
    kinds = {option.name: option.form.kind for option in PAGE_OPTIONS if option.form.kind != "own"}
    assert kinds.items() <= dict(controls).items()
    state = http.get(f"{NEW}/plate").json()
    assert {option.name for option in NEW_PRODUCT} <= state.keys()
    schema = http.get("/api/v1/openapi.json").json()["components"]["schemas"]["LearningOptions"]
    assert {*schema["properties"]} == {
        "method",
        "go_on",
        "all_good",
        *(option.name for option in NEW_PRODUCT),
    }
    for option in NEW_PRODUCT:
        assert schema["properties"][option.name]["description"] == option.meaning
    for wrong in ({"light": 0.31}, {"min_defect": 0}, {"align": "x"}, {"roi": "all"}, {"size": "9" * 21}):
        assert http.post(f"{NEW}/plate/options", json=wrong).status_code == 422


@pytest.mark.parametrize("language", ["en", "de", "fr"])
def test_each_option_of_the_page_has_words(language):
    texts = PAGES.texts[language].flat
    for option in PAGE_OPTIONS:
        if option.form.kind in ("number", "percent", "choice", "switch"):
            assert f"new.option_{option.name}" in texts
        if option.argument and option.name != "false_alarm_rate":  # an error may be about it
            assert f"new.field_{option.name}" in texts
        if option.form.kind == "choice":
            assert {f"new.choice_{option.name}_{choice}" for choice in option.form.choices} <= texts.keys()


def test_a_preset_is_asked_for_by_programs_too_and_advised_for_few(http, good):
    begin_with(http, good[:2])
    for asked in ({"method": "efficientad", "preset": "accurate"}, {"preset": "nix"}):
        refused = http.post(f"{NEW}/plate/learn", json=asked)
        assert refused.status_code == 422
    assert "no preset" in http.post(f"{NEW}/plate/learn", json={"method": "prnet", "preset": "accurate"}).text
    state = http.get(f"{NEW}/plate").json()
    assert (state["stage"], state["advised_preset"]) == ("collecting", "accurate")
    for copy in range(9):
        send(http, f"{copy}.png", encoded(Image.new("L", (64, 64), 20 * copy)))
    assert http.get(f"{NEW}/plate").json()["advised_preset"] is None


@pytest.mark.parametrize(
    ("error", "given", "options"),
    [
        ("there is nothing to align, leave out --align", {"align": "turn", "light": 0.1}, ["align"]),
        ("defects are too small: --min-defect 9", {"min_defect": 9.0, "roi": "0,0,1,0.5"}, ["min_defect"]),
        ("give more --minutes, or --steps", {"method": "efficientad", "minutes": 1.0}, ["minutes"]),
        ("no parts stand out", {"several": True, "align": "full"}, ["align", "several"]),
        ("no space left", {"method": "patchcore", "false_alarm_rate": 0.1}, []),
        ("take --method patchcore", {"method": "prnet", "light": 0.2}, ["light"]),
        ("--alignment is full", {"align": "full", "light": 0.1}, ["align", "light"]),
    ],
)
def test_an_error_of_learning_is_about_options_of_the_page(error, given, options):
    """Those that it names, else those that the pictures may not suit: the page says which in its words."""
    assert drafts._options_behind(error, given) == options


def test_a_camera_of_a_product_takes_pictures_of_another(open_station, settings):
    camera = CameraSourceSettings("lavfi:testsrc2=size=96x64:rate=25,realtime", "trigger")
    product = replace(settings.products["plate"], sources=(camera,))
    running = open_station(products={"plate": product})
    with httpx.Client(base_url=running.url, timeout=60) as http:
        until(lambda: http.get("/api/v1/products/plate").json()["sources"][0]["state"] == "running")
        begin(http, "bracket")
        for _ in range(3):
            wanted = {"product": "plate", "camera": 1}
            assert results(http.post(f"{NEW}/bracket/capture", json=wanted))[0]["status"] == "kept"
        assert len(listed(http, "bracket")["pictures"]) == 3
        assert http.get("/api/v1/products/plate").json()["inspections"] == 0
        wrong = http.post(f"{NEW}/bracket/capture", json={"product": "plate", "camera": 2})
        assert "no live camera 2" in wrong.json()["error"]
        assert "camera 1 of plate" in http.get("/-/new/bracket").text.lower()


def test_a_camera_is_measured_by_frames_of_a_still_part(open_station, settings, monkeypatch):
    monkeypatch.setattr(setup_api, "STILL_FRAMES", 12)
    camera = CameraSourceSettings("lavfi:testsrc2=size=96x64:rate=25,realtime", "trigger", latency="1 ms")
    product = replace(settings.products["plate"], sources=(camera,))
    running = open_station(products={"plate": product})
    with httpx.Client(base_url=running.url, timeout=60) as http:
        until(lambda: http.get("/api/v1/products/plate").json()["sources"][0]["state"] == "running")
        begin(http, "bracket")
        report = http.post(f"{NEW}/bracket/still", json={"product": "plate"}).json()
        assert (report["frames"], report["size"]) == (12, [64, 96])
        codes = {one["code"]: one["fault"] for one in report["measurements"]}
        assert codes["changing_places"], "the test picture moves"
        assert listed(http, "bracket")["pictures"] == []
        words = PAGES.texts["de"].sections("still")
        assert {f"still.fault_{code}" for code in codes} <= set(words)


def test_a_camera_takes_no_pictures_while_the_disk_is_full(open_station, settings, monkeypatch):
    camera = CameraSourceSettings("lavfi:testsrc2=size=96x64:rate=25,realtime", "trigger")
    product = replace(settings.products["plate"], sources=(camera,))
    running, wanted = open_station(products={"plate": product}), {"product": "plate"}
    with httpx.Client(base_url=running.url, timeout=60) as http:
        until(lambda: http.get("/api/v1/products/plate").json()["sources"][0]["state"] == "running")
        begin(http, "bracket")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", failing(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
            refused = http.post(f"{NEW}/bracket/capture", json=wanted)
        assert (refused.status_code, refused.json()["code"]) == (507, "disk_full")
        assert "free some space" in refused.json()["error"]
        assert not list(running.station.files.folder.rglob("*.part"))
        assert listed(http, "bracket")["pictures"] == []
        assert results(http.post(f"{NEW}/bracket/capture", json=wanted))[0]["status"] == "kept"


def test_of_pictures_of_one_size_each_file_is_read_once(empty, http, good, monkeypatch):
    """BMP all have one size: each new one must not read all others."""
    begin(http)
    files = empty.station.components[drafts.Drafts].draft("plate").folder
    shown = np.asarray(Image.open(good[0]).convert("L").resize((24, 24)))
    pictures = [encoded(Image.fromarray(shown // 2 + k), "BMP") for k in range(12)]
    read, read_bytes = list[Path](), Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (read.append(path), read_bytes(path))[1])
    for number, data in enumerate([*pictures, *pictures]):
        assert results(send(http, f"{number}.bmp", data))[0]["status"] == ("kept" if number < 12 else "known")
    assert not [path for path in read if path.parent == files], "their hashes are known"
    station = empty.station  # and after a restart
    again = draft.Draft(station.files, "plate", station.settings.limits, station.inspector.memory)
    for number, data in enumerate(pictures):
        assert again.add(data, f"{number}.bmp").status == "known"
    assert len([path for path in read if path.parent == files]) <= 12

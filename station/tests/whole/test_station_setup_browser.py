"""A new product in a real browser: from an empty folder to one that is live. Chromium and selenium are
needed."""

import errno
import io
import os
import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains

from flawscope.methods import registry
from flawscope.synthesis.demo.dataset import draw_dataset, draw_picture
from flawscope_station.client import Client
from flawscope_station.settings.sources import CameraSourceSettings
from flawscope_station.settings.station import ProductSettings
from flawscope_station.setup.drafts import Drafts
from flawscope_station.store.files import Files
from flawscope_station.web.templates import PAGES
from setup_helpers import empty_fixture, patient_fit, questionable_fit
from tablet import PHONE, Tablet, needs_chromium, tablet_at

__all__ = ["empty_fixture"]
pytestmark = needs_chromium
WIDE, NIGHT = (1400, 900, False), (1400, 900, True)
EDGES = ("left", "top", "right", "bottom")
LOADED = "return [...document.images].every((one) => !one.complete || !one.src || one.naturalWidth)"
LINKS = "return [...document.querySelectorAll('[src], link[href]')].map((one) => one.src || one.href)"


@pytest.fixture(scope="module")
def forty(tmp_path_factory):
    """40 pictures of good parts in a folder, and pictures to try."""
    folder = tmp_path_factory.mktemp("forty")
    return draw_dataset(folder, category="plate", train=40, good=2, bad_per_kind=1, size=96, seed=3)


@pytest.fixture
def running(empty):
    return empty


@pytest.fixture
def beginner(tablet):
    """A person at a station that has nothing yet."""
    tablet.screen(*WIDE)
    return tablet


def drag(tablet: Tablet, selector: str, *paths: Path) -> None:
    """Files or folders, from outside of the browser."""
    place = tablet.js(
        "const e = document.querySelector(arguments[0]); e.scrollIntoView({block: 'center'});"
        "const r = e.getBoundingClientRect(); return {x: r.x + r.width / 2, y: r.y + r.height / 2}",
        selector,
    )
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        tablet.driver.execute_cdp_cmd("Input.dispatchDragEvent", {"type": kind, **place, "data": data})


def begin(tablet: Tablet, name: str = "Bracket left") -> None:
    tablet.driver.get(tablet.url)
    tablet.wait(lambda: tablet.js("return document.documentElement.dataset.ready"))
    tablet.press(name, "\n")
    tablet.wait(lambda: tablet.driver.current_url.endswith("/-/new/Bracket-left"))
    tablet.wait(lambda: tablet.js("return document.documentElement.dataset.ready"))


def begin_with_four(tablet: Tablet, forty: Path) -> None:
    begin(tablet)
    drag(tablet, "#drop", *sorted((forty / "train" / "good").iterdir())[:4])
    tablet.wait(lambda: tablet.text("#count").startswith("4 "))


def learn(tablet: Tablet) -> None:
    """By a click, at 64 pixels: it takes seconds."""
    tablet.js(
        "const send = window.fetch; window.fetch = (url, how) => send(url, `${url}`.endsWith('/learn')"
        "? {...how, body: JSON.stringify({...JSON.parse(how.body), size: '64'})} : how)"
    )
    tablet.click("#start")


def shown(tablet: Tablet, selector: str) -> bool:
    return bool(tablet.find(selector).is_displayed())


def test_forty_pictures_are_dragged_in_and_the_product_is_live(beginner, forty, empty):
    """With two clicks and a name; nothing unfit is seen on the way."""
    empty.station.components[Drafts].work = patient_fit
    begin(beginner)
    assert beginner.unfit(PHONE, NIGHT, WIDE) == []
    drag(beginner, "#drop", *sorted((forty / "train" / "good").iterdir()))
    beginner.wait(lambda: beginner.text("#count").startswith("40 "))
    beginner.wait(lambda: not beginner.text("#check-said").endswith("…"))
    assert beginner.unfit(PHONE, NIGHT, WIDE) == []
    beginner.wait(lambda: beginner.find("#start").is_enabled())
    learn(beginner)
    beginner.wait(lambda: shown(beginner, "#stop"))
    beginner.wait(lambda: shown(beginner, "#result"), 600)
    assert "about 4.9 defective" in beginner.text("#promise")
    assert beginner.text("#search-said").startswith("Chosen: ")
    beginner.click("#search-more summary")
    assert len(beginner.all("#search-table tr")) >= 1
    assert len(beginner.all("#rates li")) == 3
    beginner.wait(lambda: beginner.js(LOADED))
    bad = sorted((forty / "test").glob("[!g]*/*.png"))[:2]
    drag(beginner, "#try-drop", *bad)
    beginner.wait(lambda: len(beginner.all("#tried li img")) == 2)
    assert beginner.unfit(PHONE, NIGHT, WIDE) == []
    beginner.click("#go-live")
    beginner.wait(lambda: shown(beginner, "#open"))
    assert not shown(beginner, "#go-live")
    for link in beginner.js(LINKS):
        assert link.startswith((beginner.url, "data:")), link
    assert beginner.complaints() == []
    assert beginner.http.get("/api/v1/products/Bracket-left").json()["version"] == 1
    beginner.driver.get(f"{beginner.url}/-/new")
    assert "Live" in beginner.text(".links")
    assert beginner.unfit(PHONE, NIGHT, WIDE) == []


def test_what_is_wrong_is_said_left_out_and_undone(beginner, forty, tmp_path):
    """A folder with a copy, a broken file, and litter; by keys alone, and in German."""
    folder = tmp_path / "parts"
    (folder / "deep").mkdir(parents=True)
    good = sorted((forty / "train" / "good").iterdir())[:6]
    for path in good:
        (folder / "deep" / path.name).write_bytes(path.read_bytes())
    Image.open(good[0]).save(folder / "copy.bmp")
    (folder / "broken.png").write_bytes(good[1].read_bytes()[:500])
    (folder / "Thumbs.db").write_bytes(b"litter")
    begin(beginner)
    drag(beginner, "#drop", folder)
    question = beginner.wait(lambda: beginner.driver.switch_to.alert)
    assert "parts (2), parts/deep (6)" in question.text
    question.accept()
    beginner.wait(lambda: beginner.text("#count").startswith("7 "))
    beginner.wait(lambda: "1 file was not taken" in beginner.text("#refused-title"))
    assert "broken.png" in beginner.text("#refusals")
    beginner.wait(lambda: beginner.all("#findings .warning"))
    assert "The same picture, twice or more" in beginner.text("#findings")
    keep = next(one for one in beginner.all("#findings button") if "Keep one" in one.text)
    beginner.js("arguments[0].focus()", keep)
    beginner.press("\n")
    beginner.wait(lambda: beginner.text("#count").startswith("6 "))
    beginner.wait(lambda: "Nothing is wrong" in beginner.text("#check-said"))
    assert beginner.text("#aside-title") == "1 picture is left out"
    beginner.js("document.getElementById('undo').focus()")
    beginner.press("\n")
    beginner.wait(lambda: beginner.text("#count").startswith("7 "))
    beginner.driver.add_cookie({"name": "language", "value": "de"})
    beginner.driver.refresh()
    beginner.wait(lambda: re.search("7 Bilder liegen sicher", beginner.text("#count")))
    beginner.wait(lambda: "Dasselbe Bild, mehrmals" in beginner.text("#findings"))
    assert beginner.unfit(PHONE) == []
    beginner.screen(*WIDE)
    beginner.click("#remove")
    beginner.click("#sure [value=yes]")
    beginner.wait(lambda: beginner.driver.current_url.endswith("/-/new"))
    assert beginner.http.get("/api/v1/new").json() == {"products": []}
    assert all("broken.png" in one for one in beginner.complaints())  # which the browser notes, too


def test_how_pictures_are_seen_is_found_out_unless_somebody_says_so(beginner):
    """In ten minutes; other methods are not searched for."""
    begin(beginner)
    chosen = "return station.options.chosen().auto"
    assert beginner.js(chosen) == 10
    choose(beginner, "#auto-minutes", "3")
    assert beginner.js(chosen) == 3
    beginner.click("#auto")
    assert beginner.js(chosen) is None
    assert not shown(beginner, "#auto-minutes")
    beginner.click("#auto")
    beginner.js("document.querySelector('#methods').closest('details').open = true")
    beginner.click("#methods [value=efficientad]")
    assert beginner.js(chosen) is None
    assert not shown(beginner, "#auto-part")
    assert shown(beginner, "#minutes")
    assert beginner.unfit(PHONE, NIGHT, WIDE) == []


def test_learning_waits_until_the_pictures_were_looked_at(beginner, forty, empty, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(empty.station.components[Drafts].checks, "request", lambda draft: None)
        begin_with_four(beginner, forty)
        beginner.wait(lambda: shown(beginner, "#start-waits"))
        assert beginner.text("#start-waits") == "The pictures are being looked at …"
        assert not beginner.find("#start").is_enabled()
    beginner.wait(lambda: beginner.find("#start").is_enabled())
    assert not shown(beginner, "#start-waits")
    assert beginner.text("#check-said") == "Nothing is wrong with them."


def test_few_pictures_advise_a_larger_network_and_what_is_doubtful_is_said_before_it_goes_live(
    beginner, forty, empty, monkeypatch
):
    monkeypatch.setattr(registry, "missing_package", lambda *asked: "")
    empty.station.components[Drafts].work = questionable_fit
    begin_with_four(beginner, forty)
    assert beginner.text("#advice") == "You may begin. With 15 more, false alarms can be kept to 5 in 100."
    beginner.wait(lambda: shown(beginner, "#accurate-part"))
    assert "Advised for up to 10 pictures" in beginner.text("#accurate-more")
    beginner.click("#accurate")
    beginner.wait(lambda: beginner.find("#start").is_enabled())
    beginner.click("#start")
    beginner.wait(lambda: shown(beginner, "#before"))
    assert beginner.http.get("/api/v1/new/Bracket-left").json()["preset"] == "accurate"
    warnings = [one.text for one in beginner.all("#warnings li")]
    assert len(warnings) == 3
    assert "about 20 defective by mistake. 15 more pictures would allow 5 in 100." in warnings[0]
    assert warnings[1].startswith("A good picture stands out, 000.png")
    assert warnings[2].startswith("Medium defects, simulated: 2 of 12 found.")
    assert beginner.unfit(PHONE, NIGHT, WIDE) == []
    beginner.driver.refresh()
    beginner.wait(lambda: beginner.find("#accurate").is_selected())
    beginner.js("document.querySelector('#methods').closest('details').open = true")
    beginner.click("#methods [value=efficientad]")
    assert not shown(beginner, "#accurate-part")
    assert beginner.js("return station.options.chosen().preset") is None
    assert beginner.complaints() == []


@pytest.mark.parametrize("language", ["en", "de", "fr"])
def test_a_network_that_is_not_installed_is_no_choice_but_the_words_to_type(
    beginner, forty, monkeypatch, language
):
    command = "pip install ./weights/dinov2"
    monkeypatch.setattr(registry, "missing_package", lambda *asked: command)
    begin_with_four(beginner, forty)
    beginner.driver.add_cookie({"name": "language", "value": language})
    beginner.driver.refresh()
    beginner.wait(lambda: shown(beginner, "#accurate-part"))
    assert beginner.text("#accurate-more code") == command
    assert not beginner.all("#accurate")
    assert beginner.js("return station.options.chosen().preset") is None


def full_disk(job: dict[str, Any], step: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/srv/station/models/plate.safetensors")


def test_a_full_disk_is_told_before_and_after_it_stops_the_learning(beginner, forty, empty, monkeypatch):
    """Not blamed on the pictures; while there is no room it waits, and goes on by itself."""
    empty.station.components[Drafts].work = full_disk
    begin_with_four(beginner, forty)
    beginner.wait(lambda: beginner.find("#start").is_enabled())
    with monkeypatch.context() as patch:
        patch.setattr(Files, "free_bytes", lambda files: 0)
        beginner.wait(lambda: empty.station.files.disk.free_bytes == 0)  # it is measured each second
        beginner.click("#start")
        beginner.wait(lambda: "goes on by itself when there is room" in beginner.text("#progress-words"))
    beginner.wait(lambda: shown(beginner, "#failed"))
    assert "The station's disk is full: make some room there" in beginner.text("#failed-words")
    assert "pictures" not in beginner.text("#failed-words")


def test_parts_that_lie_turned_are_told_and_chosen_by_a_click(beginner, tmp_path):
    for k in range(9):
        ground = Image.new("RGB", (96, 96), (30, 30, 30 + k))
        bar = Image.new("RGB", (44, 20), (190, 180, 170 - 3 * k)).rotate(40 * k, expand=True)
        ground.paste(bar, (20, 20), Image.new("L", (44, 20), 255).rotate(40 * k, expand=True))
        ground.save(tmp_path / f"{k}.png")
    begin(beginner)
    drag(beginner, "#drop", *sorted(tmp_path.glob("*.png")))
    beginner.wait(lambda: "do not always lie alike" in beginner.text("#findings"))
    next(one for one in beginner.all("#findings button") if "angles" in one.text).click()
    assert beginner.js("return station.options.chosen().align") == "turn"
    assert beginner.unfit(PHONE, WIDE) == []


def test_a_region_is_dragged_and_the_smallest_defect_is_shown(beginner, forty):
    begin_with_four(beginner, forty)
    beginner.wait(lambda: "…" not in beginner.text("#check-said"))
    beginner.click("#look-at summary")
    beginner.wait(lambda: beginner.js("return document.getElementById('whole').naturalWidth"))
    whole = beginner.find("#whole")
    beginner.js("arguments[0].scrollIntoView({block: 'center'})", whole)
    half = {"x": whole.size["width"] // 4, "y": whole.size["height"] // 4}
    moves = ActionChains(beginner.driver).move_to_element(whole).click_and_hold()
    moves.move_by_offset(half["x"], half["y"]).release().perform()
    edges = [int(beginner.find(f"#edge-{name}").get_property("value")) for name in EDGES]
    assert edges == pytest.approx([50, 50, 75, 75], abs=2)
    assert shown(beginner, "#box")
    beginner.js("document.getElementById('min_defect').focus()")
    beginner.press("1", "2")
    ring = beginner.find("#ring").size
    assert ring["width"] == pytest.approx(whole.size["width"] * 12 / 96, abs=3)
    assert beginner.unfit(PHONE, NIGHT, WIDE) == []
    beginner.click("#all-of-it")
    assert not shown(beginner, "#box")
    assert beginner.complaints() == []


def choose(tablet: Tablet, selector: str, value: str) -> None:
    """As a person does: with the events of a change."""
    tablet.js(
        "const e = document.querySelector(arguments[0]); e.value = arguments[1];"
        "for (const kind of ['input', 'change']) e.dispatchEvent(new Event(kind, {bubbles: true}))",
        selector,
        value,
    )


@pytest.mark.parametrize(
    ("language", "words"),
    [("en", "needs to know how"), ("de", "geht nur mit der Angabe"), ("fr", "demande comment")],
)
def test_what_does_not_go_together_is_refused_at_the_click(beginner, forty, language, words):
    """In the page's language, beside what was changed; and learning begins again when it is put right."""
    begin_with_four(beginner, forty)
    beginner.driver.add_cookie({"name": "language", "value": language})
    beginner.driver.refresh()
    beginner.wait(lambda: beginner.find("#start").is_enabled())
    beginner.click("#look-at summary")
    choose(beginner, "#min_defect", "5")
    assert not shown(beginner, "#conflicts")
    beginner.click("#several")
    beginner.wait(lambda: words in beginner.text("#conflicts"))
    assert words in beginner.text("label:has(#several) + .beside")
    assert "--" not in beginner.text("#conflicts")
    assert not beginner.find("#start").is_enabled()
    assert beginner.unfit(PHONE, NIGHT, WIDE) == []
    choose(beginner, "#align", "turn")
    beginner.wait(lambda: beginner.find("#start").is_enabled())
    assert not shown(beginner, "#conflicts")
    choose(beginner, "#light", "10")
    choose(beginner, "#align", "auto")
    beginner.wait(lambda: shown(beginner, "#conflicts"))
    choose(beginner, "#align", "shift")
    beginner.wait(lambda: beginner.find("#start").is_enabled())
    beginner.click("#several")
    beginner.click("#methods [value=efficientad]")
    wrong = [
        ("#light", "45", ""),
        ("#min_defect", "-3", ""),
        ("#minutes", "0", "30"),
        ("#edge-right", "0", "100"),
    ]
    for field, value, good in wrong:
        beginner.wait(lambda: beginner.find("#start").is_enabled())
        choose(beginner, field, value)
        beginner.wait(lambda: shown(beginner, "#conflicts"))
        assert re.search(r"[„“«]", beginner.text("#conflicts"))  # a name that the page gives it
        assert not beginner.find("#start").is_enabled()
        choose(beginner, field, good)
    beginner.wait(lambda: beginner.find("#start").is_enabled())
    assert beginner.complaints() == []


def test_files_that_a_station_misses_are_sent_again(beginner, forty):
    """The connection is lost while they are sent, and comes back."""
    begin(beginner)
    network = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    beginner.driver.execute_cdp_cmd("Network.enable", {})
    beginner.driver.execute_cdp_cmd("Network.emulateNetworkConditions", network)
    drag(beginner, "#drop", *sorted((forty / "train" / "good").iterdir())[:5])
    beginner.wait(lambda: shown(beginner, "#lost"))
    beginner.driver.execute_cdp_cmd("Network.emulateNetworkConditions", {**network, "offline": False})
    beginner.wait(lambda: beginner.text("#count").startswith("5 "))
    beginner.wait(lambda: not shown(beginner, "#sending"))
    assert not shown(beginner, "#refused")
    picture = beginner.http.get("/api/v1/new/Bracket-left/pictures/000.png", params={"side": 64})
    assert max(Image.open(io.BytesIO(picture.content)).size) <= 320


def test_a_camera_gives_pictures_to_learn_from_until_a_pause(open_station, settings, driver):
    camera = CameraSourceSettings("lavfi:testsrc2=size=96x64:rate=25,realtime", "trigger", latency="1 ms")
    products = {**settings.products, "lid": ProductSettings(sources=(camera,))}
    with tablet_at(open_station(products=products), driver) as tablet:
        kept = lambda: len(httpx.get(f"{tablet.url}/api/v1/new/lid/pictures").json()["pictures"])  # noqa: E731
        address = f"{tablet.url}/lid/live"
        tablet.driver.get(address)
        tablet.wait(lambda: tablet.js("return document.documentElement.dataset.ready"))
        assert not tablet.find("#keep-good").is_displayed(), "it is not taught here"
        httpx.post(f"{tablet.url}/api/v1/new", json={"name": "lid"}).raise_for_status()
        tablet.driver.get(f"{tablet.url}/-/new/lid")
        tablet.wait(lambda: tablet.js("return document.documentElement.dataset.ready"))
        tablet.click("#capture-all")
        tablet.wait(lambda: kept() >= 2)
        assert tablet.text("#capture-all") == "Pause"
        tablet.click("#capture-all")
        assert tablet.text("#capture-all") == "Take one every 2 seconds"
        tablet.click("#still summary")
        tablet.click("#measure")
        tablet.wait(lambda: tablet.text("#measured") == "Found:")
        assert tablet.text("#camera-faults"), "the test picture moves"
        tablet.driver.get(address)
        tablet.wait(lambda: tablet.find("#keep-good").is_displayed())
        before = kept()
        tablet.click("#keep-good")
        nothing = PAGES.texts["en"]("live.nothing")
        tablet.wait(lambda: tablet.text("#kept-good") == nothing)
        assert kept() == before, "no part is shown before there is a model"
        assert tablet.unfit(PHONE, WIDE) == []


VIEWS = {"top": "plate", "side": "fabric"}


@pytest.fixture(scope="module")
def two_views(tmp_path_factory):
    """Pictures of twelve good parts by two cameras that see other surfaces, and of a further one."""
    folder = tmp_path_factory.mktemp("two views")
    for number in range(13):
        for view, category in VIEWS.items():
            picture, _ = draw_picture(category, np.random.default_rng(number), size=96)
            place = folder / ("good" if number < 12 else "new")
            place.mkdir(exist_ok=True)
            Image.fromarray(picture).save(place / f"{number:04d}_{view}.png")
    return folder


def test_a_part_of_several_views_is_taught_and_decided_as_one(beginner, two_views, empty):
    begin(beginner)
    assert not shown(beginner, "#conflicts")
    drag(beginner, "#drop", *sorted((two_views / "good").iterdir()))
    beginner.wait(lambda: beginner.text("#count").startswith("24 "))
    beginner.wait(lambda: not beginner.text("#check-said").endswith("…"))
    beginner.wait(lambda: beginner.find("#start").is_enabled())
    beginner.find("#views").send_keys("top, left")
    beginner.wait(lambda: shown(beginner, "#conflicts"))
    assert "0000_side.png" in beginner.text("#conflicts"), "a name without a view is told at once"
    beginner.find("#views").clear()
    beginner.find("#views").send_keys("top, side")
    beginner.wait(lambda: not shown(beginner, "#conflicts"))
    assert not shown(beginner, "#auto-part"), "a search makes one model for all views"
    assert beginner.unfit(PHONE, NIGHT, WIDE) == []
    learn(beginner)
    beginner.wait(lambda: shown(beginner, "#result"), 600)
    assert "12 parts" in beginner.text("#promise-more")
    drag(beginner, "#try-drop", *sorted((two_views / "new").iterdir()))
    beginner.wait(lambda: len(beginner.all("#tried li img")) == 2)
    assert beginner.unfit(PHONE, NIGHT, WIDE) == []
    beginner.click("#go-live")
    beginner.wait(lambda: shown(beginner, "#open"))
    assert beginner.complaints() == []
    with Client(beginner.url) as client:
        assert client.product("Bracket-left").views == ["side", "top"]
        pictures = {view: (two_views / "new" / f"0012_{view}.png").read_bytes() for view in VIEWS}
        swapped = {"top": pictures["side"], "side": pictures["top"]}
        found = client.inspect_part(swapped, "n1", product="Bracket-left")
        assert found.decision == "anomalous"
    beginner.driver.refresh()
    beginner.wait(lambda: beginner.js("return document.documentElement.dataset.ready"))
    assert beginner.find("#views").get_property("value") == "side, top"


def test_cameras_of_views_take_a_part_at_a_click_and_name_its_pictures(open_station, settings, driver):
    """So that nobody types the views, and the pictures tell part and view."""
    sources = []
    for view in ("top", "side"):
        address = "lavfi:testsrc2=size=96x64:rate=25,realtime"
        sources.append(CameraSourceSettings(address, "trigger", latency="1 ms", view=view))
    products = {**settings.products, "lid": ProductSettings(sources=tuple(sources))}
    with tablet_at(open_station(products=products), driver) as tablet:
        httpx.post(f"{tablet.url}/api/v1/new", json={"name": "lid"}).raise_for_status()
        tablet.driver.get(f"{tablet.url}/-/new/lid")
        tablet.wait(lambda: tablet.js("return document.documentElement.dataset.ready"))
        pictures = lambda: httpx.get(f"{tablet.url}/api/v1/new/lid/pictures").json()["pictures"]  # noqa: E731
        for part in (1, 2):
            tablet.wait(lambda: tablet.find("#capture").is_enabled())
            tablet.click("#capture")
            tablet.wait(lambda part=part: len(pictures()) == 2 * part)
        assert pictures() == [f"part000{part}_{view}.png" for part in (1, 2) for view in ("side", "top")]
        tablet.wait(lambda: tablet.find("#views").get_property("value") == "top, side")
        assert tablet.text("#camera option:checked") == "Camera 2 of lid, side"
        assert tablet.unfit(PHONE, NIGHT) == []
        assert tablet.complaints() == []

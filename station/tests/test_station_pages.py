"""The pages as the server sends them, their texts, and the files that others wrote."""

import hashlib
import html
import re
import string
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
import pytest

from flawscope import Prediction, Predictor
from flawscope.calibration import outliers
from flawscope.errors import InputError
from flawscope.pages.report import page as report_page
from flawscope.pages.templates import ASSETS, LANGUAGES, NUMBERS_OF_ONE
from flawscope.results.findings import Finding
from flawscope_station.core import housekeeping
from flawscope_station.monitoring import problems
from flawscope_station.web import pages, plugin_pages, sign_in_pages
from flawscope_station.web.templates import PAGES, TABS
from station_helpers import inspected

WEB = Path(str(resources.files("flawscope_station.web") / "assets"))
SHARED = Path(str(ASSETS))  # with the review of a folder of results
TEMPLATES = sorted([*WEB.glob("*.j2"), *SHARED.glob("*.j2")])
SCRIPTS = sorted([*WEB.glob("*.js"), *SHARED.glob("*.js")])
HOSTILE = "<img src=x onerror=alert(1)>\"'&amp;日本.png"
ALL = ("live", "review", "history", "trends", "models", "problems", "inspections/1")


@pytest.fixture
def visitor(common, parts):
    """The same, at the station that the tests of this file share; it has a picture."""
    with httpx.Client(base_url=common.url, timeout=30) as client:
        inspected(client, parts[0])
        yield client


def texts_of(language: str) -> dict[str, str]:
    return PAGES.texts[language].flat


def test_every_language_has_every_text_with_the_same_names_in_braces():
    languages = set(LANGUAGES)
    assert PAGES.missing_texts == []
    assert {path.stem for path in (WEB / "texts").iterdir()} >= {*languages}
    names = {
        language: {
            key: {name for _, name, _, _ in string.Formatter().parse(text) if name}
            for key, text in texts_of(language).items()
        }
        for language in languages
    }
    assert all(names[language] == names["en"] for language in languages)
    assert all(text.strip() for language in languages for text in texts_of(language).values())


COUNT = re.compile(r"\{(?:n|good|found|others|count|seconds|few|left|done|all)\}\s+([^\W\d_]+)")
ALIKE = {  # words behind a number that are right behind 1, too
    "en": "delivered done for in left learnt more of s min waiting with",
    "de": "davon erledigt für geliefert im min mit s sind von warten weggelassen zum",
    "fr": "avec de en min plus pour s sur transmis",
}
SEVERAL = {  # texts of a number that is never 1
    *("challenge.chart", "drift.calm", "trends.newest_rows", "advice.simulated", "new.found_of"),
    *("new.accurate_more", "new.rate_option", "new.warn_misses"),
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_text_of_a_number_is_right_for_one(language):
    """It has forms for one and for many, or words that are the same for both."""
    plain = {key: text for key, text in texts_of(language).items() if not key.endswith(("_one", "_many"))}
    wrong = {
        key: text
        for key, text in plain.items()
        if key not in SEVERAL and {*COUNT.findall(text)} - {*ALIKE[language].split()}
    }
    assert wrong == {}


NEVER_0 = {  # texts of a number that is never 0
    *("learning.really", "new.check_found", "new.leave_all", "new.may_begin", "new.more", "new.warn_odd"),
}


def test_a_text_of_one_that_is_also_for_0_shows_the_number():
    for language, numbers in NUMBERS_OF_ONE.items():
        of_one = {key: text for key, text in texts_of(language).items() if key.endswith("_one")}
        without = {key.removesuffix("_one") for key, text in of_one.items() if "{n}" not in text}
        assert 0 not in numbers or without <= NEVER_0, language


def test_code_in_a_text_is_shown_as_code():
    """In templates by the filter `code`; scripts have `station.write`, which alone writes what has any."""
    coded = {key for key, text in texts_of("en").items() if "`" in text}
    for path in TEMPLATES:
        for key, rest in re.findall(r"""\{\{ t\("([a-z._]+)"([^}]*)\}\}""", path.read_text(encoding="utf-8")):
            assert key not in coded or "| code" in rest, f"{path.name}: {key} without | code"
    for path in SCRIPTS:
        text = path.read_text(encoding="utf-8")
        shown = re.findall(r"textContent = [^;]*", text)
        assert not [one for one in shown if "common.failed" in one or any(key in one for key in coded)], (
            path.name
        )


def test_every_text_is_used_and_every_text_that_is_used_exists():
    """Keys that are put together are known by their beginning."""
    sources = "".join(path.read_text(encoding="utf-8") for path in (*TEMPLATES, *SCRIPTS))
    for module in (pages, plugin_pages, sign_in_pages, housekeeping, problems):
        sources += Path(str(module.__file__)).read_text(encoding="utf-8")
    known = texts_of("en")
    whole = set(re.findall(r"""["'`]([a-z]+\.[a-z_]*[a-z])["'`]""", sources))
    beginnings = set(re.findall(r"""["'`]([a-z]+\.[a-z_]*)(?:["'] ~|\$?\{)""", sources))
    named = {key for key in known if key.removesuffix("_one").removesuffix("_many") in whole}
    named |= {key for key in known if key.startswith(tuple(beginnings))}
    assert set(known) - named == set()
    sections = {key.partition(".")[0] for key in known}
    counted = {key.removesuffix("_one") for key in known}
    missing = (
        {key for key in whole if key.partition(".")[0] in sections and not key.endswith(".js")}
        - known.keys()
        - counted
    )
    assert missing == set()


def test_every_reason_to_look_at_a_picture_has_a_text():
    assert {f"new.odd_{reason}" for reason in outliers.WORDS} <= texts_of("en").keys()


def test_the_language_is_the_chosen_one_else_the_browsers():
    browsers = {
        "de-AT,de;q=0.9,en;q=0.8": "de",
        "es, DE;q=0.5": "de",
        "fr-CH, de;q=0.5": "fr",
        "es": "en",
        "": "en",
    }
    assert {accepted: PAGES.texts_for(None, accepted).language for accepted in browsers} == browsers
    assert [PAGES.texts_for(cookie, "de").language for cookie in ("en", "xx")] == ["en", "de"]


def test_numbers_are_written_as_the_language_writes_them():
    assert PAGES.texts["en"].number(1.2345) == "1.23"
    assert PAGES.texts["de"].number(1.2345) == "1,23"
    assert PAGES.texts["de"].number(None) == "–"
    large = {
        (153.8, 2): "150",
        (1000 / 3, 2): "330",
        (99.7, 2): "100",
        (12345.6, 3): "12300",
        (7.69, 2): "7,7",
    }
    assert {given: PAGES.texts["fr"].number(*given) for given in large} == large, "none has an exponent"


def test_what_others_wrote_is_unchanged_and_named():
    readme = (WEB / "vendored/README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (\S+) \|.*\| ([0-9a-f]{64}) \|$", readme, re.MULTILINE))
    files = {path.relative_to(WEB / "vendored").as_posix(): path for path in WEB.glob("vendored/*/*")}
    assert rows.keys() == files.keys()
    for name, path in files.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == rows[name], name
    notice = Path(__file__).parents[1] / "NOTICE"
    assert "flawscope_station/web/assets/vendored/uPlot" in notice.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_a_template_has_nothing_that_the_policy_forbids(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\sstyle\s*=|<style|\son\w+\s*=|javascript:", text)
    for attributes in re.findall(r"<script([^>]*)>", text):
        assert "src=" in attributes or 'type="application/json"' in attributes
    assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", text)


@pytest.mark.parametrize("path", [*SCRIPTS, SHARED / "pages.css"], ids=lambda path: path.name)
def test_a_script_makes_no_markup_of_texts(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", text)
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)\S+", text) == []


def test_the_colours_are_those_of_the_reports():
    """By day, by night, and by night because somebody chose it."""
    css = (SHARED / "pages.css").read_text(encoding="utf-8")
    day, night = re.findall(r"--paper: [^}]*?--focus: #\w+;", report_page.read_asset("pages.css"))
    mine = re.findall(r"--paper: [^}]*?--focus: #\w+;", css)
    squeezed = [" ".join(block.split()) for block in (day, night, night)]
    assert [" ".join(block.split()) for block in mine] == squeezed


def test_static_files_are_those_that_are_known(visitor):
    for name, (_, digest, kind) in PAGES.static_files.items():
        answer = visitor.get(f"/static/{name}?v={digest}")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind)
        assert "immutable" in answer.headers["cache-control"]
    outside = ("base.html.j2", "texts/en.yaml", "../pages.py", "..%2fpages.py", "%2fetc%2fpasswd", "", "live")
    for name in outside:
        assert visitor.get(f"/static/{name}").status_code == 404, name


def test_every_page_says_what_it_is(visitor):
    assert visitor.get("/").headers["location"] == "/plate/live"
    for name in ALL:
        answer = visitor.get(f"/plate/{name}")
        assert answer.status_code == 200, name
        assert answer.headers["cache-control"] == "no-store"
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        assert len(re.findall(r"<h1[ >]", answer.text)) == 1, name
        assert '<html lang="en"' in answer.text
        assert "<main id=" in answer.text
        shown = answer.text.count('aria-current="page"')
        assert shown == (1 if name in TABS else 0)
        german = visitor.get(f"/plate/{name}", headers={"Accept-Language": "de"})
        assert ('<html lang="de"' in german.text, "Zum Inhalt springen" in german.text) == (True, True)
        assert german.headers["content-language"] == "de"


def test_the_language_is_chosen(visitor):
    chosen = visitor.post("/language", data={"language": "de", "next": "/plate/history"})
    assert (chosen.status_code, chosen.headers["location"]) == (303, "/plate/history")
    assert "Filter entfernen" in visitor.get("/plate/history").text
    away = visitor.post("/language", data={"language": "en", "next": "//elsewhere.example/"})
    assert away.headers["location"] == "/"


def test_what_is_not_there_is_said_on_a_page(visitor):
    numbers = ("9999", "9" * 19, "9" * 60)
    several = [f"/plate/{path}{n}" for n in numbers for path in ("inspections/", "review?only=")]
    for address in ("/other/live", *several):
        answer = visitor.get(address)
        assert answer.status_code == 404, address
        assert "<h1>Not found</h1>" in answer.text
    for address in ("/plate/nowhere", "/nothing/at/all", "/-/nowhere"):
        german = visitor.get(address, headers={"Accept-Language": "de"})
        assert (german.status_code, "Diese Seite gibt es nicht" in german.text) == (404, True), address


def test_names_never_become_markup(visitor, parts):
    number = inspected(visitor, parts[0], HOSTILE)["id"]
    for name in ("live", "history", f"inspections/{number}"):
        text = visitor.get(f"/plate/{name}").text
        assert "<img src=x" not in text, name
    shown = visitor.get(f"/plate/inspections/{number}").text
    assert "日本.png" in html.unescape(shown)


def test_a_finding_that_nothing_knows_is_recorded_and_shown(visitor, parts, monkeypatch):
    plain = Predictor._make_prediction
    dusty = Finding("dusty", "<dust> on the lens", 0.02, decides=True)

    def noticing(*given: Any) -> Prediction | InputError:
        made = plain(*given)
        return made if isinstance(made, InputError) else made.noticing(dusty)

    monkeypatch.setattr(Predictor, "_make_prediction", noticing)
    made = inspected(visitor, parts[0], "dusty.png")
    assert (made["findings"], made["decision"]) == ([dusty.to_dict()], "anomalous")
    assert made["p_value"] <= 0.02
    assert (
        visitor.get(f"/api/v1/products/plate/inspections/{made['id']}").json()["findings"] == made["findings"]
    )
    for name in (f"inspections/{made['id']}", "history"):
        assert "&lt;dust&gt; on the lens" in visitor.get(f"/plate/{name}").text, name
    assert "<dust> on the lens" in visitor.get("/api/v1/products/plate/export").text


def test_a_filter_that_is_none_is_named(visitor):
    for query in ("score_min=x", "since=yesterday", "decision=perhaps", "cursor=zzz"):
        answer = visitor.get(f"/plate/history?{query}")
        assert answer.status_code == 422, query
        said = re.findall(r'role="alert">.*?<span>(.*?)</span>', answer.text.partition("<main")[2])
        assert said, query


def test_periods_keep_the_other_filters(visitor):
    text = visitor.get("/plate/history?verdict=none").text
    links = map(html.unescape, re.findall(r'href="([^"]*)"', text))
    hour = next(one for one in links if "period=hour" in one)
    assert "verdict=none" in hour
    shown = visitor.get(hour).text
    assert re.findall(r'aria-current="true">([^<]*)</a>', shown)[:1] == ["Last hour"]
    assert "part.png" in shown

"""A station's store with many inspections, and what people ask of it; for `station.py`."""

from __future__ import annotations

import hashlib
import shutil
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

import common

HOUR = 3_600_000_000  # microseconds
WATCH = """
new MutationObserver((_, self) => {
  if (document.documentElement?.dataset.ready) { window.readyAt = performance.now(); self.disconnect(); }
}).observe(document, {attributes: true, subtree: true, attributeFilter: ['data-ready']});
"""
PAGES = ("live", "review", "history", "trends", "models")


def fill(database: Any, count: int) -> None:
    """Inspections of the last hundred days, as a line makes them: about one of a hundred anomalous, of which
    most were reviewed."""
    import numpy as np
    from sqlalchemy import text

    from flawscope_station.store.database import now
    from flawscope_station.store.schema import inspections, pictures, products, verdicts, versions

    rng, until, step, limit = np.random.default_rng(0), now(), 100 * 24 * HOUR // count, 2.0
    with database.reading() as connection:
        product = connection.execute(products.select()).one().id
        version = connection.execute(versions.select()).first().id
        first = int(connection.execute(text("SELECT coalesce(max(id), 0) FROM inspections")).scalar_one()) + 1
    of = {"product_id": product, "version_id": version, "source": "http"}
    file = {"product_id": product, "suffix": ".png", "bytes": 300_000, "width": 640, "height": 480}
    for begin in range(0, count, 20_000):
        size = min(20_000, count - begin)
        shown, seen, words = [], [], []
        for number, score, said in zip(
            range(begin, begin + size), rng.lognormal(0, 0.3, size), rng.random(size), strict=True
        ):
            at, bad, near = until - (count - number) * step, score > limit, 0.95 * limit < score <= limit
            stands_out = bool(bad or near)
            verdict = ("good" if said < 0.2 else "defect" if said < 0.9 else None) if stands_out else None
            digest = hashlib.sha256(str(number).encode()).hexdigest()
            shown.append({**file, "hash": digest, "created_at": at})
            judged = {"score": float(score), "p_value": 0.5, "severity": float(score - limit)}
            judged |= {"score_threshold": limit, "anomalous": bool(bad), "near": bool(near), "regions": "[]"}
            review = "done" if verdict else "waiting" if stands_out else "none"
            named = {"picture": digest, "at": at, "key": f"k{number}", "name": f"part-{number:07}.png"}
            seen.append({**of, **named, **judged, "verdict": verdict, "review": review})
            if verdict:
                word = {"inspection_id": first + number, "verdict": verdict, "at": at, "who": "anna"}
                words.append({**word, "mask": None, "note": ""})
        with database.writing() as connection:
            connection.execute(pictures.insert(), shown)
            connection.execute(inspections.insert(), seen)
            connection.execute(verdicts.insert(), words)
    with database.writing() as connection:
        connection.execute(text("DELETE FROM hours"))
        connection.execute(text(HOURS))
    if not database.is_sqlite:  # PostgreSQL does so by itself, after a minute
        with database.writing() as connection:
            connection.execute(text("ANALYZE"))


HOURS = f"""
INSERT INTO hours (product_id, version_id, hour, inspected, anomalous, score_sum, score_min, score_max,
    reviewed, defects, false_alarms, misses)
SELECT product_id, version_id, at / {HOUR}, count(*), sum(CASE WHEN anomalous THEN 1 ELSE 0 END), sum(score),
    min(score), max(score), count(verdict), sum(CASE WHEN verdict = 'defect' THEN 1 ELSE 0 END),
    sum(CASE WHEN anomalous AND verdict = 'good' THEN 1 ELSE 0 END),
    sum(CASE WHEN NOT anomalous AND verdict = 'defect' THEN 1 ELSE 0 END)
FROM inspections GROUP BY product_id, version_id, at / {HOUR}
"""


def questions(url: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """What is asked for: a path below the address, and its query."""

    def ago(days: float) -> str:
        return (datetime.now(UTC) - timedelta(days=days)).isoformat()

    product = "/api/v1/products/plate"
    with httpx.Client(base_url=url, timeout=300) as client:
        deep = client.get(f"{product}/inspections", params={"until": ago(60), "limit": 50}).json()["next"]
    searches: dict[str, dict[str, Any]] = {
        "newest": {},
        "a deep page": {"cursor": deep},
        "500 a page": {"limit": 500},
        "until 60 days ago": {"until": ago(60)},
        "an hour, 40 days ago": {"since": ago(40), "until": ago(40 - 1 / 24)},
        "anomalous": {"decision": "anomalous"},
        "verdict good": {"verdict": "good"},
        "verdict defect, old": {"verdict": "defect", "until": ago(90)},
        "waiting": {"review": "waiting"},
        "skipped: none": {"review": "skipped"},
        "score above all but few": {"score_min": 3.7},
        "score above all": {"score_min": 1e6},
        "score below all but few": {"score_max": 0.3},
        "another version": {"version": 99},
        "a name": {"file": "part-0123456.png"},
        "names that begin so": {"file": "part-01234*"},
        "names that begin all so": {"file": "part-0*"},
        "no such name": {"file": "none*"},
        "good and missed": {"decision": "good", "verdict": "defect"},
        "anomalous, high, old": {"decision": "anomalous", "score_min": 3.0, "until": ago(80)},
    }
    asked = {f"search: {name}": (f"{product}/inspections", query) for name, query in searches.items()}
    spans = {"an hour": 1 / 24, "3 hours": 3 / 24, "a day": 1, "a week": 7, "a month": 30, "all": None}
    for name, days in spans.items():
        asked[f"trends: {name}"] = (f"{product}/trends", {"since": ago(days)} if days else {})
    asked |= {
        "product": (product, {}),
        "review queue": (f"{product}/review", {}),
        "status": ("/api/v1/status", {}),
        **{f"page: {page}": (f"/plate/{page}", {}) for page in PAGES},
    }
    return asked


def in_browser(url: str, rounds: int) -> dict[str, float]:
    """Milliseconds until each page can be used, in the slowest visit but the first; without Chromium none."""
    from selenium import webdriver
    from selenium.webdriver.support.ui import WebDriverWait

    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (program and driver):
        common.say("skipped: chromium and chromedriver are not installed")
        return {}
    options, found = webdriver.ChromeOptions(), dict[str, float]()
    options.binary_location = program
    for word in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{word}")
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as browser:
        browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
        wait = WebDriverWait(browser, 30, 0.02)
        for page in PAGES:
            times = []
            for _ in range(min(rounds, 5) + 1):
                browser.get(f"{url}/plate/{page}")
                times.append(float(wait.until(lambda b: b.execute_script("return window.readyAt"))))
            found[page] = common.round_to(max(times[1:]), 4)
    return found

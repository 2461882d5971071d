"""A station's store with many inspections, and what people ask of it; for `station.py`."""

from __future__ import annotations

import hashlib
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

import common

HOUR = 3_600_000_000  # microseconds
PAGES = ("live", "review", "history", "trends", "models")


def fill(database: Any, count: int) -> None:
    """Inspections of the last hundred days, as a line makes them: about one of a hundred anomalous, of which
    most were reviewed."""
    import numpy as np
    from sqlalchemy import text

    from flawscope.station.store.database import now
    from flawscope.station.store.schema import inspections, pictures, products, verdicts, versions

    rng, end_, step = np.random.default_rng(0), now(), 100 * 24 * HOUR // count
    with database.reading() as connection:
        product = connection.execute(products.select()).one().id
        version = connection.execute(versions.select()).first().id
        first = int(connection.execute(text("SELECT coalesce(max(id), 0) FROM inspections")).scalar_one()) + 1
    for begin in range(0, count, 20_000):
        size = min(20_000, count - begin)
        scores = rng.lognormal(0, 0.3, size)
        limit = 2.0
        said = rng.random(size)
        shown, seen, words = [], [], []
        for k in range(size):
            number, at = begin + k, end_ - (count - begin - k) * step
            bad, near = bool(scores[k] > limit), bool(limit * 0.95 < scores[k] <= limit)
            verdict = (
                ("good" if said[k] < 0.2 else "defect" if said[k] < 0.9 else None) if bad or near else None
            )
            digest = hashlib.sha256(str(number).encode()).hexdigest()
            shown.append(
                {
                    "product_id": product,
                    "hash": digest,
                    "suffix": ".png",
                    "bytes": 300_000,
                    "width": 640,
                    "height": 480,
                    "created_at": at,
                }
            )
            waits = "waiting" if bad or near else "none"
            seen.append(
                {
                    **{
                        "product_id": product,
                        "version_id": version,
                        "picture": digest,
                        "at": at,
                        "key": f"k{number}",
                    },
                    **{"name": f"part-{number:07}.png", "source": "http", "score": float(scores[k])},
                    **{"p_value": 0.5, "severity": float(scores[k] - limit), "score_threshold": limit},
                    **{"anomalous": bad, "near": near, "regions": "[]", "verdict": verdict},
                    "review": "done" if verdict else waits,
                }
            )
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
    from report import TIMES, WATCH, chromium

    found: dict[str, float] = {}
    try:
        with chromium() as browser:
            browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
            for page in PAGES:
                slowest = []
                for _ in range(min(rounds, 5) + 1):
                    browser.get(f"{url}/plate/{page}")
                    patience = time.monotonic() + 30
                    while (
                        not (ready := browser.execute_script(TIMES)["ready"]) and time.monotonic() < patience
                    ):
                        time.sleep(0.02)
                    slowest.append(float(ready or 30_000))
                found[page] = common.sig(max(slowest[1:]), 4)
    except SystemExit as error:
        common.say(f"skipped: {error}")
    return found

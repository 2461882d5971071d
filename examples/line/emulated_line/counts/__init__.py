"""A page that counts good and defective parts by the first letters of their numbers."""

from collections import Counter
from dataclasses import dataclass
from importlib import resources

from fastapi import APIRouter, Request

from flawscope.errors import InputError
from flawscope_station.plugins import Plugin, PluginPage


@dataclass(frozen=True)
class CountSettings:
    letters: int = 3

    def __post_init__(self):
        if self.letters < 1:
            raise InputError("letters: 1 or more")


def open_counts(station, settings):
    router = APIRouter()

    def rows(product):
        parts, defective = Counter(), Counter()
        for inspection in station.inspections(product):
            prefix = (inspection["part"] or "")[: settings.letters]
            parts[prefix] += 1
            defective[prefix] += inspection["decision"] == "anomalous"
        return [(prefix, parts[prefix], defective[prefix]) for prefix in sorted(parts)]

    @router.get("/")
    def show(request: Request):  # no `async`: it may wait for the store
        found = rows(station.product(request))
        return station.render(
            request, "counts", rows=found, data={"most": max((n for _, n, _ in found), default=0)}
        )

    titles = {"en": "Counts by part number", "de": "Zählung nach Teilenummer"}
    return PluginPage(titles, router, resources.files(__package__), role="operator")


COUNTS = Plugin("counts", CountSettings, open_counts)

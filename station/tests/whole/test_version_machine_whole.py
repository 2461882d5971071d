"""A product has the judge that the page names, after any steps and kills, on both databases."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from flawscope_station.settings.station import Settings
from version_machine import Machine

pytestmark = pytest.mark.both_databases
HISTORIES = 20


def run(database_url: str | None, folder: object, histories: int) -> None:
    Machine.url, Machine.folder = Settings(store=str(folder), database=database_url).url, folder
    long = settings(
        max_examples=histories,
        stateful_step_count=20,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Machine, settings=long)


def test_a_product_has_the_judge_that_the_page_names(database_url, tmp_path):
    run(database_url, tmp_path, HISTORIES)

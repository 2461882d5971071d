"""A product has the judge that the page names, after any few steps and kills."""

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from flawscope_station.settings.station import Settings
from version_machine import Machine


def test_a_product_has_the_judge_that_the_page_names(tmp_path):
    Machine.url, Machine.folder = Settings(store=str(tmp_path)).url, tmp_path
    short = settings(
        max_examples=12,
        stateful_step_count=12,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Machine, settings=short)

"""Blocks of work spread over threads, and torch's number of threads left as it was."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from flawscope.methods.threads import run_serially, workers
from flawscope.testing.case import torch_threads


@pytest.fixture
def threads():
    """torch with three threads, whatever the machine has; put back afterwards."""
    with torch_threads(3):
        yield 3


def test_results_keep_their_order_in_workers_inside_workers_and_alone(threads):
    with workers() as each:
        found = each(lambda i: (i, torch.is_inference_mode_enabled(), torch.get_num_threads()), range(20))
    assert found == [(i, True, 1) for i in range(20)]

    def inner(i):
        with workers() as each:
            return sum(each(lambda j: i * j, range(4)))

    with workers() as each:
        assert each(inner, range(8)) == [6 * i for i in range(8)]
    assert torch.get_num_threads() == threads
    assert run_serially(lambda: (torch.get_num_threads(), torch.is_inference_mode_enabled())) == (1, True)
    assert run_serially(lambda: 3, "meta") == 3
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_nothing_goes_on_behind_the_callers_back(threads, error):
    with workers() as each:
        each(lambda i: i, range(4))  # they stay
    running, done = threading.active_count(), []

    def work(i):
        if i == 0:
            raise error("stop")
        time.sleep(0.02)
        done.append(i)

    with pytest.raises(error, match="stop"), workers() as each:
        each(work, range(100))
    count = len(done)
    assert count < 20
    time.sleep(0.05)
    assert len(done) == count
    assert torch.get_num_threads() == threads
    assert threading.active_count() == running


def in_fresh_thread(work):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def test_a_thread_that_first_uses_torch_while_others_work_has_all_threads(threads):
    with workers() as each:
        assert in_fresh_thread(torch.get_num_threads) == threads
        each(lambda _: None, range(3))
        assert in_fresh_thread(torch.get_num_threads) == threads
        assert torch.get_num_threads() == threads
    assert in_fresh_thread(torch.get_num_threads) == threads

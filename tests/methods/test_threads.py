from __future__ import annotations

import threading

import pytest
import torch

from flawscope.methods.threads import workers


@pytest.fixture
def threads():
    """torch with three threads, whatever the machine has; put back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)


def test_results_keep_their_order_and_every_thread_is_in_inference_mode(threads):
    with workers() as each:
        found = each(lambda i: (i, torch.is_inference_mode_enabled(), torch.get_num_threads()), range(20))
    assert found == [(i, True, 1) for i in range(20)]


def test_as_many_threads_as_torch_was_given(threads):
    meeting = threading.Barrier(threads, timeout=20)  # passes only when so many run at once
    with workers() as each:
        each(lambda _: meeting.wait(), range(threads))


def test_other_devices_work_serially_and_torch_keeps_its_threads(threads):
    with workers("meta") as each:
        found = each(lambda _: (threading.get_ident(), torch.is_inference_mode_enabled()), range(3))
        assert torch.get_num_threads() == threads
    assert set(found) == {(threading.get_ident(), True)}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_thread_count_and_threads_after_an_error(threads, error):
    running = threading.active_count()

    def work(i):
        if i == 3:
            raise error("stop")
        return i

    with pytest.raises(error), workers() as each:
        each(work, range(1000))
    assert torch.get_num_threads() == threads
    assert threading.active_count() == running


def test_workers_inside_workers(threads):
    def inner(i):
        with workers() as each:
            return sum(each(lambda j: i * j, range(4)))

    with workers() as each:
        assert each(inner, [1]) == [6]
    assert torch.get_num_threads() == threads

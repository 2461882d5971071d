"""Threads in a process that was forked."""

import multiprocessing

import pytest

from flawscope.methods.threads import workers
from flawscope.testing.case import torch_threads


@pytest.fixture
def threads():
    """torch with three threads, whatever the machine has; put back afterwards."""
    with torch_threads(3):
        yield 3


def _spread(queue):
    with workers() as each:
        queue.put(each(lambda i: i * i, range(4)))


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="no fork here: nothing to install"
)
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own(threads):
    with workers() as each:
        each(lambda i: i, range(4))
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_spread, args=(queue,))
    child.start()
    try:
        assert queue.get(timeout=20) == [0, 1, 4, 9]
    finally:
        child.kill()
        child.join()

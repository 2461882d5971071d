"""Queues of a station's threads, which know whether their readers work."""

import threading

from flawscope_station.inspecting.queues import FairQueue, GroupQueue
from flawscope_station.monitoring.background import GuardedThread
from station_helpers import until


def test_a_group_is_what_waits_the_oldest_first():
    queue: GroupQueue[int] = GroupQueue()
    for number in range(5):
        queue.put(number)
    assert queue.take(3) == [0, 1, 2]
    assert len(queue) == 2
    assert queue.take(3) == [3, 4]
    assert queue.take(3, seconds=0.0) == []


def test_who_takes_from_a_queue_works_until_it_asks_again():
    queue: GroupQueue[threading.Event | None] = GroupQueue()
    ended = threading.Event()

    def work() -> None:
        while True:
            (one,) = queue.take(1)
            if one is None:
                break
            one.wait(60)
        ended.set()

    thread = GuardedThread("reader", work, ended, queue=queue)
    thread.start()
    until(lambda: thread.calling_since is None, "it waits")
    for _ in range(2):
        queue.put(going := threading.Event())
        until(lambda: thread.calling_since is not None, "it has something")
        going.set()
        until(lambda: thread.calling_since is None, "it asks again")
    queue.put(None)
    thread.join(60)


def test_a_turn_marks_its_reader_at_each_job():
    queue: FairQueue[str] = FairQueue()
    assert queue.taken_at is None
    for job in ("a", "b"):
        queue.put(1, job)
    assert queue.taken_at is None, "who puts something in does not work"
    queue.pop()
    first = queue.taken_at
    assert first is not None
    queue.pop_same_turn(1, 1)
    assert queue.taken_at is not None
    assert queue.taken_at >= first
    queue.rest()
    assert queue.taken_at is None

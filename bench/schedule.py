"""A schedule of parts on workers, simulated: how long a run takes, what it costs, what is done twice.

The rule is Ray Data's as `flawscope predict --cluster` uses it: every worker that is free takes the next
part; a part whose node is lost is done again by another. Times come from measurements: seconds until the
first part begins, seconds of a picture, seconds of a part beside its pictures.
"""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """What is to be done.

    pictures, part: how many in all, and in a part.
    picture, aside: seconds that a worker takes for a picture, and for a part beside them.
    spread: standard deviation of a part's time, as a share of it.
    start: seconds until the first part begins; listing: seconds of a picture before that.
    dispatch: seconds of the calling process for a part, one part after the other.
    """

    pictures: int
    part: int
    picture: float
    aside: float = 0.0
    spread: float = 0.05
    start: float = 0.0
    listing: float = 0.0
    dispatch: float = 0.0

    @property
    def parts(self) -> int:
        return math.ceil(self.pictures / self.part)

    def seconds(self, index: int) -> float:
        """Of a part, without chance."""
        return self.aside + self.picture * min(self.part, self.pictures - index * self.part)


@dataclass(frozen=True)
class Machines:
    """Who does it.

    workers: on each of so many nodes.
    lost: nodes lost in an hour, for each node; back: seconds until another has taken its place.
    """

    nodes: int
    workers: int = 1
    lost: float = 0.0
    back: float = 0.0


@dataclass(frozen=True)
class Run:
    """What came out: hours, node hours, parts that were begun in vain, nodes that were lost, and what the
    calling process was busy with, as a share of the time."""

    hours: float
    node_hours: float
    repeated: int
    lost: int
    busy: float

    def price(self, an_hour: float) -> float:
        """At the price of a node for an hour."""
        return self.node_hours * an_hour


def simulate(work: Work, machines: Machines, seed: int = 0) -> Run:
    """One run, event by event."""
    rng = random.Random(seed)
    begin = work.start + work.listing * work.pictures
    waiting = list(range(work.parts - 1, -1, -1))
    epoch = [0] * machines.nodes  # rises when a node is lost: what began before does not end
    events: list[tuple[float, int, str, int, int, int]] = []
    down: set[int] = set()
    free_at, number, done, repeated, lost, end = begin, 0, 0, 0, 0, begin

    def push(when: float, what: str, node: int, then: int, part: int) -> None:
        nonlocal number
        number += 1
        heapq.heappush(events, (when, number, what, node, then, part))

    def take(now: float, node: int) -> None:
        """A free worker of a node asks for its next part."""
        nonlocal free_at
        if not waiting:
            return
        part = waiting.pop()
        free_at = max(free_at, now) + work.dispatch
        length = work.seconds(part) * max(0.1, rng.gauss(1.0, work.spread))
        push(free_at + length, "done", node, epoch[node], part)
        running[node].add(part)

    running: list[set[int]] = [set() for _ in range(machines.nodes)]
    for node in range(machines.nodes):
        if machines.lost:
            push(begin + 3600 * rng.expovariate(machines.lost), "lost", node, 0, -1)
        for _ in range(machines.workers):
            take(begin, node)
    while done < work.parts:
        now, _, what, node, then, part = heapq.heappop(events)
        if what == "done" and then == epoch[node]:
            running[node].discard(part)
            done, end = done + 1, now
            take(now, node)
        elif what == "lost":
            lost, repeated = lost + 1, repeated + len(running[node])
            waiting += sorted(running[node], reverse=True)
            running[node].clear()
            epoch[node] += 1
            down.add(node)
            push(now + machines.back, "back", node, epoch[node], -1)
        elif what == "back":
            down.discard(node)
            push(now + 3600 * rng.expovariate(machines.lost), "lost", node, epoch[node], -1)
            for _ in range(machines.workers):
                take(now, node)
        if waiting and what == "lost":  # others may be idle
            for other in range(machines.nodes):
                for _ in range(machines.workers - len(running[other])):
                    if other not in down:
                        take(now, other)
    hours = end / 3600
    return Run(hours, hours * machines.nodes, repeated, lost, work.dispatch * work.parts / max(end, 1e-9))

"""Clusters for the tests: Ray's own, with several nodes as processes of this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

STORE = 100 * 2**20  # bytes of shared memory that each node sets aside


@pytest.fixture
def clusters() -> Iterator[Callable[..., Any]]:
    """`clusters(2)`: a `ray.cluster_utils.Cluster` with a head that takes no tasks and two nodes of one core.
    Its `address` is what `--cluster` takes. `add_node` and `remove_node` are Ray's."""
    from ray.cluster_utils import Cluster

    made: list[Any] = []

    def make(nodes: int, cpus: int = 1, **more: Any) -> Any:
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False},
        )
        made.append(cluster)
        for _ in range(nodes):
            cluster.add_node(num_cpus=cpus, object_store_memory=STORE, **more)
        cluster.wait_for_nodes()
        return cluster

    yield make
    for cluster in made:
        cluster.shutdown()

"""A cluster for the tests: Ray's own, with several nodes as processes of this machine."""

import shutil
import socket
import time
from typing import Any

import pytest

from flawscope.synthesis.demo.dataset import draw_dataset

STORE = 100 * 2**20  # bytes of shared memory that each node sets aside


class Nodes:
    """A head that takes no tasks, with a server for clients, and nodes of one core.

    Attributes:
        address, client: what `--cluster` takes.
        workers: the nodes.
    """

    def __init__(self):
        from ray.cluster_utils import Cluster

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False}
        self.ray = Cluster(initialize_head=True, head_node_args={**head, "ray_client_server_port": port})
        self.address, self.client = self.ray.address, f"ray://127.0.0.1:{port}"
        self.workers: list[Any] = []
        self.restore(1)

    def lose(self, node=None):
        """A node, the first one if none is named, at once and with all that runs on it. `restore` it."""
        lost = node or self.workers[0]
        self.workers.remove(lost)
        self.ray.remove_node(lost, allow_graceful=False)

    def restore(self, count=2):
        """Nodes join until there are so many. Ray wants this in the main thread."""
        while len(self.workers) < count:
            self.workers.append(self.ray.add_node(num_cpus=1, object_store_memory=STORE))
        self.ray.wait_for_nodes()

    def processes(self, title="", node=None):
        """The numbers of processes whose title holds these words, on one node or all."""
        import psutil

        found = []
        for one in [node] if node else self.ray.list_all_nodes():
            raylet = psutil.Process(one.all_processes["raylet"][0].process.pid)
            for process in raylet.children(recursive=True):
                try:
                    if title in " ".join(process.cmdline()):
                        found.append(process.pid)
                except psutil.Error:  # it has ended
                    continue
        return sorted(found)

    @staticmethod
    def until(ready, seconds=300):
        """What `ready` gives as soon as it is something."""
        deadline = time.monotonic() + seconds
        while not (found := ready()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return found


@pytest.fixture(scope="module")
def one_node():
    """A cluster of one node at least; kept longer, it would take a twentieth of a core for nothing."""
    made = Nodes()
    yield made
    made.ray.shutdown()


@pytest.fixture(scope="module")
def cluster(one_node):
    """One of two nodes: who loses a node restores it."""
    one_node.restore()
    return one_node


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Root with "plate", of which a picture is torn, and "broken", whose pictures cannot be read."""
    root = tmp_path_factory.mktemp("two")
    draw_dataset(root, category="plate", train=6, good=3, bad_per_kind=1, size=64, seed=2)
    (root / "plate/train/good/torn.png").write_bytes(b"no picture")
    shutil.copytree(root / "plate", root / "broken")
    for path in (root / "broken/train/good").iterdir():
        path.write_bytes(b"no picture")
    return root

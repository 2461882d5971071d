"""A fit in parts on the nodes of a cluster gives what one process gives that takes the parts in turn."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flawscope.cli import main
from flawscope.cluster import connect
from flawscope.errors import InputError
from flawscope.predictor import load

pytest.importorskip("ray")

COUNT = 40


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty noisy pictures with a square; two that are copies of earlier ones, and one that is broken."""
    root = tmp_path_factory.mktemp("data") / "square"
    good, rng = root / "train" / "good", np.random.default_rng(0)
    good.mkdir(parents=True)
    for k in range(COUNT):
        pixels = (rng.random((96, 96, 3)) * 60 + 90).astype(np.uint8)
        pixels[30:60, 30:60] = 200
        Image.fromarray(pixels).save(good / f"{k:03}.png")
    shutil.copy(good / "003.png", good / "025.png")  # of a part's picture in a later part
    shutil.copy(good / "026.png", good / "027.png")
    (good / "035.png").write_bytes(b"no picture")
    return root


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """Two nodes of one core each."""
    from ray.cluster_utils import Cluster

    store = 100 * 2**20
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": store, "include_dashboard": False},
    )
    for _ in range(2):
        cluster.add_node(num_cpus=1, object_store_memory=store)
    yield cluster
    cluster.shutdown()


def same(a: Path, b: Path) -> None:
    """Banks, radii, calibration, settings and pictures are equal, and so is every other tensor."""
    one, other = load(a).artefact, load(b).artefact
    assert one.tensors.keys() == other.tensors.keys()
    for name, values in one.tensors.items():
        assert values.tobytes() == other.tensors[name].tobytes(), name
    for name in ("calibration", "config", "pictures", "notes", "fusion", "samples"):
        assert getattr(one.manifest, name) == getattr(other.manifest, name), name
    for fact in ("bank", "patches", "covering_radius", "shards", "calibration_pictures", "suspicious_above"):
        assert one.manifest.facts[fact] == other.manifest.facts[fact], fact


def fit(root: Path, out: Path, *more: str) -> int:
    return main(
        ["fit", "--data", str(root), "--out", str(out), "--size", "64+96", "--quiet", "--no-check", *more]
    )


def test_the_model_is_that_of_one_machine(root: Path, nodes: Any, tmp_path: Path) -> None:
    here, there = tmp_path / "here.safetensors", tmp_path / "there.safetensors"
    assert fit(root, here, "--set", "shards=4") == 1  # a picture was skipped
    assert fit(root, there, "--set", "shards=4", "--cluster", nodes.address) == 1
    same(here, there)
    again = tmp_path / "again.safetensors"
    more = tmp_path / "more" / "good"
    shutil.copytree(root / "train" / "good", more)
    for path in sorted(more.iterdir())[:20]:
        path.unlink()
    update = ["fit", "--data", str(more.parent), "--update", str(there), "--quiet", "--no-check"]
    assert main([*update, "--out", str(again), "--cluster", nodes.address]) == 2  # they are all known


def test_shards_follow_the_workers_and_are_kept(root: Path, nodes: Any, tmp_path: Path) -> None:
    here, there = tmp_path / "here.safetensors", tmp_path / "there.safetensors"
    assert fit(root, there, "--cluster", nodes.address) == 1
    manifest = load(there).manifest
    assert manifest.config["shards"] == manifest.facts["shards"] == 2
    assert fit(root, here, "--set", "shards=2") == 1
    same(here, there)


def test_tiles_and_groups_too(root: Path, nodes: Any, tmp_path: Path) -> None:
    here, there = tmp_path / "here.safetensors", tmp_path / "there.safetensors"
    more = ("--set", "shards=3", "--tile", "64", "--group", "^(..)")
    assert fit(root, here, *more) == 1
    assert fit(root, there, *more, "--cluster", nodes.address) == 1
    same(here, there)


def test_a_lost_node_costs_time_only(root: Path, nodes: Any, tmp_path: Path) -> None:
    here, there = tmp_path / "here.safetensors", tmp_path / "there.safetensors"
    lost = nodes.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    nodes.wait_for_nodes()

    def lose() -> None:
        time.sleep(2.5)  # while the parts are worked on
        nodes.remove_node(lost, allow_graceful=False)

    thread = threading.Thread(target=lose)
    thread.start()
    assert fit(root, there, "--set", "shards=9", "--cluster", nodes.address) == 1
    thread.join()
    assert fit(root, here, "--set", "shards=9") == 1
    same(here, there)


def test_what_does_not_go_is_said_in_a_line(
    root: Path, nodes: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model.safetensors"

    def line(*more: str) -> str:
        assert fit(root, out, *more) == 2
        return capfd.readouterr().err.strip().splitlines()[-1]

    address = nodes.address
    assert "write auto" in line("--cluster", "nowhere")
    assert "cannot connect" in line("--cluster", "127.0.0.1:9")
    assert "one machine" in line("--cluster", address, "--tile", "64", "--positions", "each")
    assert "--threads 1 or less" in line("--cluster", address, "--threads", "64")
    assert "write 40 or less" in line("--set", "shards=41")
    assert "shards must be at least 1" in line("--set", "shards=0")
    with connect.connected(address), pytest.raises(InputError, match=r"does not see .*nothing: share it"):
        connect.require_shared(tmp_path / "nothing", "share it")
    with connect.connected(address):
        assert [node.cpus for node in connect.nodes()] == [1.0, 1.0]

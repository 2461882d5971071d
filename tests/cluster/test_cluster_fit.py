"""A fit in parts on the nodes of a cluster gives what one process gives that takes the parts in turn."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flawscope.cli import main
from flawscope.cluster import connect
from flawscope.cluster.tasks import PartWorkers, _run_part
from flawscope.errors import FlawscopeError, InputError
from flawscope.predictor import load

ray = pytest.importorskip("ray")

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


def test_the_model_is_that_of_one_machine_though_a_node_is_lost(
    root: Path, cluster: Any, tmp_path: Path
) -> None:
    here, there = tmp_path / "here.safetensors", tmp_path / "there.safetensors"
    lost: list[Any] = []

    def lose() -> None:
        """A node that works on a part."""
        node = cluster.workers[1]
        lost.extend(cluster.until(lambda: cluster.processes("ray::_run_part", node)))
        cluster.lose(node)

    thread = threading.Thread(target=lose)
    thread.start()
    assert fit(root, there, "--set", "shards=6", "--cluster", cluster.address) == 1  # a picture was skipped
    thread.join()
    cluster.restore()
    assert lost
    assert fit(root, here, "--set", "shards=6") == 1
    same(here, there)
    again = tmp_path / "again.safetensors"
    more = tmp_path / "more" / "good"
    shutil.copytree(root / "train" / "good", more)
    for path in sorted(more.iterdir())[:36]:
        path.unlink()
    update = ["fit", "--data", str(more.parent), "--update", str(there), "--quiet", "--no-check"]
    assert main([*update, "--out", str(again), "--cluster", cluster.address]) == 2  # they are all known


def test_with_tiles_and_groups_too_and_shards_follow_the_workers(
    root: Path, cluster: Any, tmp_path: Path
) -> None:
    here, there = tmp_path / "here.safetensors", tmp_path / "there.safetensors"
    more = ("--tile", "64", "--size", "64", "--group", "^(..)")
    assert fit(root, there, *more, "--cluster", cluster.address) == 1
    manifest = load(there).manifest
    assert manifest.config["shards"] == manifest.facts["shards"] == 2
    assert fit(root, here, *more, "--set", "shards=2") == 1
    same(here, there)


def test_what_does_not_go_is_said_in_a_line(
    root: Path, cluster: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model.safetensors"

    def line(*more: str) -> str:
        assert fit(root, out, *more) == 2
        return capfd.readouterr().err.strip().splitlines()[-1]

    address = cluster.address
    assert "write auto" in line("--cluster", "nowhere")
    assert "cannot connect" in line("--cluster", "127.0.0.1:9")
    assert "one machine" in line("--cluster", address, "--tile", "64", "--positions", "each")
    assert "--threads 1 or fewer" in line("--cluster", address, "--threads", "64")
    assert "processors fit this method" in line("--cluster", address, "--device", "cuda")
    assert "write 40 or less" in line("--set", "shards=41")
    assert "shards must be at least 1" in line("--set", "shards=0")
    with connect.cluster_connection(address), pytest.raises(InputError, match="nothing: share it"):
        connect.require_shared(tmp_path / "nothing", "share it")

    def starve(held: bytes, part: int) -> None:
        raise MemoryError

    with connect.cluster_connection(address):
        assert [node.cpus for node in connect.list_nodes()] == [1.0, 1.0]
        with pytest.raises(FlawscopeError, match="not enough memory: choose a smaller size"):
            next(PartWorkers().map(starve, b"", [0]))
    lost = pytest.raises(FlawscopeError, match="the cluster was lost: ")
    with lost, connect.cluster_connection(address):
        raise ray.exceptions.WorkerCrashedError
    with pytest.raises(InputError, match="this command 0: install the same there"):
        _run_part(lambda held, part: held, b"", 0, 1, "0", ".")

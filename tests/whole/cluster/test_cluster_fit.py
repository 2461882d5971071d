"""`fit --cluster` of one category: the model of one machine, fitted whole by a task."""

import os
import threading

import numpy as np
import pytest
import ray

from flawscope.artefact import model_file
from flawscope.cli import main
from flawscope.cluster import connect
from flawscope.errors import FlawscopeError, InputError
from small_network import SMALL_FLAGS


def fit(two, out, *more):
    call = ["fit", "--data", str(two), "--category", "plate", "--out", str(out), "--size", "64", *SMALL_FLAGS]
    return main([*call, "--threads", "1", "--no-check", *more])


def test_the_model_is_that_of_one_machine_though_a_node_is_lost(two, cluster, tmp_path, capsys):
    here, there = tmp_path / "here.safetensors", tmp_path / "there.safetensors"
    lost = []

    def lose():
        """The node that fits."""

        def working():
            return next((n for n in cluster.workers if cluster.processes("ray::plate", n)), None)

        lost.append(cluster.until(working))
        cluster.lose(lost[0])

    thread = threading.Thread(target=lose)
    thread.start()
    assert fit(two, there, "--cluster", cluster.address) == 1  # a picture was skipped
    thread.join()
    cluster.restore()
    assert lost
    said = capsys.readouterr().err
    assert "1 fit at a time" in said
    assert "plate: 7 good pictures" in said
    assert "torn.png" in said
    assert fit(two, here, "--device", "cpu") == 1
    ours, theirs = model_file.read(there), model_file.read(here)
    assert ours.manifest.calibration == theirs.manifest.calibration
    assert ours.manifest.config == theirs.manifest.config
    assert ours.tensors.keys() == theirs.tensors.keys()
    assert all(np.array_equal(ours.tensors[k], theirs.tensors[k]) for k in ours.tensors)
    assert sorted(os.listdir(tmp_path)) == ["here.safetensors", "there.safetensors"]


def test_what_does_not_go_is_said_in_a_line(two, cluster, tmp_path, capfd):
    out = tmp_path / "model.safetensors"

    def line(*more):
        assert fit(two, out, "--quiet", *more) == 2
        return capfd.readouterr().err.strip().splitlines()[-1]

    address = cluster.address
    assert "write auto" in line("--cluster", "nowhere")
    assert "cannot connect" in line("--cluster", "127.0.0.1:9")
    assert "--threads 1 or fewer" in line("--cluster", address, "--threads", "64")
    assert "no node of the cluster has a graphics card" in line("--cluster", address, "--device", "cuda")
    assert "cannot read picture" in line("--cluster", address, "--category", "broken")
    assert not out.exists()
    update = ["fit", "--data", str(two / "plate"), "--update", str(out), "--out", str(out), "--quiet"]
    assert main([*update, "--cluster", address]) == 2
    assert "--update adds to a model on this machine: leave out --cluster" in capfd.readouterr().err
    with connect.cluster_connection(address), pytest.raises(InputError, match="nothing: share it"):
        connect.require_shared(tmp_path / "nothing", "share it")
    with connect.cluster_connection(address):
        assert [node.cpus for node in connect.list_nodes()] == [1.0, 1.0]
    lost = pytest.raises(FlawscopeError, match="the cluster was lost: ")
    with lost, connect.cluster_connection(address):
        raise ray.exceptions.WorkerCrashedError

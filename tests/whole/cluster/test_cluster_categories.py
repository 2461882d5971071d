"""`fit --category a,b --cluster`: the models of one machine, each fitted by a task."""

import os
import re

import numpy as np

from flawscope.artefact import model_file
from flawscope.cli import main

# of a manifest's facts, what depends on when and where a model was fitted
PASSING = {"seconds", "seconds_total", "seconds_view", "memory_peak", "memory_predicted", "summary"}


def manifest(model):
    facts = {k: v for k, v in model.manifest.facts.items() if k not in PASSING}
    return {**vars(model.manifest), "facts": facts}


def at_the_end(said):
    """The lines of the table, without the times, and what was skipped."""
    lines = said.splitlines()
    table = lines[next(i for i, line in enumerate(lines) if line.startswith("category  model")) :]
    return [re.sub(r"\s+[\d.]+ (s|min)( \d+ s)?$|\s+time$|\s+-+$", "", line) for line in table]


def test_models_are_those_of_one_machine(two, cluster, tmp_path, capsys):
    def fit(out, *more):
        call = ["fit", "--data", str(two), "--category", "all", "--out", str(out), "--size", "64"]
        code = main([*call, "--device", "cpu", "--threads", "1", "--no-check", *more])
        return code, capsys.readouterr().err

    out, plain = tmp_path / "cluster", tmp_path / "plain"
    code, said = fit(out, "--cluster", cluster.address)
    alone, told = fit(plain)
    assert (code, alone) == (1, 1)
    assert sorted(os.listdir(out)) == ["plate.safetensors"]
    assert "2 fits at a time on 2 nodes, 1 thread each, 0." in said
    assert "broken: failed: " in said
    assert "cannot read picture" in said
    assert at_the_end(said) == at_the_end(told)
    for name in os.listdir(out):
        ours, theirs = model_file.read(out / name), model_file.read(plain / name)
        assert manifest(ours) == manifest(theirs)
        assert ours.tensors.keys() == theirs.tensors.keys()
        assert all(np.array_equal(ours.tensors[k], theirs.tensors[k]) for k in ours.tensors)

    there = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    nobody = "127.0.0.1:1"  # is asked for what is there already
    code, said = fit(out, "--cluster", nobody, "--category", "plate,", "--resume")
    assert code == 0
    assert "plate: kept, it is there already" in said
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == there

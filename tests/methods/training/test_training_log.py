"""The log of a training: every step once, however often it was interrupted."""

import csv

import numpy as np
import pytest
import torch
from test_training import Line, run, stop_after

from flawscope.methods.task import Budget
from flawscope.methods.training.log import TrainingLog
from flawscope.methods.training.state import learning_rate_share
from flawscope.methods.training.state_file import read_checkpoint


def rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        return [*csv.DictReader(file)]


def test_every_step_has_a_row_with_its_losses_rate_and_time(tmp_path):
    trainer = Line(steps=150, schedule="one_cycle")
    trainer.learn(Budget(checkpoint=tmp_path / "part.checkpoint.safetensors"), None, {})
    found = rows(tmp_path / "part.training.csv")
    assert [int(row["step"]) for row in found] == [*range(1, 151)]
    largest = trainer.settings.rate
    rates = [largest * learning_rate_share("one_cycle", k, 150) for k in range(150)]
    assert [float(row["rate"]) for row in found] == pytest.approx(rates, rel=1e-5)
    seconds = [float(row["seconds"]) for row in found]
    assert seconds == sorted(seconds)
    # the trainer's own curve has the means between its points
    ends = [0, *(int(point["step"]) for point in trainer.curve)]
    for start, end, point in zip(ends, ends[1:], trainer.curve, strict=False):
        mean = np.mean([float(row["loss"]) for row in found[start:end]])
        assert mean == pytest.approx(point["loss"], rel=1e-4)


@pytest.mark.parametrize("stop", [2, 5])
def test_a_resumed_log_has_no_step_twice(tmp_path, stop):
    """What the interrupted run did after its checkpoint is done, and logged, again."""
    path, log = tmp_path / "c.checkpoint.safetensors", tmp_path / "c.training.csv"
    run(Line(steps=9), tmp_path / "whole.checkpoint.safetensors")
    with pytest.raises(KeyboardInterrupt):
        run(Line(steps=9, step=stop_after(stop)), path, seed=0)
    assert [row["step"] for row in rows(log)] == [str(k) for k in range(1, stop + 1)]
    with open(log, "a", encoding="utf-8") as file:
        file.write("7,0.5,0.1,3.0\n8,0.")  # of later steps, the last one cut off
    found = read_checkpoint(path)
    resumed = Line(steps=9)
    resumed.learn(Budget(checkpoint=path, checkpoint_interval=1e9), found, {"seed": 0})
    mine, theirs = rows(log), rows(tmp_path / "whole.training.csv")
    assert [row["step"] for row in mine] == [str(k) for k in range(1, 10)]
    assert [(row["loss"], row["rate"]) for row in mine] == [(row["loss"], row["rate"]) for row in theirs]


def test_parts_of_the_loss_and_what_is_measured_have_columns(tmp_path):
    log = TrainingLog(tmp_path / "x.csv", ("hard", "soft"), ("held_out",))
    for step in (1, 2):
        log.add(step, torch.tensor([1.0, step]), 0.1, 0.5 * step)
    log.measure({"held_out": 0.25})
    log.close()
    first, second = rows(tmp_path / "x.csv")
    assert (first["loss"], first["hard"], first["soft"], first["held_out"]) == ("2", "1", "1", "")
    assert (second["loss"], second["soft"], second["held_out"]) == ("3", "2", "0.25")

"""What a folder of results knows of its run; how a run is cut into shards, and what its tasks refuse."""

import io
import itertools
import os
import signal
import sys

import pytest

from flawscope.cluster import listing, predict, shards
from flawscope.cluster.connect import cluster_connection
from flawscope.cluster.listing import FileStore
from flawscope.cluster.predict import MAX_SHARDS, SHARD_SIZE, SHARDS_PER_WORKER, judge_shards, shard_size
from flawscope.cluster.shards import Job, Run, judge_shard
from flawscope.errors import FlawscopeError, InputError

CALL = {"model": ["0"], "pictures": ["pictures"], "device": "auto", "folder": ""}


@pytest.fixture
def store(tmp_path):
    """Of results, beside twenty pictures; a run of five shards."""
    (tmp_path / "pictures").mkdir()
    for k in range(20):
        (tmp_path / f"pictures/{k}.png").touch()
    made = FileStore(str(tmp_path / "out"))
    Run(CALL, listing.write([str(tmp_path / "pictures")], made), 4, "cpu").write(made)
    return made


def test_a_run_goes_on_with_the_missing_shards_of_its_own_listing(store, tmp_path):
    (tmp_path / "pictures/later.png").touch()  # is not of this run
    store.write(shards.shard_path(3), b"")
    store.write(f"{shards.PARTS_FOLDER}/.part-000001.parquet.part", b"")
    run = predict._read_earlier_run(store, CALL, None)
    assert run
    missing = run.missing_shards(store)
    assert (run.shards, missing, run.count_inputs(missing)) == (5, [0, 1, 2, 4], 16)
    steps = []
    # the time left is of these alone
    predict._report_progress(iter([4, 4]), 16, lambda *given: steps.append(given))
    assert [step[1:] for step in steps] == [(4, 16), (8, 16)]


def test_another_run_may_not_have_the_folder(store, tmp_path):
    with pytest.raises(InputError, match="holds a run with another device"):
        predict._read_earlier_run(store, {**CALL, "device": "cuda"}, None)
    paths, other = f"{tmp_path}/pictures/1.png\n".encode(), FileStore(str(tmp_path / "other"))
    Run(CALL, listing.write(["-"], other, io.BytesIO(paths)), 4, "cpu").write(other)
    assert predict._read_earlier_run(other, CALL, io.BytesIO(paths))
    with pytest.raises(InputError, match="holds a run with another list of paths on stdin"):
        predict._read_earlier_run(other, CALL, io.BytesIO(paths * 2))
    other.write("run.json", b"{}")
    with pytest.raises(InputError, match="is not of a run on a cluster"):
        predict._read_earlier_run(other, CALL, None)
    third = FileStore(str(tmp_path / "third"))
    assert predict._read_earlier_run(third, CALL, None) is None
    third.write("parts/a", b"")
    with pytest.raises(InputError, match="parts is there already, and not of a run on a cluster"):
        predict._read_earlier_run(third, CALL, None)


def test_a_damaged_part_is_named(store):
    store.write(shards.shard_path(2), b"PAR1 and no more")
    with pytest.raises(FlawscopeError, match=r"part-000002\.parquet is damaged .*: remove it"):
        shards.read_shard(store, 2)


def test_a_node_that_does_not_see_what_it_needs_says_so(store, tmp_path):
    def wrong(out=str(store.root), **more):
        with pytest.raises(InputError) as error:
            judge_shard(Job(out, "", "", None, **more), 0)
        return str(error.value)

    assert f"does not see {tmp_path}: give an --out" in wrong(str(tmp_path))
    assert "this command 0: install the same there" in wrong(version="0")
    (tmp_path / "pictures").rename(tmp_path / "far")
    assert "put the pictures where all nodes reach them" in wrong()


def deadly(job, shard):
    if shard == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return 4


def test_a_part_that_ends_every_process_is_not_tried_forever(store, cluster, tmp_path, monkeypatch):
    import ray

    monkeypatch.setattr(shards, "judge_shard", deadly)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not know this folder
    counts = judge_shards(Job(str(store.root), "", "", None), range(5), {"num_cpus": 1})
    with (
        cluster_connection(cluster.address),
        pytest.raises(FlawscopeError, match="processes that judge part 1 end again and again: ") as error,
    ):
        predict._report_progress(counts, 20, lambda *given: None)
    assert f"a picture from {tmp_path}/pictures/4.png to {tmp_path}/pictures/7.png" in str(error.value)


def test_each_worker_has_something_to_do_and_shards_are_not_too_many():
    counts = (1, 7, 100, 2_000, 17_000, 100_000, 1_000_000, 10_000_000)
    for inputs, workers, batch in itertools.product(counts, (1, 2, 4, 64, 256, 1_024, 5_000), (1, 8, 32)):
        size = shard_size(inputs, workers, batch)
        made = -(-inputs // size)
        assert size % batch == 0
        assert size >= 1
        assert -(-made // workers) * size < 2 * (inputs / workers + batch)  # the longest that one works
        assert made <= max(workers, MAX_SHARDS)
        if workers * SHARDS_PER_WORKER * batch <= inputs <= SHARD_SIZE * MAX_SHARDS // 2:
            assert size <= SHARD_SIZE + batch
    assert shard_size(2_000, 4, 8) == 24
    assert shard_size(1_000_000, 4, 8) == SHARD_SIZE
    assert shard_size(10_000_000, 16, 8) == 5_000

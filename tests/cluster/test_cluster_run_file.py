"""What a folder of results knows of its run; how a run is cut into shards, and what its tasks refuse."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")
pytest.importorskip("pyarrow")
pytest.importorskip("fsspec")

from flawscope.cluster import shards
from flawscope.cluster.connect import connected
from flawscope.cluster.listing import Store
from flawscope.cluster.predict import EACH, MOST, PART, Run, _follow, _written, judged, shard_size
from flawscope.cluster.shards import Job, Judging, Model, Summary
from flawscope.errors import FlawscopeError, InputError

CALL = {"model": ["0"], "pictures": ["pictures"], "device": "auto"}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Of results, in a folder beside twenty pictures."""
    monkeypatch.chdir(tmp_path)
    Path("pictures").mkdir()
    for k in range(20):
        Path(f"pictures/{k}.png").touch()
    return Store(str(tmp_path / "out"))


def opened(store: Store, pictures: str | Path = "pictures", **changed: Any) -> Run:
    return Run.opened(store, {**CALL, **changed}, [str(pictures)], None)


def job_of(run: Run, **more: Any) -> Job:
    return Job(run.store.root, "", Model("", "", None), 4, run.listing.inputs, "cpu", 1, **more)


def test_before_the_first_part_another_call_may_have_the_folder_and_after_it_the_same_alone(
    store: Store,
) -> None:
    opened(store)
    Path("pictures/new.png").touch()
    run = opened(store, device="cuda")
    assert run.listing.inputs == 21
    run.fix(4, 0)
    assert run.shards == 6
    Path("pictures/newer.png").touch()  # later pictures are not of this run
    again = opened(store, device="cuda")
    assert (again.listing, again.size, again.device) == (run.listing, 4, "cpu")
    again.fix(9, 0)
    assert again.size == 4
    with pytest.raises(InputError, match="was begun on cpu, and this cluster's workers have cuda"):
        again.fix(4, 1)
    with pytest.raises(InputError, match="holds a run with another device"):
        opened(store)
    store.write("run.json", b"{}")
    with pytest.raises(InputError, match="is not of a run on a cluster"):
        opened(store)


def test_a_run_goes_on_with_the_shards_that_are_missing_and_counts_them_alone(store: Store) -> None:
    """Those that were there would make the time that is left too short."""
    run = opened(store)
    run.fix(4, 0)
    store.write(shards.name(0), shards.packed([], Summary(4, judged=4)))
    said: list[str] = []
    done = _written(run, said.append)
    assert done == {0: Summary(4, judged=4)}
    assert said == ["1 of 5 parts are there: the others are judged"]
    steps: list[tuple[str, int, int]] = []
    found = ((shard, Summary(4, judged=4)) for shard in (3, 1, 2, 4))
    _follow(found, done, run.listing.inputs, lambda *given: steps.append(given))
    assert [step[1:] for step in steps] == [(4, 16), (8, 16), (12, 16), (16, 16)]
    assert sorted(done) == [0, 1, 2, 3, 4]


def deadly(job: Job, shard: int) -> Summary:
    if shard == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return Summary(4)


def test_a_part_that_ends_every_process_is_not_tried_forever(
    store: Store, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    run = opened(store, tmp_path / "pictures")
    monkeypatch.setattr(shards, "judge", deadly)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not know this folder
    done: dict[int, Summary] = {}
    with (
        connected(cluster.address),
        pytest.raises(FlawscopeError, match="processes that judge part 1 end again and again: ") as error,
    ):
        _follow(judged(job_of(run), range(5), {"num_cpus": 1}), done, 20, lambda *given: None)
    assert f"a picture from {tmp_path}/pictures/4.png to {tmp_path}/pictures/7.png" in str(error.value)
    assert 1 not in done


def test_relative_paths_need_the_folder_on_the_node(store: Store, tmp_path: Path) -> None:
    judging = Judging.__new__(Judging)
    judging.job, judging.store = job_of(opened(store), folder=str(tmp_path / "far")), store
    judging.placed = False
    with pytest.raises(InputError, match=f"does not see {tmp_path}/far, where relative paths begin"):
        judging.entries(0)
    opened(store, tmp_path / "pictures")
    assert len(judging.entries(0)) == 4


def test_each_worker_has_something_to_do_and_shards_are_not_too_many() -> None:
    counts = (1, 7, 100, 2_000, 17_000, 100_000, 1_000_000, 10_000_000)
    crowds = (1, 2, 4, 64, 256, 700, 1_024, 1_500, 5_000)
    for inputs, workers, batch in itertools.product(counts, crowds, (1, 8, 32)):
        size = shard_size(inputs, workers, batch)
        made = -(-inputs // size)
        assert size % batch == 0
        assert size >= 1
        assert made >= min(workers, -(-inputs // batch)) or size == batch
        assert made <= max(workers * 3 // 2, MOST * 3 // 2)
        if workers * EACH * batch <= inputs <= PART * MOST // 2:
            assert size <= PART + batch
    assert shard_size(2_000, 4, 8) == 24
    assert shard_size(1_000_000, 4, 8) == PART
    assert shard_size(10_000_000, 16, 8) == 5_000
    assert shard_size(1_000_000, 1_024, 8) == 496  # two shards for each

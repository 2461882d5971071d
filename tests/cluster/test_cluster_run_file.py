"""What a folder of results knows of its run, where two commands share it; how a run is cut into parts."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("fsspec")

from flawscope.cluster import flow
from flawscope.cluster import manifest as listing
from flawscope.cluster import shards as parts
from flawscope.cluster.model_transfer import Sent
from flawscope.cluster.predict import EACH, MOST, PART, _Tally, part_size
from flawscope.cluster.run_file import RunFile
from flawscope.cluster.shards import Job, Judge, Summary, Told
from flawscope.cluster.store import Store
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


def listed(store: Store, call: dict[str, Any] | None = None) -> RunFile:
    run = RunFile.begun(store, call or CALL)
    run.list(["pictures"], None)
    return run


# ------------------------------------------------------------------------------------------- two commands


def test_two_commands_that_begin_together_agree_on_the_parts(store: Store) -> None:
    """As where one has been given twice, on clusters of other sizes."""
    first, second = RunFile.begun(store, CALL), RunFile.begun(store, CALL)
    first.list(["pictures"], None)
    first.fix(4, 0)
    second.list(["pictures"], None)
    assert (second.size, second.listing) == (4, first.listing)
    third, fourth = listed(Store(f"{store.url}-2")), listed(Store(f"{store.url}-2"))
    third.fix(4, 0)
    fourth.fix(8, 0)
    assert fourth.size == third.size == RunFile.begun(third.store, CALL).size == 4


def test_of_two_other_commands_the_later_one_is_refused(store: Store) -> None:
    first = RunFile.begun(store, CALL)
    RunFile.begun(store, {**CALL, "device": "cuda"})  # nothing has been judged: it may have the folder
    with pytest.raises(InputError, match="holds a run with another device"):
        first.list(["pictures"], None)
    first = RunFile.begun(store, CALL)
    second = listed(store)
    Path("pictures/new.png").touch()
    with pytest.raises(InputError, match="began there in the same moment, with other pictures"):
        first.list(["pictures"], None)
    second.fix(4, 0)
    with pytest.raises(InputError, match="holds a run with another device"):
        RunFile.begun(store, {**CALL, "device": "cuda"})


def test_a_listing_that_is_written_again_is_always_there(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers of another process of the same call may read it."""
    monkeypatch.setattr(listing, "FILE", 5)
    listing.write(["pictures"], store)
    before = {*store.names(listing.FOLDER)}
    missing: list[set[str]] = []
    write = Store.write

    def watched(self: Store, name: str, data: bytes) -> None:
        missing.append(before - {*self.names(listing.FOLDER)})
        write(self, name, data)

    monkeypatch.setattr(Store, "write", watched)
    listing.write(["pictures"], store)
    assert missing == [set()] * 4
    for path in sorted(Path("pictures").iterdir())[7:]:
        path.unlink()
    listing.write(["pictures"], store)
    assert sorted(store.names(listing.FOLDER)) == sorted(before)[:2]


def test_parts_of_another_size_are_not_taken_for_ours(store: Store) -> None:
    run = listed(store)
    run.fix(4, 0)
    store.write(parts.name(2), parts._packed([], Summary(4, inputs=4, judged=4)))
    store.write(parts.name(3), parts._packed([], Summary(5, inputs=4, judged=4)))
    assert parts.read(store, 2, 4)[0].judged == 4
    with pytest.raises(
        FlawscopeError, match=r"part-000003\.parquet is of parts of 5 pictures.* have 4: remove"
    ):
        _Tally(run, lambda *given: None).begin(lambda line: None)


# -------------------------------------------------------------------------------------------------- a worker


class Fallible(Judge):
    """Judges nothing, and loses its process in this part."""

    def __init__(self, job: Job, deadly: int = -1):
        self.job, self.store, self.placed, self.again = job, Store(job.out), False, True
        self.unfit, self.deadly = None, deadly

    def _judge(self, part: int) -> Summary:
        if part == self.deadly:
            raise SystemExit
        return Summary(self.job.size, inputs=len(self._entries(part)))


def job_of(run: RunFile, **more: Any) -> Job:
    made = Job(run.store.root, "", Sent((), (), ()), 4, run.listing.inputs, "cpu", 1)
    return replace(made, **more)


def test_a_part_that_ends_every_process_is_not_tried_forever(store: Store, tmp_path: Path) -> None:
    run = listed(store, {**CALL, "pictures": [str(tmp_path / "pictures")]})
    run.listing = listing.write([str(tmp_path / "pictures")], store)
    for _ in range(parts.RETRIES):
        worker = Fallible(job_of(run), deadly=1)
        with pytest.raises(SystemExit):
            worker({"part": [1]})
    told = Fallible(job_of(run), deadly=1)({"part": [1]})
    assert "processes that judge part 1 end again and again: a picture from " in told["error"][0]
    assert f"{tmp_path}/pictures/4.png to {tmp_path}/pictures/7.png" in told["error"][0]
    assert told["wrong"] == [False]
    # of others, which a lost process had begun, nothing is left
    with pytest.raises(SystemExit):
        Fallible(job_of(run), deadly=2)({"part": [2]})
    assert Fallible(job_of(run))({"part": [2]})["inputs"] == [4]
    assert {name[:11] for name in store.names(parts.TRIES)} == {"part-000001"}


def test_relative_paths_need_the_folder_on_the_node(store: Store, tmp_path: Path) -> None:
    run = listed(store)
    told = Fallible(job_of(run, folder=str(tmp_path / "far")))({"part": [0]})
    assert f"does not see {tmp_path}/far, where relative paths begin" in told["error"][0]
    assert told["wrong"] == [True]
    run.listing = listing.write([str(tmp_path / "pictures")], store)
    assert Fallible(job_of(run))({"part": [0]})["inputs"] == [4]


# ---------------------------------------------------------------------------------------------------- parts


def test_each_worker_has_something_to_do_and_parts_are_not_too_many() -> None:
    counts = (1, 7, 100, 2_000, 17_000, 100_000, 1_000_000, 10_000_000)
    crowds = (1, 2, 4, 64, 256, 700, 1_024, 1_500, 5_000)
    for inputs, workers, batch in itertools.product(counts, crowds, (1, 8, 32)):
        size = part_size(inputs, workers, batch)
        made = -(-inputs // size)
        assert size % batch == 0
        assert size >= 1
        assert made >= min(workers, -(-inputs // batch)) or size == batch
        assert made <= max(workers * 3 // 2, MOST * 3 // 2)
        if workers * EACH * batch <= inputs <= PART * MOST // 2:
            assert size <= PART + batch
    assert part_size(2_000, 4, 8) == 24
    assert part_size(1_000_000, 4, 8) == PART
    assert part_size(10_000_000, 16, 8) == 5_000
    assert part_size(1_000_000, 1_024, 8) == 496  # two parts for each


def test_what_is_left_is_what_is_counted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts that were there would make the time that is left too short."""
    run = listed(store)
    run.fix(4, 0)
    store.write(parts.name(0), parts._packed([], Summary(4, inputs=4, judged=4)))
    steps: list[tuple[str, int, int]] = []
    tally = _Tally(run, lambda *given: steps.append(given))
    tally.begin(lambda line: None)
    assert tally.missing.tolist() == [1, 2, 3, 4]

    def judged(job: Job, missing: Any, needs: Any, workers: int) -> Any:
        assert not steps  # while workers start
        yield from (Told(int(part), 4, 4) for part in np.sort(missing))

    monkeypatch.setattr(flow, "judged", judged)
    tally.follow(job_of(run), {}, 1)
    assert [step[1:] for step in steps] == [(4, 16), (8, 16), (12, 16), (16, 16)]

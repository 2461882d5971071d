"""Random histories of a product's versions, with kills: is it ever without the judge that the page names?

    python bench/histories.py
    python bench/histories.py --histories 1000 --databases sqlite,postgresql

Each history has 20 steps, drawn at random: a version is learnt, activated or removed, the product goes live
or is removed, the station starts again. While a model is opened somebody else takes a step, and each step may
be killed before or after the commit of any of its transactions. After each, page, judge, table and addresses
are compared with a dictionary (`station/tests/version_machine.py`). A store serves a hundred histories, each
with a product of its own; a hundred is a cell of the results, so that a long run can be stopped.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import common
from common import Args, Cell, Record

sys.path.insert(0, str(common.ROOT / "station" / "tests"))
sys.path.insert(0, str(common.ROOT / "tests"))

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from flawscope_station.settings.station import Settings
from station_helpers import running_postgres
from version_machine import Machine

AT_ONCE, STEPS = 100, 20  # histories of a store; steps of each
KINDS = ("sqlite", "postgresql")


class Counted(Machine):
    """Histories that are counted, with their steps."""

    begun, steps = 0, 0

    def __init__(self) -> None:
        super().__init__()
        Counted.begun += 1

    def check_invariants(self, *given: object) -> None:
        Counted.steps += 1
        super().check_invariants(*given)  # type: ignore[no-untyped-call]


@contextmanager
def new_store(kind: str, folder: Path) -> Iterator[str]:
    """URL of an empty database."""
    if kind == "sqlite":
        yield Settings(store=str(folder)).url
        return
    with running_postgres() as cluster, cluster.database() as url:
        yield Settings(store=str(folder), database=url).url


def batch(kind: str, number: int, histories: int) -> Cell:
    """Run histories of one seed; return how many failed, and the first failure."""
    how = settings(
        max_examples=histories,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    Counted.begun = Counted.steps = 0
    failure, begun = "", time.monotonic()
    with tempfile.TemporaryDirectory() as folder, new_store(kind, Path(folder)) as url:
        Counted.url, Counted.folder = url, Path(folder)
        try:
            run_state_machine_as_test(seed(number)(Counted), settings=how)
        except AssertionError as error:
            failure = f"{error}; {getattr(error, '__notes__', '')}"
    taken = time.monotonic() - begun
    common.say(f"{kind} {number}: {1000 * taken / max(1, Counted.begun):.0f} ms a history")
    found = {"histories": Counted.begun, "steps": Counted.steps, "failed": failure}
    return {**found, "seconds_a_history": common.round_to(taken / max(1, Counted.begun), 3)}


def main() -> int:
    parser = common.make_parser(__doc__, "histories", data=False)
    parser.add_argument("--histories", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--databases", default=",".join(KINDS), help="default: %(default)s")
    args: Args = common.parse_arguments(parser, histories=4, databases="sqlite")
    record, rows = Record(args, "random histories of versions, with kills"), []
    os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", tempfile.gettempdir())
    for kind in args.databases.split(","):
        found = []
        for number in range(math.ceil(args.histories / AT_ONCE)):
            count = min(AT_ONCE, args.histories - number * AT_ONCE)
            one = record.attempt(f"{kind} {number}", lambda n=number, k=kind, c=count: batch(k, n, c))
            found += [one] if one is not None else []
        failed = [one["failed"] for one in found if one["failed"]]
        row = {name: sum(one[name] for one in found) for name in ("histories", "steps")}
        rows.append({"database": kind, **row, "failed": len(failed), "!": "MISSED" * bool(failed)})
    common.print_table("histories", rows)
    return record.status() or int(any(row["!"] for row in rows))


if __name__ == "__main__":
    sys.exit(common.run_script(main))

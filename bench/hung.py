"""A disk that hangs, and a database that says nothing, under a station: is each request answered in time?

    python bench/hung.py
    python bench/hung.py --seconds 30 --only disk

The station is `flawscope serve` in a process of its own. Two senders send parts under keys, one of which
allows each 0.8 s; a watched folder, an emulated camera and three PLCs (Modbus, as server and as client; OPC
UA) have parts inspected, too. Then a FUSE file system that holds store and folder is stopped, or all
processes of a PostgreSQL, with SIGSTOP, and goes on later: `line/tests/hung_helpers.py`.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import common
from common import Args, Cell

sys.path.insert(0, str(common.ROOT / "station" / "tests"))
sys.path.insert(0, str(common.ROOT / "line" / "tests"))
sys.path.insert(0, str(common.ROOT / "examples" / "line"))

import hung_helpers
import plugin_helpers
from hung_helpers import READY_SECONDS, Hanging, Line, Trial, hanging_disk, hanging_postgres, running_line
from station_helpers import running_postgres

KINDS = ("disk", "database")


@contextmanager
def line_of(kind: str, home: Path, model: Path, pictures: list[bytes]) -> Iterator[tuple[Line, Hanging]]:
    """A station, and what hangs under it."""
    site = plugin_helpers.install(home / "site", plugin_helpers.LINE)
    if kind == "disk":
        with hanging_disk(home) as (disk, what), running_line(home, disk, model, pictures, str(site)) as line:
            yield line, what
        return
    with (
        running_postgres() as cluster,
        cluster.database() as url,
        running_line(home, home, model, pictures, str(site), url) as line,
    ):
        yield line, hanging_postgres(cluster)


def found_of(trial: Trial) -> Cell:
    """Figures of a trial."""
    line, recorded = trial.line, trial.recorded()
    longest = dict[str, float]()
    for one in [*line.asked, *trial.looks]:
        name = one.what.rstrip("0123456789")
        longest[name] = max(longest.get(name, 0.0), round(one.seconds, 2))
    return {
        "requests": len(line.asked),
        "statuses": dict(Counter(str(one.status) for one in line.asked)),
        "longest_answer_s": longest,
        "late": len(trial.late()),
        "pages_without_answer": sum(not one.status for one in trial.looks),
        "not_ready_after_s": {wire: round(seconds, 2) for wire, seconds in sorted(line.not_ready.items())},
        "told_after_s": round(trial.told_after, 2),
        "ready_again_after_s": round(trial.ready_again, 2),
        "parts_of_plcs": line.outcomes,
        "lost": sum(recorded[part] == 0 for part in line.answered),
        "twice": sum(count > 1 for part, count in recorded.items() if part != "None"),
    }


def hang(args: Args, kind: str) -> Cell:
    with common.workspace(args.work) as work, TemporaryDirectory() as home:
        model, data = common.exported_model(work, "64", train=24, good=4, side=96)
        pictures = [path.read_bytes() for path in sorted((data / "test" / "good").iterdir())[:1]]
        with line_of(kind, Path(home), model, pictures) as (line, what):
            return found_of(hung_helpers.run_hang(line, what, args.seconds))


def main() -> int:
    parser = common.make_parser(__doc__, "hung", data=False)
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="for which it hangs (default: %(default)s)"
    )
    parser.add_argument("--only", default=",".join(KINDS), help="default: %(default)s")
    args: Args = common.parse_arguments(parser, seconds=8.0, only="disk")
    record, rows = common.Record(args, "a station whose disk or database hangs"), []
    for kind in args.only.split(","):
        found = record.attempt(kind, lambda k=kind: hang(args, k))  # type: ignore[misc]
        if found is None:
            continue
        slowest = max(found["not_ready_after_s"].values(), default=0.0)
        is_told = len(found["not_ready_after_s"]) == 3 and slowest < READY_SECONDS
        wrong = found["late"] + found["pages_without_answer"] + found["lost"] + found["twice"]
        row = {"what": kind, "requests": found["requests"], "late": found["late"]}
        row |= {"not ready after, s": slowest, "told after, s": found["told_after_s"]}
        row |= {"lost": found["lost"], "twice": found["twice"], "!": "MISSED" * bool(wrong or not is_told)}
        rows.append(row)
    common.print_table("what hangs", rows)
    return record.status() or int(any(row["!"] for row in rows))


if __name__ == "__main__":
    sys.exit(common.run_script(main))

"""An archive on a cluster: how long does it take, what does it cost, and what is the limit?

    python bench/archive.py
    python bench/archive.py --picture 0.15 --cores 16 --price 0.70

Nothing is run: a schedule is simulated (schedule.py) with what cluster.py has measured, by default its
results in the repository. First the simulation repeats the measured runs, from the time of the run on one
node alone; then it says what 100,000 and 1,000,000 pictures take.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import common
from flawscope.cluster.predict import MOST, part_size
from flawscope.runtime import FEW, together
from schedule import Machines, Work, simulate

NETWORK = 1.25e9  # bytes a second: 10 Gbit/s


def measured(found: dict[str, Any], pictures: int) -> tuple[Work, dict[int, tuple[float, int]]]:
    """What one node takes, and the seconds and parts of every number of nodes, medians over the rounds."""

    def middle(prefix: str, key: str) -> float:
        values = [cell[key] for name, cell in found.items() if name.startswith(prefix)]
        return statistics.median(values)

    counts = sorted({int(name.split("/")[2]) for name in found if name.split("/")[2:3] and _is_run(name)})
    runs = {
        count: (
            middle(f"predict/{pictures}/{count}/", "seconds"),
            int(middle(f"predict/{pictures}/{count}/", "parts")),
        )
        for count in counts
    }
    start = middle(f"predict/{pictures}/1/", "start")
    seconds, parts = runs[1]
    return Work(pictures, -(-pictures // parts), (seconds - start) / pictures, start=start), runs


def _is_run(name: str) -> bool:
    words = name.split("/")
    return words[0] == "predict" and words[2].isdecimal()


def listing(found: dict[str, Any]) -> dict[str, float]:
    """Of the longest listing: seconds of a path, the caller's seconds of a part, and the most memory in MiB
    of the caller and of a worker."""
    counts = [int(name.split("/")[1]) for name in found if name.startswith("listing/")]
    if not counts:
        return {"path": 0.0, "dispatch": 0.0, "memory_mib": 0.0, "worker_mib": 0.0}
    cell = next(c for n, c in found.items() if n.startswith(f"listing/{max(counts)}/"))
    return {
        "path": cell["listing_seconds"] / max(counts),
        "dispatch": cell["driver_busy_ms_a_part"] / 1000,
        "memory_mib": cell["memory_mib"],
        "worker_mib": cell["worker_memory_mib"],
    }


def main() -> int:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--results", type=Path, default=common.RESULTS / "cluster.json")
    made.add_argument("--pictures", type=int, default=2000, help="of the measured runs (%(default)s)")
    made.add_argument("--picture", type=float, help="seconds of a picture on a core (default: as measured)")
    made.add_argument("--size", type=int, default=256, help="pixels a side that the model sees (%(default)s)")
    made.add_argument("--bytes", type=float, default=0.5e6, help="of a picture (default: %(default)g)")
    made.add_argument("--cores", type=int, default=16, help="of a node (default: %(default)s)")
    made.add_argument("--price", type=float, default=0.7, help="of a node for an hour (default: %(default)s)")
    made.add_argument("--lost", type=float, default=0.01, help="nodes lost in an hour, each (%(default)s)")
    made.add_argument("--quick", action="store_true", help="drawn figures instead of measured ones")
    args = made.parse_args()
    if args.quick:
        work, runs, listed = Work(2000, 42, 0.1, 0.05, start=9.0), {}, listing({})
    else:
        found = json.loads(args.results.read_text(encoding="utf-8"))["cells"]
        work, runs = measured(found, args.pictures)
        listed = listing(found)
    common.table(
        "the measured runs, simulated",
        [
            {
                "nodes": count,
                "measured, s": seconds,
                "simulated, s": common.sig(
                    3600
                    * simulate(
                        dataclasses.replace(work, part=-(-work.pictures // parts)), Machines(count)
                    ).hours,
                    4,
                ),
            }
            for count, (seconds, parts) in runs.items()
        ],
    )
    picture, batch = args.picture or work.picture, together((args.size, args.size), FEW)
    rows = []
    for pictures in (100_000, 1_000_000):
        for nodes in (1, 4, 16, 64):
            large = dataclasses.replace(
                work,
                pictures=pictures,
                part=part_size(pictures, nodes * args.cores, batch),
                picture=picture,
                listing=listed["path"],
                dispatch=listed["dispatch"],
            )
            run = simulate(large, Machines(nodes, args.cores, args.lost, 300.0))
            rows.append(
                {
                    "pictures": pictures,
                    "nodes": nodes,
                    "a part": large.part,
                    "parts": large.parts,
                    "minutes": common.sig(60 * run.hours, 3),
                    "a second": common.sig(pictures / run.hours / 3600, 4),
                    "price of a million": common.sig(run.price(args.price) * 1e6 / pictures, 3),
                    "efficiency": common.sig(pictures * picture / 3600 / (run.hours * nodes * args.cores), 3),
                    "nodes lost": run.lost,
                    "parts twice": run.repeated,
                    "caller busy": common.sig(run.busy, 2),
                }
            )
    common.table(f"nodes of {args.cores} cores at {args.price} an hour, {picture:.3g} s a picture", rows)
    handed = common.sig(MOST * listed["dispatch"], 3)
    network = NETWORK / args.bytes * picture
    common.table(
        "limits",
        [
            {"what": f"seconds that the caller needs to hand out {MOST:,} parts", "value": handed},
            {"what": "cores until 10 Gbit/s of one storage are full", "value": round(network)},
            {"what": "MiB of the caller for ten million paths", "value": listed["memory_mib"]},
            {"what": "MiB of a worker beside its model", "value": listed["worker_mib"]},
        ],
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

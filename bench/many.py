"""Pictures a second of one process on 1, 2 and 4 cores, and its memory: does another core help?

    python bench/many.py
    python bench/many.py --runtimes onnxruntime --set size=256

Every cell is a process bound to so many cores, with as many threads, that is given the test pictures again
and again, as `flawscope predict` and `evaluate` are: from path to answer. Processes take turns. Efficiency is
the pictures a second over those on one core times their number. Memory is the most that the process has held
after a fifth of the pictures, and at the end.

What the machine itself gives is the reference: as many processes as cores, one core and one thread each, that
begin together and share nothing but memory and caches.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import common
import models
from common import Cell, Record

STARTED = 20  # seconds in which every process is ready


def stream(
    model: str, pictures: list[str], count: int, cores: int, first: int = 0, begin: float = 0.0
) -> Cell:
    """Pictures a second from path to answer, nothing else in this process, which has so many cores from the
    first one on. `begin`: not before that time of day."""
    mine = sorted(os.sched_getaffinity(0))[first : first + cores]
    os.sched_setaffinity(0, mine)  # before any engine starts its threads
    os.environ["OMP_NUM_THREADS"] = str(cores)
    import flawscope
    from flawscope.machine import peak_memory

    part = flawscope.load(model, device="cpu", threads=cores)
    paths = [pictures[k % len(pictures)] for k in range(count)]
    for _ in part.stream(paths[: 2 * cores]):
        pass
    common.time.sleep(max(0.0, begin - common.time.time()))
    held, began = [], common.time.perf_counter()
    for done, (_, found) in enumerate(part.stream(paths), start=1):
        assert not isinstance(found, Exception), found
        if done in (count // 5, count):
            held.append(peak_memory() // common.MIB)
    return {"pictures_per_second": count / (common.time.perf_counter() - began), "peak_mib": held}


def apart(model: str, pictures: list[str], count: int, cores: int) -> Cell:
    """The same by so many processes of one core each, together."""
    begin = common.time.time() + STARTED
    one = partial(common.task, stream, model=model, pictures=pictures, count=count, cores=1, begin=begin)
    with ThreadPoolExecutor(cores) as pool:
        cells = [child.json for child in pool.map(lambda core: one(first=core), range(cores))]
    return {
        "pictures_per_second": sum(cell["pictures_per_second"] for cell in cells),
        "peak_mib": [sum(of_one) for of_one in zip(*(cell["peak_mib"] for cell in cells), strict=True)],
    }


def of_rounds(record: Record, rounds: int, name: str) -> Cell | None:
    """The middle one of the rounds by pictures a second; None: none was measured."""
    cells = [record.cells.get(f"{name}/{turn}") for turn in range(rounds)]
    found = sorted((cell for cell in cells if cell), key=lambda cell: cell["pictures_per_second"])
    return found[len(found) // 2] if found else None


def main() -> int:
    parser = common.parser(__doc__, "many", methods="patchcore")
    parser.add_argument("--runtimes", default=",".join(common.RUNTIMES), help="default: %(default)s")
    parser.add_argument("--cores", type=common.numbers, default=[1, 2, 4], help="default: 1,2,4")
    parser.add_argument("--count", type=int, default=100, help="pictures for each core (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    args = common.arguments(parser, cores=[1], count=6, rounds=1)
    record, rows = Record(args, "many pictures on several cores"), []
    runtimes = args.runtimes.split(",")
    with common.workspace(args.work) as work:
        category, root, method, _ = next(common.cases(args))
        of = category, root, method
        pictures = [str(path) for path in common.pictures_below(root / "test")]
        ready = {runtime: models.model_for(args, work, of, (runtime, "fp32")) for runtime in runtimes}
        for turn in range(args.rounds):
            for runtime, model in ready.items():
                given: Cell = {"model": model, "pictures": pictures}
                for cores in args.cores:
                    whole = partial(common.task, stream, **given, count=args.count * cores, cores=cores)
                    record.attempt(f"{runtime}/{cores}/{turn}", lambda w=whole: w().json)
                    if cores > 1:
                        parts = partial(apart, **given, count=args.count, cores=cores)
                        record.attempt(f"{runtime}/{cores} apart/{turn}", parts)
    for runtime in runtimes:
        alone = None
        for cores in args.cores:
            middle = of_rounds(record, args.rounds, f"{runtime}/{cores}")
            if not middle:
                continue
            alone = alone or middle["pictures_per_second"] / cores
            row = {
                "runtime": runtime,
                "cores": cores,
                "pictures a second": common.sig(middle["pictures_per_second"], 4),
                "efficiency": common.sig(middle["pictures_per_second"] / cores / alone, 3),
                "MiB": " to ".join(map(str, middle["peak_mib"])),
            }
            if parted := of_rounds(record, args.rounds, f"{runtime}/{cores} apart"):
                row["processes of one core"] = common.sig(parted["pictures_per_second"] / cores / alone, 3)
                row["their MiB"] = parted["peak_mib"][-1]
            rows.append(row)
    common.table("many pictures", rows)
    return record.status()


if __name__ == "__main__":
    sys.exit(common.start(main))

"""Pictures a second of one process on 1, 2 and 4 cores, and its memory: does another core help?

    python bench/many.py
    python bench/many.py --runtimes onnxruntime --set size=256

Every cell is a process bound to so many cores, with as many threads, that is given the test pictures again
and again, as `flawscope predict` and `evaluate` are: from path to answer. Processes take turns. Efficiency is
the pictures a second over those on one core times their number. Memory is the most that the process has held
after a fifth of the pictures, and at the end.
"""

from __future__ import annotations

import os
import sys

import common
import models
from common import Cell, Record


def stream(model: str, pictures: list[str], count: int, cores: int) -> Cell:
    """Pictures a second from path to answer, nothing else in this process."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])  # before any engine starts its threads
    os.environ["OMP_NUM_THREADS"] = str(cores)
    import flawscope
    from flawscope.machine import peak_memory

    part = flawscope.load(model, device="cpu", threads=cores)
    paths = [pictures[k % len(pictures)] for k in range(count)]
    for _ in part.stream(paths[: 2 * cores]):
        pass
    held, began = [], common.time.perf_counter()
    for done, (_, found) in enumerate(part.stream(paths), start=1):
        assert not isinstance(found, Exception), found
        if done in (count // 5, count):
            held.append(peak_memory() // common.MIB)
    return {"pictures_per_second": count / (common.time.perf_counter() - began), "peak_mib": held}


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
                for cores in args.cores:
                    record.attempt(
                        f"{runtime}/{cores}/{turn}",
                        lambda m=model, c=cores: (
                            common.task(
                                stream, model=m, pictures=pictures, count=args.count * c, cores=c
                            ).json
                        ),
                    )
    for runtime in runtimes:
        alone = None
        for cores in args.cores:
            cells = [record.cells.get(f"{runtime}/{cores}/{turn}") for turn in range(args.rounds)]
            found = sorted((cell for cell in cells if cell), key=lambda cell: cell["pictures_per_second"])
            if not found:
                continue
            middle = found[len(found) // 2]
            alone = alone or middle["pictures_per_second"] / cores
            rows.append(
                {
                    "runtime": runtime,
                    "cores": cores,
                    "pictures a second": common.sig(middle["pictures_per_second"], 4),
                    "efficiency": common.sig(middle["pictures_per_second"] / cores / alone, 3),
                    "MiB": " to ".join(map(str, middle["peak_mib"])),
                }
            )
    common.table("many pictures", rows)
    return record.status()


if __name__ == "__main__":
    sys.exit(common.start(main))

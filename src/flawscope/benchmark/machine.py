"""The machine in words, what a process took of it, and how many cells it bears at a time."""

from __future__ import annotations

import os
import platform
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

GIB = 2**30
CELL_MEMORY = 4 * GIB  # PatchCore's cells stay below 3 GiB by default, whatever the number of pictures
CELL_THREADS = 2  # with fewer, reading pictures and computing wait for each other


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, memory, system."""
    total = _memory()
    return {
        "cpu": _cpu(),
        "cores": cores(),
        "memory_gib": None if total is None else round(total[0] / GIB, 1),
        "system": platform.system(),
    }


def cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def all_threads() -> int:
    """What OMP_NUM_THREADS allows, else one a core."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and int(given) else cores()


def default_jobs(cells: int, threads: int, device: str) -> tuple[int, str]:
    """How many cells at a time, and why."""
    if device not in ("auto", "cpu") or (device == "auto" and shutil.which("nvidia-smi")):
        return 1, "they share a graphics card"
    total = _memory()
    free = GIB if total is None else total[1]
    by_threads, by_memory = threads // CELL_THREADS, free // CELL_MEMORY
    jobs = max(1, min(cells, by_threads, by_memory))
    if jobs == cells:
        return jobs, "there are no more"
    if by_memory < by_threads:
        return jobs, f"{free / GIB:.1f} GiB are free, and a cell may take {CELL_MEMORY // GIB}"
    return jobs, f"of {counted(threads, 'thread')} in all, a cell keeps {CELL_THREADS} busy"


def counted(number: int, what: str) -> str:
    """1 thread, 2 threads."""
    return f"{number} {what}{'s' * (number != 1)}"


def _memory() -> tuple[int, int] | None:
    """Bytes in all and available; None if nobody can tell."""
    try:
        import psutil
    except ImportError:
        return None
    found = psutil.virtual_memory()
    return int(found.total), int(found.available)


def _cpu() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()

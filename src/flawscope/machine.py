"""Asks the operating system about this machine and this process. Torch-free."""

from __future__ import annotations

import os
import platform
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flawscope.types import Json

GIB = 2**30
FIT_MEMORY_LIMIT = 4 * GIB  # bytes that a fit may take; the built-in methods stay below
# batch sizes for 256 x 256 pixels: `LARGE_BATCH` for torch on a GPU
SMALL_BATCH = 8
LARGE_BATCH = 64
FIT_THREADS = 2  # with fewer, reading pictures and computing wait for each other


def machine_info() -> Json:
    """Return processor, cores that this process may use, memory and system."""
    total = system_memory()
    return {
        "cpu": processor_name(),
        "cores": usable_cores(),
        "memory_gib": None if total is None else round(total[0] / GIB, 1),
        "system": platform.system(),
    }


def processor_name() -> str:
    """Return the processor's model name, or its architecture where the name is unknown."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_thread_count() -> int:
    """Return the number of threads that OMP_NUM_THREADS allows, or else the number of usable cores."""
    setting = os.environ.get("OMP_NUM_THREADS", "")
    return int(setting) if setting.isdecimal() and int(setting) else usable_cores()


def system_memory() -> tuple[int, int] | None:
    """Return total and available memory in bytes; None without psutil."""
    try:
        import psutil
    except ImportError:
        return None
    found = psutil.virtual_memory()
    return int(found.total), int(found.available)


def peak_memory() -> int:
    """Return the peak memory of this process until now, in bytes; 0 where it is unknown."""
    with suppress(OSError, StopIteration, ValueError):  # Linux; ru_maxrss there may be the parent's
        status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return int(next(line for line in status if line.startswith("VmHWM:")).split()[1]) * 1024
    with suppress(ImportError):  # Windows has none
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return 0


def batch_size_for(size: tuple[int, int], most: int) -> int:
    """Return the fastest batch size for pictures of a size (height, width): `most` at 256 x 256 pixels."""
    return max(1, min(most, most * 256 * 256 // (size[0] * size[1])))

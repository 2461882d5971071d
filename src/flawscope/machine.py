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
SMALL_BATCH = 8  # batch size for 256 x 256 pixels
LARGE_BATCH = 64  # batch size for 256 x 256 pixels with torch on a GPU
FIT_THREADS = 2  # with fewer, reading pictures and computing wait for each other


def machine_info() -> Json:
    """Return the CPU, the number of cores that this process may use, the memory and the system."""
    memory_gib = None
    memory = system_memory()
    if memory is not None:
        total_bytes, _ = memory
        memory_gib = round(total_bytes / GIB, 1)
    return {
        "cpu": processor_name(),
        "cores": usable_cores(),
        "memory_gib": memory_gib,
        "system": platform.system(),
    }


def processor_name() -> str:
    """Return the CPU's model name, or its architecture where the name is unknown."""
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
    """Return the number of threads in OMP_NUM_THREADS; if it is not set, the number of usable cores."""
    setting = os.environ.get("OMP_NUM_THREADS", "")
    is_positive = setting.isdecimal() and int(setting) > 0
    return int(setting) if is_positive else usable_cores()


def system_memory() -> tuple[int, int] | None:
    """Return total and available memory in bytes; None without psutil."""
    try:
        import psutil
    except ImportError:
        return None
    memory = psutil.virtual_memory()
    return int(memory.total), int(memory.available)


def peak_memory() -> int:
    """Return the peak memory of this process until now, in bytes; 0 where it is unknown."""
    # Linux has this file; there, `ru_maxrss` below may be the peak of the parent process
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        line = next(line for line in lines if line.startswith("VmHWM:"))  # "VmHWM:  1234 kB"
        _, kilobytes, _ = line.split()
        return int(kilobytes) * 1024
    with suppress(ImportError):  # Windows has no `resource`
        import resource

        # macOS counts in bytes, other systems in KiB
        unit_bytes = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes
    return 0


def batch_size_for(size: tuple[int, int], most: int) -> int:
    """Return the fastest batch size for pictures of a size (height, width).

    The batch size is `most` for pictures of up to 256 x 256 pixels. For larger pictures the batch size is
    smaller, at least 1, so that a batch has no more pixels than `most` pictures of 256 x 256.
    """
    height, width = size
    count_of_same_pixels = most * 256 * 256 // (height * width)
    return max(1, min(most, count_of_same_pixels))

"""How many cores this process may use."""

import math
import os
from pathlib import Path

_CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")


def count_cores() -> int:
    """Return the cores that this process may use, at least 1: not those of the machine that others were given.

    `taskset` and Slurm give a process some of the cores; a container may have a share of their time, which is written
    as "microseconds period" or as "max period" (Linux, Documentation/admin-guide/cgroup-v2.rst).
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _CPU_LIMIT.read_text(encoding="ascii").split()
    except OSError:  # no container, or no Linux
        return cores
    return cores if quota == "max" else max(1, min(cores, math.floor(int(quota) / int(period))))

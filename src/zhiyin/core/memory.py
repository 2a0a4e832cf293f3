"""Memory that this process can still allocate."""

from __future__ import annotations

import os
import resource
from pathlib import Path


def available_bytes() -> int:
    """Bytes that can still be allocated: the least of the machine's, the cgroup's and the process's own limit."""
    limits = [_machine()]
    limit, used = _cgroup()
    if limit is not None:
        limits.append(limit - used)
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        limits.append(soft - _mapped())
    return max(0, min(limits))


def _machine() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _cgroup() -> tuple[int | None, int]:
    """Limit and use of the control group of a container; (None, 0) where there is no limit."""
    for limit, use in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            text = (Path("/sys/fs/cgroup") / limit).read_text().strip()
            if text.isdecimal() and int(text) < 1 << 60:
                return int(text), int((Path("/sys/fs/cgroup") / use).read_text())
        except (OSError, ValueError):
            continue
    return None, 0


def _mapped() -> int:
    """Address space in use."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0

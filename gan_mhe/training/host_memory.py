"""Memory of the training device and of this machine: what is free, what was used."""

import resource
from collections.abc import Iterator
from pathlib import Path

import torch


def peak_bytes(device: torch.device) -> int:
    """The most memory held so far: CUDA: by tensors on `device`; CPU: by the process, as its peak resident set.

    Both belong to the process: runs that it made before count.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # getrusage only where there is no such file: its maximum survives exec, so a process begins with its parent's.
    peak = _kibibytes(Path("/proc/self/status"), "VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 if peak is None else peak


def free_bytes(device: torch.device) -> int | None:
    """Bytes that this process can still take on `device`; None where the system does not say.

    CUDA: what the driver has free and what torch holds unused, within the process's share of the device. CPU: what the
    kernel can give without swapping, within what is left to the process's control groups.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        share = int(torch.cuda.get_per_process_memory_fraction(device) * total)
        return min(free + torch.cuda.memory_reserved(device), share) - torch.cuda.memory_allocated(device)
    return free_on_host(Path("/"))


def free_on_host(root: Path) -> int | None:
    """`free_bytes` of the CPU, as the `proc` and `sys` below `root` tell it."""
    known = [_kibibytes(root / "proc/meminfo", "MemAvailable"), *_left_to_groups(root)]
    return min((free for free in known if free is not None), default=None)


def _kibibytes(path: Path, key: str) -> int | None:
    """A `key:  N kB` line in bytes."""
    value = _fields(path).get(f"{key}:")
    return None if value is None else int(value) * 1024


def _fields(path: Path) -> dict[str, str]:
    """First word of each line -> second; empty where there is no such file."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    return {words[0]: words[1] for words in map(str.split, lines) if len(words) > 1}


def _left_to_groups(root: Path) -> Iterator[int]:
    """What each limited control group above the process leaves it, in version 1 and version 2 of the hierarchy.

    Pages of files count as used there, though the kernel gives them up when asked.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers == "":
            top, limit_name, used_name = root / "sys/fs/cgroup", "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            top, limit_name, used_name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        group = top / path.lstrip("/")
        # Inside a container the path may be that of the host; its parents then end at what is mounted.
        for place in (group, *(parent for parent in group.parents if parent.is_relative_to(top))):
            limit, used = _number(place / limit_name), _number(place / used_name)
            if limit is not None and used is not None:
                stat = _fields(place / "memory.stat")
                files = sum(int(stat.get(name, 0)) for name in ("active_file", "inactive_file"))
                yield limit - max(used - files, 0)


def _number(path: Path) -> int | None:
    """The number in a file; None for `max` and where there is no such file."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None

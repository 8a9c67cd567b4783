"""Free and peak memory of the training device and of this machine."""

import resource
from collections.abc import Iterator
from pathlib import Path

import torch


def peak_bytes(device: torch.device) -> int:
    """Peak memory of this process so far: on CUDA that of its tensors on `device`, on a CPU its peak resident set.

    Earlier runs in the same process are included.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # getrusage is the fallback, because its maximum survives exec: a process starts with its parent's.
    peak = _kibibytes(Path("/proc/self/status"), "VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 if peak is None else peak


def free_bytes(device: torch.device) -> int | None:
    """Bytes that this process can still allocate on `device`; None if the system does not report them.

    CUDA: free memory of the driver plus unused memory of torch's allocator, limited to the process's share of the
    device. CPU: memory available without swapping, limited by the process's control groups.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        share = int(torch.cuda.get_per_process_memory_fraction(device) * total)
        return min(free + torch.cuda.memory_reserved(device), share) - torch.cuda.memory_allocated(device)
    return free_on_host(Path("/"))


def free_on_host(root: Path) -> int | None:
    """`free_bytes` of the CPU, read from the `proc` and `sys` directories in `root`."""
    known = [_kibibytes(root / "proc/meminfo", "MemAvailable"), *_left_in_groups(root)]
    return min((free for free in known if free is not None), default=None)


def _kibibytes(path: Path, key: str) -> int | None:
    """The value of a line `key:  N kB`, in bytes."""
    value = _fields(path).get(f"{key}:")
    return None if value is None else int(value) * 1024


def _fields(path: Path) -> dict[str, str]:
    """First word of each line -> second word; empty if the file cannot be read."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    return {words[0]: words[1] for words in map(str.split, lines) if len(words) > 1}


def _left_in_groups(root: Path) -> Iterator[int]:
    """Bytes left in each limited control group above the process, for versions 1 and 2 of the hierarchy.

    The usage of a group includes cached file pages. They are subtracted, because the kernel frees them on demand.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for _, controllers, relative in (line.split(":", 2) for line in lines):
        if controllers == "":
            top, limit_name, used_name = root / "sys/fs/cgroup", "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            top, limit_name, used_name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        group = top / relative.lstrip("/")
        # Inside a container the path may be the host's: then only the topmost directory exists.
        for path in (group, *(parent for parent in group.parents if parent.is_relative_to(top))):
            limit, used = _number(path / limit_name), _number(path / used_name)
            if limit is not None and used is not None:
                stat = _fields(path / "memory.stat")
                files = sum(int(stat.get(name, 0)) for name in ("active_file", "inactive_file"))
                yield limit - max(used - files, 0)


def _number(path: Path) -> int | None:
    """The number in a file; None if it contains `max` or cannot be read."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None

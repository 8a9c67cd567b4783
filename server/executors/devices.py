"""GPUs of this machine as the driver reports them: memory, processes, and whether they respond."""

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

_log = structlog.get_logger("server.jobs")

_TIMEOUT_SECONDS = 5.0
_MIB = 2**20
_DEVICE_FIELDS = "index,uuid,memory.total,memory.free"
_PROCESS_FIELDS = "pid,gpu_uuid,used_memory"


@dataclass(frozen=True)
class DeviceProcess:
    """A process that uses memory of a device; `used_bytes` is None if the driver does not report it."""

    pid: int
    used_bytes: int | None


@dataclass(frozen=True)
class Device:
    """One GPU. `offline`: why no attempt can start on it, None while it responds; the numbers are outdated then."""

    index: int
    uuid: str
    total_bytes: int
    free_bytes: int
    processes: tuple[DeviceProcess, ...] = ()
    offline: str | None = None


class DeviceProbe(Protocol):
    """Lists GPUs for the executor."""

    def devices(self) -> Sequence[Device]:
        """Every GPU seen so far, by index. Returns within seconds and never raises."""


class ProbeError(Exception):
    """The driver's tool did not answer, or its answer was not understood."""


class NvidiaSmi:
    """Queries `nvidia-smi`. A machine without it has no GPUs; CUDA_VISIBLE_DEVICES of this process hides others."""

    def __init__(self, command: str = "nvidia-smi") -> None:
        self._command = command
        self._known: dict[int, Device] = {}
        self._stuck: subprocess.Popen[str] | None = None
        self._failure = ""

    def devices(self) -> Sequence[Device]:
        listed: dict[int, Device] = {}
        failure, reason = "", "the driver no longer lists it"
        try:
            listed = {device.index: device for device in self._query() if _visible(device)}
        except FileNotFoundError:
            reason = f"{self._command} no longer exists"
        except (ProbeError, OSError) as error:
            failure = reason = str(error)
        if failure and failure != self._failure:
            _log.warning("GPU query failed", error=failure)
        self._failure = failure
        lost = {index: replace(old, offline=reason) for index, old in self._known.items()}
        self._known = dict(sorted((lost | listed).items()))
        return tuple(self._known.values())

    def _query(self) -> list[Device]:
        rows = self._run(f"--query-gpu={_DEVICE_FIELDS}")
        holders = self._run(f"--query-compute-apps={_PROCESS_FIELDS}") if rows else []
        return [_device(row, holders) for row in rows]

    def _run(self, query: str) -> list[list[str]]:
        """The fields of each line that one query prints."""
        if self._stuck is not None and self._stuck.poll() is None:
            raise ProbeError(f"{self._command} does not respond")
        process = self._stuck = subprocess.Popen(
            [self._command, query, "--format=csv,noheader,nounits"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            _abandon(process)
            raise ProbeError(f"{self._command} did not answer within {_TIMEOUT_SECONDS:.0f} s") from None
        if process.returncode != 0:
            printed = " ".join(output.split())[:200]
            raise ProbeError(f"{self._command} failed with exit code {process.returncode}: {printed}")
        return [[field.strip() for field in line.split(",")] for line in output.splitlines() if line.strip()]


def _abandon(process: "subprocess.Popen[str]") -> None:
    """Kill it without waiting long: a process blocked in the driver cannot even be killed."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    if process.stdout is not None:
        process.stdout.close()


def _device(row: Sequence[str], holders: Sequence[Sequence[str]]) -> Device:
    if len(row) != 4 or not row[0].isdigit():
        raise ProbeError(f"expected {_DEVICE_FIELDS}, got {', '.join(row)!r}")
    index, uuid, total, free = row
    processes = tuple(
        DeviceProcess(int(holder[0]), _bytes(holder[2]))
        for holder in holders
        if len(holder) == 3 and holder[0].isdigit() and holder[1] == uuid
    )
    total_bytes, free_bytes = _bytes(total), _bytes(free)
    if total_bytes is None or free_bytes is None:
        offline = f"its memory is reported as total {total}, free {free}; expected MiB"
        return Device(int(index), uuid, total_bytes or 0, free_bytes or 0, processes, offline)
    return Device(int(index), uuid, total_bytes, free_bytes, processes)


def _bytes(mebibytes: str) -> int | None:
    """Bytes; None for the driver's `[N/A]`, `[GPU is lost]` and the like."""
    return int(mebibytes) * _MIB if mebibytes.isdigit() else None


def _visible(device: Device) -> bool:
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return True
    names = [name.strip() for name in allowed.split(",")]
    return str(device.index) in names or any(name and device.uuid.startswith(name) for name in names)

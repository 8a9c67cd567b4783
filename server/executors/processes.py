"""Processes of this machine, identified unambiguously even after the kernel reuses their pids."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from server.executors.supervisor import MARKER, boot_id, process_stat

_POLL_SECONDS = 0.01
_HAS_PIDFD = hasattr(os, "pidfd_open") and hasattr(signal, "pidfd_send_signal")


@dataclass(frozen=True)
class Identity:
    """One process. `start_time`: in clock ticks after the boot that `boot_id` identifies."""

    pid: int
    start_time: int
    boot_id: str

    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        try:
            state, _, start_time = process_stat(self.pid)
        except OSError:
            return False
        return state not in "ZX" and start_time == self.start_time and self.boot_id == boot_id()

    def send(self, number: int) -> None:
        """Signal this process if it still runs, and never another with the same pid."""
        if not self.alive():
            return
        with suppress(ProcessLookupError):
            if not _HAS_PIDFD:
                os.kill(self.pid, number)
                return
            descriptor = os.pidfd_open(self.pid)
            try:
                if self.alive():  # the descriptor refers to this process from here on
                    signal.pidfd_send_signal(descriptor, number)
            finally:
                os.close(descriptor)

    def wait(self, seconds: float) -> bool:
        """Wait for the process to end; returns False if it still runs after this many seconds."""
        limit = time.monotonic() + seconds
        while self.alive():
            if time.monotonic() >= limit:
                return False
            time.sleep(_POLL_SECONDS)
        return True


def attempt_of(pid: int) -> str | None:
    """The id of the attempt that a process belongs to, from its environment; None if there is none."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    prefix = f"{MARKER}=".encode()
    for entry in environment.split(b"\0"):
        if entry.startswith(prefix):
            return entry[len(prefix) :].decode(errors="replace")
    return None


def processes_of(attempt_id: str) -> Iterator[Identity]:
    """Live processes of an attempt: its supervisor, its trainer, and their descendants."""
    boot = boot_id()
    for name in os.listdir("/proc"):
        if name.isdigit() and attempt_of(int(name)) == attempt_id:
            with suppress(OSError):
                state, _, start_time = process_stat(int(name))
                if state not in "ZX":
                    yield Identity(int(name), start_time, boot)

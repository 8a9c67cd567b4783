"""The lock on a data directory: one server, or one command that replaces the database, at a time."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from server.errors import StartRefused

REPLACED = "replaced"
_LOCK = "server.lock"


def lock(data_dir: Path) -> int:
    """Lock the data directory, which is made if it is missing; returns the descriptor that holds the lock.

    The lock is released when the descriptor is closed or the process ends, in whatever way. Raises StartRefused if
    another process has the lock, or the directory cannot be written.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(data_dir / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StartRefused(f"cannot write to the data directory {data_dir}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = ""
        with suppress(OSError):
            holder = os.pread(descriptor, 100, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise StartRefused(
            f"the data directory {data_dir} is in use by another server ({holder or 'unknown'})"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    return descriptor


@contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Hold the lock on a data directory. Errors as for `lock`."""
    descriptor = lock(data_dir)
    try:
        yield
    finally:
        os.close(descriptor)


def newest_replaced(data_dir: Path) -> Path | None:
    """The directory of the database that was set aside last by a restore; None if there is none."""
    replaced = data_dir / REPLACED
    found = [path for path in replaced.iterdir() if path.is_dir()] if replaced.is_dir() else []
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)

"""Files that only the user of the service can read: its own, and those of the processes that it starts."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

_OTHERS = 0o077

_log = structlog.get_logger("server.start")


@contextmanager
def private_files() -> Iterator[None]:
    """Create files and folders for this user alone, also in processes that are started meanwhile."""
    before = os.umask(_OTHERS)
    try:
        yield
    finally:
        os.umask(before)


def close_to_others(directory: Path) -> None:
    """Take a folder, if it exists, from all other users, and log it; only log it if the folder is not this user's."""
    try:
        mode = stat.S_IMODE(directory.stat().st_mode)
    except OSError:
        return
    if not mode & _OTHERS:
        return
    try:
        directory.chmod(mode & ~_OTHERS)
    except OSError as error:
        _log.warning("data_directory_open_to_others", directory=str(directory), mode=f"{mode:04o}", error=str(error))
        return
    _log.warning("data_directory_closed_to_others", directory=str(directory), mode=f"{mode:04o}")

"""Whether this machine can run attempts: it is tried, not inferred."""

import os
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from server.executors.base import Executor
from server.settings import Settings

PROBE_BYTES = 64 * 1024  # as much as a supervisor reserves when it starts
FRESH_SECONDS = 5.0


class Machine:
    """Tries what every attempt needs: that files can be written and that programs can be started. Thread-safe.

    clock: monotonic seconds.
    """

    def __init__(self, settings: Settings, executor: Executor, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._executor = executor
        self._clock = clock
        self._guard = threading.Lock()
        self._tried: tuple[float, str | None] | None = None

    def problem(self) -> str | None:
        """Why no attempt could start now, None if nothing speaks against it. The message may contain paths."""
        jobs = self._settings.job_dir("")
        try:
            jobs.mkdir(exist_ok=True)
        except OSError as error:
            return f"{jobs} cannot be made: {error.strerror or error}"
        return self.unwritable(self._settings.data_dir) or self.unwritable(jobs) or self._executor.problem()

    def recent_problem(self) -> str | None:
        """The answer of `problem`, tried at most once in some seconds, so that asking often costs nothing."""
        with self._guard:
            if self._tried is None or self._clock() - self._tried[0] >= FRESH_SECONDS:
                self._tried = (self._clock(), self.problem())
            return self._tried[1]

    def unwritable(self, directory: Path) -> str | None:
        """Why a directory cannot be written, None if a file could be made there, synced and removed."""
        probe = directory / f".probe-{uuid.uuid4().hex}.tmp"
        try:
            with open(probe, "wb") as file:
                file.write(bytes(PROBE_BYTES))
                file.flush()
                os.fsync(file.fileno())
            probe.unlink()
        except OSError as error:
            with suppress(OSError):
                probe.unlink(missing_ok=True)
            return f"{directory} cannot be written: {error.strerror or error}"
        return None

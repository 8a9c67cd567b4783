"""Attempts forked from a process that has PyTorch loaded (`fork_server.py`), as long as there is one."""

import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from server.executors import fork_server, supervisor

_log = structlog.get_logger()

_ANSWER_SECONDS = 5.0
_RESTART_SECONDS = 30.0
_STOP_SECONDS = 5.0


class WarmStart:
    """The fork server of this process. Thread-safe.

    modules: what the fork server imports before it forks. environment: variables in addition to those of this process;
    no attempt can have other values of variables that are read while a module is imported, such as OMP_NUM_THREADS.
    """

    def __init__(self, modules: Sequence[str], environment: Mapping[str, str]) -> None:
        self._modules, self._environment = tuple(modules), dict(environment)
        self._guard = threading.Lock()
        self._server: _Server | None = None
        self._wanted = False
        self._started = 0.0

    def start(self) -> None:
        """Start a fork server, without waiting until it is ready. Another one takes its place when it ends."""
        with self._guard:
            self._wanted = True
            self._start()

    def stop(self) -> None:
        """End the fork server. Attempts that it forked go on."""
        with self._guard:
            self._wanted = False
            self._end()

    def fork(self, spec: Path, attempt_id: str, log: Path) -> int | None:
        """Fork the supervisor of the attempt in `spec`; returns its pid, or None if no fork server is ready.

        After None a supervisor may still exist, if the fork server ended meanwhile. That is harmless: of several
        supervisors of one attempt all but the first end at once.
        """
        with self._guard:
            if self._server is None and self._wanted and time.monotonic() - self._started >= _RESTART_SECONDS:
                self._start()
            try:
                if self._server is None or not self._server.is_ready():
                    return None
                return self._server.fork({"spec": str(spec), "attempt_id": attempt_id, "log": str(log)})
            except (OSError, ValueError, KeyError) as error:
                _log.warning("warm_start_failed", consequence="attempts load PyTorch themselves", error=str(error))
                self._end()
                return None

    def _start(self) -> None:
        self._started = time.monotonic()
        try:
            self._server = _Server(self._modules, self._environment)
        except OSError as error:
            _log.warning("warm_start_failed", consequence="attempts load PyTorch themselves", error=str(error))

    def _end(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None


class _Server:
    """One process. Its methods raise OSError or ValueError if it has ended or does not answer."""

    def __init__(self, modules: Sequence[str], environment: dict[str, str]) -> None:
        self._ready = False
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        room = " " * fork_server.ROOM
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", fork_server.__name__, ",".join(modules), room],
                stdin=theirs.fileno(),
                # What is closed here would be missing there too, and its forks write to these.
                stdout=None if sys.stdout else subprocess.DEVNULL,
                stderr=None if sys.stderr else subprocess.DEVNULL,
                env=dict(os.environ) | environment | {supervisor.MARKER: fork_server.PLACEHOLDER},
                start_new_session=True,
            )

    def is_ready(self) -> bool:
        """Whether it has loaded its modules."""
        if not self._ready and self._hears(0.0):
            self._ready = bool(self._receive()["ready"])
        return self._ready

    def fork(self, request: Mapping[str, Any]) -> int:
        """Fork a supervisor; returns its pid."""
        self._socket.send(json.dumps(request).encode())
        if not self._hears(_ANSWER_SECONDS):
            raise TimeoutError(f"the fork server did not answer within {_ANSWER_SECONDS:g} s")
        pid: int = self._receive()["pid"]
        return pid

    def close(self) -> None:
        """Kill the process, which has nothing to save; it may be importing, or stopped."""
        self._socket.close()
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # a file system that hangs keeps it; nobody needs to wait for that
            self._process.wait(_STOP_SECONDS)

    def _hears(self, seconds: float) -> bool:
        look = select.poll()  # `select.select` takes no descriptor above 1023
        look.register(self._socket, select.POLLIN)
        return bool(look.poll(1000 * seconds))

    def _receive(self) -> dict[str, Any]:
        message = self._socket.recv(fork_server.MAX_MESSAGE)
        if not message:
            raise ConnectionError("the fork server ended")
        answer: dict[str, Any] = json.loads(message)
        if "error" in answer:
            raise OSError(answer["error"])
        return answer

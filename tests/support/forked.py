"""Processes that start with their modules loaded: forked from a process that imported them and did nothing else.

Importing torch takes seconds of a core, and importing the service one; a fork takes milliseconds. The process is one
like any other, with a process id, signals, files and an exit code of its own.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import TextIO

import pytest

from tests.support.paths import ROOT

_CONTEXT = multiprocessing.get_context("forkserver")
_SERVICE = ("server.cli.app", "server.serve")
_TRAINING = ("gan_mhe.run.loop", "gan_mhe.study.report")  # where the tests of this process load torch as well


class Forked:
    """What the tests use of `subprocess.Popen`."""

    def __init__(self, process: ForkServerProcess) -> None:
        assert process.pid is not None
        self.pid = process.pid
        self._process = process

    @property
    def returncode(self) -> int | None:
        """The exit code, minus the signal that killed it, or None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def destroy(self) -> None:
        """Leave nothing of it."""
        self.kill()
        self.wait()


class Piped(Forked):
    """A process whose outputs are read here."""

    def __init__(self, process: ForkServerProcess, stdout: TextIO, stderr: TextIO) -> None:
        super().__init__(process)
        self.stdout, self.stderr = stdout, stderr

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """The rest of both outputs, the second of which must be short, once the process has ended."""
        out, err = self.stdout.read(), self.stderr.read()
        self.wait(timeout)
        return out, err

    def destroy(self) -> None:
        super().destroy()
        self.stdout.close()
        self.stderr.close()


Start = Callable[..., Piped]
"""Starts a command with the given arguments."""


def fork(code: str, arguments: Sequence[str], *, log: Path, environment: Mapping[str, str]) -> Forked:
    """Run Python `code` with these arguments; what it prints is added to `log`."""
    return Forked(_start(code, arguments, Path.cwd(), environment, log, log))


def fork_piped(code: str, arguments: Sequence[str], *, cwd: Path, environment: Mapping[str, str]) -> Piped:
    """`fork` in another directory, with outputs to read."""
    (out, child_out), (err, child_err) = _CONTEXT.Pipe(duplex=False), _CONTEXT.Pipe(duplex=False)
    process = _start(code, arguments, cwd, environment, child_out, child_err)
    child_out.close()
    child_err.close()
    return Piped(process, _reader(out), _reader(err))


def _start(code: str, arguments: Sequence[str], *rest: object) -> ForkServerProcess:
    # Of use before the first process alone: all come from one server, which the test process keeps to its end.
    _CONTEXT.set_forkserver_preload([__name__, *_SERVICE, *(_TRAINING if "torch" in sys.modules else ())])
    process = _CONTEXT.Process(target=_run, args=(code, list(arguments), *rest))
    # The server must find this module first: torch-fidelity installs a package `tests` too.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        process.start()
    return process


def _reader(end: Connection) -> TextIO:
    descriptor = os.dup(end.fileno())
    end.close()
    return open(descriptor, encoding="utf-8")


def _run(
    code: str,
    arguments: list[str],
    cwd: Path,
    environment: Mapping[str, str],
    out: Connection | Path,
    err: Connection | Path,
) -> None:
    for descriptor, target in enumerate((out, err), start=1):
        with open(target, "ab") if isinstance(target, Path) else target as opened:
            os.dup2(opened.fileno(), descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["gan-mhe", *arguments]
    exec(compile(code, "<test>", "exec"), {"__name__": "__main__"})

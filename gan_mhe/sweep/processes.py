"""Executes several runs at once, each in its own `gan_mhe.worker` process with its share of the cores.

The events of a run are read from its journal and its end from the outcome file. Each worker is the only process of its
process group: Ctrl-C in a terminal reaches only this process, which forwards it. Workers are killed when this process
ends.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gan_mhe.config.run_config import RunConfig
from gan_mhe.errors import GanMheError
from gan_mhe.files import write_json
from gan_mhe.records.events import Event, EventSink, RunControl, decode
from gan_mhe.records.run_dir import RunDir
from gan_mhe.streams import Dispensable
from gan_mhe.sweep import parent_death

SinkFactory = Callable[[str], AbstractContextManager[EventSink]]

_WORKER = (sys.executable, "-m", "gan_mhe.worker")
_POLL_SECONDS = 0.1
_STDERR_BYTES = 8192  # kept from the end of the worker's stderr


@dataclass(frozen=True)
class Run:
    """One run to execute. title: its name in messages."""

    config: RunConfig
    directory: Path
    title: str


def execute_all(
    runs: Sequence[Run], make_sink: SinkFactory, control: RunControl, *, jobs: int, threads: int
) -> list[tuple[Run, GanMheError]]:
    """Execute `runs`, started in order, up to `jobs` at once with `threads` CPU threads each.

    Returns when all have ended or, after `control` asks to stop, when the active ones have saved and ended. Returns the
    failures in the order of `runs`; the `code` of an error is that of the error in the worker. Any exception here, such
    as a second Ctrl-C, kills the workers; their last checkpoints remain.
    """
    waiting, started, active = list(runs), list[_Worker](), list[_Worker]()
    with tempfile.TemporaryDirectory(prefix="gan-mhe-") as scratch:
        try:
            while active or (waiting and not control.should_stop()):
                while waiting and len(active) < jobs and not control.should_stop() and not _may_be_downloading(started):
                    run = waiting.pop(0)
                    started.append(_Worker(run, Path(scratch) / str(len(started)), make_sink, threads))
                    active.append(started[-1])
                time.sleep(_POLL_SECONDS)
                for worker in active:
                    if control.should_stop():
                        worker.request_stop()
                    worker.poll()
                active = [worker for worker in active if not worker.ended]
        finally:
            for worker in active:
                worker.kill()
    return [(worker.run, worker.failure) for worker in started if worker.failure is not None]


def _may_be_downloading(started: Sequence["_Worker"]) -> bool:
    """Whether the first run may still be downloading shared files; a second download would corrupt them."""
    if not started or started[0].ended or started[0].has_events:
        return False
    config = started[0].run.config
    return config.data.download or config.evaluation.download


class _Worker:
    """The process of one run. failure: once `ended`, why the run did not complete; None if it completed."""

    def __init__(self, run: Run, scratch: Path, make_sink: SinkFactory, threads: int) -> None:
        self.run = run
        self.ended = self.has_events = False
        self.failure: GanMheError | None = None
        self._stop_requested = False
        self._journal = _Journal(RunDir(run.directory).events)
        self._request, self._outcome, self._stderr = (scratch / name for name in ("request", "outcome", "stderr"))
        self._closing = ExitStack()
        self._show = Dispensable(self._closing.enter_context(make_sink(run.title)).emit)
        self._process: subprocess.Popen[bytes] | None = None
        try:
            scratch.mkdir()
            self._process = self._start(threads)
        except (OSError, GanMheError) as error:
            self._end(GanMheError(f"cannot start the worker: {error}"))

    def _start(self, threads: int) -> "subprocess.Popen[bytes]":
        document = {
            "kind": "train",
            "config": self.run.config.document(),
            "run_dir": str(self.run.directory),
            "outcome": str(self._outcome),
        }
        write_json(self._request, document)
        launcher = [sys.executable, "-I", "-S", parent_death.__file__, str(os.getpid())]
        with open(self._stderr, "wb") as stderr:
            return subprocess.Popen(
                [*launcher, *_WORKER, str(self._request)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
                process_group=0,
            )

    def poll(self) -> None:
        """Emit the new events of the run, and record its end."""
        if self._process is None:
            return
        code = self._process.poll()  # before reading the journal, so that the last events are not missed
        for event in self._journal.new_events():
            self.has_events = True
            self._show(event)
        if code is not None:
            self._end(self._failure(code))

    def request_stop(self) -> None:
        """Ask the worker, once, to save a checkpoint and end."""
        if not self._stop_requested and self._process is not None:
            self._stop_requested = True
            self._process.terminate()

    def kill(self) -> None:
        """Kill the worker's process group and close its sink."""
        if self._process is not None and self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._closing.close()

    def _end(self, failure: GanMheError | None) -> None:
        self.ended, self.failure = True, failure
        self._closing.close()

    def _failure(self, exit_code: int) -> GanMheError | None:
        """Why the run did not complete; None if it completed or stopped on request."""
        outcome = self._read_outcome()
        if outcome.get("outcome") == "completed" or (self._stop_requested and outcome.get("outcome") != "failed"):
            return None
        message = outcome.get("message") or f"the worker ended {_exit_description(exit_code)}"
        if outcome.get("outcome") == "stopped":
            message = f"the worker was stopped from outside at step {outcome['step']}; run the same command to continue"
        code = outcome.get("code") or GanMheError.code
        if code == GanMheError.code:  # an unexpected error: add the traceback
            message = f"{message}\n{self._stderr_tail()}".rstrip()
        error = GanMheError(message)
        error.code = code
        return error

    def _read_outcome(self) -> dict[str, Any]:
        try:
            outcome: dict[str, Any] = json.loads(self._outcome.read_bytes())
        except (OSError, ValueError):  # the worker was killed before it wrote one
            return {}
        return outcome

    def _stderr_tail(self) -> str:
        return self._stderr.read_bytes()[-_STDERR_BYTES:].decode("utf-8", "replace").strip()


def _exit_description(code: int) -> str:
    return f"by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"with exit code {code}"


class _Journal:
    """Reads the events that a run appends from now on. An incomplete last line is not read; the run removes it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._offset = len(self._new_lines())

    def new_events(self) -> Iterator[Event]:
        """Events appended since the last call."""
        content = self._new_lines()
        self._offset += len(content)
        for line in content.splitlines():
            yield decode(json.loads(line))

    def _new_lines(self) -> bytes:
        try:
            with open(self._path, "rb") as file:
                file.seek(self._offset)
                content = file.read()
        except OSError:  # not written yet, or not readable, which the run will report itself
            return b""
        return content[: content.rfind(b"\n") + 1]

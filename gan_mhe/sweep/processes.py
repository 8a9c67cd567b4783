"""Several runs at once, each in a `gan_mhe.worker` of its own with its share of the cores.

What a run says is read from its journal, how it ended from its outcome. A worker is the only process of its group: a
terminal's Ctrl-C reaches this process alone, which passes it on, and it dies when this process does.
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
from gan_mhe.sweep import parent_death

SinkFactory = Callable[[str], AbstractContextManager[EventSink]]

_WORKER = (sys.executable, "-m", "gan_mhe.worker")
_POLL_SECONDS = 0.1
_STDERR_BYTES = 8192  # of a traceback, at its end


@dataclass(frozen=True)
class Run:
    """One run to execute: what, where, and what people call it."""

    config: RunConfig
    directory: Path
    title: str


def execute_all(
    runs: Sequence[Run], make_sink: SinkFactory, control: RunControl, *, jobs: int, threads: int
) -> list[tuple[Run, GanMheError]]:
    """Execute `runs`, begun in order, up to `jobs` at once with `threads` CPU threads each.

    Returns when all have ended, or, once `control` asks to stop, when those in progress have saved and ended. Failures
    are returned in the order of `runs`; an error's `code` is that of the error in the worker. Any exception here, such
    as a second Ctrl-C, kills the workers; their last checkpoints stand.
    """
    waiting, begun, active = list(runs), list[_Worker](), list[_Worker]()
    with tempfile.TemporaryDirectory(prefix="gan-mhe-") as scratch:
        try:
            while active or (waiting and not control.should_stop()):
                while waiting and len(active) < jobs and not control.should_stop() and not _is_fetching(begun):
                    run = waiting.pop(0)
                    begun.append(_Worker(run, Path(scratch) / str(len(begun)), make_sink, threads))
                    active.append(begun[-1])
                time.sleep(_POLL_SECONDS)
                for worker in active:
                    if control.should_stop():
                        worker.ask_to_stop()
                    worker.listen()
                active = [worker for worker in active if not worker.ended]
        finally:
            for worker in active:
                worker.kill()
    return [(worker.run, worker.failure) for worker in begun if worker.failure is not None]


def _is_fetching(begun: Sequence["_Worker"]) -> bool:
    """Whether the first run may be downloading what all need: two downloads to one file would spoil it."""
    if not begun or begun[0].ended or begun[0].has_spoken:
        return False
    config = begun[0].run.config
    return config.data.download or config.evaluation.download


class _Worker:
    """One run's process. `failure` is why the run did not come to its end, once `ended`; None where it did."""

    def __init__(self, run: Run, scratch: Path, make_sink: SinkFactory, threads: int) -> None:
        self.run = run
        self.ended = self.has_spoken = False
        self.failure: GanMheError | None = None
        self._asked = False
        self._journal = _Journal(RunDir(run.directory).events)
        self._request, self._outcome, self._stderr = (scratch / name for name in ("request", "outcome", "stderr"))
        self._closing = ExitStack()
        self._sink = self._closing.enter_context(make_sink(run.title))
        self._process: subprocess.Popen[bytes] | None = None
        try:
            scratch.mkdir()
            self._process = self._start(threads)
        except (OSError, GanMheError) as error:
            self._end(GanMheError(f"cannot start: {error}"))

    def _start(self, threads: int) -> "subprocess.Popen[bytes]":
        document = {
            "kind": "train",
            "config": self.run.config.document(),
            "run_dir": str(self.run.directory),
            "outcome": str(self._outcome),
        }
        write_json(self._request, document)
        tied = [sys.executable, "-I", "-S", parent_death.__file__, str(os.getpid())]
        with open(self._stderr, "wb") as stderr:
            return subprocess.Popen(
                [*tied, *_WORKER, str(self._request)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
                process_group=0,
            )

    def listen(self) -> None:
        """Pass on what the run has said since, and notice its end."""
        if self._process is None:
            return
        code = self._process.poll()  # before reading, so that nothing it said last is missed
        for event in self._journal.new_events():
            self.has_spoken = True
            self._sink.emit(event)
        if code is not None:
            self._end(self._explain(code))

    def ask_to_stop(self) -> None:
        """Ask once for a checkpoint and an end."""
        if not self._asked and self._process is not None:
            self._asked = True
            self._process.terminate()

    def kill(self) -> None:
        """End it now, with whatever it has started."""
        if self._process is not None and self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._closing.close()

    def _end(self, failure: GanMheError | None) -> None:
        self.ended, self.failure = True, failure
        self._closing.close()

    def _explain(self, code: int) -> GanMheError | None:
        """Why the run did not come to its end; None where it did, or was asked to stop."""
        outcome = self._read_outcome()
        if outcome.get("outcome") == "completed" or (self._asked and outcome.get("outcome") != "failed"):
            return None
        message = outcome.get("message") or f"its process ended {_how(code)}"
        if outcome.get("outcome") == "stopped":
            message = (
                f"somebody else stopped its process at step {outcome['step']}; the same command goes on from there"
            )
        code_said = outcome.get("code") or GanMheError.code
        if code_said == GanMheError.code:  # nothing we know of, so that the traceback is wanted
            message = f"{message}\n{self._last_words()}".rstrip()
        error = GanMheError(message)
        error.code = code_said
        return error

    def _read_outcome(self) -> dict[str, Any]:
        try:
            outcome: dict[str, Any] = json.loads(self._outcome.read_bytes())
        except (OSError, ValueError):  # it was killed before it could write one
            return {}
        return outcome

    def _last_words(self) -> str:
        return self._stderr.read_bytes()[-_STDERR_BYTES:].decode("utf-8", "replace").strip()


def _how(code: int) -> str:
    return f"by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"with exit code {code}"


class _Journal:
    """The events that a run appends from now on. A torn last line is left to the run, which cuts it off."""

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
        except OSError:  # not there yet, or in a place where the run will find no room either
            return b""
        return content[: content.rfind(b"\n") + 1]

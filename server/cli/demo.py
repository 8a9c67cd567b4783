"""`gan-mhe demo`: the whole service in one command.

Starts a server, submits four jobs over REST, shows their event stream, and prints their grids and a comparison. When
the command ends for whatever reason, it pauses the jobs and stops the server; running it again continues the jobs.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Self

from gan_mhe.cli.console import out, print_error, print_table, say
from gan_mhe.comparison.table import footnote, headings, table_cells
from gan_mhe.config import compose, documents
from gan_mhe.errors import GanMheError
from gan_mhe.files import atomic_write, canonical_json, sha256_bytes
from gan_mhe.run.control import stop_signals
from server.cli.console import follow
from server.client import Client, Conflict, Job, Mode, ServerError, Unreachable

PRESET, VARIANTS, SEEDS = "digits_cnn", ("none", "spectral_norm", "mhe", "mhe_sn"), (0,)
FAILURE, INTERRUPTED = 1, 130

_LABEL = "demo"
_START_SECONDS = 60.0
_PATIENCE_SECONDS = 5.0
_SAVE_SECONDS = 30.0
_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.1


def run(root: Path, assignments: Sequence[str]) -> int:
    """Run the demonstration; return the exit code. root: the data directory. assignments: `key=value` overrides."""
    digest = _digest(assignments)
    with _Interrupts() as interrupts:
        try:
            with _Server(root, interrupts) as server:
                ended = _run_jobs(server, root, digest, assignments)
        except KeyboardInterrupt:
            say("stopped; run the same command to continue")
            return INTERRUPTED
    say(f"to explore the results, run gan-mhe serve --data-dir {root} and open its address")
    return 0 if all(job.state == "succeeded" for job in ended) else FAILURE


def _digest(assignments: Sequence[str]) -> str:
    """Digest of the configurations. Raises ConfigError if one is invalid."""
    document = documents.load_document(documents.PRESETS / f"{PRESET}.toml")
    overrides = compose.parse_overrides(assignments)
    configs = compose.expand(document, variants=VARIANTS, seeds=SEEDS, overrides=overrides)
    return sha256_bytes(canonical_json([config.digest() for config in configs]))[:16]


def _run_jobs(server: "_Server", root: Path, digest: str, assignments: Sequence[str]) -> list[Job]:
    with Client(server.url(), key="") as client:
        say(f"page: {client.base_url}/  (Ctrl-C stops everything)")
        ended = _train(client, server, digest, assignments)
        _report(client, root, ended)
    return ended


def _train(client: Client, server: "_Server", digest: str, assignments: Sequence[str]) -> list[Job]:
    """Run the jobs to their end: those of an earlier demonstration with the same configurations, or new ones."""
    jobs = _earlier(client, digest)
    if not jobs:
        experiment = client.submit_experiment(
            preset=PRESET,
            matrix={"variant": VARIANTS, "seed": SEEDS},
            overrides=dict(map(compose.parse_assignment, assignments)),
            name="demonstration",
            labels={_LABEL: digest},
        )
        jobs = [client.job(job_id) for job_id in experiment.job_ids]
    try:
        return follow(client, jobs, out, patience=_PATIENCE_SECONDS)
    except Unreachable:
        raise server.failure() from None


def _earlier(client: Client, digest: str) -> list[Job]:
    """The jobs of the latest demonstration with these configurations, resumed; none if one was cancelled."""
    found = list(client.jobs(label=f"{_LABEL}:{digest}"))
    jobs = [job for job in reversed(found) if job.experiment_id == found[0].experiment_id]
    if any(job.state == "cancelled" for job in jobs):
        return []
    for job in jobs:
        if job.state == "paused":
            client.resume(job.id)
        elif job.state == "failed":
            client.retry(job.id)
    return jobs


def _report(client: Client, root: Path, ended: Sequence[Job]) -> None:
    for job in ended:
        if job.state != "succeeded":
            print_error(f"{job.title}  {job.outcome}")
    for job in ended:
        path = root / "grids" / f"{job.variant}.png"
        with suppress(Conflict):  # the job has no grids
            atomic_write(path, client.latest_png(job.id))
            say(f"{job.variant:14} {path}")
    try:
        comparison = client.compare([job.id for job in ended])
    except Conflict:
        say("no scores to compare")
        return
    print_table(headings(comparison), table_cells(comparison))
    say(footnote(comparison))


class _Interrupts:
    """Counts the `stop_signals`; while enabled, the first one raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.count = 0
        self.enabled = False

    def enable(self) -> None:
        """Enable the exception; raises it immediately if a signal has arrived before."""
        self.enabled = True
        if self.count:
            raise KeyboardInterrupt

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._handle) for number in stop_signals()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.enabled and self.count == 1:
            raise KeyboardInterrupt


class _Server:
    """A service in a separate process and session, so that Ctrl-C in the terminal does not reach it.

    When the context ends, the jobs are paused, the service is stopped, and all processes that it started are killed.
    """

    def __init__(self, root: Path, interrupts: _Interrupts) -> None:
        self._root, self._interrupts = root, interrupts
        self._log = root / "server.log"
        self._url: str | None = None

    def __enter__(self) -> Self:
        slots = min(2, len(os.sched_getaffinity(0)))
        command = [sys.executable, "-P", "-m", "server.cli.app", "serve", "--host", "127.0.0.1", "--port", "0"]
        command += ["--data-dir", str(self._root), "--cpu-slots", str(slots), "--threads-per-slot", "1"]
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            with open(self._log, "ab") as log:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
        except OSError as error:
            raise GanMheError(f"cannot start a service in {self._root}: {error.strerror}") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._interrupts.enabled = False
        if self._interrupts.count:
            with suppress(OSError):  # the terminal may be closed
                say("stopping: the jobs save their state; press Ctrl-C again to quit immediately")
        if self._url is not None:
            with suppress(ServerError), Client(self._url, key="", timeout=_STOP_SECONDS) as client:
                self._pause_jobs(client, "graceful", _SAVE_SECONDS)
                self._pause_jobs(client, "now", _STOP_SECONDS)
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _kill_attempts(self._root)

    def url(self) -> str:
        """Its URL, once it listens. Interrupts are enabled from here on."""
        self._interrupts.enable()
        limit = time.monotonic() + _START_SECONDS
        while self._url is None:
            if self._process.poll() is not None or time.monotonic() > limit:
                raise self.failure()
            time.sleep(_POLL_SECONDS)
            with suppress(OSError, ValueError):
                announced = json.loads((self._root / "server.json").read_text())
                self._url = announced["url"] if announced["pid"] == self._process.pid else None
        return self._url

    def failure(self) -> GanMheError:
        """An error with the last line of its log."""
        lines = self._log.read_text(errors="replace").splitlines() or ["(empty)"]
        return GanMheError(f"the service is not running; the last line of {self._log}: {lines[-1]}")

    def _pause_jobs(self, client: Client, mode: Mode, seconds: float) -> None:
        """Pause all jobs. Returns early at another interrupt."""
        asked: set[str] = set()
        limit, count = time.monotonic() + seconds, self._interrupts.count
        while live := [job for job in client.jobs() if not job.terminal and job.state != "paused"]:
            for job in live:
                if job.id not in asked:
                    asked.add(job.id)
                    with suppress(Conflict):  # it has ended or is being cancelled
                        client.pause(job.id, mode=mode)
            if time.monotonic() > limit or self._interrupts.count > count:
                return
            time.sleep(_POLL_SECONDS)


def _kill_attempts(root: Path) -> None:
    """Kill all attempts of this data directory that still run; their jobs resume from their last checkpoints.

    Does nothing if another server uses the directory.
    """
    from server.executors.devices import NvidiaSmi
    from server.executors.local import LocalExecutor

    executor = LocalExecutor(cpu_slots=0, threads_per_slot=1, devices=NvidiaSmi())
    with open(root / "server.lock", "a") as lock, suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for directory in root.glob("jobs/*/attempts/*"):
            handle = executor.find(directory)
            if handle is not None and executor.observe(handle).status != "exited":
                executor.signal(handle, "kill")

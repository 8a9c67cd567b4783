"""A real server process with its own data directory and a fast stand-in for the trainer, and ways to kill them."""

import hashlib
import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from server.queue.states import State, legal
from tests.support.paths import FAKE_WORKER

LIVE = {"starting", "running", "pausing", "recovering", "cancelling"}
PROMPT = {
    "GAN_MHE_CPU_SLOTS": "2",
    "GAN_MHE_GRACE_SECONDS": "2",
    "GAN_MHE_LEASE_TTL_SECONDS": "1.5",
    "GAN_MHE_RETRY_BACKOFF_SECONDS": "0.05",
    "GAN_MHE_DISK_RESERVE_BYTES": "0",
    "GAN_MHE_WORKER_COMMAND": json.dumps([sys.executable, str(FAKE_WORKER)]),
}
# A report every 5 steps, a checkpoint every 10.
OFTEN = {
    "training.report_every_steps": 5,
    "checkpoint.every_steps": 10,
    "sampling.every_steps": 20,
    "evaluation.every_steps": 0,
}

Json = dict[str, Any]


def wait_until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """The value of `condition` once it is true; fails the test if it stays false."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)
    return value


@dataclass
class Server:
    """One data directory, and the server process that uses it, if one runs."""

    data_dir: Path
    environment: dict[str, str]
    process: "subprocess.Popen[bytes] | None" = None
    address: str = ""
    started: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def start(self, **environment: str) -> "Server":
        """Start a server process and wait until it answers."""
        self.process = self.launch(**environment)
        announced = self.data_dir / "server.json"

        def ready() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.output()
            if not announced.exists():
                return False
            document = json.loads(announced.read_text())
            self.address = document["url"]
            return bool(document["pid"] == self.process.pid)

        wait_until(ready, 30)
        return self

    def launch(self, **environment: str) -> "subprocess.Popen[bytes]":
        """Start a server process without waiting for it."""
        command = [sys.executable, "-c", "from server.cli.app import main; main()"]
        arguments = ["serve", "--port", "0", "--data-dir", str(self.data_dir)]
        with open(self.data_dir.with_suffix(".log"), "ab") as log:
            process = subprocess.Popen(
                [*command, *arguments],
                env={**os.environ, **self.environment, **environment},
                stdout=log,
                stderr=log,
            )
        self.started.append(process)
        return process

    def output(self) -> str:
        return self.data_dir.with_suffix(".log").read_text(errors="replace")

    def kill(self) -> None:
        """Kill the server alone with SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def wait_for_death(self, seconds: float = 20.0) -> None:
        """Wait until the server process has ended by itself."""
        assert self.process is not None
        self.process.wait(seconds)

    def request(self, method: str, path: str, **options: Any) -> httpx2.Response:
        return httpx2.request(method, f"{self.address}{path}", timeout=60, **options)

    def submit(self, steps: int = 20, *, key: str | None = None, **fields: Any) -> str:
        body = {"preset": "digits_cnn", "overrides": {**OFTEN, "training.steps": steps}, **fields}
        answer = self.request("POST", "/v1/jobs", json=body, headers={"Idempotency-Key": key} if key else {})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def act(self, job_id: str, action: str, **body: Any) -> httpx2.Response:
        return self.request("POST", f"/v1/jobs/{job_id}/{action}", json=body or None)

    def job(self, job_id: str) -> Json:
        job: Json = self.request("GET", f"/v1/jobs/{job_id}").json()
        return job

    def wait_for(self, job_id: str, *states: str, step: int = 0, seconds: float = 20.0) -> Json:
        """The job once it is in one of the states and has reached the step."""

        def there() -> Json | None:
            job = self.job(job_id)
            return job if job["state"] in states and job["progress"]["step"] >= step else None

        try:
            found: Json = wait_until(there, seconds)
        except AssertionError:
            pytest.fail(f"{self.job(job_id)} is not {states}; its output:\n{self.output()[-3000:]}")
        return found

    def attempt(self, job_id: str, number: int = 1) -> Path:
        return self.data_dir / "jobs" / job_id / "attempts" / str(number)

    def pids(self, job_id: str, number: int = 1) -> tuple[int, int]:
        """The pids of an attempt's supervisor and trainer, once both run."""

        def both() -> tuple[int, int] | None:
            try:
                document = json.loads((self.attempt(job_id, number) / "supervisor.json").read_text())
            except (OSError, ValueError):
                return None
            return (document["pid"], document["trainer"]["pid"]) if document["trainer"] else None

        pids: tuple[int, int] = wait_until(both)
        return pids

    def rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        """Read the database as another program would."""
        with sqlite3.connect(f"file:{self.data_dir / 'service.sqlite3'}?mode=ro", uri=True, timeout=30) as connection:
            connection.row_factory = sqlite3.Row
            found = connection.execute(query, values).fetchall()
        connection.close()
        return found

    def states(self, job_id: str) -> list[str]:
        """The states of a job's history, in order."""
        rows = self.rows("SELECT data FROM journal WHERE job_id = ? AND type = 'job.state' ORDER BY job_seq", job_id)
        return [json.loads(row["data"])["state"] for row in rows]

    def processes(self) -> list[int]:
        """Pids of all live processes of this data directory except servers."""
        mark, found = str(self.data_dir).encode(), []
        servers = {process.pid for process in self.started}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) not in servers | {os.getpid()}:
                with suppress(OSError):
                    if mark in (entry / "cmdline").read_bytes() and (entry / "stat").read_text().split()[-50] != "Z":
                        found.append(int(entry.name))
        return found

    def kill_all(self, *pids: int) -> None:
        """Kill those of the processes that still exist, with SIGKILL."""
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def wait_until(self, condition: Callable[[], Any], seconds: float = 20.0) -> Any:
        return wait_until(condition, seconds)

    def destroy(self) -> None:
        """Kill everything that still runs."""
        for process in self.started:
            with suppress(OSError):
                process.kill()
            process.wait()
        self.kill_all(*self.processes())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A data directory with settings that make everything fast; no server runs yet."""
    made = Server(tmp_path / "data", dict(PROMPT))
    yield made
    made.destroy()


Audit = Callable[[Server], None]


@pytest.fixture
def audit() -> Audit:
    """Checks the invariants of a data directory in which nothing is changing."""

    def check(server: Server) -> None:
        _check_histories(server)
        _check_jobs(server)
        _check_metrics(server)
        _check_files(server)
        assert server.rows("PRAGMA integrity_check")[0][0] == "ok"

    return check


def _check_histories(server: Server) -> None:
    for row in server.rows("SELECT id, state, journal_seq FROM jobs"):
        numbers = [
            r["job_seq"] for r in server.rows("SELECT job_seq FROM journal WHERE job_id = ? ORDER BY 1", row["id"])
        ]
        assert numbers == list(range(1, row["journal_seq"] + 1)), "the journal has a gap"
        states = [State(state) for state in server.states(row["id"])]
        illegal = [pair for pair in itertools.pairwise(states) if not legal(*pair)]
        assert not illegal and states[-1] == row["state"]


def _check_jobs(server: Server) -> None:
    for row in server.rows("SELECT * FROM jobs"):
        live = server.rows("SELECT slot FROM attempts WHERE job_id = ? AND live", row["id"])
        assert len(live) <= 1, "two live attempts"
        assert (row["finished_at"] is not None) == (row["state"] in {"succeeded", "failed", "cancelled"})
        if row["state"] not in LIVE:
            assert not live, f"a job that is {row['state']} has an attempt"
    slots = [row["slot"] for row in server.rows("SELECT slot FROM attempts WHERE live")]
    assert len(slots) == len(set(slots)), "a slot is given twice"


def _check_metrics(server: Server) -> None:
    """The effective points of each series are those that the run wrote, each once."""
    for row in server.rows("SELECT id, seq FROM jobs WHERE kind = 'train' AND state = 'succeeded'"):
        written = _reported_steps(server.data_dir / "jobs" / row["id"] / "run" / "events.jsonl")
        query = (
            "SELECT step FROM metric_points JOIN metric_names ON name_id = metric_names.id "
            "WHERE job_seq = ? AND name = 'd_loss' AND NOT superseded ORDER BY step"
        )
        assert [point["step"] for point in server.rows(query, row["seq"])] == written


def _reported_steps(journal: Path) -> list[int]:
    steps: list[int] = []
    for line in journal.read_text().splitlines():
        event = json.loads(line)
        if event["type"] == "started":
            steps = [step for step in steps if event["resumed"] and step <= event["step"]]
        if event["type"] == "scalars":
            steps.append(event["step"])
    return sorted(set(steps))


def _check_files(server: Server) -> None:
    for row in server.rows("SELECT job_id, path, sha256 FROM blobs"):
        content = (server.data_dir / "jobs" / row["job_id"] / row["path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == row["sha256"]
    for row in server.rows("SELECT job_id, path FROM checkpoints WHERE status = 'available'"):
        assert (server.data_dir / "jobs" / row["job_id"] / row["path"]).is_dir()

"""A real server process over a data directory of its own, with a fast stand-in for the trainer, and how to hurt it."""

import json
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.forked import Forked, fork
from tests.support.paths import FAKE_WORKER

MAIN = "from server.cli.app import main; main()"
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
    """What `condition` gives once that is true; fails the test when it stays false."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)  # often enough, and asking costs more than waiting
    return value


@dataclass
class Server:
    """One data directory and the server process over it, if one runs."""

    data_dir: Path
    environment: dict[str, str]
    process: Forked | None = None
    address: str = ""
    port: int = 0  # where it is started; 0 for a free one
    started: list[Forked] = field(default_factory=list)

    def start(self, **environment: str) -> "Server":
        """Start a server process and wait until it answers."""
        self.process = self.launch(**environment)
        told = self.data_dir / "server.json"

        def ready() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.output()
            if not told.exists():
                return False
            document = json.loads(told.read_text())
            self.address = document["url"]
            return bool(document["pid"] == self.process.pid)

        wait_until(ready, 30)
        return self

    def launch(self, **environment: str) -> Forked:
        """Start a server process and do not wait."""
        process = fork(
            MAIN,
            ["serve", "--port", str(self.port), "--data-dir", str(self.data_dir)],
            environment={**os.environ, **self.environment, **environment},
            log=self.data_dir.with_suffix(".log"),
        )
        self.started.append(process)
        return process

    def output(self) -> str:
        return self.data_dir.with_suffix(".log").read_text(errors="replace")

    def kill(self) -> None:
        """kill -9 of the server alone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def wait_for_death(self, seconds: float = 20.0) -> None:
        """Wait until the server process has ended by itself."""
        assert self.process is not None
        self.process.wait(seconds)

    def request(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """An answer, over a connection of its own. Plain HTTP: certificates would be most of the work."""
        return httpx2.request(method, f"{self.address}{path}", timeout=60, verify=False, **options)

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

    def wait_for(self, job_id: str, *states: str, step: int = 0, seconds: float = 60.0) -> Json:
        """The job once it is in one of the states and has made so many steps."""

        def there() -> Json | None:
            job = self.job(job_id)
            return job if job["state"] in states and job["progress"]["step"] >= step else None

        try:
            found: Json = wait_until(there, seconds)
        except AssertionError:
            pytest.fail(f"{self.job(job_id)} is not {states}; the server said:\n{self.output()[-3000:]}")
        return found

    def attempt(self, job_id: str, number: int = 1) -> Path:
        return self.data_dir / "jobs" / job_id / "attempts" / str(number)

    def pids(self, job_id: str, number: int = 1) -> tuple[int, int]:
        """The process numbers of an attempt's supervisor and trainer, once both run."""

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
        """Everything that still runs for this data directory, the server itself left out."""
        mark, found = str(self.data_dir).encode(), []
        servers = {process.pid for process in self.started}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) not in servers | {os.getpid()}:
                with suppress(OSError):
                    if mark in (entry / "cmdline").read_bytes() and (entry / "stat").read_text().split()[-50] != "Z":
                        found.append(int(entry.name))
        return found

    def kill_all(self, *pids: int) -> None:
        """kill -9, whoever is still there."""
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def wait_until(self, condition: Callable[[], Any], seconds: float = 20.0) -> Any:
        return wait_until(condition, seconds)

    def destroy(self) -> None:
        """Leave nothing running."""
        for process in self.started:
            process.destroy()
        self.kill_all(*self.processes())

"""The service under harm: a real server with real workers over a data directory of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.campaign.shifted_clock import VARIABLE
from server.executors.supervisor import process_stat
from tests.support.server_process import Server, wait_until

START_SECONDS = 60.0
"""Allowed time from the start of a server process to its first answer."""

RESERVE_BYTES = 16 * 2**20
"""Free space below which the service pauses its jobs."""

_LAUNCHER = [sys.executable, "-m", "benchmarks.campaign.shifted_clock"]
_ENVIRONMENT = {
    "GAN_MHE_CPU_SLOTS": "2",
    "GAN_MHE_GRACE_SECONDS": "10",
    "GAN_MHE_LEASE_TTL_SECONDS": "4",
    "GAN_MHE_RETRY_BACKOFF_SECONDS": "0.2",
    "GAN_MHE_DISK_RESERVE_BYTES": str(RESERVE_BYTES),
    "GAN_MHE_WORKER_COMMAND": json.dumps([*_LAUNCHER, "gan_mhe.worker"]),
}


class Refused(Exception):
    """The server process ended instead of answering; the text is the end of its log."""


@dataclass(frozen=True)
class Usage:
    """What the server process holds."""

    rss_bytes: int
    open_files: int


class Service(Server):
    """A server process that can be started, hurt and asked. Its wall clock is off by what `clock` contains, seconds."""

    process: Any  # a Popen, of which the base uses only what its own kind has too
    started: list[Any]

    def __init__(self, data_dir: Path, clock: Path) -> None:
        super().__init__(data_dir, {**_ENVIRONMENT, VARIABLE: str(clock)})
        self.clock = clock
        self.set_clock(0.0)

    def set_clock(self, seconds: float) -> None:
        """Shift the wall clock of server and workers. Replaced at once: a reader sees one value or the other."""
        temporary = self.clock.with_suffix(".new")
        temporary.write_text(str(seconds))
        os.replace(temporary, self.clock)

    def launch(self, **environment: str) -> Any:
        """Start a server process and do not wait."""
        with open(self.data_dir.with_suffix(".log"), "ab") as log:
            process = subprocess.Popen(
                [*_LAUNCHER, "server.cli.app", "serve", "--port", "0", "--data-dir", str(self.data_dir)],
                env={**os.environ, **self.environment, **environment},
                stdout=log,
                stderr=log,
            )
        self.started.append(process)
        return process

    def start(self, **environment: str) -> "Service":
        """Start a server process and wait until it answers. Raises Refused if it ends instead."""
        self.process = self.launch(**environment)
        wait_until(self._has_answered, START_SECONDS)
        return self

    def _has_answered(self) -> bool:
        if self.process.poll() is not None:
            raise Refused(self.output()[-400:].strip())
        with suppress(OSError, ValueError, httpx2.TransportError):
            document = json.loads((self.data_dir / "server.json").read_text())
            self.address = document["url"]
            return document["pid"] == self.process.pid and self.request("GET", "/healthz").status_code == 200
        return False

    def processes(self) -> list[int]:
        """All live processes that the servers have started, directly or not, by the variable that they inherit."""
        mark, servers, found = f"{VARIABLE}={self.clock}\0".encode(), {each.pid for each in self.started}, []
        for place in Path("/proc").iterdir():
            if place.name.isdigit() and int(place.name) not in servers:
                with suppress(OSError):
                    if mark in (place / "environ").read_bytes() and process_stat(int(place.name))[0] not in "ZX":
                        found.append(int(place.name))
        return found

    def runs(self) -> bool:
        """Whether a server process exists."""
        return self.process is not None and self.process.poll() is None

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the server process, if there is one, and wait for its end."""
        if self.runs():
            self.process.send_signal(number)
            self.process.wait(30)

    def revive(self) -> None:
        """Continue whatever is stopped, and start a server if none runs."""
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        if self.runs():
            self.process.send_signal(signal.SIGCONT)
        else:
            self.start()

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run `gan-mhe ARGUMENTS` over the data directory, as an operator does."""
        return subprocess.run(
            [*_LAUNCHER, "server.cli.app", *arguments],
            env={**os.environ, **self.environment, "GAN_MHE_DATA_DIR": str(self.data_dir)},
            capture_output=True,
            text=True,
            timeout=120,
        )

    @cached_property
    def commands(self) -> list[str]:
        """The words of `gan-mhe --help`, the names of all commands among them."""
        return self.command("--help").stdout.split()

    def jobs(self, states: Sequence[str] = ()) -> list[dict[str, Any]]:
        """All jobs, or those in the given states, as the API lists them."""
        found: list[dict[str, Any]] = []
        options: dict[str, Any] = {"limit": 200, "state": list(states)}
        while True:
            answer = self.request("GET", "/v1/jobs", params=options)
            assert answer.status_code == 200, f"GET /v1/jobs answers {answer.status_code}: {answer.text[:200]}"
            found += answer.json()["data"]
            following = answer.json()["next_cursor"]
            if following is None:
                return found
            options["cursor"] = following

    def attempts(self) -> list[tuple[str, int, int]]:
        """Job, supervisor and trainer of each attempt of which both processes run."""
        alive, found = set(self.processes()), []
        for file in (self.data_dir / "jobs").glob("*/attempts/*/supervisor.json"):
            with suppress(OSError, ValueError, KeyError, TypeError):
                document = json.loads(file.read_text())
                supervisor, trainer = document["pid"], document["trainer"]["pid"]
                if {supervisor, trainer} <= alive:
                    found.append((file.parts[-4], supervisor, trainer))
        return found

    def usage(self) -> Usage:
        """Memory and open files of the server process."""
        place = Path(f"/proc/{self.process.pid}")
        lines = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
        return Usage(int(lines["VmRSS"].split()[0]) * 1024, len(os.listdir(place / "fd")))

    def destroy(self) -> None:
        """Leave nothing running."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.wait()
        self.kill_all(*self.processes())

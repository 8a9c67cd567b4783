"""Cost and latency of the service while a job trains on the same machine.

    python -m benchmarks.service [--seconds 30] [--subscribers 1000] [--out FILE.json]

Three measurements, each against a server process of its own on a loopback port, with one real training job running:
the time from sending a submission to its answer at 20 requests a second; the time from the commit of an event to its
arrival at each of 1,000 stream subscribers, and whether each got every event; and the training's own time with and
without the server, in alternation. The load comes from this machine too, so the figures are upper bounds.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2

from gan_mhe.config.compose import compose, parse_overrides
from gan_mhe.config.documents import PRESETS, load_document

SUBMISSIONS_PER_SECOND = 20
GOALS = {"submit_p99_ms": 50.0, "stream_p99_ms": 250.0, "training_slowdown": 0.02}

# On one core a report in about 1.5 seconds, with three rows of history each: two events a second.
TRAINING = (
    "training.steps=100000",
    "training.report_every_steps=36",
    "sampling.every_steps=0",
    "checkpoint.every_steps=400",
    "evaluation.protocol=none",
)
SHORT = ("training.steps=250", *TRAINING[1:])


@contextmanager
def server(data_dir: Path) -> Iterator[str]:
    """Run a server process with one training slot of one thread; yield its address."""
    command = [sys.executable, "-m", "server.cli.app", "serve", "--port", "0", "--data-dir", str(data_dir)]
    environment = {
        **os.environ,
        "GAN_MHE_CPU_SLOTS": "1",
        "GAN_MHE_THREADS_PER_SLOT": "1",
        "GAN_MHE_GRACE_SECONDS": "5",
    }
    with open(data_dir.with_suffix(".log"), "ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield address_of(data_dir / "server.json", process)
    finally:
        process.terminate()
        process.wait(30)


def address_of(file: Path, process: "subprocess.Popen[bytes]") -> str:
    """The address of a server that has started; file: its server.json."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if file.exists():
            document = json.loads(file.read_text())
            if document["pid"] == process.pid:
                return str(document["url"])
        time.sleep(0.05)
    raise SystemExit(f"the server did not start; see {file.parent.with_suffix('.log')}")


def submit(client: httpx2.Client, overrides: Sequence[str], **fields: Any) -> dict[str, Any]:
    """Submit a job of the digits preset."""
    flat = dict(assignment.split("=", 1) for assignment in overrides)
    values = {key: json.loads(value) if value[0].isdigit() else value for key, value in flat.items()}
    answer = client.post("/v1/jobs", json={"preset": "digits_cnn", "variant": "mhe_sn", "overrides": values, **fields})
    answer.raise_for_status()
    job: dict[str, Any] = answer.json()
    return job


def wait_for(client: httpx2.Client, job_id: str, *, step: int = 0, terminal: bool = False) -> dict[str, Any]:
    """Wait until a job has trained for some steps, or has ended."""
    while True:
        job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").json()
        if job["terminal"] or (not terminal and job["state"] == "running" and job["progress"]["step"] >= step):
            return job
        time.sleep(0.1)


@contextmanager
def training(address: str) -> Iterator[tuple[httpx2.Client, str]]:
    """Keep a job training for the duration of the `with` block."""
    with httpx2.Client(base_url=address, timeout=60) as client:
        job = submit(client, TRAINING, priority=10)
        wait_for(client, job["id"], step=1)
        try:
            yield client, job["id"]
        finally:
            client.post(f"/v1/jobs/{job['id']}/cancel", json={"mode": "now"})
            wait_for(client, job["id"], terminal=True)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that is at least as large as `percent` of all values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def summary(milliseconds: Sequence[float]) -> dict[str, float]:
    """Median and tail."""
    shown = {f"p{percent}_ms": round(percentile(milliseconds, percent), 1) for percent in (50, 90, 99)}
    return shown | {"max_ms": round(max(milliseconds), 1), "count": len(milliseconds)}


async def submissions(address: str, seconds: float) -> list[float]:
    """Milliseconds from the due time of each submission to its answer: a late start counts against the server."""
    body = {"preset": "digits_cnn", "variant": "none", "overrides": {"training.steps": 10}, "priority": -10}
    taken: list[float] = []

    async def one(client: httpx2.AsyncClient, due: float, seed: int) -> None:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        answer = await client.post(
            "/v1/jobs", json={**body, "seed": seed}, headers={"Idempotency-Key": f"bench-{seed}"}
        )
        answer.raise_for_status()
        taken.append((time.monotonic() - due) * 1000)

    async with httpx2.AsyncClient(base_url=address, timeout=60) as client:
        began = time.monotonic() + 0.5
        count = int(seconds * SUBMISSIONS_PER_SECOND)
        await asyncio.gather(*(one(client, began + i / SUBMISSIONS_PER_SECOND, i) for i in range(count)))
    return taken


class Subscriber(asyncio.Protocol):
    """One minimal reader of an event stream: records ids and arrival times."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._rest = b""
        self.arrivals: list[tuple[int, float, float]] = []  # id, committed, arrived; seconds since 1970

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(f"GET {self._path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n".encode())

    def data_received(self, data: bytes) -> None:
        arrived = time.time()
        *messages, self._rest = (self._rest + data).split(b"\n\n")
        for message in messages:
            start = message.find(b"data: ")
            if start < 0:
                continue
            identity = int(message[message.index(b"id: ") + 4 :].split(b"\n", 1)[0])
            moment = message[message.index(b'"time":"') + 8 :][:24].decode()
            self.arrivals.append((identity, datetime.fromisoformat(moment).timestamp(), arrived))


async def follow(address: str, job_id: str, subscribers: int, seconds: float) -> tuple[list[float], int, int]:
    """Latencies in milliseconds while all are connected, expected events per reader, and readers that lack one."""
    loop = asyncio.get_running_loop()
    port = int(address.rsplit(":", 1)[1])
    readers = []
    for _ in range(subscribers):
        _, reader = await loop.create_connection(lambda: Subscriber(f"/v1/jobs/{job_id}/stream"), "127.0.0.1", port)
        readers.append(reader)
    await asyncio.sleep(3)
    began = time.time()
    await asyncio.sleep(seconds)
    ended = time.time() - 2  # later events may still be in transit
    latencies, gaps, expected = [], 0, 0
    for reader in readers:
        ids = [identity for identity, committed, _ in reader.arrivals if committed < ended]
        expected = max(expected, len(ids))
        gaps += ids != list(range(1, len(ids) + 1))
        latencies += [(arrived - sent) * 1000 for _, sent, arrived in reader.arrivals if began < sent < ended]
    gaps += sum(len([1 for _, sent, _ in reader.arrivals if sent < ended]) != expected for reader in readers)
    return latencies, expected, gaps


def train_alone(directory: Path) -> float:
    """Training seconds of the short run as a worker process without any server."""
    config = compose(
        load_document(PRESETS / "digits_cnn.toml"), variant="mhe_sn", seed=0, overrides=parse_overrides(SHORT)
    ).document()
    config["training"]["device"] = "cpu"
    directory.mkdir(parents=True)
    request = directory / "request.json"
    outcome = directory / "outcome.json"
    request.write_text(
        json.dumps(
            {
                "kind": "train",
                "run_dir": str(directory / "run"),
                "config": config,
                "outcome": str(outcome),
                "require_checkpoint": False,
                "fork": None,
                "memory_fraction": None,
            }
        )
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-m", "gan_mhe.worker", request], env=environment, check=True, capture_output=True)
    return float(json.loads(outcome.read_text())["result"]["train_seconds"])


def train_served(client: httpx2.Client, data_dir: Path) -> float:
    """Training seconds of the same run through the server, with one stream open."""
    job = submit(client, SHORT, seed=0)
    with client.stream("GET", f"/v1/jobs/{job['id']}/stream", timeout=None) as stream:
        for line in stream.iter_lines():
            if line == "event: stream.end":
                break
    result = json.loads((data_dir / "jobs" / job["id"] / "run" / "result.json").read_text())
    return float(result["train_seconds"])


def slowdown(data_dir: Path, pairs: int) -> dict[str, Any]:
    """Training time with the server over training time without, in alternation."""
    alone, served = [], []
    with server(data_dir) as address, httpx2.Client(base_url=address, timeout=60) as client:
        for turn in range(pairs):
            alone.append(train_alone(data_dir / f"alone_{turn}"))
            served.append(train_served(client, data_dir))
    ratios = [with_server / without for with_server, without in zip(served, alone, strict=True)]
    return {
        "alone_seconds": [round(value, 2) for value in alone],
        "served_seconds": [round(value, 2) for value in served],
        "median_ratio": round(statistics.median(served) / statistics.median(alone), 4),
        "ratios": [round(ratio, 4) for ratio in ratios],
    }


def say(text: str) -> None:
    """Print progress to standard error, apart from the result."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def report(measured: Mapping[str, Any], goals: Mapping[str, float], out: Path | None) -> None:
    """Print what was measured with the machine, its load and the command, and write it to `out` if given."""
    document = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", *sys.orig_argv[1:]]),
        "device": f"{platform.machine()} CPU, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "load_average": os.getloadavg(),
        "goals": goals,
        **measured,
    }
    text = json.dumps(document, indent=2)
    sys.stdout.write(text + "\n")
    if out:
        out.write_text(text + "\n")


def measure(root: Path, seconds: float, subscribers: int, pairs: int) -> dict[str, Any]:
    """Run all three measurements."""
    with server(root / "submit") as address, training(address):
        submit_ms = asyncio.run(submissions(address, seconds))
        say(f"submit {summary(submit_ms)}")
    with server(root / "stream") as address, training(address) as (_, job_id):
        stream_ms, events, incomplete = asyncio.run(follow(address, job_id, subscribers, seconds))
        say(f"stream {summary(stream_ms)}, {events} events, {incomplete} incomplete")
    return {
        "submit": {"requests_per_second": SUBMISSIONS_PER_SECOND, **summary(submit_ms)},
        "stream": {
            "subscribers": subscribers,
            "events_each": events,
            "subscribers_with_gaps": incomplete,
            **summary(stream_ms),
        },
        "training": slowdown(root / "slowdown", pairs),
    }


def main() -> None:
    """Measure, print, and write to `--out` if given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--subscribers", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=5, help="trainings with and without the server")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        measured = measure(Path(root), options.seconds, options.subscribers, options.pairs)
    report(measured, GOALS, options.out)


if __name__ == "__main__":
    main()

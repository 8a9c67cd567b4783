"""What ten thousand jobs, a large experiment and a long journal cost the service, and what others wait meanwhile.

    python -m benchmarks.bulk [--beside CHECKOUT] [--jobs 10000] [--repeats 5] [--tiny] [--out FILE.json]

Each version of the service runs in a process of its own over a data directory of its own; with --beside, another
checkout is measured in alternation. Measured are: an experiment of 1,000 cells, the longest refusal of the database's
write lock to another program, and the longest wait of a small write that another client sends meanwhile; pages of jobs
with each filter; a comparison of 200 runs; the import of a journal of 1,000,000 values, and the small write beside it;
the list of an inbox; the processor time of a service that has only jobs that it cannot start; and its memory.
"""

import argparse
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.service import address_of, percentile, report, say

ROOT = Path(__file__).resolve().parents[1]
GOALS = {
    "experiment_seconds": 0.4,
    "experiment_lock_ms": 50.0,
    "experiment_others_wait_ms": 50.0,
    "list_p99_ms": 20.0,
    "compare_seconds": 0.3,
    "import_seconds": 6.0,
    "import_others_wait_ms": 50.0,
    "memory_mib": 150.0,
}
FILTERS = {
    "newest": "",
    "oldest": "order=asc",
    "queued": "state=queued",
    "running, of which there is none": "state=running",
    "variant": "variant=mhe",
    "label of all": "label=all:yes",
    "label of some": "label=group:7",
    "label of none": "label=group:none",
    "name": "name=run%2009999",
    "name of none": "name=none",
    "created": "created_before=2020-01-01T00:00:00Z",
    "experiment": "experiment_id={experiment}",
}
_SLEEPER = (sys.executable, "-c", "import time; time.sleep(1e6)")  # an attempt that takes no processor time
_CELLS = {"variant": ["none", "spectral_norm", "mhe", "mhe_sn"]}


@dataclass(frozen=True)
class Sizes:
    """How much there is of everything."""

    jobs: int = 10_000
    runs: int = 200
    points: int = 1_000_000
    entries: int = 1000
    seeds: int = 250
    pages: int = 50
    idle_seconds: float = 20.0


TINY = Sizes(jobs=20, runs=4, points=1000, entries=3, seeds=2, pages=2, idle_seconds=0.5)


@dataclass
class Subject:
    """A running service, and what is in its database."""

    client: httpx2.Client
    process: int
    database: Path
    experiment: str
    job: str = ""


@contextmanager
def subject(checkout: Path, folder: Path, sizes: Sizes) -> Iterator[Subject]:
    """Fill a data directory with the code of a checkout, and serve it."""
    numbers = [str(number) for number in (sizes.jobs, sizes.runs, sizes.points, sizes.entries)]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    fill = [sys.executable, str(ROOT / "benchmarks" / "bulk_data.py"), str(folder), *numbers]
    experiment = subprocess.run(fill, env=environment, cwd=folder.parent, check=True, capture_output=True, text=True)
    environment |= {"GAN_MHE_CPU_SLOTS": "1", "GAN_MHE_CUDA_SLOTS_PER_DEVICE": "0", "GAN_MHE_WARM_START": "false"}
    environment |= {"GAN_MHE_MAX_QUEUED_JOBS": "1000000", "GAN_MHE_WORKER_COMMAND": json.dumps(_SLEEPER)}
    command = [sys.executable, "-m", "server.cli.app", "serve", "--port", "0", "--data-dir", str(folder)]
    with open(folder.with_suffix(".log"), "ab") as log:
        process = subprocess.Popen(command, env=environment, cwd=folder.parent, stdout=log, stderr=log)
    try:
        url = address_of(folder / "server.json", process)
        with httpx2.Client(base_url=url, timeout=600) as client:
            found = Subject(client, process.pid, folder / "service.sqlite3", experiment.stdout.strip())
            found.job = client.get("/v1/jobs?limit=1&order=asc").json()["data"][0]["id"]
            yield found
    finally:
        process.terminate()
        process.wait(60)


class Beside:
    """Something done again and again by another thread for the duration of the `with` block."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.is_set():
            self._act()


def small_writes(of: Subject, waits: list[float]) -> Beside:
    """Another client, which changes the priority of a job and notes how many milliseconds that takes."""
    client = httpx2.Client(base_url=of.client.base_url, timeout=600)

    def act() -> None:
        began = time.perf_counter()
        client.patch(f"/v1/jobs/{of.job}", json={"priority": -10}).raise_for_status()
        waits.append((time.perf_counter() - began) * 1000)
        time.sleep(0.005)

    return Beside(act)


def attempts_to_lock(of: Subject, refusals: list[float]) -> Beside:
    """Another program that wants the write lock and notes for how many milliseconds in a row it is refused."""
    since: list[float] = []
    opened: list[sqlite3.Connection] = []

    def act() -> None:
        if not opened:
            opened.append(sqlite3.connect(of.database, timeout=0, isolation_level=None))
        try:
            opened[0].execute("BEGIN IMMEDIATE")
            opened[0].execute("ROLLBACK")
        except sqlite3.OperationalError:
            since.append(time.perf_counter())
        else:
            if since:
                refusals.append((time.perf_counter() - since[0]) * 1000)
            since.clear()
        time.sleep(0.002)

    return Beside(act)


def experiment(of: Subject, seeds: int) -> tuple[float, str]:
    """Seconds to submit an experiment, and its address."""
    body = {
        "preset": "digits_cnn",
        "matrix": {**_CELLS, "seed": list(range(seeds))},
        "priority": -10,
    }
    began = time.perf_counter()
    answer = of.client.post("/v1/experiments", json=body)
    taken = time.perf_counter() - began
    answer.raise_for_status()
    return taken, answer.headers["location"]


def cancel(of: Subject, address: str) -> None:
    """Cancel an experiment, which is not measured."""
    of.client.post(f"{address}/cancel", json={"mode": "now"}).raise_for_status()


def timed(work: Callable[[], httpx2.Response]) -> float:
    """Seconds until the answer."""
    began = time.perf_counter()
    work().raise_for_status()
    return time.perf_counter() - began


def lists(of: Subject, pages: int) -> dict[str, Any]:
    """Milliseconds of pages of jobs, for each filter, and of the list of experiments."""
    paths = {name: f"/v1/jobs?{query.format(experiment=of.experiment)}" for name, query in FILTERS.items()}
    taken = {}
    for name, path in {**paths, "experiments": "/v1/experiments"}.items():
        milliseconds = [1000 * timed(lambda path=path: of.client.get(path)) for _ in range(pages)]  # type: ignore[misc]
        taken[name] = {f"p{part}_ms": round(percentile(milliseconds, part), 1) for part in (50, 99)}
    return taken


def idle(of: Subject, seconds: float) -> float:
    """Processor time of the service, as a part of one core, while nobody asks anything."""
    before = _processor_seconds(of.process)
    time.sleep(seconds)
    return round((_processor_seconds(of.process) - before) / seconds, 4)


def _processor_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(of: Subject) -> float:
    """Resident memory of the service, in MiB."""
    status = Path(f"/proc/{of.process}/status").read_text()
    return round(int(status.partition("VmRSS:")[2].split()[0]) / 1024, 1)


def measure_once(of: Subject, sizes: Sizes) -> dict[str, Any]:
    """The figures that can be repeated on one data directory."""
    waits: list[float] = []
    refusals: list[float] = [0.0]
    with small_writes(of, waits):
        shared, address = experiment(of, sizes.seeds)
    cancel(of, address)
    with attempts_to_lock(of, refusals):
        _, address = experiment(of, sizes.seeds)
    cancel(of, address)
    alone, address = experiment(of, sizes.seeds)
    cancel(of, address)
    compared = f"/v1/compare?experiment={of.experiment}"
    return {
        "experiment_seconds": alone,
        "experiment_seconds_beside_writes": shared,
        "experiment_others_wait_ms": max(waits),
        "experiment_lock_ms": max(refusals),
        "compare_seconds": timed(lambda: of.client.get(compared)),
    }


def measure_last(of: Subject, sizes: Sizes) -> dict[str, Any]:
    """The figures that are measured once."""
    found: dict[str, Any] = {"idle_cores": idle(of, sizes.idle_seconds), "lists": lists(of, sizes.pages)}
    found["list_p99_ms"] = max(each["p99_ms"] for each in found["lists"].values())
    found["memory_mib"] = memory_mib(of)
    found["inbox_seconds"] = timed(lambda: of.client.get("/v1/imports"))
    waits: list[float] = []
    with small_writes(of, waits):
        found["import_seconds"] = timed(lambda: of.client.post("/v1/imports", json={"name": "long"}))
    return found | {"import_others_wait_ms": max(waits), "memory_after_import_mib": memory_mib(of)}


def measure(checkouts: dict[str, Path], root: Path, sizes: Sizes, repeats: int) -> dict[str, Any]:
    """All figures of every version; of those that are repeated, the median and all."""
    with ExitStack() as stack:
        running = {}
        for name, checkout in checkouts.items():
            running[name] = stack.enter_context(subject(checkout, root / name, sizes))
            say(f"{name}: filled")
        last = {name: measure_last(of, sizes) for name, of in running.items()}
        rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in running}
        for _ in range(repeats):
            for name, of in running.items():
                rounds[name].append(measure_once(of, sizes))
                say(f"{name}: {rounds[name][-1]}")
    return {name: {**medians(rounds[name]), **last[name], "rounds": rounds[name]} for name in running}


def medians(rounds: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The median of each figure."""
    return {name: round(statistics.median(each[name] for each in rounds), 3) for name in rounds[0]}


def main() -> None:
    """Measure, print, and write to `--out` if given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beside", type=Path, help="another checkout, to measure in alternation")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="a few of everything, to see that it works")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    checkouts = {"this": ROOT} | ({"beside": options.beside.resolve()} if options.beside else {})
    with tempfile.TemporaryDirectory() as root:
        measured = measure(checkouts, Path(root), TINY if options.tiny else Sizes(), options.repeats)
    report(measured, GOALS, options.out)


if __name__ == "__main__":
    main()

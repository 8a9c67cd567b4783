"""Images per second of a drawing over REST, against the generator's own rate.

    python -m benchmarks.sampling [--n 50000] [--repeats 3] [--out FILE.json]

A job of the digits preset trains for a few steps. Then, in alternation: a bare loop that generates n images in a
process of one thread, as nice as a worker, and drops them; the same loop that also writes them to a file as npz and as
zip; and requests for n images as npz and as zip, streamed to nowhere while they are drawn, by a service whose worker
has one thread. The time of a request is from its POST to the last byte. `share` is its rate over that of the
bare loop of the same round; the loops that write say how much of the rest is the format, and how much the service.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.service import report, say, server, submit, wait_for

SHORT = (
    "training.steps=40",
    "training.report_every_steps=20",
    "sampling.every_steps=0",
    "checkpoint.every_steps=40",
    "evaluation.protocol=none",
)
FORMATS = ("npz", "zip")
NICENESS = 5  # as the service gives its workers
GOALS = {"share_npz": 0.8}


def bare(run: Path, n: int, kind: str) -> None:
    """Print the seconds that n images take in this process, dropped (`none`) or written as npz or zip, and its CPU."""
    from gan_mhe.files import growing_file
    from gan_mhe.images import files
    from gan_mhe.records.run_dir import RunDir
    from gan_mhe.run import sample

    os.nice(NICENESS)
    list(sample.draw(RunDir(run), n=256, seed=1))
    began, cpu = time.monotonic(), time.process_time()
    batches = sample.draw(RunDir(run), n=n, seed=0)
    if kind == "npz" or kind == "zip":
        with tempfile.TemporaryDirectory() as folder, growing_file(Path(folder) / "images") as file:
            files.write(batches, n, kind, file, files.GridLayout())
    else:
        for _ in batches:
            pass
    taken = {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - cpu}
    sys.stdout.write(json.dumps(taken) + "\n")


def in_a_process(run: Path, n: int, kind: str) -> dict[str, float]:
    """What `bare` prints in a process of one thread."""
    command = [sys.executable, "-m", "benchmarks.sampling", "--bare", str(run), "--n", str(n), "--kind", kind]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    answer = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    taken: dict[str, float] = json.loads(answer)
    return taken


@contextmanager
def watched(data_dir: Path) -> Iterator[list[float]]:
    """Note the peak resident memory in MiB of every process that names the task's attempts."""
    peaks, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            peaks[0] = max([peaks[0], *(_peak_mib(process) for process in _workers(data_dir))])

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()


def _workers(data_dir: Path) -> Iterator[Path]:
    for process in Path("/proc").iterdir():
        try:
            command = (process / "cmdline").read_bytes() if process.name.isdigit() else b""
        except OSError:
            continue
        if b"gan_mhe.worker" in command and str(data_dir / "jobs" / "task_").encode() in command:
            yield process


def _peak_mib(process: Path) -> float:
    try:
        lines = (process / "status").read_text().splitlines()
    except OSError:
        return 0.0
    return max((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), default=0.0)


def request(client: httpx2.Client, checkpoint: dict[str, Any], n: int, seed: int, kind: str) -> dict[str, float]:
    """Seconds from a request for images to its first and its last byte, and the number of bytes."""
    began = time.monotonic()
    task = client.post(checkpoint["links"]["samples"], json={"n": n, "seed": seed, "format": kind}).json()
    first, size = 0.0, 0
    with client.stream("GET", task["links"]["content"], timeout=None) as answer:
        answer.raise_for_status()
        for content in answer.iter_raw():
            first = first or time.monotonic() - began
            size += len(content)
    return {"seconds": time.monotonic() - began, "first_byte_seconds": first, "bytes": size}


def measure(root: Path, n: int, repeats: int) -> dict[str, Any]:
    """All figures; each round has its own seed, since a repeated request is answered with the finished file."""
    rounds: list[dict[str, dict[str, float]]] = []
    with server(root) as address, httpx2.Client(base_url=address, timeout=60) as client:
        job = submit(client, SHORT)
        wait_for(client, job["id"], terminal=True)
        checkpoint = client.get(f"/v1/jobs/{job['id']}/checkpoints").json()["data"][-1]
        run = root / "jobs" / job["id"] / "run"
        request(client, checkpoint, 64, 10**6, "npz")  # until then the fork server may be loading
        with watched(root) as peaks:
            for turn in range(repeats):
                loops = {f"loop_{kind}": in_a_process(run, n, kind) for kind in ("none", *FORMATS)}
                requests = {f"request_{kind}": request(client, checkpoint, n, turn, kind) for kind in FORMATS}
                rounds.append(loops | requests)
                say(", ".join(f"{name} {n / taken['seconds']:.0f}/s" for name, taken in rounds[-1].items()))
    return summary(n, rounds) | {"worker_peak_mib": round(peaks[0]), "rounds": rounds}


def summary(n: int, rounds: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Median rates, and the shares of the bare loop's rate."""
    median = {name: statistics.median(each[name]["seconds"] for each in rounds) for name in rounds[0]}
    shares = {
        f"share_{kind}": [
            round(each["loop_none"]["seconds"] / each[f"request_{kind}"]["seconds"], 3) for each in rounds
        ]
        for kind in FORMATS
    }
    return {
        "images": n,
        "images_per_second": {name: round(n / seconds) for name, seconds in median.items()},
        **{name: {"median": statistics.median(values), "values": values} for name, values in shares.items()},
    }


def main() -> None:
    """Measure, print, and write to `--out` if given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=50_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--kind", default="none", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        bare(options.bare, options.n, options.kind)
        return
    with tempfile.TemporaryDirectory() as root:
        measured = measure(Path(root), options.n, options.repeats)
    report(measured, GOALS, options.out)


if __name__ == "__main__":
    main()

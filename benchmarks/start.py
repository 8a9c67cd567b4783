"""Seconds from a request to its pictures, with and without the fork server, in alternation.

    python -m benchmarks.start [--repeats 5] [--out FILE.json]

Two services run beside each other, one with GAN_MHE_WARM_START=false; while one is measured the other is idle. Measured
are the time from the submission of a job of the digits preset until its first grid is listed, the time from a request
for 64 images of a checkpoint until they are there, and the memory of the fork server.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.service import report, say, server, wait_for

RUN = {"preset": "digits_cnn", "variant": "mhe_sn", "seed": 0}
SHORT = {
    "training.steps": 40,
    "training.report_every_steps": 20,
    "sampling.every_steps": 20,
    "checkpoint.every_steps": 20,
    "evaluation.protocol": "none",
}
GOALS = {"images_seconds": 0.25, "first_picture_seconds": 1.5}
KINDS = ("warm", "cold")
_POLL_SECONDS = 0.01


@contextmanager
def services(root: Path) -> Iterator[dict[str, httpx2.Client]]:
    """Run both services."""
    before = os.environ.get("GAN_MHE_WARM_START")
    try:
        os.environ["GAN_MHE_WARM_START"] = "true"
        with server(root / "warm") as warm:
            os.environ["GAN_MHE_WARM_START"] = "false"
            with server(root / "cold") as cold:
                addresses = dict(zip(KINDS, (warm, cold), strict=True))
                yield {kind: httpx2.Client(base_url=address, timeout=60) for kind, address in addresses.items()}
    finally:
        os.environ.pop("GAN_MHE_WARM_START")
        if before is not None:
            os.environ["GAN_MHE_WARM_START"] = before


def until(condition: Callable[[], Any]) -> Any:
    """The value of the condition once it is true."""
    while not (value := condition()):
        time.sleep(_POLL_SECONDS)
    return value


def first_picture(client: httpx2.Client) -> tuple[float, str]:
    """Seconds from a submission to the first grid, and the job, which has ended."""
    began = time.monotonic()
    job_id = client.post("/v1/jobs", json={**RUN, "overrides": SHORT}).json()["id"]
    until(lambda: client.get(f"/v1/jobs/{job_id}/samples").json()["data"])
    taken = time.monotonic() - began
    wait_for(client, job_id, terminal=True)
    return taken, job_id


def images(client: httpx2.Client, job_id: str, seed: int) -> float:
    """Seconds from a request for 64 images of the newest checkpoint to their task's end."""
    checkpoint = client.get(f"/v1/jobs/{job_id}/checkpoints").json()["data"][-1]
    began = time.monotonic()
    task = client.post(checkpoint["links"]["samples"], json={"n": 64, "seed": seed, "format": "png"}).json()
    until(lambda: client.get(f"/v1/tasks/{task['id']}").json()["terminal"])
    return time.monotonic() - began


def fork_server_memory() -> dict[str, float]:
    """Resident and proportional memory of this machine's fork servers, in MiB."""
    found = {"Rss": 0.0, "Pss": 0.0}
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and b"server.executors.fork_server" in (process / "cmdline").read_bytes():
            for line in (process / "smaps_rollup").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in found:
                    found[name] += int(value.split()[0]) / 1024
    return {f"{name.lower()}_mib": round(value) for name, value in found.items()}


def measure(root: Path, repeats: int) -> dict[str, Any]:
    """All figures; the first round, in which files are read from the disk and the fork server loads, does not count."""
    taken: dict[str, dict[str, list[float]]] = {"first_picture": {}, "images": {}}
    with services(root) as clients:
        for turn in range(repeats + 1):
            for kind, client in clients.items():
                picture, job_id = first_picture(client)
                drawn = images(client, job_id, turn)
                say(f"{kind}: first picture {picture:.2f} s, 64 images {drawn:.2f} s")
                if turn:
                    taken["first_picture"].setdefault(kind, []).append(round(picture, 3))
                    taken["images"].setdefault(kind, []).append(round(drawn, 3))
        memory = fork_server_memory()
    return {"fork_server": memory} | {name: summary(seconds) for name, seconds in taken.items()}


def summary(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """The times, their medians, and the ratio of each pair."""
    ratios = [cold / warm for warm, cold in zip(*(seconds[kind] for kind in KINDS), strict=True)]
    return {
        "seconds": seconds,
        "median_seconds": {kind: round(statistics.median(values), 3) for kind, values in seconds.items()},
        "cold_over_warm": {
            "median": round(statistics.median(ratios), 2),
            "range": [round(min(ratios), 2), round(max(ratios), 2)],
        },
    }


def main() -> None:
    """Measure, print, and write to `--out` if given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        measured = measure(Path(root), options.repeats)
    report(measured, GOALS, options.out)


if __name__ == "__main__":
    main()

"""Training throughput of several runs at once on one device, each a process, as the service and a sweep start them."""

import shutil
from contextlib import ExitStack
from typing import Any

from benchmarks import step as step_benchmark
from benchmarks.gpu.kit import Results, Setup
from benchmarks.gpu.speed import shared_setup
from benchmarks.step import Arm, ArmProcess

COUNTS = (1, 2, 4, 8)
_ROUNDS = 3


def run(setup: Setup, results: Results) -> None:
    """Steps per second of all runs together, over those of one, by number of runs."""
    results.measure("throughput", lambda: throughput(setup))


def throughput(setup: Setup) -> dict[str, Any]:
    """The official `mhe_sn` in the fastest precision, batch 64; 1, 2, 4 and 8 at once in turn.

    NVIDIA's Multi-Process Service is not started: it would change the machine for others. `mps` says whether its
    program is there.
    """
    counts = (1, 2) if setup.tiny else COUNTS
    sizes = shared_setup(setup, 4 if setup.tiny else 64)
    arm = Arm("bf16" if setup.device == "cuda" else "float32")
    rates: dict[int, list[float]] = {count: [] for count in counts}
    with ExitStack() as stack:
        processes = [stack.enter_context(step_benchmark.started(arm, sizes)) for _ in range(max(counts))]
        refused = [process.refused for process in processes if process.refused]
        if refused:
            raise RuntimeError(refused[0])
        for _ in range(1 if setup.tiny else _ROUNDS):
            for count, found in rates.items():
                found.append(_steps_per_second(processes[:count]))
    ratios = {count: [many / one for many, one in zip(rates[count], rates[1], strict=True)] for count in counts}
    return {
        "steps_per_second": {str(count): step_benchmark.summary(found) for count, found in rates.items()},
        "over_one": {str(count): step_benchmark.summary(found) for count, found in ratios.items()},
        "mps": shutil.which("nvidia-cuda-mps-control"),
    }


def _steps_per_second(processes: list[ArmProcess]) -> float:
    for process in processes:
        process.begin()
    return sum(1 / process.finish()[""] for process in processes)


def best_count(results: Results) -> int:
    """The number of runs at once with the highest throughput; 4 if it was not measured."""
    if "throughput" not in results:
        return 4
    medians = {int(count): found["median"] for count, found in results["throughput"]["steps_per_second"].items()}
    return max(medians, key=medians.__getitem__)

"""Speedup of training several seeds at once: as processes, or stacked in one process.

    python -m benchmarks.parallel [--repeats 3] [--out FILE.json]

The two sides of each measurement alternate, so that a change in the machine's speed affects both:

sweep    four short runs of the digits preset one after another with all threads, against `--jobs` 2 and 4 that share
         the threads; wall time with the start of processes, and the runs' own training time without it.
stacked  forward and backward pass of two discriminators as one `torch.func.vmap` over stacked weights, against the
         same two passes one after another.

A ratio is the sequential time over the parallel time: above 1, parallel is faster.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from benchmarks.machine import describe
from gan_mhe.files import write_json
from gan_mhe.networks.build import build_discriminator
from gan_mhe.training.precision import resolve_device

GOAL = 1.0
SEEDS = (0, 1, 2, 3)
JOBS = (2, 4)
STEPS = 100
SHORT = (
    f"training.steps={STEPS}",
    f"training.report_every_steps={STEPS}",
    "sampling.every_steps=0",
    "checkpoint.every_steps=0",
    "evaluation.protocol=none",
)
# Width factor and images of one pass, real and generated together: the digits preset, and the published size.
SIZES = {"digits_cnn": (0.125, 32), "full_width_batch_64": (1.0, 128)}
NETWORKS = 2
PASSES_SECONDS = 1.0  # approximate length of one timing

Weights = Mapping[str, Tensor]


def measure(repeats: int) -> dict[str, Any]:
    """Run both measurements, `repeats` times each."""
    device = resolve_device("auto")
    return {
        "machine": describe(device),
        "cores": len(os.sched_getaffinity(0)),
        "goal_ratio": GOAL,
        "sweep": measure_sweeps(repeats),
        "stacked": {name: measure_stacked(width, images, device, repeats) for name, (width, images) in SIZES.items()},
    }


# --- processes


def measure_sweeps(repeats: int) -> dict[str, Any]:
    """Seconds of the four runs by `--jobs`, and the speedup over running them one after another."""
    taken: dict[int, list[tuple[float, float]]] = {jobs: [] for jobs in (1, *JOBS)}
    for turn in range(repeats):
        for jobs, seconds in taken.items():
            seconds.append(_sweep(jobs))
            say(f"turn {turn}, {jobs} at once: {seconds[-1][0]:.1f} s, training {seconds[-1][1]:.1f} s")
    wall = {jobs: [both[0] for both in seconds] for jobs, seconds in taken.items()}
    training = {jobs: [both[1] for both in seconds] for jobs, seconds in taken.items()}
    return {
        "runs": len(SEEDS),
        "steps": STEPS,
        "one_after_another": {"wall_seconds": rounded(wall[1]), "training_seconds": rounded(training[1])},
    } | {
        f"jobs_{jobs}": {
            "wall_seconds": rounded(wall[jobs]),
            "training_seconds": rounded(training[jobs]),
            "wall_ratio": ratio(wall[1], wall[jobs]),
            "training_ratio": ratio(training[1], training[jobs]),
        }
        for jobs in JOBS
    }


def _sweep(jobs: int) -> tuple[float, float]:
    """Wall time of the command, and the runs' total training time divided by the number of parallel runs."""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    with tempfile.TemporaryDirectory() as root:
        command = [sys.executable, "-m", "server.cli.app", "sweep", "digits_cnn", "--variants", "mhe_sn"]
        command += ["--seeds", ",".join(map(str, SEEDS)), "--jobs", str(jobs), "--out", root]
        command += [part for key in SHORT for part in ("--set", key)]
        began = time.perf_counter()
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        wall = time.perf_counter() - began
        results = [json.loads(path.read_text()) for path in Path(root).rglob("result.json")]
    assert len(results) == len(SEEDS)
    return wall, sum(result["train_seconds"] for result in results) / jobs


# --- one process


def measure_stacked(width: float, images: int, device: torch.device, repeats: int) -> dict[str, Any]:
    """Milliseconds of the gradients of two discriminators, separate and stacked."""
    networks = [_discriminator(width, seed).to(device) for seed in range(NETWORKS)]
    batches = torch.randn(NETWORKS, images, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(device)
    apart, stacked = _apart(networks, batches), _stacked(networks, batches)
    _check_equal(apart(), stacked())
    passes = max(1, int(PASSES_SECONDS / _seconds(apart, 1, device)))
    taken: dict[str, list[float]] = {"apart": [], "stacked": []}
    for _ in range(repeats):
        taken["apart"].append(_seconds(apart, passes, device) * 1000)
        taken["stacked"].append(_seconds(stacked, passes, device) * 1000)
    return {
        "networks": NETWORKS,
        "images": images,
        "width": width,
        "apart_ms": rounded(taken["apart"]),
        "stacked_ms": rounded(taken["stacked"]),
        "ratio": ratio(taken["apart"], taken["stacked"]),
    }


def _discriminator(width: float, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    return build_discriminator("cnn_miyato", image_size=32, width=width, generator=generator)


def _apart(networks: Sequence[nn.Module], batches: Tensor) -> Callable[[], list[Weights]]:
    def gradients() -> list[Weights]:
        found: list[Weights] = []
        for network, batch in zip(networks, batches, strict=True):
            names, weights = zip(*network.named_parameters(), strict=True)
            found.append(dict(zip(names, torch.autograd.grad(softplus(network(batch)).mean(), weights), strict=True)))
        return found

    return gradients


def _stacked(networks: Sequence[nn.Module], batches: Tensor) -> Callable[[], list[Weights]]:
    weights, buffers = torch.func.stack_module_state(list(networks))

    def loss(weights: Weights, buffers: Weights, batch: Tensor) -> Tensor:
        return softplus(torch.func.functional_call(networks[0], (dict(weights), dict(buffers)), (batch,))).mean()

    together = torch.func.vmap(torch.func.grad(loss))

    def gradients() -> list[Weights]:
        found = together(weights, buffers, batches)
        return [{name: gradient[i] for name, gradient in found.items()} for i in range(len(networks))]

    return gradients


def _check_equal(apart: Sequence[Weights], stacked: Sequence[Weights]) -> None:
    """Raise AssertionError if the two compute different values: their times would not be comparable."""
    for expected, found in zip(apart, stacked, strict=True):
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5)


def _seconds(work: Callable[[], object], times: int, device: torch.device) -> float:
    """Mean milliseconds of one call."""
    work()
    _finish(device)
    began = time.perf_counter()
    for _ in range(times):
        work()
    _finish(device)
    return (time.perf_counter() - began) / times


def _finish(device: torch.device) -> None:
    """Wait until a GPU has finished its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# --- figures


def ratio(apart: Sequence[float], together: Sequence[float]) -> dict[str, float]:
    """Median and range of the ratios, turn by turn."""
    ratios = [one / other for one, other in zip(apart, together, strict=True)]
    found = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
    return {name: round(value, 3) for name, value in found.items()}


def rounded(values: Sequence[float]) -> list[float]:
    """Format the figures for printing."""
    return [round(value, 3) for value in values]


def say(text: str) -> None:
    """Print progress to standard error, apart from the result."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def main() -> None:
    """Measure, print, and write to `--out` if given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    options = parser.parse_args()
    measured = measure(options.repeats)
    sys.stdout.write(json.dumps(measured, indent=2) + "\n")
    if options.out:
        write_json(options.out, measured)


if __name__ == "__main__":
    main()

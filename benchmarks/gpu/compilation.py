"""Is a compiled step faster, and a captured compiled step? Each compilation takes a minute."""

from typing import Any

import torch

from benchmarks import step as step_benchmark
from benchmarks.gpu.kit import Results, Setup
from benchmarks.gpu.speed import shared_setup
from benchmarks.step import Arm


def run(setup: Setup, results: Results) -> None:
    """One result per precision. Without a CUDA device there is nothing to decide."""
    for precision in ("bf16", "float32") if setup.device == "cuda" else ():
        results.measure(precision, lambda precision=precision: compared(setup, precision))


def compared(setup: Setup, precision: str) -> dict[str, Any]:
    """Milliseconds of a step in turns."""
    sizes = shared_setup(setup, 4 if setup.tiny else 64)
    steps = {}
    for engine in ("eager", "cuda_graph", "compiled", "compiled_graph"):
        steps[engine] = step_benchmark.make_step(Arm(precision, engine=engine), sizes)
        for _ in range(6):
            steps[engine]()
    torch.cuda.synchronize()
    found: dict[str, list[float]] = {}
    for _ in range(1 if setup.tiny else 5):
        for engine, step in steps.items():
            found.setdefault(engine, []).append(1000 * step_benchmark.block(step, 1, sizes)[""])
    return {"milliseconds": {engine: step_benchmark.summary(values) for engine, values in found.items()}}

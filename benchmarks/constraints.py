"""Cost of the hyperspherical regularizers in a training step, relative to the cost of MHE.

    python -m benchmarks.constraints [--rounds 3] [--batch 64] [--width 1.0] [--out FILE.json]

All arms train the wide discriminator of the MHE code in one process, on one batch of noise, with the engine that `auto`
chooses. They take turns, A B C A B C, one block of steps each. The time that an arm adds to a step is computed within a
round, against the step without a constraint, so that a change in the machine's speed affects both. A block has as many
steps as `comhe` has between two draws of its matrices, so each block contains one draw.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe, has_bf16_instructions, synchronize
from gan_mhe.config.compose import compose
from gan_mhe.config.constraints import ComheConfig
from gan_mhe.files import write_json
from gan_mhe.training.precision import resolve_device
from gan_mhe.training.trainer import Trainer

BARE, MHE = "none", "mhe"
BLOCK_STEPS = ComheConfig().redraw_every_steps
IMAGES = 256
# Arm -> its variant and the overrides of its constraints.
ARMS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    BARE: ("none", {}),
    MHE: ("mhe", {}),
    "mhe, 64 neurons": ("mhe", {"mhe": {"minibatch": {"of": "neurons", "size": 64}}}),
    "comhe": ("comhe", {}),
    "comhe, 1 projection": ("comhe", {"comhe": {"count": 1}}),
    "comhe_angle": ("comhe_angle", {}),
    "comhe_adversarial": ("comhe_adversarial", {}),
    "mhp": ("mhp", {}),
    "mgd": ("mgd", {}),
    "sphere_conv": ("sphere_conv", {}),
}


def measure(rounds: int, batch: int, width: float) -> dict[str, Any]:
    """Milliseconds per step by arm, the time each arm adds, and that time as a multiple of what MHE adds."""
    device = resolve_device("auto")
    precision = "bf16" if has_bf16_instructions(device) else "float32"
    trainers = {
        name: _trainer(variant, over, batch, width, precision, device) for name, (variant, over) in ARMS.items()
    }
    for name, trainer in trainers.items():
        say(f"first steps: {name}")
        _milliseconds(trainer, 0, 4)
    taken: dict[str, list[float]] = {name: [] for name in trainers}
    for turn in range(rounds):
        say(f"round {turn + 1} of {rounds}")
        for name, trainer in trainers.items():
            taken[name].append(_milliseconds(trainer, BLOCK_STEPS * (turn + 1), BLOCK_STEPS))
    return {
        "machine": describe(device),
        "threads": torch.get_num_threads(),
        "discriminator": "cnn_official",
        "batch": batch,
        "width": width,
        "precision": precision,
        "rounds": rounds,
        "steps_of_a_block": BLOCK_STEPS,
        "arms": {name: _figures(times, taken) for name, times in taken.items()},
    }


def _trainer(
    variant: str, over: Mapping[str, Any], batch: int, width: float, precision: str, device: torch.device
) -> Trainer:
    document = {
        "data": {"name": "synthetic"},
        "generator": {"width": width},
        "discriminator": {"architecture": "cnn_official", "width": width},
        "training": {"batch_size": batch, "steps": 100_000, "precision": precision, "device": str(device)},
        "evaluation": {"protocol": "none"},
    }
    config = compose(document, variant=variant, overrides={"constraints": over} if over else {})
    noise = torch.randint(0, 256, (IMAGES, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Trainer(config, noise, device)


def _milliseconds(trainer: Trainer, first: int, steps: int) -> float:
    """Mean milliseconds of a step over `steps`."""
    synchronize(trainer.device)
    began = time.perf_counter()
    for step in range(first, first + steps):
        trainer.set_step(step)
        trainer.step()
    synchronize(trainer.device)
    return (time.perf_counter() - began) / steps * 1000


def _figures(times: Sequence[float], taken: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    added = [one - bare for one, bare in zip(times, taken[BARE], strict=True)]
    of_mhe = [one - bare for one, bare in zip(taken[MHE], taken[BARE], strict=True)]
    shares = [extra / bare for extra, bare in zip(added, taken[BARE], strict=True)]
    return {
        "step_ms": [round(value, 2) for value in times],
        "added_share": _summary(shares),
        "added_over_mhe": round(statistics.median(added) / statistics.median(of_mhe), 3),
    }


def _summary(values: Sequence[float]) -> dict[str, float]:
    found = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, 4) for name, value in found.items()}


def show(result: Mapping[str, Any]) -> None:
    """Print the figures as a table."""
    table = Table("arm", "step", "added to a step", "multiple of what mhe adds", box=box.SIMPLE)
    for name, figures in result["arms"].items():
        share = figures["added_share"]
        table.add_row(
            name,
            f"{statistics.median(figures['step_ms']):.1f} ms",
            f"{share['median']:+.1%} ({share['min']:+.1%} to {share['max']:+.1%})",
            f"{figures['added_over_mhe']:.2f}",
        )
    Console().print(table)


def say(line: str) -> None:
    """Print progress to standard error, apart from the result."""
    sys.stderr.write(f"{line}\n")


def main() -> None:
    """Measure, print, and write to `--out` if given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    result = measure(arguments.rounds, arguments.batch, arguments.width)
    show(result)
    if arguments.out:
        write_json(arguments.out, {"command": " ".join(["python", *sys.argv]), **result})


if __name__ == "__main__":
    main()

"""Golden traces: the values that a few steps of every variant compute, to the digits that all machines agree on.

    python -m tools.record_golden

Rewrites the traces that moved by more than `TOLERANCE`, removes traces whose variant no longer exists, and prints the
changes. A refactoring changes no file. A change of the mathematics shows which quantity moved, by how much, and in
which variants.
"""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gan_mhe.config.compose import compose
from gan_mhe.training.trainer import Trainer
from gan_mhe.variants import VARIANTS

GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "golden"
STEPS = 8
# Largest difference seen, over all variants and quantities: 1.6e-12 (a weight checksum of batch_norm), between a
# recording with AVX-512 and one thread and nine others: ATEN_CPU_CAPABILITY default, avx2 and avx512, 1 and 2 threads,
# MKL_CBWR=COMPATIBLE and AVX2, ONEDNN_MAX_CPU_ISA=SSE41. The tolerance leaves a factor of 600 for processors and
# libraries not tried, and is far below what any change of a formula, a coefficient or an order of updates makes.
TOLERANCE = 1e-9
DOCUMENT: Mapping[str, Any] = {
    "data": {"name": "synthetic", "flip": True},
    "generator": {"width": 1 / 32, "latent_dim": 6, "ema_halflife_steps": 3.0},
    "discriminator": {"width": 1 / 16},
    "optimizer": {"generator_lr": 1e-3, "discriminator_lr": 1e-3},
    "training": {"steps": STEPS, "batch_size": 4, "n_dis": 2, "device": "cpu", "precision": "float64"},
    "evaluation": {"protocol": "none"},
}
Trace = dict[str, list[float]]


def trace(variant: str) -> Trace:
    """Every reported scalar at every step, except ratios of single layers, and checksums of the final weights."""
    config = compose(DOCUMENT, variant=variant)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    trainer = Trainer(config, blocks(), torch.device("cpu"))
    assert trainer.ema is not None
    networks = {"generator": trainer.generator, "discriminator": trainer.discriminator, "ema": trainer.ema.network}
    for network in networks.values():
        redraw(network)
    found: Trace = {}
    for step in range(STEPS):
        trainer.set_step(step)
        trainer.step()
        for name, value in trainer.meter.read().items():
            if name.count("/") < 2:
                found.setdefault(name, []).append(value)
    torch.set_num_threads(threads)
    return found | {f"weights/{name}": checksum(network) for name, network in networks.items()}


def blocks() -> Tensor:
    """12 images of random 8x8 blocks, made from integers only, so that they are equal on every machine."""
    coarse = torch.randint(0, 256, (12, 3, 4, 4), generator=torch.Generator().manual_seed(0))
    return coarse.to(torch.uint8).repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)


@torch.no_grad()
def redraw(network: nn.Module) -> None:
    """Replace the initial weights by multiples of a power of two, of about the size 1 / sqrt(fan-in).

    Initializers work in float32, and their last bit depends on the processor; eight steps amplified it to up to 3 %.
    """
    rng = torch.Generator().manual_seed(1)
    for name, tensor in network.state_dict().items():
        if tensor.dim() > 1 or name.endswith(("._u", "._v")):
            fan_in = tensor[0].numel() if tensor.dim() > 1 else len(tensor)
            scale = 2.0 ** -(10 + round(math.log2(fan_in) / 2))
            tensor.copy_(torch.randint(-1024, 1025, tensor.shape, generator=rng) * scale)


@torch.no_grad()
def checksum(network: nn.Module) -> list[float]:
    """Sum of magnitudes, sum of squares, and a sum of magnitudes that depends on their order."""
    values = torch.cat([parameter.flatten() for parameter in network.parameters()]).abs()
    order = torch.arange(len(values)) % 7 + 1
    return [values.sum().item(), values.square().sum().item(), (values * order).sum().item()]


def deviations(found: Trace, golden: Trace) -> dict[str, float]:
    """The largest difference of each quantity, relative to its largest golden value; infinite if one side lacks it."""
    return {name: _deviation(found.get(name, []), golden.get(name, [])) for name in golden.keys() | found.keys()}


def _deviation(found: list[float], golden: list[float]) -> float:
    if len(found) != len(golden) or not all(map(math.isfinite, found)):
        return math.inf
    return max(abs(a - b) for a, b in zip(found, golden, strict=True)) / (max(map(abs, golden)) or 1.0)


def load(variant: str) -> Trace:
    """The golden trace of a variant; empty if there is none."""
    path = GOLDEN / f"{variant}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def save(variant: str, found: Trace) -> None:
    """Write a trace, one line per quantity."""
    lines = ",\n".join(f'"{name}": {json.dumps(values, allow_nan=False)}' for name, values in found.items())
    (GOLDEN / f"{variant}.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def main() -> None:
    """Record the traces that moved, and print the changes."""
    GOLDEN.mkdir(exist_ok=True)
    for variant in VARIANTS:
        found, golden = trace(variant), load(variant)
        moved = {name: size for name, size in deviations(found, golden).items() if size > TOLERANCE}
        if moved:
            save(variant, found)
        changes = ", ".join(f"{name} {moved[name]:.1e}" for name in sorted(moved)) or "unchanged"
        sys.stdout.write(f"{variant}: {changes if golden else 'new'}\n")
    for path in GOLDEN.glob("*.json"):
        if path.stem not in VARIANTS:
            path.unlink()
            sys.stdout.write(f"{path.stem}: removed\n")


if __name__ == "__main__":
    main()

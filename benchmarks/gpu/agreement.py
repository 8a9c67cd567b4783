"""Do the engines agree: every variant eager against a captured graph, and resumed from one into the other.

cuDNN is set to deterministic algorithms here, so that only the engine differs. On a CPU, where nothing can be captured,
both sides are eager: that shows only that the stage works.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.kit import Results, Setup
from gan_mhe.config.compose import compose
from gan_mhe.config.documents import merge
from gan_mhe.config.run_config import RunConfig
from gan_mhe.rng import generator
from gan_mhe.training.engine import CudaGraph, Eager, Engine
from gan_mhe.training.trainer import Trainer
from gan_mhe.variants import VARIANTS

STEPS = 20
TOLERANCE = 1e-4  # of a tensor's largest entry, in float32, after 20 steps
_BASE: Mapping[str, Any] = {
    "data": {"name": "synthetic", "flip": True},
    "generator": {"width": 0.25, "ema_halflife_steps": 5.0},
    "discriminator": {"width": 0.25},
    "optimizer": {"schedule": {"kind": "linear_decay", "warmup_steps": 3}},
    "training": {"steps": 50, "batch_size": 16, "n_dis": 2},
    "evaluation": {"protocol": "none"},
}
_TINY: Mapping[str, Any] = {
    "generator": {"width": 1 / 32, "latent_dim": 16},
    "discriminator": {"width": 1 / 32},
    "training": {"batch_size": 4},
}


def run(setup: Setup, results: Results) -> None:
    """Compare all tensors of each variant in float32, and look for tensors that are not finite in bf16."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    for variant in list(VARIANTS)[: 1 if setup.tiny else None]:
        results.measure(f"float32/{variant}", lambda variant=variant: float32(variant, setup))
        results.measure(f"bf16/{variant}", lambda variant=variant: bf16(variant, setup))
    for variant in ("mhe_sn",) if setup.tiny else ("mhe_sn", "wgan_gp", "comhe_angle"):
        results.measure(f"resume/{variant}", lambda variant=variant: resume(variant, setup))


def float32(variant: str, setup: Setup) -> dict[str, Any]:
    """20 steps by either engine."""
    eager = _advance(_trainer(variant, setup, Eager()), range(STEPS))
    captured = _advance(_trainer(variant, setup, _graph(setup)), range(STEPS))
    return {"engine": captured.engine.name, **_differences(captured.state(), eager.state())}


def bf16(variant: str, setup: Setup) -> dict[str, Any]:
    """20 captured steps in bfloat16: are all tensors finite, and at which step was the first that is not."""
    trainer = _advance(_trainer(variant, setup, _graph(setup), precision="bf16"), range(STEPS))
    nonfinite = [name for name, tensor in trainer.state().items() if not torch.isfinite(tensor).all()]
    return {"engine": trainer.engine.name, "nonfinite": nonfinite, "flagged": trainer.nonfinite.read()}


def resume(variant: str, setup: Setup) -> dict[str, Any]:
    """Ten steps by one engine and ten by the other, both ways, against twenty eager ones."""
    half, whole = range(STEPS // 2), range(STEPS)
    unbroken = _advance(_trainer(variant, setup, Eager()), whole).state()
    found = {}
    for name, first, second in (("to_graph", Eager(), _graph(setup)), ("to_eager", _graph(setup), Eager())):
        state = _advance(_trainer(variant, setup, first), half).state()
        resumed = _trainer(variant, setup, second)
        resumed.load_state(state)
        found[name] = _differences(_advance(resumed, whole[len(half) :]).state(), unbroken)
    return found


def _graph(setup: Setup) -> Engine:
    return CudaGraph() if setup.device == "cuda" else Eager()


def _trainer(variant: str, setup: Setup, engine: Engine, precision: str = "float32") -> Trainer:
    images = torch.randint(256, (64, 3, 32, 32), dtype=torch.uint8, generator=generator("cpu", 0, "benchmark/images"))
    return Trainer(configuration(variant, setup, precision), images, torch.device(setup.device), engine=engine)


def configuration(variant: str, setup: Setup, precision: str) -> RunConfig:
    """Everything in it that changes from step to step: flips, moving average, warm-up, two updates a step."""
    document = merge(_BASE, _TINY) if setup.tiny else dict(_BASE)
    return compose(merge(document, {"training": {"precision": precision}}), variant=variant)


def _advance(trainer: Trainer, steps: range) -> Trainer:
    for step in steps:
        trainer.set_step(step)
        trainer.step()
    return trainer


def _differences(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Any]:
    """Number of tensors with other bits, and the largest difference relative to a tensor's largest entry."""
    assert first.keys() == second.keys()
    other_bits = [name for name, tensor in first.items() if not torch.equal(tensor, second[name])]
    sizes = {name: _relative(first[name], second[name]) for name in other_bits}
    worst = max(sizes, key=sizes.__getitem__, default=None)
    largest = sizes[worst] if worst else 0.0
    return {
        "tensors": len(first),
        "other_bits": len(other_bits),
        "largest_difference": largest,
        "worst": worst,
        "within_tolerance": largest <= TOLERANCE,
    }


def _relative(one: Tensor, other: Tensor) -> float:
    size = other.double().abs().max().clamp(min=1e-6)
    difference = ((one.double() - other.double()).abs().max() / size).item()
    return math.inf if math.isnan(difference) else difference

"""The memory estimate that refuses runs before they start, against what the device's allocator held."""

from typing import Any

import torch

from benchmarks.gpu.kit import Results, Setup
from gan_mhe.config.compose import compose
from gan_mhe.rng import generator
from gan_mhe.training.engine import CudaGraph, Eager, Engine
from gan_mhe.training.memory_estimate import step_bytes
from gan_mhe.training.trainer import Trainer

_STEPS = 5  # three before the capture, the capture, and a replay
_NETWORKS = {"cnn": ("cnn", "cnn_official"), "resnet": ("resnet", "resnet")}
_CASES = (
    ("mhe_sn", "cnn", 64, "bf16"),
    ("mhe_sn", "cnn", 256, "bf16"),
    ("mhe_sn", "cnn", 64, "float32"),
    ("wgan_gp", "cnn", 64, "float32"),
    ("wgan_gp", "resnet", 64, "bf16"),
    ("comhe_sn", "cnn", 64, "float32"),
    ("spectral_norm", "resnet", 256, "bf16"),
)


def run(setup: Setup, results: Results) -> None:
    """Measure the peak of the tensors over the estimate, eager and captured, and what the allocator reserved."""
    for variant, networks, batch, precision in _CASES[: 1 if setup.tiny else None]:
        for engine in (Eager, CudaGraph) if setup.device == "cuda" else (Eager,):
            key = f"{variant}/{networks}/{batch}/{precision}/{engine.name}"
            results.measure(
                key, lambda v=variant, n=networks, b=batch, p=precision, e=engine: peak(v, n, b, p, e(), setup)
            )


def peak(variant: str, networks: str, batch: int, precision: str, engine: Engine, setup: Setup) -> dict[str, Any]:
    """Peak bytes of five steps, less the images, over the estimate. On a CPU the estimate alone."""
    generator_name, discriminator_name = _NETWORKS[networks]
    width = 1 / 32 if setup.tiny else 1.0
    document = {
        "data": {"name": "synthetic"},
        "generator": {"architecture": generator_name, "width": width, "latent_dim": 128},
        "discriminator": {"architecture": discriminator_name, "width": width},
        "training": {"steps": 100, "batch_size": batch, "precision": precision, "n_dis": 1},
        "evaluation": {"protocol": "none"},
    }
    config = compose(document, variant=variant)
    estimate = step_bytes(config, batch)
    if setup.device != "cuda":
        return {"estimate_bytes": estimate}
    device = torch.device(setup.device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    images = torch.randint(256, (512, 3, 32, 32), dtype=torch.uint8, generator=generator("cpu", 0, "benchmark/images"))
    trainer = Trainer(config, images, device, engine=engine)
    for step in range(_STEPS):
        trainer.set_step(step)
        trainer.step()
    torch.cuda.synchronize()
    held = torch.cuda.max_memory_allocated() - before - images.nbytes
    return {
        "estimate_bytes": estimate,
        "peak_bytes": held,
        "reserved_bytes": torch.cuda.memory_reserved(),
        "peak_over_estimate": held / estimate,
        "reserved_over_estimate": torch.cuda.memory_reserved() / estimate,
    }

"""Latents that stay fixed during a run, and walks between latents."""

import torch
from torch import Tensor

from gan_mhe import rng
from gan_mhe.errors import ConfigError

_PARALLEL = 1e-6  # sin of an angle below which a great circle is a line, or is not defined


def fixed_latents(n: int, latent_dim: int, seed: int) -> Tensor:
    """Standard normal latents float32 (n, latent_dim) on the CPU, a function of the arguments alone."""
    return torch.randn(n, latent_dim, generator=rng.generator("cpu", seed, "fixed_latents"))


def interpolate(z0: Tensor, z1: Tensor, steps: int, mode: str = "spherical") -> Tensor:
    """Latents (steps, Z) from z0 to z1 (Z,), both ends included, equally spaced in t.

    "linear": (1-t) z0 + t z1. "spherical" (White 2016, slerp): sin((1-t) a)/sin(a) z0 + sin(t a)/sin(a) z1
    with a the angle between z0 and z1; on normal latents it keeps the length that samples have. Where z0 and
    z1 are parallel or opposite, or one is zero, it is linear. Raises ConfigError for fewer than two steps or
    another mode.
    """
    if steps < 2 or mode not in ("spherical", "linear"):
        raise ConfigError(
            f"interpolation: expected steps >= 2 and mode 'spherical' or 'linear', got steps {steps}, mode {mode!r}"
        )
    t_K = torch.linspace(0, 1, steps, dtype=z0.dtype, device=z0.device)
    weight0_K, weight1_K = 1 - t_K, t_K
    if mode == "spherical":
        cosine = torch.nn.functional.cosine_similarity(z0.double(), z1.double(), dim=0).clamp(-1, 1)
        angle = torch.acos(cosine)
        if torch.sin(angle) > _PARALLEL and z0.norm() > 0 and z1.norm() > 0:
            weight0_K = (torch.sin((1 - t_K) * angle) / torch.sin(angle)).to(z0.dtype)
            weight1_K = (torch.sin(t_K * angle) / torch.sin(angle)).to(z0.dtype)
    return weight0_K[:, None] * z0 + weight1_K[:, None] * z1

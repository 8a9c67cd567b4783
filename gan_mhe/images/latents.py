"""Fixed latents for image grids, and interpolation between latents."""

from collections.abc import Iterator

import torch
from torch import Tensor

from gan_mhe import rng
from gan_mhe.errors import ConfigError

BLOCK = 64  # latents; a multiple of 16, because PyTorch draws 16 numbers at a time
_PARALLEL = 1e-6  # sine of the angle below which the great circle is a line or undefined


def fixed_latents(n: int, latent_dim: int, seed: int) -> Tensor:
    """Standard normal latents, float32 (n, latent_dim) on the CPU; deterministic in the arguments.

    The first rows do not depend on n if latent_dim is a multiple of 16. Otherwise the last 16 numbers may, because
    PyTorch draws 16 at a time and draws the last 16 again where the number of all is no multiple of 16.
    """
    return torch.randn(n, latent_dim, generator=rng.generator("cpu", seed, "fixed_latents"))


def latent_blocks(latent_dim: int, seed: int) -> Iterator[Tensor]:
    """Standard normal latents in blocks (BLOCK, latent_dim) without end, float32 on the CPU.

    A latent depends on its position, latent_dim and seed alone: whole blocks are drawn however many latents are needed.
    They are those of `fixed_latents`, but for its last 16 numbers where the number of all is no multiple of 16.
    """
    generator = rng.generator("cpu", seed, "fixed_latents")
    while True:
        yield torch.randn(BLOCK, latent_dim, generator=generator)


def interpolate(z0: Tensor, z1: Tensor, steps: int, mode: str = "spherical") -> Tensor:
    """Latents (steps, Z) from z0 to z1, both (Z,) and included, equally spaced in t in [0, 1].

    "linear": (1-t) z0 + t z1. "spherical" (slerp, White 2016): sin((1-t) a)/sin(a) z0 + sin(t a)/sin(a) z1, where a is
    the angle between z0 and z1; between normal latents it keeps their typical length. If z0 and z1 are parallel or
    opposite, or one of them is zero, "spherical" is linear. Raises ConfigError for steps < 2 or another mode.
    """
    if steps < 2 or mode not in ("spherical", "linear"):
        raise ConfigError(
            f"interpolation: expected steps >= 2 and mode 'spherical' or 'linear', got steps {steps} and mode {mode!r}"
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

"""Pictures for people: grids of samples, walks between latents, and latents that stay fixed during a run."""

import io
import math

import torch
from PIL import Image
from torch import Tensor

from gan_mhe import rng
from gan_mhe.errors import ConfigError

_READABLE_SIDE = 64  # pixels; a digit of 32 on a modern screen is too small to judge
_PARALLEL = 1e-6  # sin of an angle below which a great circle is a line, or is not defined
_COMPRESSION = 6


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


def grid(images_uint8: Tensor, columns: int, padding: int = 2, scale: int | None = None) -> Image.Image:
    """Images uint8 (n, 3, H, W) in rows of `columns`, `padding` black pixels around each, last row black-filled.

    `scale` enlarges by whole pixels; unset, small images grow to a side of at least 64. Padding is not scaled.
    Raises ConfigError for no images, another shape or type, or columns, padding or scale out of range.
    """
    if images_uint8.dtype != torch.uint8 or images_uint8.ndim != 4 or images_uint8.shape[1] != 3:
        raise ConfigError(
            f"sample grid: expected uint8 images (n, 3, H, W), got {images_uint8.dtype} {tuple(images_uint8.shape)}"
        )
    n, _, height, width = images_uint8.shape
    factor = math.ceil(_READABLE_SIDE / min(height, width)) if scale is None else scale
    if min(n, columns, factor) < 1 or padding < 0:
        raise ConfigError(
            f"sample grid: expected at least 1 image, columns >= 1, padding >= 0 and scale >= 1, "
            f"got {n} images, columns {columns}, padding {padding}, scale {factor}"
        )
    big = images_uint8.cpu().repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    cell_height, cell_width = height * factor + padding, width * factor + padding
    rows = math.ceil(n / columns)
    canvas = torch.zeros(rows * cell_height + padding, columns * cell_width + padding, 3, dtype=torch.uint8)
    for index, image in enumerate(big):
        top = index // columns * cell_height + padding
        left = index % columns * cell_width + padding
        canvas[top : top + height * factor, left : left + width * factor] = image.permute(1, 2, 0)
    return Image.fromarray(canvas.numpy())


def encode_png(image: Image.Image) -> bytes:
    """PNG bytes without time stamps or other metadata: equal images give equal bytes on one installation."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=_COMPRESSION)
    return buffer.getvalue()

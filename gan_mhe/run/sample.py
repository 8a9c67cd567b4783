"""Images from the checkpoints of a run."""

import io
import math
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gan_mhe.data.pixels import to_uint8
from gan_mhe.errors import CheckpointError, ConfigError
from gan_mhe.files import atomic_directory, atomic_write
from gan_mhe.images import grids, latents
from gan_mhe.networks.build import build_generator
from gan_mhe.records import checkpoint
from gan_mhe.records.run_dir import RunDir
from gan_mhe.training.precision import Precision, resolve_device
from gan_mhe.training.state import load_module

Format = Literal["png", "npz", "zip"]
Generate = Callable[[Tensor], Tensor]
_BATCH = 256


def chosen_step(run: RunDir, step: int | None) -> int:
    """`step`, or the newest checkpoint's step if None. Raises CheckpointError if the run has no such checkpoint."""
    steps = run.checkpoint_steps()
    if not steps:
        raise CheckpointError(f"{run.root} has no checkpoints yet")
    if step is not None and step not in steps:
        raise CheckpointError(
            f"{run.root} has no checkpoint of step {step}; expected one of {', '.join(map(str, steps))}"
        )
    return steps[-1] if step is None else step


def load_generator(
    run: RunDir, *, step: int | None = None, ema: bool = False, device: str = "auto", digest: str | None = None
) -> Generate:
    """The generator of a checkpoint in evaluation mode, as a function from latents (B, Z) to uint8 (B, 3, H, H).

    step: None is the newest checkpoint. ema: load the moving average. digest: required SHA-256 of the checkpoint.
    Raises CheckpointError if the checkpoint is missing, damaged or another one, or contains no moving average.
    """
    config = run.read_config()
    found = checkpoint.load(run.checkpoint(chosen_step(run, step)), lineage=config.digest("resumable"), digest=digest)
    prefix = "ema" if ema else "generator"
    if not any(name.startswith(f"{prefix}/") for name in found.tensors):
        raise CheckpointError(f"{run.root} has no moving average; set generator.ema_halflife_steps to keep one")
    resolved_device = resolve_device(device)
    network = build_generator(
        config.generator.architecture,
        image_size=config.data.image_size,
        latent_dim=config.generator.latent_dim,
        width=config.generator.width,
        generator=torch.Generator(),
    )
    load_module(network, found.tensors, prefix)
    network.to(resolved_device).eval().requires_grad_(False)
    precision = Precision("float32", resolved_device)

    def generate_batches(latents_BZ: Tensor) -> Tensor:
        with precision.full_precision():
            batches = torch.split(latents_BZ.to(resolved_device), _BATCH)
            return torch.cat([to_uint8(network(batch)).cpu() for batch in batches])

    return generate_batches


def generate(
    run: RunDir,
    *,
    n: int,
    seed: int,
    step: int | None = None,
    ema: bool = False,
    truncation: float | None = None,
    digest: str | None = None,
) -> Tensor:
    """Generate `n` images, uint8 (n, 3, H, H); the latents are a function of (n, seed, truncation).

    truncation: threshold of `truncate`; None does not truncate. Other arguments and errors as in `load_generator`.
    """
    latents_NZ = _latents(run, n, seed, truncation)
    return load_generator(run, step=step, ema=ema, digest=digest)(latents_NZ)


def interpolate(
    run: RunDir,
    *,
    rows: int,
    columns: int,
    seed: int,
    step: int | None = None,
    ema: bool = False,
    truncation: float | None = None,
    digest: str | None = None,
) -> Tensor:
    """Generate `rows` spherical interpolations of `columns` images each: uint8 (rows * columns, 3, H, H).

    Each row interpolates between two latents of its own. Arguments and errors as in `generate`.
    """
    ends = _latents(run, 2 * rows, seed, truncation)
    walks = [latents.interpolate(ends[2 * row], ends[2 * row + 1], columns) for row in range(rows)]
    return load_generator(run, step=step, ema=ema, digest=digest)(torch.cat(walks))


def _latents(run: RunDir, n: int, seed: int, truncation: float | None) -> Tensor:
    latents_NZ = latents.fixed_latents(n, run.read_config().generator.latent_dim, seed)
    return latents_NZ if truncation is None else truncate(latents_NZ, truncation)


def truncate(latents: Tensor, threshold: float) -> Tensor:
    """Map standard normal latents to the normal distribution truncated to [-threshold, threshold].

    The truncation trick (Brock et al. 2019, section 3.1): a smaller threshold gives more typical and less varied
    images. The authors resample components outside the interval. Here each component is mapped to the same quantile of
    the truncated distribution, erf(z'/sqrt 2) = erf(z/sqrt 2) erf(t/sqrt 2). The distribution is the same, a latent
    changes continuously with the threshold, and a large threshold has no effect.

    Raises ConfigError unless threshold > 0.
    """
    if not threshold > 0:
        raise ConfigError(f"truncation: expected a threshold > 0, got {threshold}")
    inside = torch.erf(latents.double() / math.sqrt(2)) * math.erf(threshold / math.sqrt(2))
    # Beyond about 8 standard deviations erf rounds to 1, and its inverse to infinity.
    return (torch.erfinv(inside) * math.sqrt(2)).clamp(-threshold, threshold).to(latents.dtype)


def check_destination(out: Path) -> None:
    """Raise ConfigError if `write_images` does not support the suffix of `out` or would replace a non-empty folder."""
    if out.suffix not in (".png", ".npz", ".zip", ""):
        raise ConfigError(f"--out {out}: expected FILE.png, FILE.npz, FILE.zip or a folder, got suffix {out.suffix!r}")
    if out.suffix and out.is_dir():
        raise ConfigError(f"--out {out}: expected a file or a folder name without {out.suffix}, got an existing folder")
    is_empty_folder = out.name != "" and out.is_dir() and not any(out.iterdir())
    if not out.suffix and out.exists() and not is_empty_folder:
        raise ConfigError(f"--out {out}: expected a new or empty folder, or FILE.png, .npz or .zip; it already exists")


def write_images(images: Tensor, out: Path, *, columns: int | None = None) -> None:
    """Write uint8 images (n, 3, H, H) as `encode` does, in the format of the suffix; without suffix PNGs in a folder.

    Raises ConfigError as `check_destination` does, and StorageError if writing fails.
    """
    check_destination(out)
    match out.suffix:
        case ".png":
            atomic_write(out, encode(images, "png", columns=columns))
        case ".npz":
            atomic_write(out, encode(images, "npz"))
        case ".zip":
            atomic_write(out, encode(images, "zip"))
        case _:
            _write_folder(images, out)


def encode(images: Tensor, format: Format, *, columns: int | None = None) -> bytes:
    """Encode images uint8 (n, 3, H, H) as file content; equal images give equal bytes on one installation.

    `png` is a grid with `columns` columns, or as square as possible; `npz` contains the array `images` (n, H, H, 3);
    `zip` contains one numbered PNG per image.
    """
    match format:
        case "png":
            return grids.encode_png(grids.grid(images, columns or math.isqrt(len(images) - 1) + 1))
        case "npz":
            return _npz(images)
        case "zip":
            return _zip(images)


def _npz(images: Tensor) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=images.permute(0, 2, 3, 1).numpy())
    return buffer.getvalue()


def _zip(images: Tensor) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # stored: PNGs are compressed already
        for name, image in _named_images(images):
            archive.writestr(zipfile.ZipInfo(name), grids.encode_png(image))  # ZipInfo's constant date: 1980
    return buffer.getvalue()


def _write_folder(images: Tensor, out: Path) -> None:
    with atomic_directory(out) as temporary:
        for name, image in _named_images(images):
            (temporary / name).write_bytes(grids.encode_png(image))


def _named_images(images: Tensor) -> Iterator[tuple[str, Image.Image]]:
    for index, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        yield f"{index:06d}.png", Image.fromarray(image)

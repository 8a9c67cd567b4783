"""Images from a run's checkpoint."""

import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gan_mhe import checkpoint
from gan_mhe.data.loader import to_uint8
from gan_mhe.errors import CheckpointError, ConfigError
from gan_mhe.evaluation import samples
from gan_mhe.files import atomic_directory, atomic_write
from gan_mhe.networks.build import build_generator
from gan_mhe.rundir import RunDir
from gan_mhe.training.precision import Precision, resolve_device
from gan_mhe.training.state import load_module

Render = Callable[[Tensor], Tensor]
_BATCH = 256


def chosen_step(run: RunDir, step: int | None) -> int:
    """`step`, or the newest checkpoint's. CheckpointError names the steps that there are."""
    steps = run.checkpoint_steps()
    if not steps or (step is not None and step not in steps):
        asked = "any step" if step is None else f"step {step}"
        raise CheckpointError(f"{run.root} has no checkpoint of {asked}; it has {steps or 'none'}")
    return steps[-1] if step is None else step


def load_generator(run: RunDir, *, step: int | None = None, ema: bool = False, device: str = "auto") -> Render:
    """The generator of a checkpoint in evaluation mode, as a function from latents (B, Z) to uint8 (B, 3, H, H).

    Raises CheckpointError when the checkpoint is not there, damaged, or has no moving average.
    """
    config = run.read_config()
    found = checkpoint.load(run.checkpoint(chosen_step(run, step)), lineage=config.lineage_digest())
    prefix = "ema" if ema else "generator"
    if not any(name.startswith(f"{prefix}/") for name in found.tensors):
        raise CheckpointError(f"{run.root} keeps no moving average; set generator.ema_halflife_steps to have one")
    place = resolve_device(device)
    network = build_generator(
        config.generator.architecture,
        image_size=config.data.image_size,
        latent_dim=config.generator.latent_dim,
        width=config.generator.width,
        generator=torch.Generator(),
    )
    load_module(network, found.tensors, prefix)
    network.to(place).eval().requires_grad_(False)
    precision = Precision("float32", place)

    def render(latents_BZ: Tensor) -> Tensor:
        with precision.island():
            batches = torch.split(latents_BZ.to(place), _BATCH)
            return torch.cat([to_uint8(network(batch)).cpu() for batch in batches])

    return render


def draw(run: RunDir, *, n: int, seed: int, step: int | None = None, ema: bool = False) -> Tensor:
    """`n` images, uint8 (n, 3, H, H), from latents that are a function of (n, seed)."""
    latents = samples.fixed_latents(n, run.read_config().generator.latent_dim, seed)
    return load_generator(run, step=step, ema=ema)(latents)


def interpolate(
    run: RunDir, *, rows: int, columns: int, seed: int, step: int | None = None, ema: bool = False
) -> Tensor:
    """`rows` walks of `columns` images, each between two latents along the sphere: uint8 (rows * columns, 3, H, H)."""
    ends = samples.fixed_latents(2 * rows, run.read_config().generator.latent_dim, seed)
    walks = [samples.interpolate(ends[2 * row], ends[2 * row + 1], columns) for row in range(rows)]
    return load_generator(run, step=step, ema=ema)(torch.cat(walks))


def check_destination(out: Path) -> None:
    """ConfigError where `write_images` would not know how, or would replace a folder that holds something."""
    if out.suffix not in (".png", ".npz", ""):
        raise ConfigError(f"--out {out}: cannot write {out.suffix!r}; expected .png, .npz or a folder name")
    if out.suffix and out.is_dir():
        raise ConfigError(f"--out {out} is a folder; expected a file name, or a folder name without {out.suffix}")
    is_empty_folder = out.name != "" and out.is_dir() and not any(out.iterdir())
    if not out.suffix and out.exists() and not is_empty_folder:
        raise ConfigError(f"--out {out} is there already; expected a new or an empty folder, or FILE.png or FILE.npz")


def write_images(images: Tensor, out: Path, *, columns: int | None = None) -> None:
    """Write uint8 images: to a `.png` a grid, to an `.npz` the array `images` (n, H, H, 3), to a folder one PNG each.

    Raises ConfigError as `check_destination` does, StorageError when the disk refuses.
    """
    check_destination(out)
    match out.suffix:
        case ".png":
            atomic_write(out, samples.encode_png(samples.grid(images, columns or math.isqrt(len(images) - 1) + 1)))
        case ".npz":
            _write_npz(images, out)
        case _:
            _write_folder(images, out)


def _write_npz(images: Tensor, out: Path) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=images.permute(0, 2, 3, 1).numpy())
    atomic_write(out, buffer.getvalue())


def _write_folder(images: Tensor, out: Path) -> None:
    with atomic_directory(out) as temporary:
        for index, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
            Image.fromarray(image).save(temporary / f"{index:06d}.png")

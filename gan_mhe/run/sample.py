"""Images from the checkpoints of a run."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from gan_mhe.data.pixels import to_uint8
from gan_mhe.errors import CheckpointError, ConfigError
from gan_mhe.files import atomic_directory, growing_file
from gan_mhe.images import files, latents
from gan_mhe.images.files import Format, GridLayout
from gan_mhe.networks.build import build_generator
from gan_mhe.records import checkpoint
from gan_mhe.records.run_dir import RunDir
from gan_mhe.training.precision import Precision, resolve_device
from gan_mhe.training.state import load_module

Generate = Callable[[Tensor], Tensor]
_FORMATS: Mapping[str, Format] = MappingProxyType({".png": "png", ".webp": "webp", ".npz": "npz", ".zip": "zip"})


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
            batches = torch.split(latents_BZ.to(resolved_device), latents.BLOCK)
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
    """Generate `n` images, uint8 (n, 3, H, H). Arguments and errors as in `draw`."""
    return torch.cat(list(draw(run, n=n, seed=seed, step=step, ema=ema, truncation=truncation, digest=digest)))


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
    """Generate `rows` interpolations of `columns` images each: uint8 (rows * columns, 3, H, H). As `draw`."""
    options: dict[str, Any] = {"step": step, "ema": ema, "truncation": truncation, "digest": digest}
    return torch.cat(list(draw(run, n=rows, seed=seed, interpolation=columns, **options)))


def draw(
    run: RunDir,
    *,
    n: int,
    seed: int,
    interpolation: int = 0,
    step: int | None = None,
    ema: bool = False,
    truncation: float | None = None,
    digest: str | None = None,
) -> Iterator[Tensor]:
    """Generate images in batches uint8 (b, 3, H, H), each when it is asked for: `n`, or `n` rows of an interpolation.

    interpolation: images in each row, which interpolates spherically between two latents of its own; 0: independent
    images. truncation: threshold of `truncate`; None does not truncate. Other arguments and errors as in
    `load_generator`, at once; with the first batch ConfigError for an interpolation of 1 or a threshold out of range.

    On one installation image i is the same for every `n`, to the last bit: batches are generated whole, because a
    convolution of another batch size may round differently.
    """
    generator = load_generator(run, step=step, ema=ema, digest=digest)
    blocks = latents.latent_blocks(run.read_config().generator.latent_dim, seed)
    return _images(generator, _batches(blocks, truncation, interpolation), n * max(1, interpolation))


def _images(generator: Generate, batches: Iterator[Tensor], count: int) -> Iterator[Tensor]:
    while count > 0:
        images = generator(next(batches))[:count]
        yield images
        count -= len(images)


def _batches(blocks: Iterator[Tensor], truncation: float | None, interpolation: int) -> Iterator[Tensor]:
    for block in blocks:
        ends = block if truncation is None else truncate(block, truncation)
        if interpolation:
            walks = [latents.interpolate(a, b, interpolation) for a, b in zip(ends[::2], ends[1::2], strict=True)]
            yield from torch.split(torch.cat(walks), latents.BLOCK)
        else:
            yield ends


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
    if out.suffix and out.suffix not in _FORMATS:
        known = ", ".join(f"FILE{suffix}" for suffix in _FORMATS)
        raise ConfigError(f"--out {out}: expected {known} or a folder, got suffix {out.suffix!r}")
    if out.suffix and out.is_dir():
        raise ConfigError(f"--out {out}: expected a file or a folder name without {out.suffix}, got an existing folder")
    is_empty_folder = out.name != "" and out.is_dir() and not any(out.iterdir())
    if not out.suffix and out.exists() and not is_empty_folder:
        raise ConfigError(
            f"--out {out}: expected a new or empty folder, or FILE.png, .webp, .npz or .zip; it already exists"
        )


def write_images(batches: Iterable[Tensor], count: int, out: Path, layout: GridLayout | None = None) -> None:
    """Write `count` images from batches as `files.write` does, in the format of the suffix; without suffix a folder.

    A folder contains one numbered PNG per image. Raises ConfigError as `check_destination` does, and StorageError if
    writing fails.
    """
    check_destination(out)
    if not out.suffix:
        _write_folder(batches, out)
        return
    with growing_file(out) as file:
        files.write(batches, count, _FORMATS[out.suffix], file, layout or GridLayout())


def _write_folder(batches: Iterable[Tensor], out: Path) -> None:
    with atomic_directory(out) as temporary:
        for name, content in files.named_pngs(batches):
            (temporary / name).write_bytes(content)

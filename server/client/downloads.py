"""Downloads of a job's files into a folder; each file is written atomically."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from gan_mhe.errors import GanMheError
from gan_mhe.files import atomic_directory, atomic_write, sha256_file, write_json
from server.client import Client, Job

Fetch = Callable[[Client, Job, Path], list[Path]]


def folder_name(job: Job) -> str:
    """Folder name of a job of an experiment: readable and unique."""
    return f"{job.variant}_seed_{job.seed}_{job.id[-6:]}"


def latest(client: Client, job: Job, folder: Path) -> list[Path]:
    """The newest grid, as `latest.png`."""
    path = folder / "latest.png"
    atomic_write(path, client.latest_png(job.id))
    return [path]


def samples(client: Client, job: Job, folder: Path) -> list[Path]:
    """Every grid that the service still has, by step; skips files that exist already."""
    paths = []
    for sample in client.samples(job.id):
        path = folder / "samples" / f"step_{sample.step:08d}.png"
        if sample.pruned:
            continue
        if not path.exists() or sha256_file(path) != sample.sha256:
            atomic_write(path, client.blob(sample.sha256))
        paths.append(path)
    return paths


def animation(client: Client, job: Job, folder: Path) -> list[Path]:
    """All grids as an animation."""
    path = folder / "animation.webp"
    atomic_write(path, client.animation(job.id))
    return [path]


def checkpoint(client: Client, job: Job, folder: Path) -> list[Path]:
    """The newest checkpoint, in the layout of a run directory."""
    kept = [each for each in client.checkpoints(job.id) if each.status == "available"]
    if not kept:
        raise GanMheError(f"{job.id} has no checkpoints")
    path = folder / "checkpoints" / f"step_{kept[-1].step:08d}"
    with atomic_directory(path) as temporary:
        (temporary / "tensors.safetensors").write_bytes(client.checkpoint_file(kept[-1].id, "content"))
        (temporary / "manifest.json").write_bytes(client.checkpoint_file(kept[-1].id, "manifest"))
    return [path]


def config(client: Client, job: Job, folder: Path) -> list[Path]:
    """The complete configuration, as `config.json`."""
    path = folder / "config.json"
    write_json(path, dict(job.config))
    return [path]


KINDS: Mapping[str, Fetch] = MappingProxyType(
    {"latest": latest, "samples": samples, "animation": animation, "checkpoint": checkpoint, "config": config}
)

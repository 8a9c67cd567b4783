"""Checkpoints: tensors in safetensors and everything else in a JSON manifest, both protected by a hash.

A checkpoint is a directory that is written completely or not at all. Loading verifies every byte before a tensor is
used; nothing is ever unpickled.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from gan_mhe.errors import CheckpointError
from gan_mhe.files import atomic_directory, atomic_write, canonical_json, sha256_bytes, sha256_file, write_json
from gan_mhe.records.manifest import FORMAT, MANIFEST_FILE, TENSORS_FILE, read_document


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint."""

    step: int
    """Number of steps that were made."""
    lineage: str
    """Digest of the configurations that it fits (`RunConfig.digest("resumable")`)."""
    tensors: Mapping[str, Tensor]
    """State of the task, by name."""
    notes: Mapping[str, Any]
    """State of the run besides the tensors, as JSON values."""


def save(directory: Path, checkpoint: Checkpoint) -> str:
    """Write `checkpoint` as `directory`, completely or not at all; return the manifest's hash.

    Raises StorageError if the disk refuses.
    """
    content = safetensors.torch.save({name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()})
    manifest = {
        "format": FORMAT,
        "step": checkpoint.step,
        "lineage": checkpoint.lineage,
        "tensors_sha256": sha256_bytes(content),
        "notes": dict(checkpoint.notes),
    }
    digest = sha256_bytes(canonical_json(manifest))
    with atomic_directory(directory) as temporary:
        atomic_write(temporary / TENSORS_FILE, content)
        write_json(temporary / MANIFEST_FILE, manifest | {"sha256": digest})
    return digest


def load(directory: Path, *, lineage: str | None = None, digest: str | None = None) -> Checkpoint:
    """Read and verify a checkpoint.

    lineage: the expected lineage, if any. digest: the expected hash as returned by `save`, if any. Raises
    CheckpointError if a file is missing, altered or truncated, or lineage or digest differ.
    """
    manifest = read_document(directory)
    if digest is not None and digest != (found := sha256_bytes(canonical_json(manifest))):
        raise CheckpointError(f"{directory} is another checkpoint: expected SHA-256 {digest}, got {found}")
    if lineage is not None and manifest["lineage"] != lineage:
        raise CheckpointError(f"{directory} belongs to another configuration")
    tensors_file = directory / TENSORS_FILE
    try:
        found = sha256_file(tensors_file)
        if found != manifest["tensors_sha256"]:
            raise CheckpointError(
                f"{tensors_file} is damaged: expected SHA-256 {manifest['tensors_sha256']}, got {found}"
            )
        tensors = safetensors.torch.load_file(tensors_file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{tensors_file} cannot be read: {error}") from error
    return Checkpoint(manifest["step"], manifest["lineage"], tensors, manifest["notes"])


def prune(directories: Mapping[int, Path], *, keep_last: int, pinned: int | None) -> None:
    """Delete all but the newest `keep_last` checkpoints and the pinned step."""
    kept = {*sorted(directories)[-keep_last:], pinned}
    for step, directory in directories.items():
        if step not in kept:
            shutil.rmtree(directory, ignore_errors=True)

"""The manifest of a checkpoint: everything besides the tensors, protected by a hash. Loads no torch."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from gan_mhe.errors import CheckpointError
from gan_mhe.files import canonical_json, sha256_bytes
from gan_mhe.json_text import read_object
from gan_mhe.records.fields import Name, Sha256, Step, validated
from gan_mhe.streams import reason_of

FORMAT = 1
TENSORS_FILE, MANIFEST_FILE = "tensors.safetensors", "manifest.json"


class Manifest(BaseModel):
    """The content of `manifest.json` without its own hash; further keys, of later versions, are ignored."""

    format: int = Field(strict=True)
    step: Step
    """Number of steps that were made."""
    lineage: Name
    """Digest of the configurations that the checkpoint fits."""
    tensors_sha256: Sha256
    """Hash of the file of tensors."""
    notes: dict[str, Any]
    """State of the run besides the tensors."""


def read_document(directory: Path) -> dict[str, Any]:
    """The manifest of a checkpoint as it was hashed, without the hash: the fields of `Manifest`, and perhaps others.

    Raises CheckpointError if it is missing, altered or of another format, or a field is of another type.
    """
    path = directory / MANIFEST_FILE
    try:
        document = read_object(path)
        stated = document.pop("sha256", None)
        found = sha256_bytes(canonical_json(document))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {reason_of(error)}") from error
    if found != stated:
        raise CheckpointError(f"{path} is damaged: expected SHA-256 {str(stated)[:64]}, got {found}")
    if document.get("format") != FORMAT:
        form = str(document.get("format"))[:64]
        raise CheckpointError(f"{path} has format {form}; this version reads format {FORMAT}")
    missing = Manifest.model_fields.keys() - document.keys()
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(sorted(missing))}")
    try:
        validated(Manifest.model_validate, document)
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    return document

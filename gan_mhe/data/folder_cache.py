"""Decoded image folders on disk: a few versions of each folder, checked whenever they are read."""

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gan_mhe.files import sha256_bytes, write_cached

KEPT = 4
"""Versions of one folder that are kept: those used last. A version is one content at one size and resize policy."""

_LEFTOVER_NS = 86_400 * 10**9  # a temporary file this old is of a process that was killed while it wrote


@dataclass(frozen=True)
class _Record:
    """What is stored beside the images, as one text: safetensors writes several in no fixed order."""

    sha256: str
    """Hash of the image bytes."""
    conversions: dict[str, int]


_RECORD = TypeAdapter(_Record)


def cache_path(cache_dir: Path, folder: Path, key: str) -> Path:
    """Path of one version of `folder`. key: hash of everything that its decoded images depend on."""
    return cache_dir / "image_folder" / sha256_bytes(os.fsencode(os.path.realpath(folder)))[:16] / f"{key}.safetensors"


def read(path: Path, shape: tuple[int, ...]) -> tuple[Tensor, Mapping[str, int]] | None:
    """The cached images, uint8 of `shape`, and their conversions; None if there are none or they are damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            images: Tensor = file.get_tensor("images")
            record = _RECORD.validate_json((file.metadata() or {}).get("record", ""))
    except (OSError, SafetensorError, ValidationError):
        return None
    if images.dtype != torch.uint8 or images.shape != shape or _sha256(images) != record.sha256:
        return None
    with suppress(OSError):  # of a cache that others maintain
        os.utime(path)
    return images, record.conversions


def write(path: Path, images: Tensor, conversions: Mapping[str, int]) -> None:
    """Write one version of a folder, and remove those beyond the `KEPT` ones used last.

    Other processes may be reading a version that is removed: they keep it open, and its blocks until they close it.
    Raises StorageError if the cache cannot be written.
    """
    record = _RECORD.dump_json(_Record(_sha256(images), dict(conversions))).decode()
    write_cached(path, safetensors.torch.save({"images": images}, {"record": record}))
    _prune(path)


def _prune(added: Path) -> None:
    """Remove what `added` replaces: unused versions, what killed processes left, and files of an older layout."""
    others = [other for other in added.parent.glob("*.safetensors") if other != added]
    unused = sorted(others, key=_last_use, reverse=True)[KEPT - 1 :]
    limit = _last_use(added) - _LEFTOVER_NS
    leftovers = [temporary for temporary in added.parent.glob(".*.tmp") if _last_use(temporary) < limit]
    # Earlier versions of this program kept all folders in one; nothing reads those files.
    for old in (*unused, *leftovers, *added.parent.parent.glob("*.safetensors")):
        with suppress(OSError):  # of another user, say; what cannot be removed must not end a run
            old.unlink(missing_ok=True)


def _last_use(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # such as FileNotFoundError: another process removed it meanwhile
        return 0


def _sha256(images: Tensor) -> str:
    return hashlib.sha256(images.numpy().data).hexdigest()

"""Copies a service's data while it runs: the database first, then the files of the jobs.

So the files are at least as new as the rows. A restored service reads what the rows do not know yet, as after a crash.

    BACKUP/service.sqlite3   a consistent copy of the database
    BACKUP/jobs/JOB/         the files of the jobs
    BACKUP/backup.json       the SHA-256 of every file; written last: a copy cut short has none
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from gan_mhe.files import sha256_file, write_json
from gan_mhe.version import __version__
from server.clock import now_ms
from server.errors import DatabaseDamaged, StartRefused
from server.ingest import deletion
from server.settings import Settings
from server.store.store import Store
from server.upkeep.copying import copy_tree

DATABASE, JOBS = "service.sqlite3", "jobs"
_FORMAT = 1
_MANIFEST = "backup.json"


class Manifest(BaseModel):
    """What a backup contains. files: SHA-256 by path relative to the backup. created_at: milliseconds since 1970."""

    format: int
    version: str
    schema_revision: str
    created_at: int
    keys_required: bool
    files: dict[str, str]


@dataclass(frozen=True)
class Made:
    """A finished backup: how many jobs and files it has, and their size in bytes."""

    jobs: int
    files: int
    size_bytes: int


def back_up(settings: Settings, target: Path) -> Made:
    """Copy the data of a service to `target`, a directory that is empty or does not exist.

    Raises StartRefused if there is no database to copy or `target` is in use, DatabaseDamaged if the copy of the
    database is damaged, as then its original is.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StartRefused(f"{target} is not empty: expected an empty directory or a new one")
    if not settings.database.is_file():
        raise StartRefused(f"there is no database {settings.database}")
    target.mkdir(parents=True, exist_ok=True, mode=0o700)
    revision = _copy_database(settings, target / DATABASE)
    hashes = {DATABASE: sha256_file(target / DATABASE)}
    jobs = deletion.job_directories(settings)
    for job_id in jobs:
        copied = copy_tree(settings.job_dir(job_id), target / JOBS / job_id)
        hashes |= {f"{JOBS}/{job_id}/{path}": sha256 for path, sha256 in copied.items()}
    manifest = Manifest(
        format=_FORMAT,
        version=__version__,
        schema_revision=revision,
        created_at=now_ms(),
        keys_required=settings.keys_required.exists(),
        files=hashes,
    )
    write_json(target / _MANIFEST, manifest.model_dump())
    return Made(len(jobs), len(hashes), sum((target / path).stat().st_size for path in hashes))


def _copy_database(settings: Settings, target: Path) -> str:
    """Copy the database and examine the copy; returns the revision of its schema."""
    original = Store(settings.database)
    try:
        original.copy_to(target)
    finally:
        original.close()
    copy = Store(target)
    try:
        revision = copy.revision()
        copy.examine()
        copy.tidy()
    finally:
        copy.close()
    if copy.damage is not None:
        raise DatabaseDamaged(copy.damage)
    if revision is None:
        raise StartRefused(f"the database {settings.database} is empty")
    return revision


def read(directory: Path) -> Manifest:
    """The manifest of a backup. Raises StartRefused if the directory is no complete backup of a known format."""
    try:
        document = json.loads((directory / _MANIFEST).read_bytes())
        if isinstance(document, Mapping) and document.get("format") != _FORMAT:
            raise StartRefused(f"{directory} has format {document.get('format')!r}; this version reads {_FORMAT}")
        return Manifest.model_validate(document)
    except FileNotFoundError:
        raise StartRefused(f"{directory} is not a complete backup: it has no {_MANIFEST}") from None
    except (OSError, ValueError, ValidationError) as error:
        raise StartRefused(f"{directory / _MANIFEST} cannot be read: {' '.join(str(error).split())}") from None


def damaged_files(directory: Path, manifest: Manifest) -> list[str]:
    """The files of a backup that are missing or differ from what was copied."""
    return [path for path, sha256 in manifest.files.items() if not _is_whole(directory / path, sha256)]


def _is_whole(path: Path, sha256: str) -> bool:
    try:
        return sha256_file(path) == sha256
    except OSError:
        return False

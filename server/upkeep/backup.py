"""Copies a service's data while it runs: the database first, then the files of the jobs.

So the files are at least as new as the rows. A restored service reads what the rows do not know yet, as after a crash.

    BACKUP/service.sqlite3   a consistent copy of the database
    BACKUP/jobs/JOB/         the files of the jobs
    BACKUP/backup.json       the SHA-256 of every file; written last: a copy cut short has none
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ValidationError

from gan_mhe.files import sha256_file, write_json
from gan_mhe.plain_files import open_plain
from gan_mhe.version import __version__
from server.clock import now_ms
from server.errors import DatabaseDamaged, StartRefused
from server.ingest import deletion
from server.queue import queue
from server.settings import Settings
from server.store.store import Store
from server.upkeep.copying import copy_tree

DATABASE, JOBS = "service.sqlite3", "jobs"
_FORMAT = 1
_MANIFEST = "backup.json"


_FILE = re.compile(rf"{JOBS}/(?:job|task)_[0-9a-z]{{26}}/.+")


def _paths(files: dict[str, str]) -> dict[str, str]:
    """The files of a backup, if it has the database and every other path is of a file of a job."""
    if DATABASE not in files:
        raise ValueError(f"expected {DATABASE} among the files")
    for path in files:
        if path != DATABASE and (_FILE.fullmatch(path) is None or ".." in path.split("/")):
            raise ValueError(f"expected paths such as {JOBS}/JOB/run/config.json, got {path!r:.200}")
    return files


class Manifest(BaseModel):
    """What a backup contains. files: SHA-256 by path relative to the backup. created_at: milliseconds since 1970."""

    format: int
    version: str
    schema_revision: str
    created_at: int
    keys_required: bool
    files: Annotated[dict[str, str], AfterValidator(_paths)]


@dataclass(frozen=True)
class Made:
    """A finished backup: how many jobs and files it has, and their size in bytes.

    left_out: what directories of jobs have besides plain files, which is not copied.
    """

    jobs: int
    files: int
    size_bytes: int
    left_out: Sequence[str] = ()


def back_up(settings: Settings, target: Path) -> Made:
    """Copy the data of a service to `target`, a directory that is empty or does not exist.

    Raises StartRefused if there is no database to copy, all files of jobs are out of reach, or `target` is in use or
    among them; DatabaseDamaged if the copy of the database is damaged, as then its original is; StorageError if
    something cannot be copied.
    """
    if target.resolve().is_relative_to(settings.job_dir("").resolve()):
        raise StartRefused(f"{target} is in {settings.job_dir('')}: expected a directory outside of what is copied")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StartRefused(f"{target} is not empty: expected an empty directory or a new one")
    if not settings.database.is_file():
        raise StartRefused(f"there is no database {settings.database}")
    target.mkdir(parents=True, exist_ok=True, mode=0o700)
    revision, ran = _copy_database(settings, target / DATABASE)
    hashes = {DATABASE: sha256_file(target / DATABASE)}
    jobs = deletion.job_directories(settings)
    if ran and not jobs:
        raise StartRefused(f"{settings.job_dir('')} has no file of the {ran} jobs that ran: is their volume mounted?")
    left_out: list[str] = []
    for job_id in jobs:
        copied = copy_tree(settings.job_dir(job_id), target / JOBS / job_id)
        hashes |= {f"{JOBS}/{job_id}/{path}": sha256 for path, sha256 in copied.hashes.items()}
        left_out += [f"{JOBS}/{job_id}/{path}" for path in copied.left_out]
    manifest = Manifest(
        format=_FORMAT,
        version=__version__,
        schema_revision=revision,
        created_at=now_ms(),
        keys_required=settings.keys_required.exists(),
        files=hashes,
    )
    write_json(target / _MANIFEST, manifest.model_dump())
    return Made(len(jobs), len(hashes), sum((target / path).stat().st_size for path in hashes), left_out)


def _copy_database(settings: Settings, target: Path) -> tuple[str, int]:
    """Copy the database and examine the copy; returns the revision of its schema, and how many jobs ran."""
    original = Store(settings.database)
    try:
        original.copy_to(target)
    finally:
        original.close()
    copy = Store(target)
    try:
        revision = copy.revision()
        if revision is None:
            raise StartRefused(f"the database {settings.database} is empty")
        copy.examine()
        if copy.damage is not None:
            raise DatabaseDamaged(copy.damage)
        copy.tidy()
        return revision, copy.read(queue.count_trained)
    finally:
        copy.close()


def read(directory: Path) -> Manifest:
    """The manifest of a backup. Raises StartRefused if the directory is no complete backup of a known format."""
    try:
        with open_plain(directory / _MANIFEST) as file:
            document = json.load(file)
        if isinstance(document, Mapping) and document.get("format") != _FORMAT:
            raise StartRefused(f"{directory} has format {document.get('format')!r}; this version reads {_FORMAT}")
        return Manifest.model_validate(document)
    except FileNotFoundError:
        raise StartRefused(f"{directory} is not a complete backup: it has no {_MANIFEST}") from None
    except (OSError, ValueError, ValidationError, RecursionError) as error:
        raise StartRefused(f"{directory / _MANIFEST} cannot be read: {' '.join(str(error).split())}") from None


def damaged_files(directory: Path, manifest: Manifest) -> list[str]:
    """The files of a backup that are missing or differ from what was copied."""
    return [path for path, sha256 in manifest.files.items() if not _is_whole(directory / path, sha256)]


def _is_whole(path: Path, sha256: str) -> bool:
    try:
        return sha256_file(path) == sha256
    except OSError:
        return False

"""Examines a data directory and says what is amiss; it changes nothing and may run beside the service."""

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, select
from sqlalchemy.exc import DBAPIError

from gan_mhe.errors import CheckpointError
from gan_mhe.files import canonical_json, sha256_bytes, sha256_file
from gan_mhe.records import manifest
from server.errors import DatabaseDamaged, NotFound, NotReady, ServiceError
from server.ingest import deletion, trash
from server.settings import Settings
from server.store import artifacts, tables
from server.store.artifacts import AVAILABLE
from server.store.rows import CheckpointRow, SampleRow, fetch_all
from server.store.store import Store

_MIB = 2**20
_MAX_LISTED = 5
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True)
class Finding:
    """The result of one examination. advice: what to do about problems; empty if all is well."""

    subject: str
    well: bool
    text: str
    advice: str = ""


def examine(store: Store, settings: Settings, *, hashes: bool) -> Iterator[Finding]:
    """All findings, as they are made. hashes: also read every sample grid and checkpoint and compare its hash."""
    examinations: list[Callable[[Store, Settings], Finding]] = [
        _database,
        _schema,
        _references,
        _unknown_directories,
        _missing_files,
        _permissions,
        _disk,
        _trash,
    ]
    if hashes:
        examinations.append(_hashes)
    for examination in examinations:
        try:
            yield examination(store, settings)
        except (ServiceError, DBAPIError, OSError) as error:
            subject = examination.__name__.strip("_").replace("_", " ")
            yield Finding(subject, False, f"cannot be examined: {' '.join(str(error).split())}")


def _database(store: Store, settings: Settings) -> Finding:
    store.examine()
    if store.damage is not None:
        return Finding("database", False, store.damage, str(DatabaseDamaged(store.damage)))
    return Finding("database", True, f"whole; {settings.database.stat().st_size / _MIB:.1f} MiB")


def _schema(store: Store, settings: Settings) -> Finding:
    revision = store.revision()
    if store.is_current():
        return Finding("schema", True, f"{revision}, as this version expects")
    advice = "a start of the service migrates an older schema, after a copy; a newer one needs the newer version"
    return Finding("schema", False, f"{revision or 'none'}, not this version's", advice)


def _references(store: Store, settings: Settings) -> Finding:
    broken = store.broken_references()
    if broken:
        advice = "`gan-mhe restore --salvage` leaves such rows out"
        return Finding("references", False, f"rows of {', '.join(broken)} refer to missing rows", advice)
    return Finding("references", True, "every row refers to rows that exist")


def _unknown_directories(store: Store, settings: Settings) -> Finding:
    unknown = deletion.unknown_directories(store, settings)
    if unknown:
        advice = "`gan-mhe adopt` makes jobs of those that are runs; nothing deletes them"
        return Finding("directories", False, f"{len(unknown)} without a row: {_listed(unknown)}", advice)
    return Finding("directories", True, f"{len(deletion.job_directories(settings))} in jobs/, each with its row")


def _missing_files(store: Store, settings: Settings) -> Finding:
    samples, checkpoints = store.read(_offered)
    missing = [_name(row) for row in samples if _sample_file(settings, row) is None]
    missing += [_name(row) for row in checkpoints if not _checkpoint_files(settings, row)]
    if missing:
        advice = "a backup may have them: `gan-mhe restore` copies directories of jobs that are missing as a whole"
        return Finding("files", False, f"{len(missing)} are missing: {_listed(missing)}", advice)
    return Finding("files", True, f"{len(samples)} grids and {len(checkpoints)} checkpoints are there")


def _hashes(store: Store, settings: Settings) -> Finding:
    samples, checkpoints = store.read(_offered)
    wrong = [_name(row) for row in samples if _differs(_sample_file(settings, row), row["sha256"])]
    wrong += [_name(row) for row in checkpoints if not _is_whole(settings, row)]
    if wrong:
        advice = "training resumes from an older checkpoint that is whole; a backup may have the file"
        return Finding("hashes", False, f"{len(wrong)} are damaged: {_listed(wrong)}", advice)
    return Finding("hashes", True, f"{len(samples)} grids and {len(checkpoints)} checkpoints are what was written")


def _permissions(store: Store, settings: Settings) -> Finding:
    mode = settings.data_dir.stat().st_mode
    if mode & _OTHERS:
        advice = f"`chmod 700 {settings.data_dir}`: other users of the machine can read jobs and the hashes of keys"
        return Finding("permissions", False, f"the data directory has mode {stat.S_IMODE(mode):o}", advice)
    if not os.access(settings.database, os.W_OK):
        advice = "run as the user of the service, or `chmod 600` the database"
        return Finding("permissions", False, "this user cannot write the database", advice)
    return Finding("permissions", True, "only the owner can enter the data directory")


def _disk(store: Store, settings: Settings) -> Finding:
    free, reserve = shutil.disk_usage(settings.data_dir).free, settings.disk_reserve_bytes
    text = f"{free // _MIB} MiB are free; the reserve is {reserve // _MIB} MiB"
    if free < reserve:
        return Finding("disk", False, text, "free some: no job is accepted, and running ones are paused")
    return Finding("disk", True, text)


def _trash(store: Store, settings: Settings) -> Finding:
    found = trash.contents(settings)
    kept = f"kept for {settings.trash_days:g} days" if settings.trash_days else "deleted at once"
    return Finding("trash", True, f"{len(found)} deleted jobs; they are {kept}")


def _offered(connection: Connection) -> tuple[list[SampleRow], list[CheckpointRow]]:
    """The rows of all grids and checkpoints that clients can fetch."""
    samples = select(tables.samples).where(tables.samples.c.pruned_at.is_(None))
    checkpoints = select(tables.checkpoints).where(tables.checkpoints.c.status == AVAILABLE)
    return fetch_all(connection, samples, SampleRow), fetch_all(connection, checkpoints, CheckpointRow)


def _name(row: SampleRow | CheckpointRow) -> str:
    return f"{row['job_id']}/{row['path']}"


def _sample_file(settings: Settings, row: SampleRow) -> Path | None:
    try:
        return artifacts.blob_path(settings, row)
    except NotFound:
        return None


def _checkpoint_files(settings: Settings, row: CheckpointRow) -> dict[str, Path]:
    try:
        return artifacts.checkpoint_files(settings, row)
    except (NotFound, NotReady):
        return {}


def _differs(path: Path | None, sha256: str) -> bool:
    """Whether a file that is there has another content; a missing one is counted elsewhere."""
    return path is not None and sha256_file(path) != sha256


def _is_whole(settings: Settings, row: CheckpointRow) -> bool:
    """Whether manifest and tensors of a checkpoint, if they are there, are those that were indexed."""
    files = _checkpoint_files(settings, row)
    if not files:
        return True
    tensors = files[manifest.TENSORS_FILE]
    try:
        document = manifest.read_document(tensors.parent)
    except CheckpointError:
        return False
    whole = sha256_bytes(canonical_json(document)) == row["sha256"]
    return whole and not _differs(tensors, document["tensors_sha256"])


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(names[:_MAX_LISTED]) + more

"""Puts a database back: from a backup, from what can be read of a damaged one, or from the runs alone.

The present database is moved aside and never deleted, and no file of a job is changed. Runs that the restored database
does not know, because they are newer, are adopted.
"""

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gan_mhe.files import sha256_file
from server import data_directory
from server.errors import StartRefused
from server.queue import queue
from server.settings import Settings
from server.store import keys
from server.store.store import Store, knows
from server.upkeep import backup
from server.upkeep.adopt import Adoption, adopt
from server.upkeep.copying import copy_file, copy_tree
from server.upkeep.salvage import salvage

_PARTS = ("", "-wal", "-shm")
_MAX_LISTED = 5


@dataclass(frozen=True)
class Restored:
    """What was done.

    aside: where the replaced database is, None if there was none. jobs: jobs and tasks of the restored database.
    adopted: directories that it did not know. copied: directories that came from the backup. damaged_tables: tables
    of the damaged database that could not be read whole.
    """

    aside: Path | None
    jobs: int
    adopted: Sequence[Adoption]
    copied: Sequence[str] = ()
    damaged_tables: Sequence[str] = ()


def from_backup(settings: Settings, directory: Path) -> Restored:
    """Put the database of a backup in place, and the directories of jobs that are missing here.

    Raises StartRefused if a server uses the data directory, the backup is of a newer version, or a file of it is
    missing or damaged; StorageError if something cannot be copied. The database is then as it was.
    """
    manifest = backup.read(directory)
    if not knows(manifest.schema_revision):
        raise StartRefused(
            f"{directory} was made by version {manifest.version} and has schema {manifest.schema_revision!r}, which "
            "this version does not know; expected a backup of a version that is not newer. Nothing was changed"
        )
    damaged = backup.damaged_files(directory, manifest)
    if damaged:
        more = f" and {len(damaged) - _MAX_LISTED} more" if len(damaged) > _MAX_LISTED else ""
        raise StartRefused(f"{directory} is damaged: {', '.join(damaged[:_MAX_LISTED])}{more}; nothing was changed")
    with data_directory.locked(settings.data_dir):
        copied = _copy_missing_jobs(settings, directory, manifest)
        new = _temporary(settings)
        copy_file(directory / backup.DATABASE, new)
        if sha256_file(new) != manifest.files[backup.DATABASE]:
            raise StartRefused(f"{new} is not what was copied; nothing was changed")
        if manifest.keys_required:
            settings.keys_required.touch(mode=0o600)
        return _put_in_place(settings, new, copied=copied)


def from_damaged(settings: Settings) -> Restored:
    """Make a new database of all rows that can be read in the present one, and of the runs whose rows cannot.

    Raises StartRefused if a server uses the data directory, or there is no database.
    """
    if not settings.database.is_file():
        newest = data_directory.newest_replaced(settings.data_dir)
        where = (
            f"a restore has set one aside in {newest}: move its files back" if newest else "`--from-runs` needs none"
        )
        raise StartRefused(f"there is no database {settings.database}; {where}")
    with data_directory.locked(settings.data_dir):
        new = _temporary(settings)
        damaged = salvage(settings.database, new)
        return _put_in_place(settings, new, damaged_tables=damaged)


def from_runs(settings: Settings) -> Restored:
    """Make a new database of the runs alone. Keys, experiments, and jobs that never ran are lost with the old one.

    Raises StartRefused if a server uses the data directory.
    """
    with data_directory.locked(settings.data_dir):
        new = _temporary(settings)
        _migrated(new)
        return _put_in_place(settings, new)


def _temporary(settings: Settings) -> Path:
    path = settings.database.with_name(f".{settings.database.name}.restored.tmp")
    for part in _PARTS:
        Path(f"{path}{part}").unlink(missing_ok=True)
    return path


def _migrated(path: Path) -> None:
    store = Store(path)
    try:
        store.migrate()
        store.tidy()
    finally:
        store.close()


def _copy_missing_jobs(settings: Settings, directory: Path, manifest: backup.Manifest) -> list[str]:
    """Copy the directories of jobs that are not here; those that are here are at least as new."""
    jobs = sorted({path.split("/")[1] for path in manifest.files if path.startswith(f"{backup.JOBS}/")})
    missing = [job_id for job_id in jobs if not os.path.lexists(settings.job_dir(job_id))]
    for job_id in missing:
        partial = settings.job_dir("") / f".{job_id}.tmp"
        shutil.rmtree(partial, ignore_errors=True)  # of a restore that was cut short
        copy_tree(directory / backup.JOBS / job_id, partial)
        os.replace(partial, settings.job_dir(job_id))
    return missing


def _put_in_place(
    settings: Settings, new: Path, *, copied: Sequence[str] = (), damaged_tables: Sequence[str] = ()
) -> Restored:
    """Migrate the new database, exchange the present one for it, and adopt the runs that it does not know."""
    _migrated(new)
    aside = _move_aside(settings)
    os.replace(new, settings.database)
    store = Store(settings.database)
    try:
        if store.read(keys.exist):
            settings.keys_required.touch(mode=0o600)
        adopted = adopt(store, settings)
        jobs = store.read(queue.count)
        store.tidy()
    finally:
        store.close()
    return Restored(aside, jobs, adopted, copied, damaged_tables)


def _move_aside(settings: Settings) -> Path | None:
    """Move the files of the present database to a new directory; None if there are none."""
    present = [path for part in _PARTS if (path := Path(f"{settings.database}{part}")).exists()]
    if not present:
        return None
    cut_short = None if settings.database.exists() else data_directory.newest_replaced(settings.data_dir)
    aside = cut_short or _new_aside(settings)  # what belongs together stays together
    for path in present:
        os.replace(path, aside / path.name)
    return aside


def _new_aside(settings: Settings) -> Path:
    aside = settings.data_dir / data_directory.REPLACED / time.strftime("%Y%m%dT%H%M%S")
    number = 1
    while aside.exists():
        number += 1
        aside = aside.with_name(f"{aside.name.split('-')[0]}-{number}")
    aside.mkdir(parents=True, mode=0o700)
    return aside

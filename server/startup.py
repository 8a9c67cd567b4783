"""The start of a service, as a list of steps: nothing runs before they are done.

The first steps refuse the start, and then nothing was changed. The others mend what an earlier end left undone and look
for what is amiss; each of them is bounded, and one that fails is logged and stops neither the others nor the service.
"""

import os
from collections.abc import Callable

import structlog

from server import data_directory
from server.errors import DatabaseDamaged, StartRefused
from server.executors.base import Executor
from server.ingest import deletion, importer
from server.queue import queue
from server.service import Service
from server.settings import Settings
from server.store import heartbeat, keys
from server.store.store import Store

EXAMINATION_SECONDS = 2.0

_log = structlog.get_logger("server.start")

Step = Callable[[Store, Settings], None]


def open_service(settings: Settings, executor: Executor | None = None) -> Service:
    """Take the data directory and prepare it; the service then only has to be started.

    Raises StartRefused if another server has the directory, the database was lost, is a newer version's or another
    program's, or is damaged and of an older schema.
    """
    lock = data_directory.lock(settings.data_dir)
    try:
        store = Store(settings.database)
        try:
            _check(store, settings)
            mend(store, settings)
            return Service.over(settings, store, lock, executor)
        except BaseException:
            store.close()
            raise
    except BaseException:
        os.close(lock)
        raise


def _check(store: Store, settings: Settings) -> None:
    try:
        for step in _REFUSING:
            step(store, settings)
    except DatabaseDamaged as error:
        raise StartRefused(f"cannot use the database {settings.database}: {error}") from error


def mend(store: Store, settings: Settings) -> None:
    """Carry out the steps that mend and look, each alone."""
    for step in _MENDING:
        try:
            step(store, settings)
        except DatabaseDamaged:
            _log.warning("step_left_out", step=step.__name__, why="the database is damaged")
        except Exception:
            _log.exception("step_failed", step=step.__name__)


def refuse_a_lost_database(store: Store, settings: Settings) -> None:
    """StartRefused if the database is new while there are files of jobs: it was lost, and with it jobs and keys."""
    found = deletion.job_directories(settings)
    if found and (not settings.database.exists() or store.is_new()):
        aside = data_directory.newest_replaced(settings.data_dir)
        where = f"; the one that a restore set aside last is in {aside}" if aside else ""
        raise StartRefused(
            f"{settings.job_dir('')} has the files of {len(found)} jobs and tasks, but the database "
            f"{settings.database} is missing or empty{where}. No file of a job was changed. Put a copy of the database "
            "there, or run `gan-mhe restore BACKUP`, or without a backup `gan-mhe restore --from-runs`, which makes a "
            "new database from the runs"
        )


def examine_database(store: Store, _settings: Settings) -> None:
    """Look for damage, for two seconds at most; a damaged database is served, but nothing is written to it."""
    complete = store.examine(EXAMINATION_SECONDS)
    if store.damage is not None:
        _log.error("database_damaged", advice=str(DatabaseDamaged(store.damage)))
    elif not complete:
        _log.info("database_examined_in_part", advice="`gan-mhe doctor` examines it whole")


def migrate(store: Store, _settings: Settings) -> None:
    """Bring the schema up to this version. A damaged database is left as it is."""
    if store.damage is None:
        store.migrate()
    elif not store.is_current():
        raise StartRefused(f"{DatabaseDamaged(store.damage)}; it has an older schema, and is not migrated like this")


def refuse_another_machine(store: Store, _settings: Settings) -> None:
    """StartRefused if a server on another machine uses the database, which a migration would change under it."""
    if not store.is_new():
        store.read(heartbeat.check)


def remember_keys(store: Store, settings: Settings) -> None:
    """Note beside the database that there are keys, so that no loss of the database opens the service."""
    if not settings.keys_required.exists() and store.read(keys.exist):
        settings.keys_required.touch(mode=0o600)


def complete_deletions(store: Store, settings: Settings) -> None:
    """Finish the deletions that callers asked for."""
    deletion.complete(store, settings)


def complete_imports(store: Store, settings: Settings) -> None:
    """Finish the imports that a crash interrupted."""
    importer.recover(store, settings)


def report_missing_files(store: Store, settings: Settings) -> None:
    """Log if no job has files, although some ran: another volume may be mounted, or none."""
    ran = store.read(queue.count_trained)
    if ran and not deletion.job_directories(settings):
        advice = "stop the service and mount the right volume, or `gan-mhe restore BACKUP`"
        _log.error("files_of_jobs_missing", directory="jobs", jobs=ran, advice=advice)


def report_unknown_directories(store: Store, settings: Settings) -> None:
    """Log how many directories of jobs the database does not know; their files stay as they are."""
    names = deletion.unknown_directories(store, settings)
    if names:
        advice = "`gan-mhe doctor` lists them; `gan-mhe adopt` makes jobs of those that are runs"
        _log.warning("unknown_directories", count=len(names), first=f"jobs/{names[0]}", advice=advice)


_REFUSING: tuple[Step, ...] = (refuse_a_lost_database, refuse_another_machine, examine_database, migrate)
_MENDING: tuple[Step, ...] = (
    remember_keys,
    complete_deletions,
    complete_imports,
    report_missing_files,
    report_unknown_directories,
)

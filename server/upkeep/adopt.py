"""Makes jobs of the directories in `jobs/` that the database does not know, from their own records.

A row is lost with the database, or with the time between a backup and its restoring. What the run itself contains comes
back whole; project, name and labels come from `job.json`. The ids of checkpoints are new.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import structlog
from sqlalchemy import Connection, select
from sqlalchemy.exc import OperationalError

from gan_mhe.errors import StorageError
from server.errors import DatabaseDamaged, InvalidRequest, NotFound, NotReady
from server.ids import is_id
from server.ingest import deletion, importer, trash
from server.ingest.indexer import Indexer
from server.queue import admission, queue
from server.settings import Settings
from server.store import artifacts, job_record, removals, tables
from server.store.job_record import JobRecord
from server.store.rows import JobRow
from server.store.store import Store

_log = structlog.get_logger("server.upkeep")


@dataclass(frozen=True)
class Adoption:
    """What became of one directory. state: the job's, None if there is no job; problem: why there is none."""

    job_id: str
    state: str | None
    problem: str | None


def adopt(store: Store, settings: Settings, job_ids: Sequence[str] | None = None) -> list[Adoption]:
    """Make a job of each directory, or of all unknown ones; a directory that cannot be adopted stops no other.

    All does not include those whose deletion was asked for and could not be completed yet.

    Raises NotFound if one of `job_ids` is not an unknown directory of `jobs/`.
    """
    unknown = deletion.unknown_directories(store, settings)
    for job_id in job_ids or ():
        if job_id not in unknown:
            raise NotFound(f"{job_id!r} is not a directory of jobs/ that the database does not know")
    indexer = Indexer(store, settings)
    if job_ids is None:
        deleted = set(store.read(removals.asked))
        job_ids = [job_id for job_id in unknown if job_id not in deleted]
    return [_adopted(store, settings, indexer, job_id) for job_id in job_ids]


def take_back(store: Store, settings: Settings, job_id: str) -> Adoption:
    """Move the files of a deleted job from the trash to `jobs/`, and make it a job again unless it is one.

    Raises NotFound if it is not in the trash, NotReady if `jobs/` has files of it, StorageError if the move fails.
    """
    trash.take_back(settings, job_id)
    if job_id in deletion.unknown_directories(store, settings):
        return adopt(store, settings, [job_id])[0]
    return Adoption(job_id, store.read(lambda connection: queue.get(connection, job_id))["state"], None)


def _adopted(store: Store, settings: Settings, indexer: Indexer, job_id: str) -> Adoption:
    if not is_id(job_id, "job"):
        return Adoption(job_id, None, "it is a task's, whose images can be drawn again from the checkpoint")
    try:
        job = _adopt(store, settings, indexer, job_id)
    except (InvalidRequest, NotReady, StorageError) as error:
        return Adoption(job_id, None, str(error))
    except (DatabaseDamaged, OperationalError):  # of the database, which concerns all jobs
        raise
    except Exception as error:  # whatever else a file can cause concerns its own job alone
        _log.exception("directory_not_adopted", job=job_id)
        return Adoption(job_id, None, f"its files cannot be read: {type(error).__name__}: {error}")
    return Adoption(job_id, job["state"], None)


def _adopt(store: Store, settings: Settings, indexer: Indexer, job_id: str) -> JobRow:
    """Make the job. Raises InvalidRequest if the directory has no run, NotReady while a process writes to it."""
    source = artifacts.run_dir(settings, job_id).root
    if not source.is_dir():
        raise NotReady("it has no run: nothing was trained yet")
    importer.check_entries(source)
    with ExitStack() as stack:
        importer.lock_run(stack, source)
        config, result = importer.read_run(source)
        record = job_record.read(settings, job_id)

        def create(connection: Connection) -> JobRow:
            if _has_row(connection, job_id):
                raise NotReady("another command has made it a job meanwhile")
            removals.done(connection, job_id)  # it may have been deleted before; it is a job again
            new = admission.new_job(
                importer.without_paths(config, settings),
                record.project,
                name=record.name,
                labels=record.labels,
                origin=record.origin,
                experiment_id=_known_experiment(connection, record),
                cell=record.cell,
                forked_from=record.fork(),
                priority=record.priority,
                wall_seconds_limit=record.wall_seconds_limit,
            )
            facts = {} if record.created_at is None else {"created_at": record.created_at}
            importer.mark(settings, job_id, job_id)  # a start completes what a crash cuts short
            return importer.create_ended(connection, new, result, job_id=job_id, **facts)

        job = store.write(create)
    importer.read_in(store, settings, indexer, job_id)
    return job


def _known_experiment(connection: Connection, record: JobRecord) -> str | None:
    """The job's experiment, if the database still has it."""
    query = select(tables.experiments.c.id).where(tables.experiments.c.id == record.experiment_id)
    found: str | None = connection.execute(query).scalar()
    return found


def _has_row(connection: Connection, job_id: str) -> bool:
    return connection.execute(select(tables.jobs.c.seq).where(tables.jobs.c.id == job_id)).first() is not None

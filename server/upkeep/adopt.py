"""Makes jobs of the directories in `jobs/` that the database does not know, from their own records.

A row is lost with the database, or with the time between a backup and its restoring. What the run itself contains comes
back whole; project, name and labels come from `job.json`. The ids of checkpoints are new.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from sqlalchemy import Connection, select

from gan_mhe.errors import StorageError
from server.errors import InvalidRequest, NotFound, NotReady
from server.ids import is_id
from server.ingest import deletion, importer
from server.ingest.indexer import Indexer
from server.queue import admission
from server.settings import Settings
from server.store import artifacts, job_record, tables
from server.store.job_record import JobRecord
from server.store.rows import ForkedFrom, JobRow
from server.store.store import Store


@dataclass(frozen=True)
class Adoption:
    """What became of one directory. state: the job's, None if there is no job; problem: why there is none."""

    job_id: str
    state: str | None
    problem: str | None


def adopt(store: Store, settings: Settings, job_ids: Sequence[str] | None = None) -> list[Adoption]:
    """Make a job of each directory, or of all unknown ones; a directory that cannot be adopted stops no other.

    Raises NotFound if one of `job_ids` is not an unknown directory of `jobs/`.
    """
    unknown = deletion.unknown_directories(store, settings)
    for job_id in job_ids or ():
        if job_id not in unknown:
            raise NotFound(f"{job_id!r} is not a directory of jobs/ that the database does not know")
    indexer = Indexer(store, settings)
    return [_adopted(store, settings, indexer, job_id) for job_id in (unknown if job_ids is None else job_ids)]


def _adopted(store: Store, settings: Settings, indexer: Indexer, job_id: str) -> Adoption:
    if not is_id(job_id, "job"):
        return Adoption(job_id, None, "it is a task's, whose images can be drawn again from the checkpoint")
    try:
        job = _adopt(store, settings, indexer, job_id)
    except (InvalidRequest, NotReady, StorageError) as error:
        return Adoption(job_id, None, str(error))
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
            new = admission.new_job(
                importer.without_paths(config, settings),
                record.project,
                name=record.name,
                labels=record.labels,
                origin=record.origin,
                experiment_id=_known_experiment(connection, record),
                cell=record.cell,
                forked_from=_forked_from(record),
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


def _forked_from(record: JobRecord) -> ForkedFrom | None:
    origin = record.forked_from
    if origin is None:
        return None
    return ForkedFrom(
        job_id=origin.job_id,
        checkpoint_id=origin.checkpoint_id,
        step=origin.step,
        same_config=origin.same_config,
        one_config=origin.one_config,
    )

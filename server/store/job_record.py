"""What only the database knows of a job, as a file beside its run: with it a lost row can be made again.

Written at each launch, at an import, and when a caller changes the job. `server.upkeep.adopt` reads it.
"""

import json
from collections.abc import Mapping
from typing import Any

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from gan_mhe.errors import StorageError
from gan_mhe.files import write_json
from server.settings import Settings
from server.store.rows import JobRow

NAME = "job.json"
_MAX_BYTES = 2**20
_log = structlog.get_logger("server.store")


class JobRecord(BaseModel):
    """The facts of a job that its run does not contain. Files of older versions lack some of them."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    project: str = "default"
    name: str | None = None
    labels: dict[str, str] = {}
    origin: str = "submitted"
    experiment_id: str | None = None
    cell: dict[str, Any] | None = None
    forked_from: dict[str, Any] | None = None
    priority: int = 0
    wall_seconds_limit: float | None = None
    created_at: int | None = None


def write(settings: Settings, job: JobRow) -> None:
    """Write a job's record. Raises StorageError if it cannot be written."""
    values: Mapping[str, Any] = job
    record = JobRecord.model_validate({name: values[name] for name in JobRecord.model_fields})
    write_json(settings.job_dir(job["id"]) / NAME, {"id": job["id"], **record.model_dump()})


def refresh(settings: Settings, job: JobRow) -> None:
    """Write the record of a job that was changed, if it has files. A failure is logged: the next launch repeats it."""
    if settings.job_dir(job["id"]).is_dir():
        try:
            write(settings, job)
        except StorageError as error:
            _log.warning("job_record_not_written", job=job["id"], error=str(error))


def read(settings: Settings, job_id: str) -> JobRecord:
    """A job's record; the defaults if there is none or it is damaged, because the run matters more."""
    path = settings.job_dir(job_id) / NAME
    try:
        if path.stat().st_size > _MAX_BYTES:
            return JobRecord()
        return JobRecord.model_validate(json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError, ValidationError):
        return JobRecord()

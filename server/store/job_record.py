"""What only the database knows of a job, as a file beside its run: with it a lost row can be made again.

Written at each launch, at an import, and when a caller changes the job. `server.upkeep.adopt` reads it.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import structlog
from pydantic import BaseModel, ConfigDict, Field

from gan_mhe.errors import StorageError
from gan_mhe.files import write_json
from gan_mhe.json_text import read_object
from server.clock import LATEST_MS
from server.settings import MOST_PRIORITY, Settings
from server.store.keys import DEFAULT_PROJECT
from server.store.rows import JobRow

NAME = "job.json"
_log = structlog.get_logger("server.store")

Id = Annotated[str, Field(max_length=40)]


class Origin(BaseModel):
    """The checkpoint that a forked job started from, as `server.store.rows.ForkedFrom`."""

    model_config = ConfigDict(frozen=True, strict=True)

    job_id: Id
    checkpoint_id: Id
    step: Annotated[int, Field(ge=0, lt=2**53)]
    same_config: bool
    one_config: bool


class JobRecord(BaseModel):
    """The facts of a job that its run does not contain, within the bounds of what a row can hold and a list show."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    project: Annotated[str, Field(pattern="^[a-z0-9][a-z0-9_-]{0,63}$")] = DEFAULT_PROJECT
    name: Annotated[str, Field(max_length=200)] | None = None
    labels: Annotated[dict[str, str], Field(max_length=64)] = {}
    origin: Literal["submitted", "forked", "imported"] = "submitted"
    experiment_id: Id | None = None
    cell: dict[str, Any] | None = None
    forked_from: Origin | None = None
    priority: Annotated[int, Field(ge=-MOST_PRIORITY, le=MOST_PRIORITY)] = 0
    wall_seconds_limit: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    created_at: Annotated[int, Field(ge=0, lt=LATEST_MS)] | None = None


def write(settings: Settings, job: JobRow) -> None:
    """Write a job's record. Raises StorageError if it cannot be written."""
    values: Mapping[str, Any] = job
    record = {name: values[name] for name in JobRecord.model_fields}
    write_json(settings.job_dir(job["id"]) / NAME, {"id": job["id"], **record})


def refresh(settings: Settings, job: JobRow) -> None:
    """Write the record of a job that was changed, if it has files. A failure is logged: the next launch repeats it."""
    if settings.job_dir(job["id"]).is_dir():
        try:
            write(settings, job)
        except StorageError as error:
            _log.warning("job_record_not_written", job=job["id"], error=str(error))


def read(settings: Settings, job_id: str) -> JobRecord:
    """A job's record; the defaults if there is none or it is damaged, because the run matters more."""
    try:
        return JobRecord.model_validate(read_object(settings.job_dir(job_id) / NAME))
    except (OSError, ValueError):
        return JobRecord()

"""What only the database knows of a job, as a file beside its run: with it a lost row can be made again.

Written at each launch, at an import, and when a caller changes the job. `server.upkeep.adopt` reads it.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import structlog
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from gan_mhe.errors import StorageError
from gan_mhe.files import write_json
from gan_mhe.json_text import read_object
from gan_mhe.text import printable
from server.clock import LATEST_MS
from server.settings import MOST_PRIORITY, Settings
from server.store.rows import ForkedFrom, JobRow

NAME = "job.json"
_MAX_NAME = 200
_log = structlog.get_logger("server.store")


def _line(value: str) -> str:
    return printable(value)[:_MAX_NAME]


Line = Annotated[str, AfterValidator(_line)]
LabelKey = Annotated[str, Field(pattern=r"^[a-z0-9._/-]{1,63}$")]


class _Fork(BaseModel):
    """Where a fork began. What is not said of its configuration counts as changed, so that it is no seed of another."""

    job_id: Annotated[str, Field(pattern=r"^job_[0-9a-z]{1,26}$")]
    checkpoint_id: Annotated[str, Field(pattern=r"^ckpt_[0-9a-z]{1,26}$")]
    step: Annotated[int, Field(ge=0, lt=2**53)]
    same_config: bool = False
    one_config: bool = False


class JobRecord(BaseModel):
    """The facts of a job that its run does not contain. Files of older versions lack some of them.

    They are from a file: what could not have been submitted is refused, but a name or a label only made harmless.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    project: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")] = "default"
    name: Line | None = None
    labels: Annotated[dict[LabelKey, Line], Field(max_length=64)] = {}
    origin: Literal["submitted", "forked", "imported"] = "submitted"
    experiment_id: Annotated[str, Field(pattern=r"^exp_[0-9a-z]{1,26}$")] | None = None
    cell: dict[str, Any] | None = None
    forked_from: _Fork | None = None
    priority: Annotated[int, Field(ge=-MOST_PRIORITY, le=MOST_PRIORITY)] = 0
    wall_seconds_limit: Annotated[float, Field(gt=0)] | None = None
    created_at: Annotated[int, Field(ge=0, lt=LATEST_MS)] | None = None

    def fork(self) -> ForkedFrom | None:
        """Where the job began as a fork; None if it is none."""
        known = self.forked_from
        if known is None:
            return None
        return ForkedFrom(
            job_id=known.job_id,
            checkpoint_id=known.checkpoint_id,
            step=known.step,
            same_config=known.same_config,
            one_config=known.one_config,
        )


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
    """A job's record; the defaults for what is missing or cannot be right, because the run matters more."""
    try:
        document = read_object(settings.job_dir(job_id) / NAME)
    except (OSError, ValueError):
        return JobRecord()
    try:
        return JobRecord.model_validate(document)
    except ValidationError as error:
        wrong = {each["loc"][0] for each in error.errors()}
        return JobRecord.model_validate({name: value for name, value in document.items() if name not in wrong})

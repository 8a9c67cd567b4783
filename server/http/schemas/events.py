"""Events as they are shown."""

from typing import Any

from pydantic import BaseModel, Field


class Event(BaseModel):
    """One thing that happened to a job."""

    job_id: str
    seq: int = Field(description="Counts the job's own events from 1, without gaps.")
    time: str
    type: str = Field(description="Such as `job.state` or `metric.batch`.")
    data: dict[str, Any] = Field(description='Non-finite numbers as "NaN", "Infinity", "-Infinity".')

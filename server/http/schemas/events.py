"""Schema of events."""

from typing import Any

from pydantic import BaseModel, Field


class Event(BaseModel):
    """An event of a job."""

    job_id: str
    seq: int = Field(description="Number among the job's own events, from 1 without gaps.")
    time: str
    type: str = Field(description="Such as `job.state` or `metric.batch`.")
    data: dict[str, Any] = Field(description='Non-finite numbers are the strings "NaN", "Infinity", "-Infinity".')

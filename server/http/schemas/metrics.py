"""Metrics as they are shown."""

from typing import Literal

from pydantic import BaseModel, Field

from server.http.schemas.jobs import Number


class Metric(BaseModel):
    """One metric of a job as it stands."""

    name: str
    step: int = Field(description="Generator step of the newest number.")
    value: Number
    min: float | None = Field(description="Of the finite numbers.")
    max: float | None
    best: float | None = Field(description="Of scores; a loss has none.")
    best_step: int | None


class LatestMetrics(BaseModel):
    """All metrics of a job."""

    object: Literal["list"] = "list"
    job_id: str
    data: list[Metric]


class Bucket(BaseModel):
    """Some steps' numbers in one point."""

    first_step: int
    last_step: int
    step: int = Field(description="Of the newest number.")
    last: Number
    min: float | None = Field(description="Of the finite numbers.")
    max: float | None
    count: int
    nonfinite: int


class RawPoint(BaseModel):
    """One number."""

    step: int
    attempt: int
    value: Number


class MetricHistory(BaseModel):
    """One metric over the steps, oldest first."""

    name: str
    mode: Literal["minmax", "raw"]
    bucket_steps: int = Field(description="Steps in a bucket; 1 where every number is shown.")
    points: list[Bucket] | list[RawPoint]
    total_points: int = Field(description="Numbers between the steps asked for.")
    next_after: int | None = Field(description="In mode `raw`: ask with `after=` for what follows.")
    last_seq: int = Field(description="Grows when the run says something new.")


class MetricHistories(BaseModel):
    """The metrics asked for, in that order."""

    object: Literal["list"] = "list"
    job_id: str
    data: list[MetricHistory]

"""Schemas of metrics."""

from typing import Literal

from pydantic import BaseModel, Field

from server.http.schemas.jobs import Number


class Metric(BaseModel):
    """Current values of one metric of a job."""

    name: str
    step: int = Field(description="Generator step of the latest value.")
    value: Number
    min: float | None = Field(description="Of the finite values.")
    max: float | None
    best: float | None = Field(description="Best value; null for metrics that are not scores.")
    best_step: int | None


class LatestMetrics(BaseModel):
    """All metrics of a job."""

    object: Literal["list"] = "list"
    job_id: str
    data: list[Metric]


class Bucket(BaseModel):
    """Values of consecutive steps, summarized."""

    first_step: int
    last_step: int
    step: int = Field(description="Step of the latest value.")
    last: Number
    min: float | None = Field(description="Of the finite values.")
    max: float | None
    count: int
    nonfinite: int


class RawPoint(BaseModel):
    """One value."""

    step: int
    attempt: int
    value: Number


class MetricHistory(BaseModel):
    """History of one metric, oldest first."""

    name: str
    mode: Literal["minmax", "raw"]
    bucket_steps: int = Field(description="Steps per bucket; 1 if every value is shown.")
    points: list[Bucket] | list[RawPoint]
    total_points: int = Field(description="Number of values in the requested range of steps.")
    next_after: int | None = Field(description="In mode `raw`: the `after` of the next page.")
    last_seq: int = Field(description="Increases with every new event of the run.")


class MetricHistories(BaseModel):
    """The requested metrics, in the order of the request."""

    object: Literal["list"] = "list"
    job_id: str
    data: list[MetricHistory]
